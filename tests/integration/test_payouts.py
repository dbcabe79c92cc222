"""Fees and payouts: read from the fake of Stripe's API, tied to donations, and added up (SPEC 11)."""

import asyncio
import contextlib
import copy
import csv
import io
import itertools
import json
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import pytest
from click.testing import CliRunner, Result

from daemon.cli.main import main
from daemon.jobs.balance import read_balance
from daemon.jobs.schedule import ProblemsFound
from daemon.ledger.balance import Group, group_of
from daemon.ledger.balance_verification import balance_differences
from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.recorder import Recorder
from daemon.ledger.stripe_events import read
from daemon.ledger.verification import verify
from daemon.reports.payouts import UnknownPayout, payouts
from daemon.reports.periods import Period
from daemon.simulator import sender
from daemon.simulator.balance import BalanceTransaction
from daemon.simulator.fake_stripe.failures import Failure
from daemon.simulator.fake_stripe.fake import FakeStripe
from daemon.simulator.state import Inputs
from daemon.simulator.stripe_objects import DAY_S
from daemon.stripe_api.client import StripeApi, StripeUnavailable
from sql.database import Database
from sql.snapshot import snapshot
from tests.support.balance import client_of, later, played, random_world, transactions
from tests.support.ledger import fill
from tests.support.reports import json_of

PAYMENTS = 60
TIED = {Group.PAYMENTS, Group.REFUNDS, Group.DISPUTES}


@pytest.fixture
async def stripe(fake_stripe: FakeStripe) -> AsyncIterator[StripeApi]:
    """A client of the fake."""
    later(fake_stripe)
    async with client_of(fake_stripe) as stripe:
        yield stripe


async def read_all(database: Database) -> dict[str, Any]:
    """The report of all payouts."""
    return await json_of(await payouts(database, "UTC"))


async def stored(database: Database) -> dict[str, tuple[int, int, str | None, str | None]]:
    """Amount, fee, donation and payout of each transaction as it is known now."""
    rows = await database.fetch(
        "SELECT DISTINCT ON (id) id, amount_minor, fee_minor, donation_id, payout_id FROM balance_transactions "
        "ORDER BY id, seq DESC"
    )
    return {id_: rest for id_, *rest in rows}  # type: ignore[misc]


def adjust(fake: FakeStripe, id_: str, at: int) -> None:
    """Stripe books an adjustment of the balance, which no payout contains."""
    found = BalanceTransaction(id_, at, "adjustment", "other_adjustment", 1)
    fake.world.collections["balance_transaction"].add(found)


async def expected_ties(database: Database, fake: FakeStripe) -> set[str]:
    """The transactions of payments that the ledger knows, by charge, PaymentIntent, refund or dispute."""
    known = {id_ for (id_,) in await database.fetch("SELECT id FROM stripe_objects")}
    ties = set()
    for each in transactions(fake).values():
        source: Any = fake.world.find(each.source) if each.source else None
        charge = getattr(source, "charge", source)
        if group_of(each.reporting_category) in TIED and known & {each.source, charge.id, charge.payment_intent}:
            ties.add(each.id)
    return ties


@pytest.mark.parametrize("make", [played, random_world])
@pytest.mark.parametrize("seed", range(3))
async def test_every_payout_adds_up(
    database: Database, fake_stripe: FakeStripe, stripe: StripeApi, *, make: Callable[[int, int], Any], seed: int
) -> None:
    """Whatever was paid, refunded, disputed, charged, held back and adjusted, in whatever currency, by an account in
    dollars or euros: each payout is the sum of its transactions, each transaction of a payment that the ledger knows
    belongs to its donation, and reading again adds nothing.
    """
    world = make(seed, PAYMENTS)
    fake_stripe.world.balance.currency = currency = ("usd", "eur", "usd")[seed]
    fake_stripe.add(world)
    await fill(database, world)
    await read_balance(stripe, database)
    report = await read_all(database)
    books = transactions(fake_stripe)
    found = await stored(database)
    assert {id_: tuple(each[:2]) for id_, each in found.items()} == {id_: (t.amount, t.fee) for id_, t in books.items()}
    assert {(each["state"], each["currency"]) for each in report["payouts"]} == {("adds up", currency.upper())}
    assert make is random_world or all(any(Decimal(each[group]) for each in report["payouts"]) for group in Group)
    assert {id_ for id_, each in found.items() if each[2]} == await expected_ties(database, fake_stripe)
    for payout in report["payouts"]:
        own = [each for each in report["transactions"] if each["payout"] == payout["payout"]]
        others = [each for each in own if each["object"] != payout["payout"]]
        assert sum(Decimal(each["net"]) for each in others) == Decimal(payout["sum"]) == Decimal(payout["amount"])
        assert sum(Decimal(payout[group]) for group in Group) == Decimal(payout["sum"])
    [(before,)] = await database.fetch("SELECT count(*) FROM balance_transactions")
    await read_balance(stripe, database)
    assert await database.fetch("SELECT count(*) FROM balance_transactions") == [(before,)]


