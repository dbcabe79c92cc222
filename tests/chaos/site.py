"""What the faults are done to: a whole `donationd up`, and below it a PostgreSQL of ours behind proxies.

The daemon knows two hosts, one proxy each, and both lead to the same server. The embedded site has the PostgreSQL that
supervisord runs, and no proxies.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
import xmlrpc.client
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg2

from daemon.instance.health_client import health
from daemon.simulator.fake_stripe.fake import TEST_KEY, FakeStripe
from daemon.simulator.fake_stripe.server import serving
from daemon.simulator.scenarios import Scenario, generate
from sql import migrate
from sql.connection import Row
from tests.chaos.load import PAUSE_S
from tests.chaos.proxy import HOST, Proxy
from tests.support.instance import Instance, instance_of_its_own
from tests.support.mail_server import MailServer, mail_server
from tests.support.postgres import USER, Server

API_PROCESSES = 3
TICKETS = ("chaos-1", "chaos-2", "chaos-3")
DEADLINE_S = 5.0
LOST_S = 25 * 86400  # before now: Stripe's list of events has 30 days
MAIL_FROM = "thanks@charity.example"
SETTINGS = {
    "API_PROCESSES": str(API_PROCESSES),
    "REQUEST_DEADLINE_MS": str(int(DEADLINE_S * 1000)),
    "STRIPE_LIVEMODE": "false",
    "HOST": HOST,
}
POLL_S = 0.05
POSTGRES_START_S = 30.0
# Longer than anything that is promised: what takes this long does not come back by itself.
READY_TIMEOUT_S = 60.0


class NotReady(Exception):
    """The site did not come back."""


class Postgres:
    """A server of the trial's own, which is started again after what was done to it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.socket = f"{server.home}/.s.PGSQL.5432"
        self.url = server.url.format(name="postgres")

    async def make(self) -> None:
        """Makes an empty cluster."""
        await asyncio.to_thread(self._server.create)

    async def start(self) -> None:
        """Returns once it takes connections. After a kill -9 its orphans have to end first."""
        deadline = time.monotonic() + POSTGRES_START_S
        while True:
            try:
                await asyncio.to_thread(self._server.start, {"max_connections": "60"})
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(POLL_S)
            else:
                return

    async def follow(self, primary: "Postgres") -> None:
        """Becomes the standby of a running server, which from then on acknowledges nothing that it does not hold."""
        await asyncio.to_thread(
            self._server.run, "pg_basebackup", "-d", primary.url, "-R", "-X", "stream", "-c", "fast", "--no-sync"
        )
        await self.start()
        await asyncio.to_thread(_wait_for_standby, primary.url)

    async def promote(self) -> None:
        """Takes over from the server it follows."""
        await asyncio.to_thread(self._server.run, "pg_ctl", "-w", "promote")

    async def stop(self, mode: str) -> None:
        """Stops it as pg_ctl's `mode` says; returns at its end."""
        await asyncio.to_thread(self._server.stop, mode)

    @property
    def pid(self) -> int:
        """The postmaster's."""
        return int((self._server.home / "data" / "postmaster.pid").read_text().splitlines()[0])


@dataclass
class Site:
    """A running instance, and what can be done to it.

    Attributes:
        url: the database's, past the proxies.
        proxies: the hosts the daemon knows; none on the embedded site.
        stack: ends with the site.
        stripe, mail: what the jobs use in the place of Stripe and of a mail server; None where there are no jobs.
        lost: payments whose events are not delivered: the jobs have to find them.
        pause_s: of each of the load's workers between two events.
    """

    instance: Instance
    url: str = ""
    postgres: Postgres | None = None
    proxies: list[Proxy] = field(default_factory=list)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    stripe: FakeStripe | None = None
    mail: MailServer | None = None
    lost: list[Scenario] = field(default_factory=list)
    pause_s: float = PAUSE_S

    async def pid(self, name: str) -> int:
        """The pid of a program, by supervisor's name; one that has just ended is started again soon.

        Raises:
            NotReady: it takes too long.
        """
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            if pid := (await asyncio.to_thread(self.instance.pids)).get(name):
                return pid
            await asyncio.sleep(POLL_S)
        raise NotReady(f"{name} does not run after {READY_TIMEOUT_S:.0f} s")

    async def postmaster(self) -> int:
        """The pid of the one PostgreSQL."""
        return self.postgres.pid if self.postgres else await self.pid("postgres")

    def begin(self, scenario: Scenario) -> None:
        """Stripe has the objects of a payment whose events are about to be delivered."""
        if self.stripe:
            self.stripe.add([scenario])

    @property
    def supervisord(self) -> int:
        """supervisord's pid."""
        return self.instance.supervisord

    async def start(self) -> None:
        """Starts `up`; returns once it says that it is ready."""
        await asyncio.to_thread(self.instance.start)

    async def end(self) -> None:
        """Waits for the end of `up`."""
        await asyncio.to_thread(self.instance.end)

    async def await_ready(self) -> None:
        """Returns once everything runs and each API process itself has said that it is ready.

        Raises:
            NotReady: it takes too long.
        """
        waiting_for = "supervisord"
        deadline = time.monotonic() + READY_TIMEOUT_S
        seen: set[int] = set()
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, HTTPException, xmlrpc.client.Error):  # supervisord may be just restarting
                pids = await asyncio.to_thread(self.instance.pids)
                api = {pid for name, pid in pids.items() if name.startswith("api:")}
                waiting_for = f"{len(api - seen)} of {len(api)} API processes, {', '.join(sorted(pids))} run"
                if {"sidecar", "jobs"} <= pids.keys() and len(api) == API_PROCESSES and api <= seen:
                    return
                status, said = await asyncio.to_thread(health, self.instance.environ)
                if status == 200:
                    seen.add(said["pid"])
                    continue
            await asyncio.sleep(POLL_S)
        raise NotReady(f"not ready after {READY_TIMEOUT_S:.0f} s, waiting for {waiting_for}")


