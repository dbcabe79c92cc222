"""`python -m daemon.api` as a process: started without supervisord, killed, and stopped."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from daemon.runtime.readiness import Readiness
from daemon.simulator import sender
from health_sidecar.publisher import ReadinessServer
from tests.support.api_process import SECRET, Api, ended, until
from tests.support.process import WAIT_S, Process


async def deliver(api: Api, number: int) -> int:
    """Posts an event of a type that changes nothing; returns the status."""
    event = {"id": f"evt_{number}", "object": "event", "type": "customer.created", "created": 1_760_000_000}
    body = json.dumps({**event, "livemode": False, "data": {"object": {}}}).encode()
    headers = {"Stripe-Signature": sender.sign(body, SECRET, int(time.time()))}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{api.base}/webhooks/stripe", data=body, headers=headers) as reply,
    ):
        return reply.status


@asynccontextmanager
async def sidecar(api: Api, *, ready: bool = True) -> AsyncIterator[ReadinessServer]:
    """The sidecar's end of readiness, which repeats its state: after three seconds of silence no delivery is taken."""
    async with ReadinessServer(api.socket, Readiness(ready=ready), lambda: None) as publisher:
        heartbeat = asyncio.create_task(publisher.run())
        yield publisher
        heartbeat.cancel()


async def stop(process: Process) -> None:
    """Asks it to end, and waits until it has."""
    process.send_signal(signal.SIGTERM)
    assert await ended(process) == 0


async def test_by_hand_the_port_opens_once_the_gate_has_passed(api: Api) -> None:
    """Without supervisord the port stays closed until the sidecar says ready; SIGTERM then ends it with 0."""
    async with sidecar(api, ready=False) as publisher, api.running() as process:
        await until(process, "Waiting for the startup gate")
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection("127.0.0.1", api.port)
        publisher.publish(Readiness(ready=True))
        await until(process, "listening on")
        assert await deliver(api, 1) == 200
        await stop(process)
        assert "API stopped" in process.unread()


# An API process whose end waits for ever, with a second to spare instead of five.
HANGS_AT_ITS_END = """
import asyncio, os
from daemon.api import __main__ as api
from daemon.runtime.http.server import HttpServer

async def drain(*_, **__):
    await asyncio.Event().wait()

HttpServer.drain, api.STOP_SPARE_S = drain, 0
api.main(os.environ)
"""


async def test_a_process_that_hangs_at_its_end_ends_all_the_same(api: Api) -> None:
    """After SIGTERM it has SHUTDOWN_GRACE_MS and some seconds; no other process has to see to that."""
    api.environ["SHUTDOWN_GRACE_MS"] = "1000"
    async with sidecar(api), api.running("-c", HANGS_AT_ITS_END) as process:
        await until(process, "listening on")
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == -signal.SIGALRM


async def test_a_restart_neither_loses_nor_doubles_a_figure(api: Api) -> None:
    """Figures belong to the slot: after kill -9 the next process of the slot goes on from its counts and says itself
    what it has now.
    """
    async with sidecar(api):
        for number in (1, 2):
            async with api.running() as process:
                await until(process, "listening on")
                assert await deliver(api, number) == 200
                assert api.counted("webhook_events_total") == number
                assert api.counted("webhook_batch_events_count") == number
                assert api.counted("db_pool_connections_max") == 16
                if number == 1:
                    process.kill()
                else:
                    await stop(process)
        assert api.counted("webhook_events_total") == 2
        assert api.counted("db_pool_connections_max") == 0


NOISE = b"canary\r\n\r\n"  # not even a method: what scanners and TLS handshakes send
BAD_REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: a\r\nStripe-Signature: " + b"canary" * 2000 + b"\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\ncanary",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: canary\r\n\r\n",
]
# Each a whole request, or the beginning of one whose client then hangs up: what follows the method, and the status.
SPOILT = {
    "claims to be compressed": (b"/webhooks/stripe", b"Content-Encoding: gzip\r\nContent-Length: 6\r\n\r\ncanary", 400),
    "claims so where nothing is": (b"/nothing", b"Content-Encoding: gzip\r\nContent-Length: 6\r\n\r\ncanary", 404),
    "half of a body": (b"/webhooks/stripe", b"Expect: 100-continue\r\nContent-Length: 99\r\n\r\ncanary", None),
    "expects what is no text": (b"/nothing", b"Expect: canary\xff\r\n\r\n", 417),
}


