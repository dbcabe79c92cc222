"""The embedded PostgreSQL without supervisord: where it listens, and what an earlier start may have left behind."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psycopg2
import pytest

from daemon.instance.postgres import ROLE, prepare
from daemon.instance.postgres_cluster import DATABASE, Cluster, elsewhere
from daemon.instance.state_folder import MAX_SOCKET_FOLDER_BYTES
from sql.servers import Servers
from tests.support.guard import also_remove, base_environ
from tests.support.instance import eventually
from tests.support.process import Process

PASSWORD = "p@:/ %"
REFUSED = 'lock file "postmaster.pid" already exists'  # PostgreSQL's words


class Folder:
    """A state folder that PostgreSQL's user may enter, unlike pytest's."""

    def __init__(self, home: Path) -> None:
        self.state = home / "state"
        self.run = self.state / "run"
        for folder in (home, self.state, self.run, self.state / "logs"):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o711)

    def prepare(self) -> Cluster:
        """What `up` does before it starts supervisord."""
        return prepare(self.state, self.run, role_password=PASSWORD, schema="helpers", report=print)

    @contextmanager
    def running(self) -> Iterator[Process]:
        """The program that supervisord runs, from when it takes connections until its end."""
        command = [sys.executable, "-m", "daemon.instance.postgres_process"]
        environ = {"DONATIOND_STATE": str(self.state)}
        self.forget_last_start()
        with Process(command, self.state.parent / "log", environ, stop=signal.SIGINT) as server:
            eventually(lambda: server.poll() is not None or self.answers(), "the server takes connections")
            yield server

    def forget_last_start(self) -> None:
        """So that the next one does not wait."""
        (self.run / "postgres.started").unlink(missing_ok=True)

    @property
    def cluster(self) -> Cluster:
        """The note."""
        return Cluster(**json.loads((self.state / "postgres.json").read_text()))

    def answers(self) -> bool:
        """Whether the role can use its database."""
        try:
            with closing(psycopg2.connect(self.cluster.url(ROLE, PASSWORD))) as database, database.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM helpers.schema_migrations")
                return bool(cursor.fetchone())
        except psycopg2.OperationalError:
            return False


@pytest.fixture(scope="module")
def folder() -> Iterator[Folder]:
    """A folder that is gone afterwards, as is what root had to put elsewhere. Its database is made once."""
    with tempfile.TemporaryDirectory(prefix="embedded-") as home:
        folder = Folder(Path(home))
        also_remove(elsewhere(folder.state))
        yield folder
        shutil.rmtree(elsewhere(folder.state), ignore_errors=True)


@contextmanager
def living_process(user: str | None) -> Iterator[int]:
    """The pid of a process of this user that has nothing to do with PostgreSQL."""
    entry = user and pwd.getpwnam(user)
    with subprocess.Popen(["sleep", "600"], cwd="/", user=entry.pw_uid if entry else None) as process:
        try:
            yield process.pid
        finally:
            process.kill()


def name_as_server(pid: int, cluster: Cluster) -> None:
    """The lock files look as if the server of this pid had been killed."""
    lines = [str(pid), cluster.data, "1760000000", "5432", cluster.socket, "", "  5432001    100000", "ready   ", ""]
    for path in (Path(cluster.data, "postmaster.pid"), Path(cluster.socket, ".s.PGSQL.5432.lock")):
        path.write_text("\n".join(lines))
        shutil.chown(path, cluster.user or os.geteuid())


def listening_tcp(pid: int) -> set[str]:
    """The inodes of the TCP sockets on which the process listens."""
    tables = [Path("/proc/net/tcp").read_text(), Path("/proc/net/tcp6").read_text()]
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    listening, found = {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}, set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.add(str(path.readlink()))
    return listening & found


def test_it_listens_on_a_socket_of_its_users_alone(folder: Folder) -> None:
    """The server has no TCP port, and its socket lies where no other user can reach it."""
    cluster = folder.prepare()
    with folder.running() as server:
        assert folder.answers()
        assert listening_tcp(server.pid) == set()
        socket_folder = Path(cluster.socket)
        assert socket_folder.parent == folder.run
        assert socket_folder.stat().st_mode & 0o077 == 0
        assert (socket_folder / ".s.PGSQL.5432").stat().st_mode & 0o077 == 0
    assert server.returncode == 0


@pytest.mark.parametrize("shape", ["closed run folder", "libpq's variables"])
def test_the_surroundings_do_not_matter(folder: Folder, monkeypatch: pytest.MonkeyPatch, shape: str) -> None:
    """The URL leads to the server whatever libpq's own variables say, and where only root may enter the run folder."""
    if shape.startswith("closed"):
        folder.run.chmod(0o700)
    else:
        monkeypatch.setenv("PGPORT", "1")
        monkeypatch.setenv("PGHOST", "/nowhere")
    cluster = folder.prepare()
    assert len(f"{cluster.socket}/.s.PGSQL.5432") < 100
    with folder.running():
        assert folder.answers()
    folder.run.chmod(0o711)


