"""`donationd reload`: new API processes for old ones, one at a time, while the others answer; then a new jobs process.

A process that receives SIGTERM completes what it has accepted (`daemon.api.__main__`) while supervisord keeps the
listening socket open, so that no connection is reset and no request fails; supervisord's autorestart then starts the
next one. Nothing here stops a process through supervisord, which would leave it stopped: if this is interrupted at any
moment, even by kill -9, every process runs. The next process is replaced only when the new one has answered: a release
that can't run ends one process and does not reach the others.

The sidecar goes on: without one each request is answered 503 (SPEC 6), so the operator chooses when to replace it.
"""

import time
import xmlrpc.client
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import Faults

from daemon.instance.health_client import health
from daemon.runtime.supervisor_rpc import SocketLost, SupervisordUnreachable, socket_remedy, supervisord

GROUP = "api"
JOBS = "jobs"  # a program, and the group of the same name
SIDECAR = "sidecar"
START_TIMEOUT_S = 30.0  # a new process answers within about a second
STOP_SPARE_S = 10.0  # beyond SHUTDOWN_GRACE_MS; after half of it a process that still drains ends itself
POLL_S = 0.02  # each question is a new connection, which any of the processes may accept
SIDECAR_GOES_ON = (
    "the sidecar was not replaced and goes on with its release; `kill {pid}` replaces it, and every request is "
    "answered 503 for one or two seconds until the new one is ready"
)


class CannotReload(Exception):
    """What keeps the API processes from being restarted, as one sentence for the operator."""


def reload(environ: Mapping[str, str], report: Callable[[str], None]) -> None:
    """Starts the API processes of a running instance that do not run, then replaces the others one after the other.

    Args:
        environ: the instance's, from `environment.running_environ`.
        report: called with a line for each process that was started or replaced, and one about the sidecar.

    Raises:
        CannotReload: supervisord does not answer, or a new process does not become ready; the others are not changed.
    """
    try:
        with supervisord(f"unix://{environ['DONATIOND_RUN']}/supervisor.sock") as supervisor:
            group = _Group(supervisor, environ)
            pids = group.pids()
            for name in (name for name, pid in pids.items() if not pid):
                began_s = time.monotonic()
                group.start(name)
                report(f"{name}, which was stopped, started in {time.monotonic() - began_s:.1f} s")
            for name, pid in pids.items():
                if pid:
                    began_s = time.monotonic()
                    group.replace(name, pid)
                    report(f"{name} restarted in {time.monotonic() - began_s:.1f} s")
            began_s = time.monotonic()
            if _replace_jobs(supervisor):
                report(f"{JOBS} restarted in {time.monotonic() - began_s:.1f} s")
            if pid := supervisor.getProcessInfo(SIDECAR)["pid"]:  # 0 while it does not run
                report(SIDECAR_GOES_ON.format(pid=pid))
    except SocketLost as error:
        supervisord_pid = int(Path(environ["DONATIOND_RUN"], "supervisord.pid").read_text())
        raise CannotReload(f"{error}; {socket_remedy(supervisord_pid)}") from error
    except SupervisordUnreachable as error:
        raise CannotReload(f"{error}; is it stopped, or does its disk hang?") from error
    except xmlrpc.client.Fault as error:
        raise CannotReload(f"supervisord refused: {error.faultString}") from error


def _replace_jobs(supervisor: Any) -> bool:
    """Starts the jobs process, or replaces it by a new one. Returns False where supervisord has none, because it was
    started by an earlier release.
    """
    try:
        old_pid = supervisor.getProcessInfo(JOBS)["pid"]
        if old_pid:
            supervisor.signalProcess(JOBS, "TERM")
        else:
            supervisor.startProcess(JOBS, False)
    except xmlrpc.client.Fault as fault:
        if fault.faultCode == Faults.BAD_NAME:
            return False
        if fault.faultCode not in (Faults.NOT_RUNNING, Faults.ALREADY_STARTED):
            raise
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while supervisor.getProcessInfo(JOBS)["pid"] in (0, old_pid):
        if time.monotonic() > deadline_s:
            raise CannotReload(f"no new jobs process runs {START_TIMEOUT_S:.0f} s after the old one was asked to end")
        time.sleep(POLL_S)
    return True


@dataclass
class _Group:
    """The API processes, through supervisord."""

    supervisor: Any
    environ: Mapping[str, str]

    def pids(self) -> dict[str, int]:
        """Each process's pid, 0 where it does not run."""
        return {info["name"]: info["pid"] for info in self.supervisor.getAllProcessInfo() if info["group"] == GROUP}

    def start(self, name: str) -> None:
        """Returns once a process that did not run is ready."""
        try:
            self.supervisor.startProcess(f"{GROUP}:{name}", False)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != Faults.ALREADY_STARTED:
                raise
        self._await_ready(name, 0, START_TIMEOUT_S)

    def replace(self, name: str, old_pid: int) -> None:
        """Returns once another process than `old_pid` is ready; the old one may have ended by itself."""
        try:
            self.supervisor.signalProcess(f"{GROUP}:{name}", "TERM")
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != Faults.NOT_RUNNING:
                raise
        stop_s = int(self.environ["SHUTDOWN_GRACE_MS"]) / 1000 + STOP_SPARE_S
        self._await_ready(name, old_pid, stop_s + START_TIMEOUT_S)

    def _await_ready(self, name: str, old_pid: int, timeout_s: float) -> None:
        """Returns once a process that is not the old one has itself answered that it is ready. Each question also makes
        supervisord notice at once that a process has ended.
        """
        deadline = time.monotonic() + timeout_s
        message = "it does not answer"
        while time.monotonic() < deadline:
            pid = self.supervisor.getProcessInfo(f"{GROUP}:{name}")["pid"]
            status, reply = health(self.environ) if pid not in (0, old_pid) else (0, {})
            if reply.get("pid") == pid:
                if status == HTTPStatus.OK:
                    return
                message = reply["message"]
            time.sleep(POLL_S)
        if pid == old_pid:
            raise CannotReload(f"the old {name} (pid {pid}) has not ended {timeout_s:.0f} s after its SIGTERM")
        raise CannotReload(
            f"the new {name} is not ready after {timeout_s:.0f} s: {message}; the others were not changed"
        )
