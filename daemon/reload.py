"""`donationd reload`: new API processes for old ones, one at a time, while the others go on answering.

supervisord keeps the listening socket open meanwhile, and a process that is told to stop ends what it has accepted
(`daemon.__main__`), so that no connection is reset and no request fails. The next one has to wait until the new one is
seen to answer: a release that can't run takes one process down and leaves the others alone.
"""

import time
import xmlrpc.client
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from supervisor.xmlrpc import Faults

from daemon.up import health
from health_sidecar.life import supervisord

GROUP = "api"
START_TIMEOUT_S = 30.0  # a new process answers in about a second
POLL_S = 0.02  # each look is a new connection, which any of the processes may take


class CannotReload(Exception):
    """What keeps the API processes from being restarted, as one sentence for the person who asked for it."""


def reload(environ: Mapping[str, str], report: Callable[[str], None]) -> None:
    """Restarts the API processes of a running instance one after the other.

    Args:
        environ: the instance's, from `up.running_environ`.
        report: called with a line for each process that was restarted.

    Raises:
        CannotReload: supervisord can't be asked, or a new process does not become ready; the rest is left as it was.
    """
    try:
        with supervisord(f"unix://{environ['DONATIOND_RUN']}/supervisor.sock") as supervisor:
            names = [info["name"] for info in supervisor.getAllProcessInfo() if info["group"] == GROUP]
            for name in names:
                began_s = time.monotonic()
                _restart(supervisor, f"{GROUP}:{name}")
                _await_ready(supervisor, environ, name)
                report(f"{name} restarted in {time.monotonic() - began_s:.1f} s")
    except (OSError, xmlrpc.client.Error) as error:
        raise CannotReload(f"supervisord can't be asked: {error}") from error


def _restart(supervisor: Any, process: str) -> None:
    """Returns once the old process has ended and a new one has begun; even where it died by itself."""
    for call, already in (
        (supervisor.stopProcess, Faults.NOT_RUNNING),
        (supervisor.startProcess, Faults.ALREADY_STARTED),
    ):
        try:
            call(process)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != already:
                raise


def _await_ready(supervisor: Any, environ: Mapping[str, str], name: str) -> None:
    """Returns once the new process itself has said that it is ready."""
    deadline = time.monotonic() + START_TIMEOUT_S
    message = "it does not answer"
    while time.monotonic() < deadline:
        status, said = health(environ)
        if said.get("pid") == supervisor.getProcessInfo(f"{GROUP}:{name}")["pid"]:
            if status == HTTPStatus.OK:
                return
            message = said["message"]
        time.sleep(POLL_S)
    raise CannotReload(
        f"the new {name} is not ready after {START_TIMEOUT_S:.0f} s: {message}; the others were left alone"
    )
