"""One whole life of everything, as `donationd up --embedded` runs it: real supervisord, real PostgreSQL."""

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest

from daemon.embedded import DATABASE
from daemon.up import ROOT, embedded_environ
from tests.test_roles import check_only_rows

TICKET = "/api/tickets/story-1/donations"
RECOVERY_TIMEOUT_S = 15.0
SECRETS = {
    "DONOR_EMAIL_HASH_KEY": "canary-hash-key",
    "MIGRATE_DATABASE_URL": "postgresql://canary-owner@127.0.0.1/none",
    "OPERATOR_TOKENS": f"canary:{'0' * 64}",
    "STRIPE_API_KEY": "sk_test_canary",
}
# Which secrets each program has a use for.
NEEDED = {
    "postgres": set[str](),
    "sidecar": {"DATABASE_URL"},
    "api:api_00": {"DATABASE_URL", "STRIPE_WEBHOOK_SECRET", *SECRETS} - {"MIGRATE_DATABASE_URL"},
}
NEEDED["api:api_01"] = NEEDED["api:api_00"]
STOP_TIMEOUT_S = 20.0


class Instance:
    """`donationd up --embedded` with a state folder and ports of its own."""

    def __init__(self, state: Path, port: int, metrics_port: int) -> None:
        self.state = state
        self.api = f"http://127.0.0.1:{port}"
        self.sidecar = f"http://127.0.0.1:{metrics_port}"
        self._environ = {
            "PATH": os.environ["PATH"],
            "DONATIOND_STATE": str(state),
            "PORT": str(port),
            "METRICS_PORT": str(metrics_port),
            "API_PROCESSES": "2",
            **SECRETS,
        }
        self.up: subprocess.Popen[str] | None = None

    def start(self) -> str:
        """Starts it and returns what it printed until it was ready."""
        code = "import sys; from daemon.up import up; sys.exit(up(embedded=True))"
        self.up = subprocess.Popen(
            [sys.executable, "-c", code], env=self._environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.up.stdout is not None
        lines = []
        for line in self.up.stdout:
            lines.append(line)
            if "Ctrl-C stops everything" in line:
                return "".join(lines)
        raise AssertionError("it ended before it was ready:\n" + "".join(lines))

    def end(self) -> int:
        """Waits for the end of `up`; returns its exit status."""
        assert self.up is not None
        assert self.up.stdout is not None
        self.up.stdout.close()
        return self.up.wait(STOP_TIMEOUT_S)

    def supervisorctl(self, *words: str) -> str:
        """What supervisorctl prints for `words`."""
        server = f"unix://{self.state}/run/supervisor.sock"
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", "supervisord.conf", "-s", server, *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout

    def pids(self) -> dict[str, int]:
        """The pid of each running program, by supervisor's name."""
        rows = [line.split() for line in self.supervisorctl("status").splitlines()]
        return {row[0]: int(row[3].rstrip(",")) for row in rows if row[1] == "RUNNING"}

    def secrets(self) -> dict[str, str]:
        """Every secret, given or made, by its variable."""
        made = (self.state / "environment").read_text().splitlines()
        return SECRETS | dict(line.split("=", 1) for line in made)

    def living(self) -> list[str]:
        """The command lines of all processes with this state folder in their environment or arguments."""
        return [line for pid, line in _command_lines() if pid != os.getpid() and self._is_ours(pid, line)]

    def _is_ours(self, pid: int, line: str) -> bool:
        with contextlib.suppress(OSError):
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            return str(self.state) in line or f"DONATIOND_STATE={self.state}".encode() in environ
        return False

    def database(self) -> psycopg2.extensions.connection:
        """A connection with the rights the API has."""
        environ = embedded_environ(ROOT)
        assert environ is not None
        return psycopg2.connect(environ["DATABASE_URL"])


def _command_lines() -> Iterator[tuple[int, str]]:
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if line := (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                yield int(folder.name), line


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def get(url: str) -> tuple[int, dict[str, str]]:
    """Status and headers of a GET; status 0 if nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=3) as reply:  # noqa: S310 - our own http address
            return reply.status, dict(reply.headers)
    except urllib.error.HTTPError as reply:
        with reply:
            return reply.code, dict(reply.headers)
    except OSError:
        return 0, {}


def eventually(holds: Callable[[], bool], what: str, timeout_s: float = RECOVERY_TIMEOUT_S) -> None:
    """Waits until `holds()`; fails with `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    """Ports below 32768 that nobody listens on."""
    found: list[int] = []
    for port in range(23100, 23900):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch) -> Iterator[Instance]:
    """An instance not yet started. Its folder is one that PostgreSQL's user may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="donationd-test-"))
    folder.chmod(0o711)
    monkeypatch.setenv("DONATIOND_STATE", str(folder / "state"))
    instance = Instance(folder / "state", *free_ports(2))
    try:
        yield instance
        if instance.up is not None and instance.up.poll() is None:
            instance.up.terminate()
            instance.end()
    finally:
        note = instance.state / "postgres.json"
        home = Path(json.loads(note.read_text())["data"]).parent if note.exists() else instance.state
        for used in {home, folder}:  # two where the checkout is out of that user's reach
            shutil.rmtree(used, ignore_errors=True)


def test_a_whole_life(instance: Instance) -> None:
    """Whatever dies comes back, an outage is told and heals by itself, the data stays, and the end leaves nothing."""
    printed = instance.start()
    assert f"{instance.api}/health" in printed
    assert "stripe listen --forward-to" in printed
    assert get(f"{instance.api}/health/db")[0] == 200
    check_no_secret_in_any_process_title(instance)
    check_each_program_has_only_the_secrets_it_needs(instance)
    with contextlib.closing(instance.database()) as database, database.cursor() as cursor:
        cursor.execute("INSERT INTO recording_tickets (id) VALUES ('story-1')")
        database.commit()
    check_the_role_has_rows_only(instance)
    check_second_start_refused(instance)
    check_killed_program_returns(instance, "api:api_00")
    check_killed_program_returns(instance, "sidecar")
    check_killed_program_returns(instance, "postgres")
    check_outage(instance)

    check_everything_is_its_owners_alone(instance)
    check_secrets_are_in_no_other_file(instance)

    stop_by(instance, signal.SIGHUP)
    assert instance.living() == []
    assert get(f"{instance.api}/health/live")[0] == 0

    instance.start()
    with contextlib.closing(instance.database()) as database, database.cursor() as cursor:
        cursor.execute("SELECT id FROM recording_tickets")
        assert cursor.fetchall() == [("story-1",)]

    supervisord = int((instance.state / "run" / "supervisord.pid").read_text())
    os.kill(supervisord, signal.SIGKILL)
    assert instance.end() == 1
    assert instance.living() == []


def check_no_secret_in_any_process_title(instance: Instance) -> None:
    """No argument of any process holds a generated secret; the programs all run."""
    assert len(instance.living()) >= 5
    secrets = instance.secrets().values()
    assert [line for _, line in _command_lines() if any(secret in line for secret in secrets)] == []


def check_each_program_has_only_the_secrets_it_needs(instance: Instance) -> None:
    """The environment of each program, and of each child it has, holds the secrets it uses and no other one."""
    secrets = instance.secrets()
    for program, pid in instance.pids().items():
        for process in (pid, *_children(pid)):
            lines = Path(f"/proc/{process}/environ").read_text().split("\0")
            environ = dict(line.split("=", 1) for line in lines if "=" in line)
            names = {name for name in (*secrets, "DATABASE_URL") if environ.get(name)}
            assert names == NEEDED[program], program
            if program == "postgres":
                assert not any(secret in line for line in lines for secret in secrets.values())


def check_the_role_has_rows_only(instance: Instance) -> None:
    """The role that everything logs in as can do what deploy/roles.sql says, in this database and in no other."""
    environ = embedded_environ(ROOT)
    assert environ is not None
    check_only_rows(environ["DATABASE_URL"])
    for other in ("postgres", "template1"):
        with pytest.raises(psycopg2.OperationalError, match=r"no pg_hba\.conf entry"):
            psycopg2.connect(f"{environ['DATABASE_URL'].removesuffix(DATABASE)}{other}")


def check_everything_is_its_owners_alone(instance: Instance) -> None:
    """Nobody but its owner can open anything an instance has made; only the readiness socket is the group's too."""
    modes = {path: path.lstat().st_mode for path in instance.state.rglob("*")}
    assert {path.name for path, mode in modes.items() if stat.S_ISSOCK(mode)} == {"readiness.sock", "supervisor.sock"}
    assert {path.name for path in modes} >= {"environ.json", "sidecar-totals.json", "sidecar.log", "counter_0.db"}
    open_to_others = {path.name: stat.S_IMODE(mode) for path, mode in modes.items() if mode & 0o077}
    assert open_to_others == {"readiness.sock": 0o660}
    assert stat.S_IMODE(instance.state.stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o700)


def check_secrets_are_in_no_other_file(instance: Instance) -> None:
    """Neither a log nor the database nor anything else on disk holds a secret, but for the two files made for them."""
    secrets = [secret.encode() for secret in instance.secrets().values()]
    holders = {
        path.relative_to(instance.state)
        for path in instance.state.rglob("*")
        if path.is_file() and any(secret in path.read_bytes() for secret in secrets)
    }
    assert holders == {Path("environment"), Path("run/environ.json")}


def check_second_start_refused(instance: Instance) -> None:
    """A second `up` on the same folder is one sentence, and the first goes on."""
    second = Instance(instance.state, *free_ports(2))
    with pytest.raises(AssertionError, match="an instance is already running"):
        second.start()
    assert second.end() == 1
    assert get(f"{instance.api}/health/db")[0] == 200


def check_killed_program_returns(instance: Instance, name: str) -> None:
    """After kill -9 the program runs again under another pid and the API is ready."""
    before = instance.pids()[name]
    os.kill(before, signal.SIGKILL)
    eventually(lambda: instance.pids().get(name, before) != before, f"{name} runs again")
    eventually(lambda: get(f"{instance.api}{TICKET}")[0] == 200, f"answers after the death of {name}")


def check_outage(instance: Instance) -> None:
    """While the database is stopped requests get 503 with Retry-After; once it is back they work by themselves."""
    url = f"{instance.api}{TICKET}"
    instance.supervisorctl("stop", "postgres")
    eventually(lambda: get(url)[0] == 503, "503 while the database is away")
    assert get(url)[1]["Retry-After"] == "30"
    assert get(f"{instance.api}/health/live")[0] == 200
    eventually(lambda: get(f"{instance.sidecar}/health/db")[0] == 503, "the sidecar tells the outage")
    assert get(url)[0] == 503
    instance.supervisorctl("start", "postgres")
    eventually(lambda: get(url)[0] == 200, "200 once the database is back")


def stop_by(instance: Instance, number: signal.Signals) -> None:
    """Sends `number` to `up`, whose terminal is gone, and expects the exit status of a requested stop."""
    assert instance.up is not None
    assert instance.up.stdout is not None
    instance.up.stdout.close()
    instance.up.send_signal(number)
    assert instance.end() == 0
