"""supervisord's event listener: records the state of each process, logs each change, and kills processes that hang.

It is a process of its own, because supervisord talks to a listener over its standard input and output
(http://supervisord.org/events.html); so the log goes to standard error. `process_states` decides what an event means
and `hang_detection` which process hangs; the sidecar serves what is recorded and kills a listener that hangs.
"""

from daemon.runtime.loading import begin_loading

if __name__ == "__main__":
    begin_loading()

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

from daemon.runtime.config import Basics
from daemon.runtime.heartbeat import BEAT_S, Heartbeat
from daemon.runtime.lifecycle import ProcessRun, Program, run_process
from daemon.runtime.rate_limited_log import OnChangeLog
from daemon.runtime.supervisor_rpc import SupervisordUnreachable, process_name, supervisord
from health_sidecar import process_states
from health_sidecar.hang_detection import HangDetector, find, kill
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
CHECKED = ("sidecar", "api", "jobs")  # groups; the sidecar checks this process


class Listener:
    """The states of all processes, kept in the file at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.states = process_states.load(path)
        self._detector = HangDetector()
        self._undetected = OnChangeLog("warning", "[Supervisor] ⚠️ No process that hangs can be found")
        self._unsaved = OnChangeLog("warning", "[Supervisor] ⚠️ cannot keep the processes' states")
        self._is_saved = True

    def begin(self, infos: Sequence[Mapping[str, object]]) -> None:
        """Take over supervisord's description of its processes, including what happened before the listener ran."""
        self.states = process_states.seen(self.states, infos)
        self._save()

    def state_changed(self, event: str, payload: str, now_s: float) -> None:
        """A process has changed its state: `PROCESS_STATE_RUNNING` and its `processname:… groupname:…` line."""
        values = childutils.get_headers(payload)
        name = process_name(values["groupname"], values["processname"])
        state = event.removeprefix("PROCESS_STATE_")
        before = self.states.get(name)
        expected = values.get("expected") == "1"
        after = process_states.changed(before, state, values["from_state"], now_s, expected=expected)
        self.states[name] = after
        self._save()
        _log_change(name, before, after, now_s)

    def tick(self, now_s: float) -> None:
        """Check for processes that hang; `now_s` is the time of a monotonic clock.

        supervisord calls for it every five seconds, so that no process is killed while supervisord is stopped and could
        not start it again.
        """
        try:
            found = self._detector.check(find(CHECKED), now_s)
        except OSError as error:
            self._undetected.report(str(error))
            return
        self._undetected.clear()
        if found:
            kill(found)
            self.states[found.name] = process_states.hung(self.states.get(found.name))
        if found or not self._is_saved:
            self._save()

    def _save(self) -> None:
        """Write the file. A full disk must not end the listener; the next tick tries again."""
        try:
            process_states.save(self._path, self.states)
        except OSError as error:
            self._is_saved = False
            self._unsaved.report(str(error.strerror), path=str(self._path))
        else:
            self._is_saved = True
            self._unsaved.clear()


def _log_change(name: str, before: Process | None, after: Process, now_s: float) -> None:
    if after.was_asked:
        log.info(f"[Supervisor] {name} ended as asked")
        return
    level, wording = WORDING.get(after.state, ("debug", f"[Supervisor] {{}} is {after.state}"))
    ran = {"after_s": round(now_s - before.started_s, 1)} if before and before.started_s and level != "info" else {}
    getattr(log, level)(wording.format(name), restarts=after.restarts, **ran)


def listen(listener: Listener, stdin: TextIO, stdout: TextIO, wait: Callable[[], None] = lambda: None) -> None:
    """Process events until supervisord closes the connection.

    Args:
        wait: returns when there is something to read. supervisord sends one event after each READY, so that no
            event can be left in a buffer.
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
            listener.state_changed(headers["eventname"], payload, time.time())
        childutils.listener.ok(stdout)


def _wait(own: Heartbeat, stdin: TextIO) -> None:
    """Beat until there is something to read."""
    own.beat()
    while not select.select([stdin], [], [], BEAT_S)[0]:
        own.beat()


def _begin(listener: Listener, address: str) -> None:
    """Ask supervisord for the present states. If it does not answer, those of the file are used until they change."""
    try:
        with supervisord(address) as supervisor:
            listener.begin(supervisor.getAllProcessInfo())
    except (SupervisordUnreachable, xmlrpc.client.Fault) as error:
        log.warning("[Supervisor] ⚠️ Changes of a process from before now are not known", reason=str(error))


def _run(config: Basics, process: ProcessRun) -> int:
    """Process events until supervisord ends."""
    listener = Listener(config.readiness_socket.with_name(process_states.FILE))
    _begin(listener, process.environ.get("SUPERVISOR_SERVER_URL", ""))
    listen(listener, sys.stdin, sys.stdout, partial(_wait, process.heartbeat, sys.stdin))
    return 0


LISTENER = Program(
    name="The event listener",
    config=Basics,
    run=_run,
    rejected="🚨 The event listener cannot run with this configuration",
    stdout_is_protocol=True,
)


def main(environ: Mapping[str, str]) -> int:
    """Run the event listener. Returns the exit status."""
    return run_process(LISTENER, environ)


if __name__ == "__main__":
    sys.exit(main(os.environ))
