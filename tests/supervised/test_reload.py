"""`donationd reload` while many clients ask: none of them notices."""

import asyncio
import itertools
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing

import psycopg2
import pytest

from daemon.simulator.sender import sign
from sql import migrate
from tests.support.instance import SIGNING_SECRET, Instance, eventually, get, instance_of_its_own, metric

ROUNDS = 3
CLIENTS = 24  # of each sort
PAUSE_S = 0.05  # of a client between a reply and its next request: the machine shall not be the bottleneck
HOST = "127.0.0.1"


class Clients:
    """Ask for totals and deliver events without a pause, and count what comes of it."""

    def __init__(self, port: int, secret: str) -> None:
        self.replies: Counter[str] = Counter()
        self.stop = asyncio.Event()
        self._port = port
        self._secret = secret
        self._number = 0

    async def new_connections(self) -> None:
        """One client that connects anew for each request."""
        while not self.stop.is_set():
            await self._one(self._total("close"))

    async def keep_alive(self) -> None:
        """One client that keeps its connection as long as the server does."""
        while not self.stop.is_set():
            await self._one(self._event())

    async def _one(self, request: bytes) -> None:
        """A connection, and the request over and over, until the server closes it as announced."""
        try:
            reader, writer = await asyncio.open_connection(HOST, self._port)
            try:
                announced = False
                while not (announced or self.stop.is_set()):
                    writer.write(request)
                    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                    await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
                    self.replies[head.split()[1]] += 1
                    await asyncio.sleep(PAUSE_S)
                    announced = "connection: close" in head
            finally:
                writer.close()
        except (OSError, EOFError) as error:
            self.replies[type(error).__name__] += 1

    def _total(self, connection: str) -> bytes:
        path = "/api/tickets/story-1/donations/total"
        return f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: {connection}\r\n\r\n".encode()

    def _event(self) -> bytes:
        self._number += 1
        event = {"id": f"evt_{self._number}", "object": "event", "type": "customer.created", "created": 1_760_000_000}
        body = json.dumps({**event, "livemode": False, "data": {"object": {}}}).encode()
        head = f"POST /webhooks/stripe HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {len(body)}\r\n"
        return f"{head}Stripe-Signature: {sign(body, self._secret, int(time.time()))}\r\n\r\n".encode() + body


@pytest.fixture
def ready(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Instance]:
    """An instance that serves, with two API processes and a database of its own."""
    environ = {"DATABASE_URL": database_url, "STRIPE_WEBHOOK_SECRET": SIGNING_SECRET, "HOST": "127.0.0.1"}
    with instance_of_its_own(environ) as instance:
        monkeypatch.setenv("DONATIOND_STATE", str(instance.state))
        instance.start()
        yield instance


def donationd(*words: str) -> subprocess.CompletedProcess[str]:
    """A command of the folder that DONATIOND_STATE names."""
    return subprocess.run(
        [sys.executable, "-m", "daemon.cli.main", *words], capture_output=True, text=True, check=False
    )


async def test_no_client_notices_a_reload(instance: Instance) -> None:
    """Three rounds under 48 clients, half of them on new connections: every process is new, every request a 200."""
    await asyncio.to_thread(instance.start, API_PROCESSES="2")
    assert donationd("tickets", "add", "story-1").returncode == 0
    clients = Clients(int(instance.environ["PORT"]), instance.environ["STRIPE_WEBHOOK_SECRET"])
    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(clients.new_connections())
            group.create_task(clients.keep_alive())
        for _ in range(ROUNDS):
            before = instance.pids()
            done = await asyncio.to_thread(donationd, "reload")
            assert done.returncode == 0, done.stderr
            assert done.stdout.count("restarted") == 3
            print(done.stdout, clients.replies)
            after = instance.pids()
            assert {name for name in after if after[name] != before[name]} == {"api:api_00", "api:api_01", "jobs"}
        clients.stop.set()
    assert clients.replies.keys() == {"200"}, clients.replies
    assert clients.replies["200"] > 1000


