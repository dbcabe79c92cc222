"""The real jobs process thanks donors: it is killed at each step of a mail, and leaves no trace of a donor's data."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest

from daemon.runtime.readiness import Readiness
from daemon.simulator.fake_stripe.failures import Failure
from health_sidecar.publisher import ReadinessServer
from sql.database import Database
from tests.support.api_process import until
from tests.support.postgres import Server
from tests.support.process import Process
from tests.support.thanks_site import ANN, ThanksSite, thanks_site

CANARY = "canary"
DONOR = replace(
    ANN,
    name="Canaryfirst Allowedname",
    last_name="Allowedname",
    email="canary.mail@secret.example",
    phone="+1 202 canary",
    street="12 canary street",
    city="Canaryville",
    postal_code="canary-zip",
)
WITHOUT_FONT = "\U0001e290"  # of a script that was added to Unicode in 2021: Debian's fonts are older
WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
SETTLED = "A mail was settled"


@pytest.fixture
async def site(database: Database, database_url: str) -> AsyncIterator[ThanksSite]:
    async with thanks_site(database, database_url) as site:
        yield site


@asynccontextmanager
async def jobs(site: ThanksSite, folder: Path, **variables: str) -> AsyncIterator[Process]:
    """The process, with a database that is ready; killed at the end."""
    temporary, metrics = folder / "temporary", folder / "metrics"
    temporary.mkdir()
    metrics.mkdir()
    socket = folder / "readiness.sock"
    environ = {
        **site.environ,
        "READINESS_SOCKET": str(socket),
        "TMPDIR": str(temporary),
        "PROMETHEUS_MULTIPROC_DIR": str(metrics),
        **variables,
    }
    async with ReadinessServer(socket, Readiness(ready=True), lambda: None):
        with Process([sys.executable, "-m", "daemon.jobs"], folder / "jobs.log", environ) as process:
            yield process


# --- killed


Point = Callable[[ThanksSite], asyncio.Event]


def offered(site: ThanksSite) -> asyncio.Event:
    """Is set when the server is asked about the address, which it does not answer."""
    reached = asyncio.Event()

    def answer(_address: str) -> str:
        reached.set()
        return "451 wait"

    site.smtp.answer_rcpt = answer
    return reached


def sent(site: ThanksSite) -> asyncio.Event:
    """Is set when the server has the mail, and has not answered yet."""
    reached = asyncio.Event()

    async def hold() -> None:
        reached.set()
        await asyncio.Event().wait()  # until the connection ends

    site.smtp.on_data = hold
    return reached


@pytest.mark.parametrize(("point", "state", "mails"), [(offered, "sent", 1), (sent, "uncertain", 0)])
async def test_it_is_killed_with_a_mail_in_its_hands(
    site: ThanksSite, tmp_path: Path, point: Point, state: str, mails: int
) -> None:
    """Before the mail is sent it is sent later; while it is sent it is marked. No donor gets a second mail."""
    await site.pay()
    reached = point(site)
    async with jobs(site, tmp_path) as process:
        await asyncio.wait_for(reached.wait(), 30)
        process.kill()
    await site.database.fetch("UPDATE outbox SET due_at = now()")
    site.smtp.answer_rcpt, site.smtp.on_data = lambda _address: "250 OK", lambda: None
    await site.run()
    await site.run()
    assert [mail[1] for mail in await site.mails()] == [state]
    assert len(site.smtp.received) == mails
    assert [number for number, *_ in await site.receipts()] == [1]


async def test_it_is_killed_between_the_servers_answer_and_its_note(
    site: ThanksSite, tmp_path: Path, database_url: str
) -> None:
    """The server has the mail and has said so, and the process waits for the database: the mail is marked."""
    await site.pay()
    with closing(psycopg2.connect(database_url)) as blocking:
        cursor = blocking.cursor()
        site.smtp.on_data = lambda: cursor.execute("LOCK TABLE outbox IN SHARE MODE")
        async with jobs(site, tmp_path) as process:
            async with asyncio.timeout(30):
                while not (waiting := await site.database.fetch(WAITING)):  # noqa: ASYNC110 - there is no event for it
                    await asyncio.sleep(0.02)
            process.kill()
        await site.database.fetch("SELECT pg_terminate_backend(%s, 30000)", waiting[0])
        blocking.rollback()
    await site.run()
    assert [mail[1] for mail in await site.mails()] == ["uncertain"]
    assert len(site.smtp.received) == 1


# --- privacy


async def test_no_canary_is_found_anywhere(site: ThanksSite, tmp_path: Path, server: Server, database_url: str) -> None:
    """Donors full of canaries: thanked, refused by the mail server, which repeats the address, without a font, without
    an answer of Stripe's, and refunded. Neither log, nor database, nor file, nor metric names them."""
    with closing(psycopg2.connect(database_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_database()")
        [name] = cursor.fetchone() or ()
        cursor.execute(f"ALTER DATABASE {name} SET log_statement = 'all'")
    logged_before = server.log.stat().st_size
    refused = replace(DONOR, email="canary.refused@secret.example")
    site.smtp.answer_rcpt = lambda address: f"550 5.1.1 <{address}> unknown" if "refused" in address else "250 OK"
    payment = await site.pay(DONOR, receipt_email=DONOR.email)
    await site.run()
    await site.refund(payment, 1000)
    site.fake.failures.add(Failure("status", path="GET /v1/payment_intents", times=1))
    for donor in (refused, replace(DONOR, name=f"Canary {WITHOUT_FONT}"), replace(DONOR, email="canary at home")):
        await site.pay(donor)
    async with jobs(site, tmp_path, LOG_LEVEL="DEBUG", ALLOW_LOGGED_STATEMENTS="true") as process:
        for _ in range(4):
            await until(process, SETTLED)
    folders = [folder for part in ("temporary", "metrics") for folder in os.walk(tmp_path / part)]
    files = [Path(folder, name) for folder, _, names in folders for name in names]
    said = {
        "log": (tmp_path / "jobs.log").read_bytes(),
        "dump": (await asyncio.to_thread(server.dump, database_url)).encode(),
        "postgresql": server.log.read_bytes()[logged_before:],
        **{str(file): file.read_bytes() for file in files},
    }
    assert [place for place, text in said.items() if CANARY in text.decode(errors="replace").lower()] == []
    assert sorted(mail[1:] for mail in await site.mails()) == [
        ("sent", None, None),
        ("sent", None, None),
        ("undelivered", "address refused", "550 5.1.1"),
        ("undelivered", "its document cannot be made", None),
        ("undelivered", "the e-mail address is not usable", None),
    ]
    assert "Canaryfirst" in site.smtp.received[0].as_string()
    assert b"UPDATE outbox" in said["postgresql"]
