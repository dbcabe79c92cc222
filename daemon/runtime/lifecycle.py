"""How a process of donationd starts, runs and ends: configuration, logging, signals, heartbeat and minimum uptime.

Each process describes itself by a `Program` and starts with `run_process`.
"""

import asyncio
import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog

from daemon.runtime import logging as logs
from daemon.runtime.config import Basics, ConfigError
from daemon.runtime.core_dumps import forbid_core_dumps
from daemon.runtime.heartbeat import Heartbeat

log = structlog.get_logger()

# For a process that ends before `startsecs` supervisord waits a second longer each time, and gives up in the end. With
# `startsecs=0` and process runs that last this long when they fail, every restart is an ordinary one.
MIN_UPTIME_S = 5.0

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

Config = TypeVar("Config", bound=Basics)


class ProcessRun:
    """One run of a process, from its start to its end.

    Attributes:
        stop: is set when the process is to end, by SIGTERM or SIGINT or because one of its parts has ended.
        failed: whether a part has ended, which none is meant to.
        is_supervised: whether supervisord started the process.
    """

    def __init__(self, environ: Mapping[str, str], heartbeat: Heartbeat, started_s: float) -> None:
        self.environ = environ
        self.heartbeat = heartbeat
        self.stop = asyncio.Event()
        self.failed = False
        self.is_supervised = supervised(environ)
        self._signalled = asyncio.Event()
        self._started_s = started_s

    def handle_signals(self) -> None:
        """From now on SIGTERM and SIGINT set `stop`."""
        for sig in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(sig, self._handle_signal)

    def _handle_signal(self) -> None:
        self._signalled.set()
        self.stop.set()

    @asynccontextmanager
    async def running(self, *parts: Coroutine[Any, Any, object]) -> AsyncIterator[None]:
        """Run parts of the process beside the block, and cancel them after it.

        If one of them ends, the process run has failed and stops: none may end unnoticed while the others go on.
        """
        tasks = [asyncio.create_task(part) for part in parts]
        for task in tasks:
            task.add_done_callback(self._part_ended)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _part_ended(self, task: asyncio.Task[object]) -> None:
        if task.cancelled():
            return
        self.failed = True
        self.stop.set()
        if error := task.exception():
            log.critical("🚨 A part of the process ended with an error", exc_info=error)

    async def wait(self, condition: Coroutine[Any, Any, object]) -> bool:
        """Wait for something, but not beyond `stop`. Returns whether it came about."""
        waits = [asyncio.create_task(condition), asyncio.create_task(self.stop.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()
        return not self.stop.is_set()

    async def wait_min_uptime(self) -> None:
        """Go on until a process run that failed may end, but not beyond a signal to stop."""
        try:
            async with asyncio.timeout(remaining_s(self._started_s, self.environ)):
                await self._signalled.wait()
        except TimeoutError:
            return


@dataclass(frozen=True, kw_only=True)
class Program(Generic[Config]):
    """What distinguishes one kind of process.

    Attributes:
        name: for log lines, such as "The sidecar".
        config: its configuration.
        run: everything after the configuration; returns the exit status.
        reserve: raises ConfigError if the system does not grant what the configuration needs.
        rejected: the last log line where the configuration cannot be used.
        stdout_is_protocol: the log goes to standard error.
    """

    name: str
    config: type[Config]
    run: Callable[[Config, ProcessRun], int]
    reserve: Callable[[Config], None] = lambda _config: None
    rejected: str
    stdout_is_protocol: bool = False


def run_process(program: Program[Config], environ: Mapping[str, str]) -> int:
    """Run a process to its end. Returns its exit status: 0 if it was asked to stop, 1 if it failed."""
    started_s = time.monotonic()
    if not gc.isenabled():  # while the program was loaded
        gc.freeze()  # what exists now is never freed, so no search needs to look at it
        gc.enable()
    forbid_core_dumps()
    if supervised(environ):
        die_with_parent()
    try:
        config = program.config.from_environ(environ)
        program.reserve(config)
        process = ProcessRun(environ, Heartbeat(), started_s)
    except ConfigError as error:
        logs.configure("text", "INFO", stream=sys.stderr if program.stdout_is_protocol else sys.stdout)
        report_config(error, program.rejected)
        status = 1
    else:
        status = _run(program, config, process)
    if status:
        time.sleep(remaining_s(started_s, environ))
    return status


def _run(program: Program[Config], config: Config, process: ProcessRun) -> int:
    logs.configure_serving(config.log_format, config.log_level, stdout_is_protocol=program.stdout_is_protocol)
    try:
        return program.run(config, process)
    except OSError as error:
        log.critical(f"🚨 {program.name} cannot run: {error.strerror or error}", file=error.filename)
        return 1


def serving(serve: Callable[[Config, ProcessRun], Coroutine[Any, Any, int]]) -> Callable[[Config, ProcessRun], int]:
    """`Program.run` of a process with an event loop: with its heartbeat and until a signal."""

    async def run(config: Config, process: ProcessRun) -> int:
        process.handle_signals()
        async with process.running(process.heartbeat.run()):
            return await serve(config, process)

    return lambda config, process: asyncio.run(run(config, process))


def report_config(error: ConfigError, rejected: str) -> None:
    """Log one line for each mistake in the environment, and a last one."""
    for problem in error.problems:
        log.error(f"❌ Configuration: {problem}")
    log.error(rejected)


def die_with_parent(sig: signal.Signals = signal.SIGTERM) -> None:
    """Ask Linux to send `sig` to this process when the process that started it dies, even by kill -9.

    This survives exec, not fork. Raises OSError if the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(sig), 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def supervised(environ: Mapping[str, str]) -> bool:
    """Whether supervisord started this process: it sets SUPERVISOR_ENABLED for its children."""
    return "SUPERVISOR_ENABLED" in environ


def remaining_s(started_s: float, environ: Mapping[str, str], *, clock: Callable[[], float] = time.monotonic) -> float:
    """Seconds after which a process run that started at `started_s` may end with a failure; 0 outside supervisord."""
    if not supervised(environ):
        return 0.0
    return max(0.0, started_s + MIN_UPTIME_S - clock())
