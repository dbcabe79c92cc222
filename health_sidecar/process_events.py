"""supervisord's event listener: writes down each process's state, logs each change, and replaces what hangs.

A process of its own, because supervisord talks to a listener over its standard input and output
(http://supervisord.org/events.html); so the log goes to standard error. Neighbours: `processes` says what an event
means, `heartbeat` who hangs, the sidecar serves what is written and replaces a listener that hangs.
"""

import os
import select
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TextIO

import structlog
from supervisor import childutils

from daemon.runtime import lifecycle
from daemon.runtime import logging as logs
from daemon.runtime.config import Basics, ConfigError
from daemon.runtime.heartbeat import BEAT_S, Heartbeat
from daemon.runtime.rate_limited_log import OnChangeLog
from daemon.runtime.supervisor_rpc import SupervisordUnreachable, process_name, supervisord
from health_sidecar import hang_detection, process_states
from health_sidecar.process_states import Process

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
TICK = "TICK_5"
WATCHED = ("sidecar", "api")  # groups; the sidecar watches this process


class Listener:
    """What is known, kept in the file at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.known = process_states.load(path)
        self._watch = hang_detection.Watch()
        self._unwatched = OnChangeLog("warning", "[Supervisor] ⚠️ No process that hangs can be found")
        self._unsaved = OnChangeLog("warning", "[Supervisor] ⚠️ cannot keep the processes' states")
        self._is_saved = True

    def begin(self, infos: Sequence[Mapping[str, object]]) -> None:
        """supervisord has described all its processes: what happened while nobody listened."""
        self.known = process_states.seen(self.known, infos)
        self._save()

    def heard(self, event: str, payload: str, now_s: float) -> None:
        """A process has changed its state: `PROCESS_STATE_RUNNING` and its `processname:… groupname:…` line."""
        values = childutils.get_headers(payload)
        name = process_name(values["groupname"], values["processname"])
        state = event.removeprefix("PROCESS_STATE_")
        before = self.known.get(name)
        expected = values.get("expected") == "1"
        after = process_states.changed(before, state, values["from_state"], now_s, expected=expected)
        self.known[name] = after
        self._save()
        _say(name, before, after, now_s)

    def tick(self, now_s: float) -> None:
        """supervisord's clock, every five seconds; `now_s` is ours, a monotonic one. So nothing is killed while
        supervisord is stopped: it could not start it again.
        """
        try:
            found = self._watch.look(hang_detection.find(WATCHED), now_s)
        except OSError as error:
            self._unwatched.report(str(error))
            return
        self._unwatched.clear()
        if found:
            hang_detection.kill(found)
            self.known[found.name] = process_states.hung(self.known.get(found.name))
        if found or not self._is_saved:
            self._save()

    def _save(self) -> None:
        """A full disk must not end what replaces processes that hang; the next tick tries again."""
        try:
            process_states.save(self._path, self.known)
        except OSError as error:
            self._is_saved = False
            self._unsaved.report(str(error.strerror), path=str(self._path))
        else:
            self._is_saved = True
            self._unsaved.clear()


def _say(name: str, before: Process | None, after: Process, now_s: float) -> None:
    if after.was_asked:
        log.info(f"[Supervisor] {name} ended as asked")
        return
    level, wording = WORDING.get(after.state, ("debug", f"[Supervisor] {{}} is {after.state}"))
    ran = {"after_s": round(now_s - before.started_s, 1)} if before and before.started_s and level != "info" else {}
    getattr(log, level)(wording.format(name), restarts=after.restarts, **ran)


def listen(listener: Listener, stdin: TextIO, stdout: TextIO, wait: Callable[[], None] = lambda: None) -> None:
    """Take events until supervisord hangs up.

    Args:
        wait: returns when there is something to read. supervisord sends an event only after READY, and then no other:
            nothing that was read with the one before can be waiting in a buffer.
    """
    while True:
        childutils.listener.ready(stdout)
        wait()
        line = stdin.readline()
        if not line:
            return
        headers = childutils.get_headers(line)
        payload = stdin.read(int(headers["len"]))
        if headers["eventname"] == TICK:
            listener.tick(time.monotonic())
        else:
            listener.heard(headers["eventname"], payload, time.time())
        childutils.listener.ok(stdout)


def _wait(own: Heartbeat, stdin: TextIO) -> None:
    """Beats until there is something to read."""
    own.beat()
    while not select.select([stdin], [], [], BEAT_S)[0]:
        own.beat()


def _begin(listener: Listener, address: str) -> None:
    """Asks for the present states. Where supervisord can't be asked those of the file have to do; each change comes."""
    try:
        with supervisord(address) as supervisor:
            listener.begin(supervisor.getAllProcessInfo())
    except (SupervisordUnreachable, xmlrpc.client.Fault) as error:
        log.warning("[Supervisor] ⚠️ Changes of a process from before now are not known", reason=str(error))


def main(environ: Mapping[str, str]) -> int:
    """Listen until supervisord ends. Returns the exit status."""
    started_s = time.monotonic()
    lifecycle.forbid_core_dumps()
    lifecycle.die_with_parent()
    try:
        config = Basics.from_environ(environ)
        own = Heartbeat()
    except ConfigError as error:
        logs.configure("text", "INFO", stream=sys.stderr)
        log.error(f"❌ Configuration: {error}")  # noqa: TRY400 - the sidecar says it too; no trace is needed
        lifecycle.wait_min_uptime(started_s)
        return 1
    logs.configure_serving(config.log_format, config.log_level, stdout_is_protocol=True)
    listener = Listener(config.readiness_socket.with_name(process_states.FILE))
    try:
        _begin(listener, environ.get("SUPERVISOR_SERVER_URL", ""))
        listen(listener, sys.stdin, sys.stdout, partial(_wait, own, sys.stdin))
    except OSError as error:
        log.critical("🚨 The listener cannot go on", file=error.filename, error=error.strerror)
        lifecycle.wait_min_uptime(started_s)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ))
