"""`python -m daemon.api` as a process of a test's own, without a sidecar or supervisord."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from daemon.runtime.readiness import Readiness
from health_sidecar.publisher import ReadinessServer
from tests.support.instance import free_ports
from tests.support.process import WAIT_S, Process

SECRET = "whsec_" + "test" * 8


class Api:
    """An API process with its own port, below a folder of the test's."""

    def __init__(self, folder: Path, database_url: str) -> None:
        [self.port] = free_ports(1)
        self.base = f"http://127.0.0.1:{self.port}"
        self.socket = folder / "readiness.sock"
        self.metrics = folder / "metrics"
        self.metrics.mkdir(exist_ok=True)
        self.log = folder / "api.log"
        self.environ = {
            "DATABASE_URL": database_url,
            "STRIPE_WEBHOOK_SECRET": SECRET,
            "STRIPE_LIVEMODE": "false",
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "READINESS_SOCKET": str(self.socket),
            "PROMETHEUS_MULTIPROC_DIR": str(self.metrics),
            "API_SLOT": "0",
            # On a busy machine an ordinary statement can take longer than in any operation.
            "DB_STATEMENT_TIMEOUT_MS": "30000",
            "REQUEST_DEADLINE_MS": "60000",
        }

    @asynccontextmanager
    async def running(self, *program: str) -> AsyncIterator[Process]:
        """The process, killed at the end if it still runs. `program` is what Python is to run instead."""
        command = [sys.executable, *(program or ("-m", "daemon.api"))]
        with Process(command, self.log, self.environ, stop=signal.SIGKILL) as process:
            yield process

    def counted(self, name: str = "webhook_events_total") -> float:
        """A metric's samples as the sidecar adds them up."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self.metrics))  # type: ignore[no-untyped-call]
        return sum(s.value for metric in registry.collect() for s in metric.samples if s.name == name)


@asynccontextmanager
async def ready_sidecar(socket: Path) -> AsyncIterator[None]:
    """In the place of the sidecar: it reports again and again that the database is ready."""
    async with ReadinessServer(socket, Readiness(ready=True), lambda: None) as publisher:
        heartbeat = asyncio.create_task(publisher.run())
        try:
            yield
        finally:
            heartbeat.cancel()


async def until(process: Process, words: str) -> None:
    """Returns when the process has written a line with these words, while the event loop goes on."""
    await asyncio.to_thread(process.wait_for, words)


async def ended(process: Process) -> int:
    """The exit status of a process that was asked to end."""
    return await asyncio.to_thread(process.wait, WAIT_S)
