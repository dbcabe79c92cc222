"""Hosts for a trial: network namespaces with an address each, joined by a bridge, all within a network of this process.

Nothing of it reaches the machine's own network, and it is gone with the last process in it.
"""

import contextlib
import ctypes
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.site import send
from tests.support.process import Process

CLONE_NEWNET = 0x40000000  # <linux/sched.h>; Python has os.unshare from 3.12 on
BRIDGE, BRIDGE_ADDRESS = "bridge", "10.0.0.254"
USER = "nobody"  # PostgreSQL refuses to run as root
END_S = 10.0
POLL_S = 0.05


class CannotMakeNetwork(Exception):
    """This process may not make networks."""


def enter_own_network() -> None:
    """From here on this process, and what it starts, are in an empty network with a bridge for hosts.

    Raises:
        CannotMakeNetwork: it may not.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise CannotMakeNetwork(f"a network namespace cannot be made: {os.strerror(ctypes.get_errno())}")
    try:
        _ip("link", "set", "lo", "up")
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("address", "add", f"{BRIDGE_ADDRESS}/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
    except subprocess.CalledProcessError as error:
        raise CannotMakeNetwork(f"{' '.join(error.cmd)}: {error.stderr.strip()}") from None


def _ip(*words: str, inside: Sequence[str] = ()) -> None:
    subprocess.run([*inside, "ip", *words], check=True, capture_output=True, text=True)


class Host:
    """A host that can be cut off, stopped and killed.

    Args:
        logs: the folder for the logs of its programs.
    """

    def __init__(self, name: str, address: str, logs: Path) -> None:
        self.name, self.address, self._logs = name, address, logs
        self._holder = 0  # the process that keeps the namespace
        self._processes: list[Process] = []
        entry = pwd.getpwnam(USER)
        self._as_user = ("--setuid", str(entry.pw_uid), "--setgid", str(entry.pw_gid))

    @contextmanager
    def connected(self) -> Iterator[None]:
        """The host is there while the block lasts."""
        with Process(["unshare", "--net", "sleep", "infinity"], self._logs / f"{self.name}.log") as holder:
            self._holder = holder.pid
            while _namespace(holder.pid) == _namespace(os.getpid()):
                time.sleep(POLL_S)
            inside = self._inside()
            _ip("link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
            _ip("link", "set", self.name, "master", BRIDGE, "up")
            _ip("link", "set", "lo", "up", inside=inside)
            _ip("address", "add", f"{self.address}/24", "dev", "eth0", inside=inside)
            _ip("link", "set", "eth0", "up", inside=inside)
            try:
                yield
            finally:
                self.kill()

    def start(self, command: Sequence[str | Path], environ: Mapping[str, str]) -> None:
        """Starts a program on it, as USER."""
        log = self._logs / f"{self.name}-{Path(command[0]).name}.log"
        self._processes.append(Process([*self._inside(*self._as_user), *command], log, environ))

    def kill(self) -> None:
        """kill -9 of everything on it at the same time, as when the power fails; returns when all have ended."""
        deadline_s = time.monotonic() + END_S
        while pids := self._pids():
            send(signal.SIGKILL, pids)
            for process in self._processes:
                process.poll()
            assert time.monotonic() < deadline_s, f"processes of {self.name} do not end: {pids}"
            time.sleep(POLL_S)
        for process in self._processes:
            process.wait()
        self._processes.clear()

    def freeze(self) -> None:
        """SIGSTOP of everything on it, as when a virtual machine is moved."""
        send(signal.SIGSTOP, self._pids())

    def thaw(self) -> None:
        """Everything on it continues."""
        send(signal.SIGCONT, self._pids())

    def cut(self) -> None:
        """No packet from or to it arrives."""
        _ip("link", "set", self.name, "down")

    def reconnect(self) -> None:
        """Ends `cut`."""
        _ip("link", "set", self.name, "up")

    def cut_from(self, addresses: Sequence[str]) -> None:
        """It has no way to these addresses any more, and what they send is not answered."""
        for address in addresses:
            _ip("route", "add", "blackhole", address, inside=self._inside())

    def reconnect_to(self, addresses: Sequence[str]) -> None:
        """Ends `cut_from`."""
        for address in addresses:
            _ip("route", "delete", "blackhole", address, inside=self._inside())

    def _inside(self, *options: str) -> list[str]:
        return ["nsenter", f"--target={self._holder}", "--net", *options]

    def _pids(self) -> list[int]:
        """Its processes; one that has ended is in no namespace any more."""
        own, found = _namespace(self._holder), []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if _namespace(pid := int(folder.name)) == own and pid != self._holder:
                    found.append(pid)
        return found


def _namespace(pid: int) -> int:
    """What identifies the network of a process."""
    return Path(f"/proc/{pid}/ns/net").stat().st_ino