async def test_the_exchange_rate_is_exact(database: Database, fake_stripe: FakeStripe, stripe: StripeApi) -> None:
    """A rate is stored as Stripe writes it, and no rate where nothing was converted."""
    fake_stripe.add(played(1, PAYMENTS))
    await read_balance(stripe, database)
    rows = await database.fetch("SELECT id, exchange_rate::text FROM balance_transactions")
    rates = {id_: each.exchange_rate for id_, each in transactions(fake_stripe).items()}
    assert {id_: None if text is None else Decimal(text) for id_, text in rows} == rates
    assert len({text for _, text in rows}) > 2


async def test_a_removed_transaction_is_noticed(database: Database, fake_stripe: FakeStripe, stripe: StripeApi) -> None:
    """A payout of which Stripe lists one transaction less is marked, with the difference; the others add up."""
    fake_stripe.add(played(1, PAYMENTS))
    fake_stripe.world.settle(int(fake_stripe.clock()))
    [*_, (payout, parts)] = (
        each
        for each in fake_stripe.world.balance.parts.items()
        if any(t.reporting_category == "charge" for t in each[1])
    )
    lost = next(each for each in parts if each.reporting_category == "charge")
    fake_stripe.failures.hidden.add(lost.id)
    with pytest.raises(ProblemsFound, match=rf"^payout {payout} is .* its transactions add up to"):
        await read_balance(stripe, database)
    wrong = [each for each in (await read_all(database))["payouts"] if each["state"] != "adds up"]
    assert [(each["payout"], each["state"]) for each in wrong] == [(payout, "does not add up")]
    assert Decimal(wrong[0]["difference"]) == Decimal(lost.net).scaleb(-2)


@pytest.mark.parametrize("column", ["amount_minor", "fee_minor", "net_minor", "currency", "payout_id"])
async def test_an_altered_transaction_is_noticed(
    database: Database, database_url: str, fake_stripe: FakeStripe, stripe: StripeApi, *, column: str
) -> None:
    """Whatever is changed in a stored transaction, exactly its payout is marked."""
    fake_stripe.add(played(1, PAYMENTS))
    await read_balance(stripe, database)
    payout = (await read_all(database))["payouts"][0]["payout"]
    changed = {"currency": "'EUR'", "payout_id": "NULL"}.get(column, f"{column} + 1")
    await database.fetch(
        f"UPDATE balance_transactions SET {column} = {changed} WHERE seq = (SELECT max(seq) FROM balance_transactions "  # noqa: S608
        "WHERE payout_id = %(payout)s AND category = 'charge')",
        {"payout": payout},
    )
    report = await read_all(database)
    assert [each["payout"] for each in report["payouts"] if each["state"] == "does not add up"] == [payout]
    assert report["wrongPayouts"] == "1"
    with snapshot(database_url, "donationd test") as seen:
        assert any(payout in line or "balance transaction" in line for line in balance_differences(seen))


async def test_a_manual_payout_is_not_attributable(
    database: Database, fake_stripe: FakeStripe, stripe: StripeApi
) -> None:
    """Nothing is guessed about what a manual payout consists of; its transactions and their fees are known."""
    fake_stripe.world.balance.automatic = False
    fake_stripe.add(played(1, PAYMENTS))
    await read_balance(stripe, database)
    report = await read_all(database)
    assert {each["state"] for each in report["payouts"]} == {"not attributable"}
    assert {each["sum"] for each in report["payouts"]} == {None}
    assert report["transactions"] == []
    assert (await stored(database)).keys() == transactions(fake_stripe).keys()


