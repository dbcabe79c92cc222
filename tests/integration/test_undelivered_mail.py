"""Mails that cannot be delivered wait for a person, and a pass that ends at any moment sends none twice (SPEC 12)."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from daemon.jobs.schedule import ProblemsFound
from sql import load
from sql.connection import Row
from sql.database import Database
from sql.errors import DatabaseUnavailable
from tests.support.thanks_site import ANN, ThanksSite, id_of, thanks_site

SENT, QUEUED = ("thanks", "sent", None, None), ("thanks", "queued", None, None)
CORRECTED = ("correction", "sent", None, None)


@pytest.fixture
async def site(database: Database, database_url: str) -> AsyncIterator[ThanksSite]:
    async with thanks_site(database, database_url) as site:
        yield site


# --- what cannot be delivered -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("email", "reason"),
    [(None, "no e-mail address"), ("ann@ex\r\nBcc: x@y.example", "the e-mail address is not usable")],
)
async def test_a_donor_without_an_address_waits_for_a_person(site: ThanksSite, email: str | None, reason: str) -> None:
    """No number is used for it, and the next donor is thanked."""
    await site.pay(replace(ANN, email=email))
    await site.pay()
    await site.run()
    assert await site.mails() == [("thanks", "undelivered", reason, None), SENT]
    assert await site.receipts() == [(1, 5000, True, None)]


async def test_a_refused_address_waits_for_a_person(site: ThanksSite) -> None:
    """Of the server's reply, which repeats the address, only the numbers are kept."""
    site.smtp.answer_rcpt = lambda address: f"550 5.1.1 <{address}>: no such mailbox"
    await site.pay()
    await site.run()
    assert await site.mails() == [("thanks", "undelivered", "address refused", "550 5.1.1")]


async def test_a_receipt_that_cannot_be_issued_keeps_no_other_mail_waiting(site: ThanksSite) -> None:
    """A donation with two valid receipts, as where two donations with a receipt each turn out to be one."""
    payment = await site.pay()
    await site.run()
    columns = "donation_id, amount_minor, currency, paid_at, issued_at, language, template, pdf_sha256"
    await site.database.fetch(f"INSERT INTO receipts (year, number, {columns}) SELECT year, 2, {columns} FROM receipts")  # noqa: S608
    await site.refund(payment, 1500)
    await site.pay()
    await site.run()
    assert await site.mails() == [SENT, ("correction", "undelivered", "its receipt cannot be issued", None), SENT]
    assert [number for number, *_ in await site.receipts()] == [1, 2, 3]


@pytest.mark.parametrize("step", ["rcpt", "data"])
async def test_a_temporary_refusal_is_tried_again(site: ThanksSite, step: str) -> None:
    """Later, with the same receipt; after some days it waits for a person."""
    busy = "451 4.7.1 greylisted"
    site.smtp.answer_rcpt = lambda _address: busy if step == "rcpt" else "250 OK"
    site.smtp.answer_data = lambda: busy if step == "data" else "250 OK"
    await site.pay()
    await site.run()
    reason = "address refused" if step == "rcpt" else "mail refused"
    assert await site.mails() == [("thanks", "queued", reason, "451 4.7.1")]
    [(wait_s, attempts)] = await site.database.fetch(
        "SELECT extract(epoch FROM due_at - now())::float, attempts FROM outbox"
    )
    assert 50 < wait_s <= 60
    assert attempts == 1
    site.smtp.answer_rcpt, site.smtp.answer_data = lambda _address: "250 OK", lambda: "250 OK"
    await site.database.fetch("UPDATE outbox SET due_at = now()")
    await site.run()
    assert await site.receipts() == [(1, 5000, True, None)]
    assert len(site.smtp.received) == 1
    await site.pay()
    site.smtp.answer_data = lambda: busy
    await site.database.fetch("UPDATE outbox SET queued_at = now() - interval '5 days'")
    await site.run()
    assert (await site.mails())[1] == ("thanks", "undelivered", "mail refused", "451 4.7.1")


async def test_a_server_that_is_away_changes_nothing(site: ThanksSite) -> None:
    """Neither attempts nor due times: the mails are sent when it is back."""
    await site.pay()
    port = site.environ["SMTP_URL"]
    site.environ["SMTP_URL"] = "smtp://127.0.0.1:1"
    with pytest.raises(ProblemsFound, match="connection failed"):
        await site.run()
    assert await site.database.fetch("SELECT state, attempts, due_at <= now() FROM outbox") == [("queued", 0, True)]
    site.environ["SMTP_URL"] = port
    await site.run()
    assert await site.mails() == [SENT]


# --- interruptions ------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What ends a pass at once, as SIGKILL does: no handler of an error sees it."""