def test_reload_needs_something_that_runs(instance: Instance) -> None:
    """In a folder where nothing runs it is one sentence and exit status 1."""
    done = donationd("reload")
    assert done.returncode == 1
    assert "no instance runs in this folder" in done.stderr


def test_a_reload_waits_for_the_migrations(ready: Instance, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the database lacks one that this release needs, no process is restarted: the new one would fail on every
    event.
    """
    newest = max(name for name in (each.name for each in migrate.discover()) if migrate.number(name) <= migrate.NEEDED)
    with closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM schema_migrations WHERE name = %s", [newest])
    monkeypatch.setenv("DATABASE_URL", database_url)
    before = ready.pids()
    done = donationd("reload")
    assert done.returncode == 1
    assert f"migrations not applied: {newest}. Run `donationd migrate` first" in done.stderr
    assert ready.pids() == before


# The reload of a release, which ends by a signal before or after its nth step. Questions in a row are one step.
INTERRUPTED = """
import os, sys, time, xmlrpc.client
from daemon.instance import environment, reload

number, step, after = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "after"
steps = []
request = xmlrpc.client.Transport.single_request

def interrupted(self, host, handler, body, verbose=False):
    method = body.decode().split("<methodName>")[1].split("<")[0]
    if steps[-1:] != [method]:
        steps.append(method)
    ends = len(steps) == step
    if ends and not after:
        os.kill(os.getpid(), number)
    reply = request(self, host, handler, body, verbose)
    if ends:
        os.kill(os.getpid(), number)
        time.sleep(5)
    return reply

xmlrpc.client.Transport.single_request = interrupted
reload.reload(environment.running_environ(), print)
print("done", len(steps))
"""


def all_run(instance: Instance) -> bool:
    """Each API process is RUNNING, and one of them is ready."""
    running = {name for name in instance.pids() if name.startswith("api:")}
    return running == {"api:api_00", "api:api_01"} and get(f"{instance.api}/health/db")[0] == 200


@pytest.mark.parametrize(
    ("number", "moments"),
    [
        pytest.param(signal.SIGKILL, ("before", "after"), id="SIGKILL"),
        pytest.param(signal.SIGINT, ("after",), id="SIGINT"),  # what it does about a signal is the same at both
    ],
)
def test_an_interrupted_reload_leaves_every_process_running(
    ready: Instance, number: signal.Signals, moments: Sequence[str]
) -> None:
    """Wherever it ends, before or after each thing it asks of supervisord, both processes run afterwards."""
    for step in itertools.count(1):
        for when in moments:
            command = [sys.executable, "-c", INTERRUPTED, str(int(number)), str(step), when]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            eventually(lambda: all_run(ready), f"both run after {number.name} {when} step {step}")
        if done.stdout.endswith(f"done {step - 1}\n"):
            break
        assert done.returncode != 0
    # It lists them; twice it sends a signal, and asks until the new one is ready; and asks for the jobs, and so on.
    assert step == 8


def test_a_stopped_process_is_started_by_a_reload(ready: Instance) -> None:
    """One that an operator, or an earlier release's reload, has left stopped runs afterwards like the other."""
    ready.supervisorctl("stop", "api:api_01")
    before = ready.pids()
    done = donationd("reload")
    assert done.returncode == 0, done.stderr
    assert "api_01, which was stopped, started" in done.stdout
    after = ready.pids()
    assert after.keys() == {*before, "api:api_01"}
    assert after["api:api_00"] != before["api:api_00"]


def test_a_reload_counts_no_restart(ready: Instance) -> None:
    """`supervisord_process_restarts_total`, and so the alert for crashes, knows an end that was asked for."""
    assert donationd("reload").returncode == 0
    eventually(lambda: ready.log("listener").count("api:api_01 runs") == 2, "the listener has seen the new process")
    for name in ("api:api_00", "api:api_01"):
        assert metric(ready.sidecar, f'supervisord_process_restarts_total{{process="{name}"}}') == 0
        assert f"{name} ended as asked" in ready.log("listener")
    assert "ended by itself" not in ready.log("listener")