@pytest.mark.parametrize("automatic", [False, True])
async def test_a_pass_that_is_interrupted_anywhere_skips_nothing(
    database: Database, fake_stripe: FakeStripe, stripe: StripeApi, *, automatic: bool
) -> None:
    """A pass fails after one page, the next after two, and so on, and newer transactions come between them; in the end
    nothing is missing. Of automatic payouts all transactions are read a second time, of manual ones none.
    """
    fake_stripe.world.balance.automatic = automatic
    fake_stripe.add(played(1, 2 * PAYMENTS))
    for passes in itertools.count(1):
        fake_stripe.failures.add(Failure(skip=passes, times=None))
        newest = max(each.created for each in transactions(fake_stripe).values())
        adjust(fake_stripe, f"txn_new{passes}", newest + 1)
        with contextlib.suppress(StripeUnavailable):
            await read_balance(stripe, database)
            break
        fake_stripe.failures.clear()
    assert passes > 2
    assert (await stored(database)).keys() == transactions(fake_stripe).keys()
    states = {each["state"] for each in (await read_all(database))["payouts"]}
    assert states == {"adds up" if automatic else "not attributable"}


async def test_a_reading_that_goes_on_behind_an_object_that_is_gone(
    database: Database, fake_stripe: FakeStripe, stripe: StripeApi
) -> None:
    """The list is read again from its beginning, and the pass after that is complete."""
    fake_stripe.add(played(1, PAYMENTS))
    await database.fetch("INSERT INTO balance_reading VALUES ('balance_transactions', NULL, 1, 'txn_gone')")
    with pytest.raises(Exception, match="starting_after"):
        await read_balance(stripe, database)
    await read_balance(stripe, database)
    assert (await stored(database)).keys() == transactions(fake_stripe).keys()


async def test_what_was_booked_in_the_last_second_of_a_pass_is_read_by_the_next(
    database: Database, fake_stripe: FakeStripe, stripe: StripeApi
) -> None:
    """Stripe's times have seconds only: another transaction of the newest second, and one of the next, are not
    skipped."""
    fake_stripe.add(played(1, PAYMENTS))
    await read_balance(stripe, database)
    newest = max(each.created for each in transactions(fake_stripe).values())
    for number in range(2):
        adjust(fake_stripe, f"txn_same{number}", newest + number)
    await read_balance(stripe, database)
    assert (await stored(database)).keys() == transactions(fake_stripe).keys()


async def test_the_next_pass_reads_only_what_is_new(
    database: Database, fake_stripe: FakeStripe, stripe: StripeApi
) -> None:
    """A pass without news asks for one page of each list, and for no payout that is settled."""
    fake_stripe.add(played(1, PAYMENTS))
    await read_balance(stripe, database)
    fake_stripe.calls.clear()
    await read_balance(stripe, database)
    assert [call.path for call in fake_stripe.calls] == ["/v1/balance_transactions", "/v1/payouts"]


async def test_a_donation_that_becomes_known_later_gets_its_transactions(
    database: Database, fake_stripe: FakeStripe, stripe: StripeApi
) -> None:
    """The events come after the balance was read: the next pass ties them."""
    world = played(1, PAYMENTS)
    fake_stripe.add(world)
    await read_balance(stripe, database)
    assert not any(each[2] for each in (await stored(database)).values())
    await fill(database, world)
    await read_balance(stripe, database)
    tied = {id_ for id_, each in (await stored(database)).items() if each[2]}
    books = transactions(fake_stripe)
    assert tied == {id_ for id_, each in books.items() if group_of(each.reporting_category) in TIED}


async def test_a_donation_whose_id_changes_keeps_its_transactions(
    database: Database, database_url: str, fake_stripe: FakeStripe, stripe: StripeApi
) -> None:
    """A charge is known before its PaymentIntent, whose id the donation then has: the next pass adds a row with it, and
    a further pass adds nothing."""
    world = fake_stripe.world
    payment = world.begin(Inputs(), amount=2500, currency="usd", at=fake_stripe.now - 5 * DAY_S)
    with world.step(payment, payment.at):
        intent, charge = payment.create_intent(), payment.succeed()
    events = [event.shown for event in world.collections["event"]]
    [early] = [copy.deepcopy(event) for event in events if event["type"] == "charge.succeeded"]
    early["id"], early["data"]["object"]["payment_intent"] = "evt_early", None
    for received, donation in (([early], charge.id), (events, intent.id)):
        await Recorder(database).record(
            [ReceivedEvent(read(sender.encode(event), livemode=False, hash_key=None)) for event in received]
        )
        await read_balance(stripe, database)
        await read_balance(stripe, database)
        assert (await stored(database))[str(charge.balance_transaction)][2] == donation
    rows = await database.fetch(
        "SELECT donation_id FROM balance_transactions WHERE id = %s ORDER BY seq", (charge.balance_transaction,)
    )
    assert list(dict.fromkeys(row[0] for row in rows)) == [charge.id, intent.id]
    assert rows[-2:] == [(charge.id,), (intent.id,)]
    with snapshot(database_url, "donationd test") as moment:
        assert list(verify(moment, lambda _done: None)) == []