class DyingDatabase(Database):
    """A database whose client is killed at its `last` statement: before it is run, or after it."""

    def __init__(self, url: str, last: int, *, is_after: bool) -> None:
        super().__init__(url, pool_size=2, statement_timeout_s=10, connect_timeout_s=5, application_name="dying")
        self._left, self._is_after = last, is_after

    async def fetch(self, sql: str, params: Any = (), *, prepare: str | None = None) -> list[Row]:
        """Runs a statement, or dies."""
        self._left -= 1
        if self._left == 0 and not self._is_after:
            raise Killed
        rows = await super().fetch(sql, params, prepare=prepare)
        if self._left == 0:
            raise Killed
        return rows


async def killed(site: ThanksSite, url: str, last: int, *, is_after: bool) -> bool:
    """A pass that is killed at this statement. Returns whether it had so many."""
    database = DyingDatabase(url, last, is_after=is_after)
    try:
        await site.run(database=database)
    except Killed:
        return True
    finally:
        await database.close()
    return False


@pytest.mark.parametrize("is_after", [False, True])
async def test_a_pass_may_be_killed_at_every_statement(site: ThanksSite, database_url: str, is_after: bool) -> None:
    """Afterwards each donor has been sent one mail, or none and it is marked as perhaps sent; no receipt is issued
    twice, and no number is left out."""
    expected, sent_before, last, uncertain = 0, 0, 0, 0
    while True:
        last += 1
        payment = await site.pay()
        expected += 1
        was_killed = await killed(site, database_url, last, is_after=is_after)
        await site.run()
        rows = await site.database.fetch("SELECT state FROM outbox WHERE donation_id = %s", (id_of(payment),))
        sent = len(site.smtp.received) - sent_before
        assert (rows, sent) in [([("sent",)], 1), ([("uncertain",)], 0), ([("uncertain",)], 1)], last
        uncertain += rows == [("uncertain",)]
        sent_before = len(site.smtp.received)
        if not was_killed:
            break
    assert 1 <= uncertain <= 2  # while its sending is noted, and while it is sent
    assert last > 8
    assert [(number, is_valid) for number, _, is_valid, _ in await site.receipts()] == [
        (number, True) for number in range(1, expected + 1)
    ]


class FailingDatabase(Database):
    """A database that cannot be used for so many statements that note what became of a mail."""

    left: int

    async def fetch(self, sql: str, params: Any = (), *, prepare: str | None = None) -> list[Row]:
        """Runs a statement, or fails."""
        if sql == load("settle_mail") and self.left:
            self.left -= 1
            raise DatabaseUnavailable("connection lost")
        return await super().fetch(sql, params, prepare=prepare)


async def run_failing(site: ThanksSite, url: str, failures: int) -> None:
    """A pass whose notes fail so often."""
    database = FailingDatabase(
        url, pool_size=2, statement_timeout_s=10, connect_timeout_s=5, application_name="failing"
    )
    database.left = failures
    try:
        await site.run(database=database)
    finally:
        await database.close()


@pytest.mark.parametrize("refuses", [False, True])
async def test_a_note_that_fails_is_tried_again(
    site: ThanksSite, database_url: str, monkeypatch: pytest.MonkeyPatch, refuses: bool
) -> None:
    """The database is away when the server has answered: what it answered is noted when the database is back, and the
    mail does not count as perhaps sent. After some attempts the process gives up."""
    monkeypatch.setattr("daemon.jobs.thanks.NOTE_WAITS_S", (0, 0))
    site.smtp.answer_data = lambda: "550 5.7.1 refused" if refuses else "250 OK"
    await site.pay()
    await run_failing(site, database_url, 2)
    [(_, state, *_reason)] = await site.mails()
    assert state == ("undelivered" if refuses else "sent")
    await site.pay()
    with pytest.raises(DatabaseUnavailable):
        await run_failing(site, database_url, 3)
    assert (await site.mails())[1][1] == "sending"


async def test_an_ordinary_stop_finishes_the_mail_that_is_being_sent(site: ThanksSite) -> None:
    """A pass that is cancelled while the server has the mail ends when its answer is noted."""
    await site.pay()
    arrived, answer = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        arrived.set()
        await answer.wait()

    site.smtp.on_data = hold
    running = asyncio.create_task(site.run())
    await arrived.wait()
    running.cancel()
    await asyncio.sleep(0)
    answer.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await site.mails() == [SENT]


async def test_a_connection_that_is_lost_while_a_mail_is_sent(site: ThanksSite) -> None:
    """The server may have the mail: it is marked, and not sent again."""
    await site.pay()
    site.smtp.loses_mails = True
    await site.run()
    site.smtp.loses_mails = False
    await site.run()
    assert await site.mails() == [("thanks", "uncertain", "perhaps sent", None)]
    assert len(site.smtp.received) == 1