def family(pid: int) -> list[int]:
    """A process and its children."""
    parents = {int(path.parent.name): path for path in Path("/proc").glob("[0-9]*/stat")}
    found = [pid]
    for child, path in parents.items():
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(child)
    return found


def send(number: signal.Signals, pids: Iterable[int]) -> None:
    """Sends a signal to whichever of them still live."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


async def new_postgres(stack: AsyncExitStack) -> Postgres:
    """A server in a folder of its own, without any data yet; it ends with `stack`."""
    folder = stack.enter_context(TemporaryDirectory(prefix="donationd-pg-", ignore_cleanup_errors=True))
    postgres = Postgres(await asyncio.to_thread(Server, Path(folder)))
    stack.push_async_callback(_stop, postgres)
    return postgres


async def migrated_postgres(stack: AsyncExitStack) -> Postgres:
    """The same, running, with the tables of a ledger."""
    postgres = await new_postgres(stack)
    await postgres.make()
    await postgres.start()
    await asyncio.to_thread(migrate.apply, postgres.url)
    return postgres


def _wait_for_standby(url: str) -> None:
    """Has a server acknowledge only what its standby holds; returns once there is one that does."""
    with contextlib.closing(psycopg2.connect(url)) as database, database.cursor() as cursor:
        database.autocommit = True
        cursor.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        cursor.execute("SELECT pg_reload_conf()")
        deadline = time.monotonic() + POSTGRES_START_S
        while time.monotonic() < deadline:
            cursor.execute("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'")
            if cursor.fetchone():
                # Commits wait as soon as the checkpointer has received the change, which is before this checkpoint.
                cursor.execute("CHECKPOINT")
                return
            time.sleep(POLL_S)
    raise NotReady("the standby does not follow")


@asynccontextmanager
async def site_with_proxies() -> AsyncIterator[Site]:
    """A site with a PostgreSQL of ours behind two proxies, ready."""
    async with AsyncExitStack() as stack:
        postgres = await migrated_postgres(stack)
        proxies = [await stack.enter_async_context(Proxy(postgres.socket)) for _ in range(2)]
        hosts = ",".join(f"{HOST}:{proxy.port}" for proxy in proxies)
        environ = {
            **SETTINGS,
            "DATABASE_URL": f"postgresql://{USER}@{hosts}/postgres?target_session_attrs=read-write",
            "STRIPE_WEBHOOK_SECRET": "whsec_" + "chaos" * 8,
        }
        instance = stack.enter_context(instance_of_its_own(environ))
        site = Site(instance, postgres.url, postgres, proxies, stack)
        await open_site(site)
        yield site


@asynccontextmanager
async def embedded_site() -> AsyncIterator[Site]:
    """A site whose PostgreSQL supervisord runs, ready."""
    with instance_of_its_own(SETTINGS) as instance:
        site = Site(instance)
        await open_site(site)
        yield site


@asynccontextmanager
async def site_with_jobs() -> AsyncIterator[Site]:
    """A site whose jobs use a fake of Stripe's API and a mail server, ready. The fake has payments of some days ago."""
    async with AsyncExitStack() as stack:
        postgres = await migrated_postgres(stack)
        await asyncio.to_thread(execute, postgres.url, "INSERT INTO mail_start (started_at) VALUES ('2020-01-01')")
        fake = await stack.enter_async_context(serving(FakeStripe()))
        lost = _lost_payments(int(time.time()))
        fake.add(lost)
        mail = await stack.enter_async_context(mail_server())
        environ = {
            **SETTINGS,
            "DATABASE_URL": f"{postgres.url}&target_session_attrs=read-write",
            "STRIPE_WEBHOOK_SECRET": "whsec_" + "chaos" * 8,
            "STRIPE_API_KEY": TEST_KEY,
            "STRIPE_API_BASE": fake.base_url,
            "CHARITY_NAME": "Example Charity",
            "CHARITY_COUNTRY": "GB",
            "MAIL_FROM": MAIL_FROM,
            "SMTP_URL": f"smtp://127.0.0.1:{mail.port}",
        }
        instance = stack.enter_context(instance_of_its_own(environ))
        site = Site(instance, postgres.url, postgres, stack=stack, stripe=fake, mail=mail, lost=lost)
        await open_site(site)
        yield site


def _lost_payments(now: int) -> list[Scenario]:
    """Payments of the last weeks."""
    made = generate(1, 100, TICKETS, now=now)
    return [each for each in made if min(event["created"] for event in each.events) > now - LOST_S]


async def open_site(site: Site) -> None:
    """Starts the instance, and adds the tickets of the load; returns once it is ready."""
    await site.start()
    site.url = site.url or site.instance.environ["DATABASE_URL"]
    execute(site.url, "INSERT INTO recording_tickets (id) SELECT unnest(%s)", list(TICKETS))
    await site.await_ready()


def execute(url: str, sql: str, *params: object) -> list[Row]:
    """The rows of one statement in a transaction of its own."""
    with contextlib.closing(psycopg2.connect(url)) as database, database, database.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchall() if cursor.description else []


async def _stop(postgres: Postgres) -> None:
    """Ends it in whatever state a fault has left it; one that does not run is no error."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        send(signal.SIGCONT, family(postgres.pid))
        await postgres.stop("immediate")