async def test_a_period_has_the_payouts_that_arrive_in_it(
    database: Database, fake_stripe: FakeStripe, stripe: StripeApi
) -> None:
    """Each payout is in exactly one day: its arrival date, in every time zone. An unknown payout is an error."""
    fake_stripe.add(played(1, PAYMENTS))
    await read_balance(stripe, database)
    every = (await read_all(database))["payouts"]
    for zone in ("UTC", "America/Los_Angeles", "Pacific/Auckland"):
        for day in sorted({each["arrivalDate"] for each in every})[:3]:
            report = await json_of(await payouts(database, zone, Period.parse(day, zone)))
            assert [each["payout"] for each in report["payouts"]] == [
                each["payout"] for each in every if each["arrivalDate"] == day
            ]
    only = await json_of(await payouts(database, "UTC", payout=every[0]["payout"]))
    assert [each["payout"] for each in only["payouts"]] == [every[0]["payout"]]
    with pytest.raises(UnknownPayout, match="po_1"):
        await payouts(database, "UTC", payout="po_1")


async def test_the_command_prints_payouts(
    database: Database, database_url: str, fake_stripe: FakeStripe, stripe: StripeApi
) -> None:
    """Text, JSON and CSV have the same payouts; the exit status is 0 if all add up, 1 if one does not, 2 for no id."""
    fake_stripe.add(played(1, PAYMENTS))
    await read_balance(stripe, database)

    async def run(*words: str) -> Result:
        arguments = ["report", "payouts", *words]
        return await asyncio.to_thread(CliRunner().invoke, main, arguments, env={"DATABASE_URL": database_url})

    report = await read_all(database)
    first = report["payouts"][0]["payout"]
    text = await run()
    assert (text.exit_code, text.stdout.count("adds up")) == (0, len(report["payouts"]))
    assert json.loads((await run("--payout", first, "--json")).stdout, parse_float=str, parse_int=str) == await json_of(
        await payouts(database, "UTC", payout=first)
    )
    rows = list(csv.DictReader(io.StringIO((await run("--csv")).stdout)))
    assert sum(row["table"] == "payouts" for row in rows) == len(report["payouts"])
    await database.fetch("UPDATE balance_transactions SET net_minor = 0 WHERE payout_id = %s", [first])
    wrong = await run("--payout", first)
    assert (wrong.exit_code, "does not add up" in wrong.stdout) == (1, True)
    assert "1 payouts are not the sum" in wrong.stderr
    assert (await run("--payout", "po_unknown")).exit_code == 1
    assert (await run("--payout", "pi_1")).exit_code == 2


async def test_no_donor_reaches_the_tables_the_log_or_an_error(
    database: Database, fake_stripe: FakeStripe, stripe: StripeApi, capfd: pytest.CaptureFixture[str]
) -> None:
    """The replies contain the sources of transactions, and so names and e-mails: nothing of them is kept, also not when
    a reply is malformed.
    """
    fake_stripe.add(played(1, PAYMENTS))
    for kind in ("malformed", "truncated"):
        fake_stripe.failures.add(Failure(kind, times=None))
        with pytest.raises(StripeUnavailable) as failed:
            await read_balance(stripe, database)
        assert (failed.value.__cause__, failed.value.__context__) == (None, None)
        fake_stripe.failures.clear()
    await read_balance(stripe, database)
    rows = await database.fetch("SELECT t::text FROM balance_transactions t UNION ALL SELECT p::text FROM payouts p")
    written = "\n".join([*(row for (row,) in rows), *capfd.readouterr(), str(failed.value)])
    billed = [charge.billing for charge in fake_stripe.world.collections["charge"]]
    donors = {text for donor in billed for text in (donor.name, donor.email, donor.phone, donor.street) if text}
    assert len(donors) > 10
    assert [text for text in donors if text in written] == []
