"""`python -m daemon.api` as a process of a test's own, without a sidecar or supervisord."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from tests.support.guard import base_environ

SECRET = "whsec_" + "test" * 8
WAIT_S = 20


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Api:
    """An API process with its own port, below a folder of the test's."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.socket = folder / "readiness.sock"
        self.metrics = folder / "metrics"
        self.metrics.mkdir(exist_ok=True)
        self.environ = base_environ() | {
            "DATABASE_URL": database_url,
            "STRIPE_WEBHOOK_SECRET": SECRET,
            "STRIPE_LIVEMODE": "false",
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "READINESS_SOCKET": str(self.socket),
            "PROMETHEUS_MULTIPROC_DIR": str(self.metrics),
            "API_SLOT": "0",
        }

    @asynccontextmanager
    async def running(self, *program: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """The process, its output readable; ended if it still lives. `program` is what Python is to run instead."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *(program or ("-m", "daemon.api"))),
            env=self.environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    def counted(self, name: str = "webhook_events_total") -> float:
        """A metric's samples as the sidecar adds them up."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(self.metrics))  # type: ignore[no-untyped-call]
        return sum(s.value for metric in registry.collect() for s in metric.samples if s.name == name)


async def until(process: asyncio.subprocess.Process, words: str) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(WAIT_S):
        while words not in (line := (await process.stdout.readline()).decode()):
            assert line, f"it ended before it said {words!r}"