async def test_what_a_client_does_wrong_is_counted_and_not_logged(api: Api) -> None:
    """What is no HTTP and what is spoilt get 400 or the like, never 500, and a count where it is HTTP at all. Nothing
    of it reaches the log: it must not fill the disk, or cause an alert. What alerts count is there before it happens.
    """
    async with sidecar(api), api.running() as process:
        await until(process, "listening on")
        check_first_figures(api)
        for request in [NOISE, *BAD_REQUESTS] * 3:
            assert await status_of(api, request) == 400
        assert api.counted("http_requests_total") == len(BAD_REQUESTS) * 3
        for what, (path, rest, status) in SPOILT.items():
            assert await status_of(api, b"POST " + path + b" HTTP/1.1\r\nHost: a\r\n" + rest) == status, what
        # All but the expectation, which is refused before there is a request; the half of a body when its client left.
        await counts(api, len(BAD_REQUESTS) * 3 + len(SPOILT) - 1)
        assert await deliver(api, 1) == 200
        assert 0 <= api.counted("webhook_clock_skew_seconds") < WAIT_S
        await stop(process)
    written = process.unread()
    assert "canary" not in written
    # Every ten seconds a line counts what was rejected.
    [line] = [line for line in written.splitlines() if "Rejected requests" not in line]
    assert "API stopped" in line


def check_first_figures(api: Api) -> None:
    """A counter born with its first event would hide that event from increase(); the clock's skew is not made up."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(api.metrics))  # type: ignore[no-untyped-call]
    found = {(s.name, *sorted(s.labels.values())): s.value for m in registry.collect() for s in m.samples}
    assert found["webhook_events_total", "applied", "charge.dispute.created"] == 0
    assert found["webhook_refused_total", "mismatch"] == 0
    assert found["http_requests_total", "/webhooks/stripe", "503", "POST"] == 0
    assert ("webhook_clock_skew_seconds",) not in found


async def status_of(api: Api, request: bytes) -> int | None:
    """The status of the reply; None where the client hangs up as soon as its request is being handled."""
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(request)
    line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    status = int(line.split()[1])
    return None if status == HTTPStatus.CONTINUE else status


async def counts(api: Api, requests: int) -> None:
    """Returns when so many requests are counted, by the other process."""
    async with asyncio.timeout(WAIT_S):
        while api.counted("http_requests_total") != requests:  # noqa: ASYNC110 - another process counts
            await asyncio.sleep(0.02)


async def test_every_mistake_in_the_configuration_is_reported_at_once(api: Api) -> None:
    """Exit 1 with a line per mistake, and no value in any of them."""
    api.environ |= {"PORT": "secret-1", "DEFAULT_CURRENCY": "dollars", "STRIPE_WEBHOOK_SECRET": ""}
    async with api.running() as process:
        assert await ended(process) == 1
    output = process.unread()
    *lines, last = output.splitlines()
    assert "The API cannot run with this configuration" in last
    assert {line.split("Configuration: ")[1].split(":")[0] for line in lines} == {
        "PORT",
        "DEFAULT_CURRENCY",
        "STRIPE_WEBHOOK_SECRET",
    }
    assert "secret-1" not in output
    assert "dollars" not in output


# What an import could change: the metrics, their files and their place, the log, the limits of the process.
IMPORT = """
import gc, logging, os, resource, sys
from prometheus_client import REGISTRY, values
def state():
    metrics = sorted(family.name for family in REGISTRY.collect())
    limits = [resource.getrlimit(each) for each in (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE)]
    return metrics, values.ValueClass, os.listdir(sys.argv[1]), logging.getLogger().handlers, gc.get_threshold(), limits
before = state()
import daemon.api.__main__, health_sidecar.__main__, health_sidecar.process_events
assert state() == before, state()
"""


def test_importing_a_process_changes_nothing(tmp_path: Path) -> None:
    """Metrics, their files, the log and the limits are those of a process that only imports our modules."""
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "API_SLOT": "0"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, str(tmp_path)], env=environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
