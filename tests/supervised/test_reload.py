"""`donationd reload` while many clients ask: none of them notices."""

import asyncio
import itertools
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2
import pytest
from psycopg2.extensions import cursor as Cursor

from daemon.simulator.sender import sign
from sql import migrate
from tests.support.guard import base_environ
from tests.support.instance import Instance, eventually, get, metric

ROUNDS = 2
CLIENTS = 24  # of each sort
PAUSE_S = 0.1  # of a client between a reply and its next request: the machine shall not be the bottleneck
HOST = "127.0.0.1"
API = ("api:api_00", "api:api_01")


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


@contextmanager
def database(site: Instance) -> Iterator[Cursor]:
    """A transaction in the database of the site."""
    with closing(psycopg2.connect(site.database_url)) as connection, connection, connection.cursor() as cursor:
        yield cursor


async def test_no_client_notices_a_reload(site: Instance) -> None:
    """Two rounds under 48 clients, half of them on new connections: every process is new, every request a 200."""
    with database(site) as cursor:
        cursor.execute("INSERT INTO recording_tickets (id) VALUES ('story-1')")
    clients = Clients(int(site.environ["PORT"]), site.signing_secret)
    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(clients.new_connections())
            group.create_task(clients.keep_alive())
        for _ in range(ROUNDS):
            before = site.pids()
            done = await asyncio.to_thread(site.donationd, "reload")
            assert done.returncode == 0, done.stderr
            assert done.stdout.count("restarted") == 3
            print(done.stdout, clients.replies)
            after = site.pids()
            assert {name for name in after if after[name] != before[name]} == {*API, "jobs"}
            assert f"`kill {after['sidecar']}` replaces it" in done.stdout
        clients.stop.set()
    assert clients.replies.keys() == {"200"}, clients.replies
    assert clients.replies["200"] > 10 * CLIENTS


def test_reload_needs_something_that_runs(instance: Instance) -> None:
    """In a folder where nothing runs it is one sentence and exit status 1."""
    done = instance.donationd("reload")
    assert done.returncode == 1
    assert "no instance runs in this folder" in done.stderr


def test_a_reload_waits_for_the_migrations(site: Instance) -> None:
    """While the database lacks one that this release needs, no process is restarted: the new one would fail on every
    event.
    """
    newest = max(name for name in (each.name for each in migrate.discover()) if migrate.number(name) <= migrate.NEEDED)
    with database(site) as cursor:
        cursor.execute("DELETE FROM schema_migrations WHERE name = %s RETURNING *", [newest])
        [deleted] = cursor.fetchall()
    try:
        before = site.pids()
        done = site.donationd("reload", DATABASE_URL=site.database_url)
        assert done.returncode == 1
        assert f"migrations not applied: {newest}. Run `donationd migrate` first" in done.stderr
        assert site.pids() == before
    finally:
        with database(site) as cursor:
            cursor.execute("INSERT INTO schema_migrations VALUES %s", [deleted])


# The reload of a release, which ends by a signal after its nth step. Questions in a row are one step, and the first of
# them ends it. What a reload that ends before a step leaves is what the step before has left.
INTERRUPTED = """
import os, sys, time, xmlrpc.client
from daemon.instance import environment, reload

number, step = int(sys.argv[1]), int(sys.argv[2])
steps = []
request = xmlrpc.client.Transport.single_request

def interrupted(self, host, handler, body, verbose=False):
    method = body.decode().split("<methodName>")[1].split("<")[0]
    if steps[-1:] != [method]:
        steps.append(method)
    reply = request(self, host, handler, body, verbose)
    if len(steps) == step:
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
    return running == set(API) and get(f"{instance.api}/health/db")[0] == 200


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_reload_leaves_every_process_running(site: Instance, number: signal.Signals) -> None:
    """Wherever it ends, after each thing it asks of supervisord, both processes run afterwards."""
    for step in itertools.count(1):
        command = [sys.executable, "-c", INTERRUPTED, str(int(number)), str(step)]
        environ = base_environ() | {"DONATIOND_STATE": str(site.state)}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        eventually(lambda: all_run(site), f"both run after {number.name} after step {step}")
        if done.stdout.endswith(f"done {step - 1}\n"):
            break
        assert done.returncode != 0
    # It lists them; twice it sends a signal, and asks until the new one is ready; and asks for the jobs, and so on.
    assert step == 8


def test_a_stopped_process_is_started_by_a_reload(site: Instance) -> None:
    """One that an operator, or an earlier release's reload, has left stopped runs afterwards like the other."""
    site.supervisorctl("stop", "api:api_01")
    before = site.pids()
    done = site.donationd("reload")
    assert done.returncode == 0, done.stderr
    assert "api_01, which was stopped, started" in done.stdout
    after = site.pids()
    assert after.keys() == {*before, "api:api_01"}
    assert after["api:api_00"] != before["api:api_00"]


def test_a_reload_counts_no_restart(site: Instance) -> None:
    """`supervisord_process_restarts_total`, and so the alert for crashes, knows an end that was asked for."""
    site.wait_until_all_serve()
    before, log_before = restarts(site), len(site.log("listener"))

    def new_log() -> str:
        return site.log("listener")[log_before:].rpartition("\n")[0]

    assert site.donationd("reload").returncode == 0
    eventually(lambda: "api:api_01 runs" in new_log(), "the listener has seen the new process")
    assert restarts(site) == before
    for name in API:
        assert f"{name} ended as asked" in new_log()
    assert "ended by itself" not in new_log()


def restarts(site: Instance) -> list[float | None]:
    """How many restarts of each API process are counted."""
    return [metric(site.sidecar, f'supervisord_process_restarts_total{{process="{name}"}}') for name in API]
