"""A whole `donationd up` of a test's own, with its folder, its ports and everything it starts."""

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from http import HTTPStatus
from pathlib import Path

from daemon.instance import health_client
from daemon.instance.environment import DEFAULTS
from daemon.instance.installation import ROOT
from daemon.instance.postgres_cluster import elsewhere
from daemon.instance.supervisord import stop_limits
from daemon.runtime.supervisor_rpc import supervisord
from tests.support.guard import also_remove, base_environ
from tests.support.process import Process

# Secrets that the tests' instance is started with, besides those it makes for itself.
SECRETS = {
    "STRIPE_API_KEY": "rk_test_canary",
    "DONOR_EMAIL_HASH_KEY": "canary-hash-key",
    "MIGRATE_DATABASE_URL": "postgresql://canary-owner@127.0.0.1/none",
    "OPERATOR_TOKENS": f"canary:read:{'0' * 64}",
}
# For an instance with a database of its own; `up --embedded` makes one.
SIGNING_SECRET = "whsec_" + "test" * 8
# Where sixteen processes share two processors a start takes twenty seconds, and processes that hang are found later.
RECOVERY_TIMEOUT_S = 90.0
REPLY_TIMEOUT_S = 10.0
PORTS_OF_EACH = 100  # of each process that runs tests


