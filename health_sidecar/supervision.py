"""The sidecar and supervisord: start the processes, check whether supervisord answers, kill a listener that hangs.

Nothing here ends the sidecar: what is needed only to start a process must not end one that serves.
"""

import asyncio
import os
import signal
import time
import xmlrpc.client

import structlog
from supervisor.xmlrpc import Faults

from daemon.runtime import supervisor_rpc
from daemon.runtime.rate_limited_log import OnChangeLog
from health_sidecar.hang_detection import CHECK_INTERVAL_S, HangDetector, find, kill
from health_sidecar.metrics import LISTENER, Metrics

log = structlog.get_logger()

API_GROUP = "api"
GROUPS = (API_GROUP, "jobs")  # what is started after the gate
CHECK_S = 5.0  # an answer costs supervisord some milliseconds
FIRST_RETRY_S = 0.5  # is doubled up to CHECK_S until the API has been started
# If no API process runs and supervisord's socket is lost, supervisord must be restarted to open it again. This is long
# enough for a socket that returns by itself, as while supervisord is being restarted.
RESTART_AFTER_S = 10.0


class Supervision:
    """Calls the supervisord at `address`, the parent of this process, at regular intervals."""

    def __init__(self, address: str, metrics: Metrics) -> None:
        self.problem: str | None = None  # for `donationd status`
        self._address = address
        self._metrics = metrics
        self._has_started = False
        self._lost_s: float | None = None
        self._lost = OnChangeLog("warning", "[Supervisor] ⚠️ supervisord cannot be reached")
        self._undetected = OnChangeLog("warning", "[Supervisor] ⚠️ No process that hangs can be found")

    async def run(self, gate_passed: asyncio.Event) -> None:
        """After the gate let supervisord start GROUPS, however late; then check whether it answers, for ever."""
        await gate_passed.wait()
        pause_s = FIRST_RETRY_S
        while True:
            try:
                await asyncio.to_thread(self._call)
            except supervisor_rpc.SupervisordUnreachable as error:
                self._failed(error)
            except xmlrpc.client.Fault as fault:
                if fault.faultCode != Faults.SHUTDOWN_STATE:  # then the sidecar is about to be stopped, too
                    self._failed(fault)
            else:
                self._answered()
            pause_s = CHECK_S if self._has_started else min(2 * pause_s, CHECK_S)
            await asyncio.sleep(pause_s)

    def _call(self) -> None:
        """Start the processes of GROUPS once; later only check whether supervisord answers.

        A process that an operator stops later stays stopped.
        """
        if self._has_started:
            with supervisor_rpc.supervisord(self._address) as supervisor:
                supervisor.getState()
            return
        for group in GROUPS:
            if supervisor_rpc.start_group(self._address, group):
                log.info("Processes started", group=group)
            else:
                log.error("supervisord has no such group: its processes were not started", group=group)
        self._has_started = True

    def _answered(self) -> None:
        if self._lost_s is not None:
            log.info("[Supervisor] ✅ supervisord answers again")
        self._lost.clear()
        self._lost_s = self.problem = None
        self._metrics.supervisord_reachable = True

    def _failed(self, error: Exception) -> None:
        now_s = time.monotonic()
        self._lost_s = now_s if self._lost_s is None else self._lost_s
        is_lost = isinstance(error, supervisor_rpc.SocketLost)
        self.problem = f"{error}; {supervisor_rpc.socket_remedy(os.getppid())}" if is_lost else str(error)
        self._lost.report(self.problem)
        self._metrics.supervisord_reachable = False
        if is_lost and not self._has_started and now_s > self._lost_s + RESTART_AFTER_S:
            self._lost_s = now_s  # supervisord has as much time again
            self._restart_supervisord()

    def _restart_supervisord(self) -> None:
        """Only if no API process runs, so that nothing is lost. If this cannot be read, one may run."""
        try:
            if find({API_GROUP}):
                return
        except OSError:
            return
        log.error("[Supervisor] 🚨 No API process runs and supervisord's socket is lost: supervisord is restarted")
        os.kill(os.getppid(), signal.SIGHUP)

    async def watch(self) -> None:
        """Kill a listener that hangs, for ever."""
        detector = HangDetector()
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            try:
                hung = detector.check(find({LISTENER}), time.monotonic())
            except OSError as error:
                self._undetected.report(str(error))
                continue
            self._undetected.clear()
            if hung:
                kill(hung)
                self._metrics.listener_hung()
