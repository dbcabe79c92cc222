"""The embedded PostgreSQL: where its data, programs and socket are, who runs it, and with which settings."""

import hashlib
import json
import os
import pwd
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from daemon.instance.console import CannotStart
from daemon.instance.postgres_programs import can_enter, can_run, copy_programs, find_programs, make_private
from daemon.runtime import files

DATABASE = "donationd"
UNPRIVILEGED_USER = "nobody"  # PostgreSQL refuses to run as root; this user exists everywhere and owns nothing
ELSEWHERE = Path("/var/lib")  # for root, where that user can't enter the state folder
PORT = 5432  # no process listens on it: PostgreSQL names its socket after it

# What differs from PostgreSQL's defaults. Its own log must never contain a statement's values or a row, which may be a
# donor's (terse omits DETAIL, which quotes them).
SETTINGS = {
    "listen_addresses": "",  # a TCP port could be taken by another process, and reached by every user
    "unix_socket_permissions": "0700",
    "port": str(PORT),
    "fsync": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_error_statement": "panic",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_error_verbosity": "terse",
}


@dataclass(frozen=True)
class Cluster:
    """Where the embedded PostgreSQL is and who runs it; kept as JSON in the state folder.

    Attributes:
        programs: the folder of initdb and postgres.
        data: the data directory.
        socket: the folder of the Unix socket that it listens on; empty in a note of a release that listened on TCP.
        user: the user it runs as, or None for the user of this process.
    """

    programs: str
    data: str
    socket: str
    user: str | None

    def url(self, role: str, password: str, database: str = DATABASE) -> str:
        """The libpq URL of `role`; any password and any folder are quoted."""
        where = f"host={quote(self.socket)}&port={PORT}"
        return f"postgresql://{role}:{quote(password, safe='')}@/{database}?{where}"

    def command(self) -> list[str]:
        """The argument list of the server; it contains no secret."""
        return [
            f"{self.programs}/postgres",
            "-D",
            self.data,
            *options({**SETTINGS, "unix_socket_directories": self.socket}),
        ]


def options(values: Mapping[str, str]) -> list[str]:
    """Settings as arguments of PostgreSQL's programs."""
    return [word for name, value in values.items() for word in ("-c", f"{name}={value}")]


def locate(state: Path, run: Path, report: Callable[[str], None]) -> Cluster:
    """Chooses the user and the folders, and makes the folders. A database that exists is used where it is."""
    former = load(state)
    data = _data_folder(state, former)
    user = _server_user(data)
    version = data / "PG_VERSION"
    programs = find_programs(int(version.read_text()) if version.exists() else None)
    if user is not None and not (can_run(programs, user) and can_enter(state, user)):
        if data.parent == state and data.exists():
            raise CannotStart(
                f"user {user}, who owns the database in {data}, can't enter {state}: give that user access"
            )
        home = elsewhere(state) if data.parent == state else data.parent
        make_private(home, user)
        data = home / "postgres"
        programs = copy_programs(programs, home, report)
    return Cluster(str(programs), str(data), str(_socket_folder(state, run, user)), user)


def _data_folder(state: Path, former: Cluster | None) -> Path:
    """Where the data is, or would be. In the state folder it moves together with that; elsewhere the note names it.

    Raises:
        CannotStart: there was a database and it is gone; an empty database in its place would hide the loss.
    """
    inside = state / "postgres"
    if former is None or inside.exists():
        return inside
    if Path(former.data).exists():
        return Path(former.data)
    raise CannotStart(
        f"the database {former.data}, noted in {note(state)}, is gone: put it back, "
        f"or remove {state} to start with an empty ledger"
    )


def _server_user(data: Path) -> str | None:
    """The user who runs the server: this user; for root the data's owner, or `nobody` where there is no data yet.

    Raises:
        CannotStart: there is no such user, or the data belongs to another one.
    """
    mine = os.geteuid()
    owner = data.stat().st_uid if data.exists() else None
    if mine != 0:
        if owner not in (None, mine):
            raise CannotStart(f"the database in {data} belongs to another user: start as that user or as root")
        if not _passwd(mine):
            raise CannotStart(f"user {mine} has no entry in /etc/passwd, and PostgreSQL asks for one")
        return None
    if owner:
        if name := _passwd(owner):
            return name
        raise CannotStart(f"the database in {data} belongs to user {owner}, which has no entry in /etc/passwd")
    return UNPRIVILEGED_USER


def _passwd(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def elsewhere(state: Path) -> Path:
    """The folder for this state's database where the unprivileged user can't enter the state folder itself."""
    return ELSEWHERE / f"donationd-{hashlib.sha256(str(state).encode()).hexdigest()[:12]}"


def _socket_folder(state: Path, run: Path, user: str | None) -> Path:
    """The folder, made unless it exists, that only the server's user can enter: in the run folder, or, where that user
    can't reach the run folder, in the folder below /var/lib.
    """
    folder = run / "postgres"
    if user is not None and not can_enter(run, user):
        home = elsewhere(state)
        make_private(home, user)
        folder = home / "run"
    make_private(folder, user)
    return folder


def note(state: Path) -> Path:
    """The file that says where the cluster is."""
    return state / "postgres.json"


def load(state: Path) -> Cluster | None:
    """What the last start noted; None before the first start."""
    try:
        kept = json.loads(note(state).read_text())
        return Cluster(kept["programs"], kept["data"], kept.get("socket", ""), kept["user"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CannotStart(f"{note(state)}, which says where the database is, is damaged: repair it") from error


def save(state: Path, cluster: Cluster) -> None:
    """Notes where the cluster is."""
    files.write(note(state), f"{json.dumps(asdict(cluster), indent=2)}\n".encode())