class Instance:
    """`donationd up` with a state folder and ports of its own; --embedded unless `environ` names a database.

    It runs the files of the folder `release`: this checkout, or a former release.
    """

    def __init__(
        self, state: Path, port: int, metrics_port: int, environ: Mapping[str, str] = {}, release: Path = ROOT
    ) -> None:
        self.state = state
        self.release = release
        self.api = f"http://127.0.0.1:{port}"
        self.sidecar = f"http://127.0.0.1:{metrics_port}"
        self._environ = base_environ() | {
            "DONATIOND_STATE": str(state),
            "PORT": str(port),
            "METRICS_PORT": str(metrics_port),
            "API_PROCESSES": "2",
            "STRIPE_API_BASE": "http://127.0.0.2:1",  # tests never reach Stripe, and the fake is at 127.0.0.1
            **environ,
        }
        self._embedded = "DATABASE_URL" not in environ
        self.up: Process | None = None
        self.printed: list[str] = []  # the lines of `up` until it was ready

    @property
    def run(self) -> Path:
        """The folder of its sockets, once it has started."""
        return Path(self.environ["DONATIOND_RUN"])

    @property
    def given_environ(self) -> dict[str, str]:
        """What it is started with."""
        return dict(self._environ)

    @property
    def database_url(self) -> str:
        """The URL of its database: given, or made by `up --embedded`."""
        return self._environ.get("DATABASE_URL") or self.environ["DATABASE_URL"]

    def start(self, *, demo_payments: int = 0, **environ: str) -> str:
        """Starts it, as `donationd demo` if there are to be payments and from now on with these variables too.

        Returns what it printed until it was ready, once each of its API processes is: `up` waits for one of them.
        """
        self._environ |= environ
        if demo_payments:
            self._environ.pop("STRIPE_API_BASE")  # a fake of Stripe's API is the address
            code = f"import os, sys; from daemon.cli.demo import run; sys.exit(run(os.environ, {demo_payments}, None))"
        else:
            code = f"import sys; from daemon.instance.up import up; sys.exit(up(embedded={self._embedded}))"
        self.up = Process([sys.executable, "-c", code], None, self._environ, cwd=self.release)
        assert self.up.stdout is not None
        self.printed.clear()
        for line in self.up.stdout:
            self.printed.append(line)
            if "Ctrl-C stops" in line:
                also_remove(self.run)  # elsewhere where the path to the state folder is long
                if self.release == ROOT:
                    self.wait_until_all_serve()
                return "".join(self.printed)
        raise AssertionError("it ended before it was ready:\n" + "".join(self.printed))

    def wait_until_all_serve(self) -> None:
        """Returns once every API process has itself replied that it is ready: one connection reaches one of them."""
        ready = set[int]()

        def all_are_ready() -> bool:
            assert self.up is not None
            assert self.up.poll() is None, "it has ended"
            status, reply = health_client.health(self.environ)
            if status == HTTPStatus.OK:
                ready.add(reply["pid"])
            return len(ready) >= int(self.environ["API_PROCESSES"])

        eventually(all_are_ready, "every API process is ready")

    def donationd(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """A command in the folder of this instance, with these variables."""
        command = [sys.executable, "-m", "daemon.cli.main", *words]
        environ = base_environ() | {"DONATIOND_STATE": str(self.state)} | environ
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    def end(self) -> int:
        """Waits for the end of `up`; returns its exit status."""
        assert self.up is not None
        assert self.up.stdout is not None
        self.up.stdout.close()
        return self.up.wait(self.stop_limit_s)

    @property
    def stop_limit_s(self) -> float:
        """The longest time from a stop signal to the end of `up`: a slow disk may need all of it."""
        include = "deploy/embedded.conf" if self._embedded else ""
        return stop_limits({**DEFAULTS, **self._environ, "DONATIOND_INCLUDE": include}).total_s

    def supervisorctl(self, *words: str) -> str:
        """What supervisorctl prints for `words`."""
        server = f"unix://{self.run}/supervisor.sock"
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", "supervisord.conf", "-s", server, *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout

    def pids(self) -> dict[str, int]:
        """The pid of each running program, by supervisor's name."""
        with supervisord(f"unix://{self.run}/supervisor.sock") as supervisor:
            programs = supervisor.getAllProcessInfo()
        return {_full_name(program): program["pid"] for program in programs if program["statename"] == "RUNNING"}

    @property
    def supervisord(self) -> int:
        """supervisord's pid."""
        return int(Path(self.environ["DONATIOND_RUN"], "supervisord.pid").read_text())

    def children(self) -> dict[str, int]:
        """The pid of each process of supervisord's, by name, as the kernel knows them: its socket is not needed."""
        found = {}
        for pid in children(self.supervisord):
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/environ").read_text().split("\0")
                environ = dict(line.split("=", 1) for line in lines if "=" in line)
                if "SUPERVISOR_PROCESS_NAME" in environ:
                    program = {"group": environ["SUPERVISOR_GROUP_NAME"], "name": environ["SUPERVISOR_PROCESS_NAME"]}
                    found[_full_name(program)] = pid
        return found

    def log(self, name: str) -> str:
        """What the log of this name holds; nothing if there is none."""
        path = self.state / "logs" / f"{name}.log"
        return path.read_text() if path.exists() else ""

    @property
    def signing_secret(self) -> str:
        """What webhooks are signed with: given, or made by `up --embedded`."""
        return self._environ.get("STRIPE_WEBHOOK_SECRET") or self.environ["STRIPE_WEBHOOK_SECRET"]

    def secrets(self) -> dict[str, str]:
        """Every secret, given or made, by its variable."""
        made = (self.state / "environment").read_text().splitlines()
        return SECRETS | dict(line.split("=", 1) for line in made)

    def running_processes(self) -> list[str]:
        """The command lines of all processes that work in this state folder or have it in environment or arguments."""
        return [line for pid, line in command_lines() if pid != os.getpid() and self._is_ours(pid, line)]

    def _is_ours(self, pid: int, line: str) -> bool:
        with contextlib.suppress(OSError):
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            works_here = Path(f"/proc/{pid}/cwd").readlink().is_relative_to(self.state)
            return works_here or str(self.state) in line or f"DONATIOND_STATE={self.state}".encode() in environ
        return False

    @property
    def environ(self) -> dict[str, str]:
        """What `up` notes for the commands of its folder."""
        noted: dict[str, str] = json.loads((self.state / "run" / "environ.json").read_text())
        return noted


def _full_name(program: Mapping[str, str]) -> str:
    """As supervisorctl prints it: the group counts where it is no group of one."""
    group, name = program["group"], program["name"]
    return name if group == name else f"{group}:{name}"


def command_lines() -> Iterator[tuple[int, str]]:
    """Pid and command line of every process of this machine."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if line := (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                yield int(folder.name), line


def children(pid: int) -> list[int]:
    """The pids of a process's children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def files_below(folder: Path) -> Iterator[Path]:
    """Every file and folder below this one, where other processes make files and remove them meanwhile."""
    for path in folder.iterdir():
        yield path
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(FileNotFoundError):
                yield from files_below(path)


def get(url: str) -> tuple[int, dict[str, str]]:
    """Status and headers of a GET; status 0 if no server answers."""
    try:
        with urllib.request.urlopen(url, timeout=REPLY_TIMEOUT_S) as reply:  # noqa: S310 - our own http address
            return reply.status, dict(reply.headers)
    except urllib.error.HTTPError as reply:
        with reply:
            return reply.code, dict(reply.headers)
    except OSError:
        return 0, {}


def metric(page_of: str, sample: str) -> float | None:
    """The value of a sample, written as Prometheus's text has it, on the /metrics page of this address."""
    try:
        with urllib.request.urlopen(f"{page_of}/metrics", timeout=REPLY_TIMEOUT_S) as reply:  # noqa: S310 - our own
            lines = reply.read().decode().splitlines()
    except OSError:
        return None
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{sample} ")), None)


def eventually(holds: Callable[[], bool], what: str, timeout_s: float = RECOVERY_TIMEOUT_S) -> None:
    """Waits until `holds()`; fails with `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    """Free ports below 32768. The next calls return others, also while no process listens on these yet."""
    found: list[int] = []
    for port in itertools.islice(_own_ports(), PORTS_OF_EACH):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


@cache
def _own_ports() -> Iterator[int]:
    """Ports that no other process uses for tests, one after the other, for ever.

    A process that has bound the name of its first port, a name without a file, has them until it ends.
    """
    for first in range(10000, 20000, PORTS_OF_EACH):
        with socket.socket(socket.AF_UNIX) as owner, contextlib.suppress(OSError):
            owner.bind(f"\0donationd-tests-{first}")
            owner.detach()
            return itertools.cycle(range(first, first + PORTS_OF_EACH))
    raise AssertionError("too many processes run tests")


@contextmanager
def instance_of_its_own(environ: Mapping[str, str] = {}, release: Path = ROOT) -> Iterator[Instance]:
    """An instance not yet started, and its end. Its folder is one that PostgreSQL's user may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="test-"))
    folder.chmod(0o711)
    port, metrics_port = free_ports(2)
    instance = Instance(folder / "state", port, metrics_port, environ, release)
    also_remove(elsewhere(instance.state))
    try:
        yield instance
    finally:
        if instance.up is not None and instance.up.poll() is None:
            instance.up.terminate()
            instance.end()
        for used in (folder, elsewhere(instance.state)):
            shutil.rmtree(used, ignore_errors=True)


def run_up(state: Path, variables: Mapping[str, str], embedded: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs `up` in a process of its own, with only the variables given; meant for starts that are refused."""
    port, metrics_port = map(str, free_ports(2))
    return subprocess.run(
        [sys.executable, "-c", f"import sys; from daemon.instance.up import up; sys.exit(up(embedded={embedded}))"],
        env={**base_environ(), "DONATIOND_STATE": str(state), "PORT": port, "METRICS_PORT": metrics_port, **variables},
        capture_output=True,
        text=True,
        timeout=RECOVERY_TIMEOUT_S,
        check=False,
    )
