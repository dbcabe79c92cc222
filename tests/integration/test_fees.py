"""Stripe's fees in the report of a period's income: what is known, what is not, and what was filed (SPEC 11)."""

import asyncio
import csv
import hashlib
import json
import subprocess
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from beancount import loader
from beancount.core.data import Transaction
from click.testing import CliRunner

from daemon.api.endpoints import PREFIX
from daemon.cli.main import main
from daemon.jobs.balance import read_balance
from daemon.ledger.balance import Group, group_of
from daemon.ledger.operators import Operators
from daemon.ledger.reader import Ledger, Moment
from daemon.ledger.recorder import Recorder
from daemon.reports.accounts import Program
from daemon.reports.closings import close, restated
from daemon.reports.entry_sums import Entries, find_moment, no_progress, sum_by_ticket
from daemon.reports.fees import FEE_FIGURES
from daemon.reports.income import income, income_report
from daemon.reports.periods import Period
from daemon.simulator.fake_stripe.fake import FakeStripe
from daemon.stripe_api.client import StripeApi
from sql.database import Database
from tests.support.api_application import MakeClient, application, follower
from tests.support.balance import TICKETS, client_of, later, played, transactions
from tests.support.debian import program
from tests.support.export_files import parsed
from tests.support.ledger import fill
from tests.support.operators import READER, TOKENS, bearer
from tests.support.reports import json_of, text_of

YEAR = Period.parse("2025", "UTC")
FIRST, MORE = played(4, 40), played(5, 40)


@pytest.fixture
async def stripe(fake_stripe: FakeStripe) -> AsyncIterator[StripeApi]:
    """A client of the fake, which has the first payments."""
    later(fake_stripe)
    fake_stripe.add(FIRST)
    async with client_of(fake_stripe) as stripe:
        yield stripe


def expected(fake: FakeStripe) -> dict[str, Decimal]:
    """The fees of the fake's books, by what they were taken for."""
    fees: defaultdict[str, Decimal] = defaultdict(Decimal)
    for each in transactions(fake).values():
        group = group_of(each.reporting_category)
        kind = {Group.PAYMENTS: "paymentFees", Group.REFUNDS: "refundFees", Group.DISPUTES: "disputeFees"}
        fee = each.fee - (each.amount if group is Group.FEES else 0)
        fees[kind.get(group, "otherFees")] += Decimal(fee).scaleb(-2)
        fees["fees"] += Decimal(fee).scaleb(-2)
    return fees


def sums(rows: list[dict[str, str]]) -> dict[str, Decimal]:
    """The figures of a table, added up."""
    found: defaultdict[str, Decimal] = defaultdict(Decimal)
    for row in rows:
        for name, text in row.items():
            if name not in {"currency", "ticket"}:
                found[name] += Decimal(text)
    return found


async def unknown(database: Database, **given: Any) -> int:
    report = await json_of(await income(database, YEAR, **given))
    return sum(int(row["donations"]) for row in report["unknownFees"])


async def test_fees_add_up_to_the_books(database: Database, fake_stripe: FakeStripe, stripe: StripeApi) -> None:
    """Before the balance is read each paid donation counts as unknown, and no fee is 0; then the fees are the fake's,
    per currency and, added up, per ticket; each ticket's own report has its share.
    """
    await fill(database, FIRST, "story-1", "story-2")
    before = await json_of(await income(database, YEAR))
    [(paid,)] = await database.fetch(
        "SELECT count(*) FROM (SELECT FROM ledger_entries WHERE kind = 'payment' "
        "GROUP BY donation_id HAVING sum(amount_minor) > 0) paid"
    )
    assert (before["fees"], before["ticketFees"], before["feesSeq"]) == ([], [], "0")
    assert sum(int(row["donations"]) for row in before["unknownFees"]) == paid > 20
    await read_balance(stripe, database)
    report = await json_of(await income(database, YEAR))
    assert report["unknownFees"] == []
    [row] = report["fees"]
    assert (row["currency"], sums([row])) == ("USD", sums(report["ticketFees"]))
    assert sums([row]) == {**dict.fromkeys(FEE_FIGURES, 0), **expected(fake_stripe)}
    for ticket in ("story-1", "story-2"):
        own = await json_of(await income(database, YEAR, ticket=ticket))
        assert own["ticketFees"] == [row for row in report["ticketFees"] if row["ticket"] == ticket]


