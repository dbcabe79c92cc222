"""The PostgreSQL that `donationd up --embedded` brings: made ready here before supervisord starts it.

Neighbours: `up` calls `prepare`, `postgres_process` is the program that supervisord starts, `sql.migrate` makes the
tables, and `deploy/roles.sql` sets the rights.
"""

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import encrypt_password

from daemon.instance.console import CannotStart
from daemon.instance.environment import new_password
from daemon.instance.postgres_cluster import DATABASE, SETTINGS, Cluster, locate, options, save
from daemon.instance.postgres_lock_files import server_pid, take_over_lock_files, wait_for_former_server
from daemon.instance.postgres_programs import make_private, start
from daemon.instance.roles import set_rights
from sql import migrate

OWNER = "donationd_owner"  # owns the schema, used for migrations only
ROLE = "donationd"  # what the API and the sidecar log in as: rows only
START_TIMEOUT_S = 60.0  # recovery after a crash may replay a gigabyte
STOP_TIMEOUT_S = 30.0
POLL_S = 0.02
# pg_hba.conf, all of it: the role can connect to the ledger's database and to no other.
ACCESS = f"""\
local {DATABASE} {ROLE} scram-sha-256
local all {OWNER} scram-sha-256
"""


def prepare(state: Path, run: Path, *, role_password: str, schema: str, report: Callable[[str], None]) -> Cluster:
    """Makes the cluster in `state` ready for supervisord: initialised, migrated, with the password of this start.

    Args:
        state: the instance's own folder; the caller holds its lock.
        run: the folder of the instance's Unix sockets.
        role_password: what the role `donationd` logs in with from now on.
        schema: that of the ledger.
        report: called with one line for each step that takes long.

    Raises:
        CannotStart: with the one sentence to print.
    """
    cluster = locate(state, run, report)
    if not Path(cluster.data).exists():
        report("making the database (once)")
        _initdb(cluster)
    (Path(cluster.data) / "pg_hba.conf").write_text(ACCESS)
    save(state, cluster)
    wait_for_former_server(Path(cluster.data))
    take_over_lock_files(cluster)
    owner_password = new_password()  # known to this start only: nothing else ever needs the owner
    _set_owner_password(cluster, owner_password)
    with running(cluster, state / "logs" / "postgres.log"):
        try:
            _make_database(cluster, owner_password)
            migrate.apply(cluster.url(OWNER, owner_password), report, schema=schema)
            _make_role(cluster, owner_password, role_password, schema)
        except (migrate.MigrationError, psycopg2.Error) as error:
            raise CannotStart(f"the database can't be brought up to date: {str(error).strip()}") from error
    return cluster


def _initdb(cluster: Cluster) -> None:
    """Makes the data directory under another name and renames it, so that an incomplete one is never used.

    The superuser has no password yet, and without one the server accepts no session.
    """
    data = Path(cluster.data)
    partly = data.with_name("postgres.partly")
    if partly.exists():
        shutil.rmtree(partly)
    make_private(partly, cluster.user)
    initdb = start(
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
    command = [f"{cluster.programs}/postgres", "--single", "-D", cluster.data, *options(SETTINGS), "postgres"]
    single = start(command, cluster.user, output=subprocess.PIPE, stdin=subprocess.PIPE)
    output, _ = single.communicate(f"ALTER ROLE {OWNER} PASSWORD '{password}'\n".encode())
    if single.returncode != 0:
        raise CannotStart(f"the database in {cluster.data} can't be opened: {_last_line(output)}")


def _last_line(output: bytes) -> str:
    return (output.decode(errors="replace").strip().splitlines() or ["no reason was given"])[-1]


@contextmanager
def running(cluster: Cluster, log: Path) -> Iterator[None]:
    """Runs the server as a child process for the time of the block; then stops it and waits until it has ended."""
    with log.open("ab") as output:
        server = start(cluster.command(), cluster.user, output=output, dies_by=signal.SIGINT)
    try:
        _wait_until_ready(server, Path(cluster.data), log)
        yield
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_until_ready(server: subprocess.Popen[bytes], data: Path, log: Path) -> None:
    """Waits until this server accepts connections: postmaster.pid then contains its pid and the word `ready`."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        if server.poll() is not None:
            raise CannotStart(f"PostgreSQL ended at start; {log} says why")
        if server_pid(data / "postmaster.pid") == server.pid:
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


def _make_database(cluster: Cluster, owner_password: str) -> None:
    """Makes the database unless it exists."""
    with _session(cluster.url(OWNER, owner_password, "postgres")) as session, session.cursor() as cursor:
        cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
        if cursor.fetchone() is None:
            cursor.execute(f"CREATE DATABASE {DATABASE}")


def _make_role(cluster: Cluster, owner_password: str, role_password: str, schema: str) -> None:
    """Makes the role `donationd` unless it exists, with its rights in the schema, and sets its password."""
    with _session(cluster.url(OWNER, owner_password)) as session, session.cursor() as cursor:
        set_rights(cursor, schema=schema, role=ROLE)
        # The server receives only the SCRAM verifier, so that no log can contain the password.
        verifier = encrypt_password(role_password, ROLE, scope=session, algorithm="scram-sha-256")
        cursor.execute(f"ALTER ROLE {ROLE} PASSWORD %s", (verifier,))
