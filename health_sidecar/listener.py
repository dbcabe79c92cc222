"""supervisord's event listener: writes down each process's state, and logs each change.

A process of its own, because supervisord talks to a listener over its standard input and output
(http://supervisord.org/events.html); so the log goes to standard error. Neighbours: `processes` says what an event
means, the sidecar serves what is written.
"""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

import structlog
from supervisor import childutils

from health_sidecar import life, logs, processes
from health_sidecar.config import Basics, ConfigError
from health_sidecar.processes import Process

log = structlog.get_logger()

# Level and message of a change's line, by the state after it; other states pass within a moment.
WORDING = {
    "RUNNING": ("info", "[Supervisor] ✅ {} runs"),
    "STOPPED": ("info", "[Supervisor] {} was stopped"),
    "EXITED": ("warning", "[Supervisor] ❌ {} ended by itself"),
    "BACKOFF": ("warning", "[Supervisor] ❌ {} ended too soon"),
    "FATAL": ("critical", "[Supervisor] 🚨 {} will not be started again"),
    "UNKNOWN": ("error", "[Supervisor] ❌ {} is in an unknown state"),
}


class Listener:
    """What is known, kept in the file at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.known = processes.load(path)

    def begin(self, infos: Sequence[Mapping[str, object]]) -> None:
        """supervisord has described all its processes: what happened while nobody listened."""
        self.known = processes.seen(self.known, infos)
        processes.save(self._path, self.known)

    def heard(self, event: str, payload: str, now_s: float) -> None:
        """A process has changed its state: `PROCESS_STATE_RUNNING` and its `processname:… groupname:…` line."""
        values = childutils.get_headers(payload)
        name = processes.name(values["groupname"], values["processname"])
        state = event.removeprefix("PROCESS_STATE_")
        before = self.known.get(name)
        expected = values.get("expected") == "1"
        after = processes.changed(before, state, values["from_state"], now_s, expected=expected)
        self.known[name] = after
        processes.save(self._path, self.known)
        _say(name, before, after, now_s)


def _say(name: str, before: Process | None, after: Process, now_s: float) -> None:
    if after.was_asked:
        log.info(f"[Supervisor] {name} ended as asked")
        return
    level, wording = WORDING.get(after.state, ("debug", f"[Supervisor] {{}} is {after.state}"))
    ran = {"after_s": round(now_s - before.started_s, 1)} if before and before.started_s and level != "info" else {}
    getattr(log, level)(wording.format(name), restarts=after.restarts, **ran)


def listen(listener: Listener, stdin: TextIO, stdout: TextIO) -> None:
    """Take events until supervisord hangs up. One that can't be written ends us; supervisord sends it again."""
    while True:
        childutils.listener.ready(stdout)
        line = stdin.readline()
        if not line:
            return
        headers = childutils.get_headers(line)
        payload = stdin.read(int(headers["len"]))
        listener.heard(headers["eventname"], payload, time.time())
        childutils.listener.ok(stdout)


def main(environ: Mapping[str, str]) -> int:
    """Listen until supervisord ends. Returns the exit status."""
    started_s = time.monotonic()
    life.forbid_core_dumps()
    life.die_with_parent()
    try:
        config = Basics.from_environ(environ)
    except ConfigError as error:
        logs.configure("text", "INFO", stream=sys.stderr)
        log.error(f"❌ Configuration: {error}")  # noqa: TRY400 - the sidecar says it too; no trace is needed
        life.linger(started_s)
        return 1
    logs.configure_serving(config.log_format, config.log_level, stdout_is_protocol=True)
    listener = Listener(config.readiness_socket.with_name(processes.FILE))
    try:
        listener.begin(childutils.getRPCInterface(environ).supervisor.getAllProcessInfo())
        listen(listener, sys.stdin, sys.stdout)
    except OSError as error:
        log.critical("🚨 The listener cannot go on", file=error.filename, error=error.strerror)
        life.linger(started_s)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