async def test_a_fee_is_known_as_of_when_it_was_recorded(
    database: Database, fake_stripe: FakeStripe, stripe: StripeApi
) -> None:
    """As of an entry those fees count that were recorded until then, for ever; `SEQ.FEES` names any other moment."""
    await fill(database, FIRST, "story-1", "story-2")
    first = (await find_moment(database, None)).seq
    await read_balance(stripe, database)
    read = await find_moment(database, None)
    with_fees = await text_of(await income(database, YEAR))
    [(moved,)] = await database.fetch(
        "SELECT donation_id FROM balance_transactions t JOIN stripe_attributions a ON a.id = t.donation_id "
        "WHERE ticket_id = 'story-1' AND status = 'PAID' AND fee_minor > 0 LIMIT 1"
    )
    await Operators(database, Recorder(database)).assign(moved, "story-2", actor="alex")
    await fill(database, MORE)
    fake_stripe.add(MORE)
    await read_balance(stripe, database)
    assert await unknown(database) == 0
    assert await unknown(database, moment=Moment(first, None)) > 20
    assert await unknown(database, moment=Moment(first + 1, None)) < 3
    again = Moment.parse(f"{read.seq}.{read.fees_seq}")
    assert await text_of(await income(database, YEAR, moment=again)) == with_fees
    assert read.recorded_at
    [(recorded_at,)] = await database.fetch(
        "SELECT recorded_at FROM balance_transactions WHERE seq = %s", [read.fees_seq]
    )
    assert await text_of(await income(database, YEAR, moment=Moment(None, recorded_at))) == with_fees


async def test_fees_known_later_are_restated(database: Database, fake_stripe: FakeStripe, stripe: StripeApi) -> None:
    """What was filed stays the same, byte for byte; the difference is what was recorded since, with each fee."""
    await fill(database, FIRST, "story-1", "story-2")
    await read_balance(stripe, database)
    closing = await close(database, YEAR, "alex")
    moment = Moment(closing.seq, None, closing.fees_seq)
    filed = await text_of(await income(database, YEAR, moment=moment))
    assert hashlib.sha256(filed.encode()).hexdigest() == closing.sha256
    await fill(database, MORE)
    fake_stripe.add(MORE)
    await read_balance(stripe, database)
    report = await json_of(await restated(database, YEAR))
    assert report["filedConfirmed"] is True
    assert await text_of(await income(database, YEAR, moment=moment)) == filed
    now = await json_of(await income(database, YEAR))
    assert report["nowFees"] == now["fees"]
    assert sums(report["differenceFees"])["fees"] == sums(now["fees"])["fees"] - sums(report["filedFees"])["fees"]
    listed = sum(Decimal(row["fee"]) - Decimal(row["formerFee"] or 0) for row in report["feeEntries"])
    assert listed == sums(report["differenceFees"])["fees"] > 0
    assert max(Counter(row["object"] for row in report["feeEntries"]).values()) == 1


async def test_a_report_that_was_closed_before_there_were_fees(
    database: Database, fake_stripe: FakeStripe, stripe: StripeApi
) -> None:
    """It is confirmed in the form that it had then; today's fees are its difference."""
    await fill(database, FIRST, "story-1", "story-2")
    closing = await close(database, YEAR, "alex")
    moment = await find_moment(database, Moment(closing.seq, None))
    entries = await sum_by_ticket(database, Entries(YEAR, closing.seq), no_progress)
    former = await text_of(income_report(YEAR, moment, entries, None))
    assert "fees" not in former.lower()
    await database.fetch(
        "UPDATE closed_reports SET fees_seq = NULL, sha256 = %s", [hashlib.sha256(former.encode()).hexdigest()]
    )
    await read_balance(stripe, database)
    report = await json_of(await restated(database, YEAR))
    assert (report["filedConfirmed"], report["filedFees"], report["filedFeesSeq"]) == (True, [], None)
    assert sums(report["differenceFees"])["fees"] == expected(fake_stripe)["fees"]


async def test_a_donation_shows_its_fees(
    database: Database, aiohttp_client: MakeClient, fake_stripe: FakeStripe, stripe: StripeApi
) -> None:
    """The operator finds a donation by its transaction and its payout, with its fees; they are null while unknown."""
    await fill(database, FIRST, "story-1", "story-2")
    client = await aiohttp_client(application(database, follower(), tokens=TOKENS))

    async def call(path: str) -> Any:
        reply = await client.get(f"{PREFIX}{path}", headers=bearer(READER))
        assert reply.status == 200
        return await reply.json()

    [(donation,)] = await database.fetch("SELECT id FROM stripe_attributions WHERE status = 'PAID' ORDER BY id LIMIT 1")
    assert (await call(f"donations/{donation}"))["fees"] is None
    await read_balance(stripe, database)
    rows = await database.fetch(
        "SELECT id, fee_minor, payout_id FROM balance_transactions t WHERE donation_id = %s "
        "AND seq = (SELECT max(seq) FROM balance_transactions n WHERE n.id = t.id)",
        [donation],
    )
    shown = await call(f"donations/{donation}")
    assert shown["fees"] == [{"currency": "USD", "amount": float(sum(fee for _, fee, _ in rows)) / 100}]
    items = [item["transaction"] for item in shown["timeline"] if item["kind"] == "fee"]
    assert {(item["id"], item["payout"]) for item in items} == {(id_, payout) for id_, _, payout in rows}
    for id_, _, payout in rows:
        assert [each["id"] for each in (await call(f"donations?q={id_}"))["donations"]] == [donation]
        assert donation in {each["id"] for each in (await call(f"donations?q={payout}&limit=1000"))["donations"]}
    assert (await call("donations?q=po_unknown"))["donations"] == []
    items = await Ledger(database).timeline(donation) or []
    assert [item.kind for item in items].count("fee") == len(rows)