def test_a_killed_servers_number_may_be_another_process(folder: Folder) -> None:
    """A lock file that names a living process which is no server of this data keeps neither `up` nor supervisord from
    starting the server.
    """
    cluster = folder.prepare()
    with living_process(cluster.user) as pid:
        name_as_server(pid, cluster)
        folder.prepare()
        name_as_server(pid, cluster)
        with folder.running() as server:
            assert folder.answers()
    assert server.returncode == 0


def test_a_lock_file_cut_short_keeps_nothing_from_starting(folder: Folder) -> None:
    """An empty lock file, as a power cut leaves it, is no server."""
    cluster = folder.prepare()
    for path in (Path(cluster.data, "postmaster.pid"), Path(cluster.socket, ".s.PGSQL.5432.lock")):
        path.touch()
    folder.prepare()
    with folder.running():
        assert folder.answers()


def test_a_living_server_is_never_taken_for_a_killed_one(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a server of this data runs a second one is refused, and the first one goes on."""
    folder.prepare()
    with folder.running() as server:
        monkeypatch.setattr("daemon.instance.postgres_lock_files.STOP_TIMEOUT_S", 0.1)
        with pytest.raises(Exception, match=rf"PostgreSQL already runs on .* \(process {server.pid}\): stop it first"):
            folder.prepare()
        environ = {**base_environ(), "DONATIOND_STATE": str(folder.state)}
        folder.forget_last_start()
        second = subprocess.run(
            [sys.executable, "-m", "daemon.instance.postgres_process"], env=environ, capture_output=True, check=False
        )
        assert second.returncode == 1
        assert REFUSED in second.stderr.decode()
        assert folder.answers()


def test_an_instance_of_the_previous_release_starts_again(folder: Folder) -> None:
    """A note with a TCP port and no socket leads to the same data; until `up` has run the program says what to do."""
    cluster = folder.prepare()
    with folder.running(), closing(psycopg2.connect(cluster.url(ROLE, PASSWORD))) as database, database:
        database.cursor().execute("INSERT INTO helpers.recording_tickets (id) VALUES ('kept')")
    old = {"programs": cluster.programs, "data": cluster.data, "port": 25432, "user": cluster.user}
    (folder.state / "postgres.json").write_text(json.dumps(old))
    Path(cluster.data, "pg_hba.conf").write_text(f"host {DATABASE} {ROLE} 127.0.0.1/32 scram-sha-256\n")
    environ = {**base_environ(), "DONATIOND_STATE": str(folder.state)}
    folder.forget_last_start()
    early = subprocess.run(
        [sys.executable, "-m", "daemon.instance.postgres_process"], env=environ, capture_output=True, check=False
    )
    assert early.returncode == 1
    assert b"stop and start `donationd up --embedded`" in early.stderr
    assert folder.prepare() == cluster
    with folder.running(), closing(psycopg2.connect(cluster.url(ROLE, PASSWORD))) as database:
        cursor = database.cursor()
        cursor.execute("SELECT id FROM helpers.recording_tickets")
        assert cursor.fetchall() == [("kept",)]


def test_any_password_and_folder_survive_the_url() -> None:
    """Passwords and folders with a URL's own characters reach libpq as they are, and ours as a Unix socket."""
    cluster = Cluster(programs="/p", data="/d", socket="/srv/a b@2/100%/run", user=None)
    url = cluster.url("donationd", PASSWORD)
    servers = Servers(url)
    [server] = servers.in_order()
    assert (server.host, server.port, server.has_name) == ("/srv/a b@2/100%/run", "5432", False)
    assert servers.options == {"user": "donationd", "password": PASSWORD, "dbname": DATABASE}


def test_the_longest_run_folder_has_room_for_the_socket() -> None:
    """No socket's address reaches 100 bytes."""
    assert MAX_SOCKET_FOLDER_BYTES + len("/postgres/.s.PGSQL.5432") < 100