# --- Exports


async def test_exports_have_the_fees_of_the_books(
    database: Database, database_url: str, fake_stripe: FakeStripe, stripe: StripeApi, tmp_path: Path
) -> None:
    """An account in euros has payments in dollars. While no fee is known its columns are empty, and not 0. Then the
    donations have fee, settled amount and rate of the books; and the journals of hledger and beancount, each in two
    parts that continue each other, have every fee in euros, also those of no donation."""
    fake_stripe.world.balance.currency = "eur"
    await fill(database, FIRST, "story-1", "story-2")
    export = partial(export_of, database_url)
    assert {row["fee"] + row["settledAmount"] for row in parsed(await export("donations"))} == {""}
    await read_balance(stripe, database)
    first = {each: await export_file(export, each, tmp_path) for each in Program}
    fake_stripe.add(MORE)
    await fill(database, MORE)
    await read_balance(stripe, database)
    books = expected(fake_stripe)
    by_ticket = await check_donations(database, fake_stripe, parsed(await export("donations", "--unpaid")))
    assert sum(by_ticket.values()) == books["fees"] - books["otherFees"]
    for each, (journal, last) in first.items():
        with journal.open("ab") as file:
            file.write(await export("entries", "--format", each, "--after", last))
    assert fees_in_hledger(first[Program.HLEDGER][0]) == books["fees"]
    assert fees_in_beancount(first[Program.BEANCOUNT][0]) == books["fees"]
    for ticket in TICKETS:
        of_ticket = tmp_path / ticket
        of_ticket.write_bytes(await export("entries", "--format", "hledger", "--ticket", ticket))
        assert fees_in_hledger(of_ticket) == by_ticket[ticket]


Run = Callable[..., Awaitable[bytes]]


async def export_of(url: str, *words: object) -> bytes:
    """What `donationd export` writes."""
    arguments = ["export", *map(str, words)]
    done = await asyncio.to_thread(CliRunner().invoke, main, arguments, env={"DATABASE_URL": url})
    assert done.exit_code == 0, done.output
    return done.stdout_bytes


async def export_file(export: Run, of: Program, folder: Path) -> tuple[Path, str]:
    """A journal, and after which row the next part continues."""
    journal = folder / f"journal.{of}"
    await export("entries", "--format", of, "--out", journal)
    return journal, json.loads(journal.with_name(f"{journal.name}.manifest.json").read_bytes())["last"]


async def check_donations(database: Database, fake: FakeStripe, rows: list[dict[str, str]]) -> dict[str, Decimal]:
    """Holds what each donation was settled as against the books, also those whose debit failed in the end. Returns the
    fees of each ticket, and of none."""
    settled = {each.source: each for each in transactions(fake).values() if each.reporting_category == "charge"}
    known = [row for row in rows if row["chargeId"] in settled]
    assert {row["feeCurrency"] for row in known} == {"EUR"}
    assert {row["fee"] for row in rows if row not in known} == {""}
    for row in known:
        booked = settled[row["chargeId"]]
        assert row["exchangeRate"] == ("" if row["currency"] == "EUR" else str(booked.exchange_rate))
        [(is_whole,)] = await database.fetch(
            "SELECT count(*) = 1 FROM balance_transactions WHERE donation_id = %s", [row["id"]]
        )
        if is_whole:
            assert (row["settledAmount"], row["fee"]) == (f"{booked.amount / 100:.2f}", f"{booked.fee / 100:.2f}")
    fees: defaultdict[str, Decimal] = defaultdict(Decimal)
    for row in known:
        fees[row["ticketId"]] += Decimal(row["fee"])
    return fees


def fees_in_hledger(journal: Path) -> Decimal:
    """What the account of fees has, in euros; the journal is accepted in hledger's strict mode."""
    hledger = program("hledger", "hledger")
    subprocess.run([hledger, "-f", journal, "check", "-s"], check=True)
    shown = subprocess.run(
        [hledger, "-f", journal, "balance", "expenses:stripe fees", "-O", "csv", "--no-total", "--flat"],
        check=True,
        capture_output=True,
        text=True,
    )
    [_head, (account, amount)] = csv.reader(shown.stdout.splitlines())
    assert (account, amount[-4:]) == ("expenses:stripe fees", " EUR")
    return Decimal(amount[:-4])


def fees_in_beancount(journal: Path) -> Decimal:
    """The same of a file without errors."""
    directives, errors, _ = loader.load_file(str(journal))
    assert errors == []
    fees = [each for each in directives if isinstance(each, Transaction) and each.payee == "fee"]
    postings = [posting.units for each in fees for posting in each.postings if posting.account == "Expenses:StripeFees"]
    assert {units.currency for units in postings if units} == {"EUR"}
    return sum((Decimal(str(units.number)) for units in postings if units), Decimal())
