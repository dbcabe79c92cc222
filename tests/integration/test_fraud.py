"""Signals of fraud on a real ledger: events are counted beside it, by several processes, for 24 hours (SPEC 11)."""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner

from daemon.api.fraud import TURN_S, FraudWatch
from daemon.api.metrics import ApiMetrics
from daemon.cli.main import main
from daemon.ledger.batcher import Batcher
from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.events.event_facts import Attempt
from daemon.ledger.recorder import Recorder
from daemon.ledger.stripe_events import read
from daemon.reports import attempts
from daemon.reports.attempts import MAX_ROWS, AttemptCounter
from daemon.reports.fraud import Level, Name
from daemon.reports.fraud_report import attempt_signals, find_signals, ledger_signals
from daemon.reports.fraud_thresholds import Thresholds
from daemon.simulator import sender
from sql.database import Database
from sql.errors import DatabaseUnavailable
from tests.support.api_application import MakeClient, application, follower
from tests.support.operators import READER, TOKENS, bearer

AT = 1_760_000_000
LIMITS = Thresholds()
EMAIL, COUNTRY = "Someone@Example.org", "DE"


def charge(number: int, *, paid: bool, email: str = EMAIL, ticket: str = "story-1", **more: object) -> dict[str, Any]:
    return {
        "id": f"ch_{number}",
        "payment_intent": f"pi_{number}",
        "amount": 500,
        "amount_captured": 500 if paid else 0,
        "amount_refunded": 0,
        "currency": "usd",
        "created": AT + number,
        "paid": paid,
        "status": "succeeded" if paid else "failed",
        "billing_details": {"name": "Ada Byron", "email": email, "address": {"country": COUNTRY}},
        "metadata": {"ticketId": ticket},
        **more,
    }


def received(number: int, shown: dict[str, Any], kind: str | None = None) -> ReceivedEvent:
    kind = kind or ("charge.succeeded" if shown["paid"] else "charge.failed")
    body = {"id": f"evt_{number}_{kind.replace('.', '_')}", "type": kind, "created": AT + number, "livemode": False}
    return ReceivedEvent(read(sender.encode({**body, "data": {"object": shown}}), livemode=False, hash_key=None))


def one_moment() -> Callable[[], float]:
    """A clock that shows the present and stands still, so that no minute and no hour ends within a test."""
    now_s = time.time()
    return lambda: now_s


class Turns:
    """Instead of sleeping: ends the watch after so many turns."""

    def __init__(self, number: int) -> None:
        self.left = number

    async def sleep(self, seconds: float) -> None:
        assert seconds == TURN_S
        self.left -= 1
        if not self.left:
            raise asyncio.CancelledError


async def watch(
    database: Database,
    *events: ReceivedEvent,
    metrics: ApiMetrics | None = None,
    turns: int = 1,
    clock: Callable[[], float] | None = None,
) -> None:
    """What an API process does: writes the events, counts their attempts, stores the counts and looks for signals."""
    watching = FraudWatch(
        database, metrics or ApiMetrics(), LIMITS, None, clock=clock or one_moment(), sleep=Turns(turns).sleep
    )
    batcher = Batcher(Recorder(database), limit=1000, on_attempt=watching.count)
    await asyncio.gather(*(batcher.record(event, 100) for event in events))
    with suppress(asyncio.CancelledError):
        await watching.run()


def shown(metrics: ApiMetrics, name: Name, level: Level) -> float | None:
    return metrics.registry.get_sample_value("fraud_signals", {"signal": name, "level": level})


async def test_failed_attempts_of_one_hash_are_seen_by_all_processes_together(database: Database) -> None:
    """Two processes count two failures each; a redelivery counts nothing; one alone would see no signal."""
    clock, first = one_moment(), [received(n, charge(n, paid=False)) for n in (1, 2)]
    await watch(database, *first, clock=clock)
    await watch(database, *first, clock=clock)  # delivered again
    assert await attempt_signals(database, LIMITS) == []
    metrics = ApiMetrics()
    metrics.begin()
    second = [received(n, charge(n, paid=False, email=f" {EMAIL.upper()} ")) for n in (3, 4)]
    await watch(database, *second, metrics=metrics, clock=clock)
    [signal] = await attempt_signals(database, LIMITS)
    assert (signal.name, signal.level, signal.by) == (Name.CARD_TESTING, Level.SUSPICIOUS, "hash")
    assert signal.reason.startswith("4 of 4 attempts with one e-mail hash failed")
    assert shown(metrics, Name.CARD_TESTING, Level.SUSPICIOUS) == 1
    assert shown(metrics, Name.CARD_TESTING, Level.ALARM) == 0
    attempted = {
        outcome: metrics.registry.get_sample_value("payment_attempts_total", {"outcome": outcome})
        for outcome in ("failed", "succeeded")
    }
    assert attempted == {"failed": 2, "succeeded": 0}


async def test_a_donor_who_pays_in_the_end_is_not_suspicious(database: Database) -> None:
    """Three failures and a payment of the same hash, whose payment alone is not stored."""
    clock = one_moment()
    await watch(database, received(1, charge(1, paid=True, email="other@example.org")), clock=clock)
    await watch(database, *(received(n, charge(n, paid=False)) for n in (2, 3, 4)), clock=clock)
    await watch(database, received(5, charge(5, paid=True)), clock=clock)
    assert await attempt_signals(database, LIMITS) == []
    rows = await database.fetch("SELECT attempts, failures FROM payment_attempts WHERE kind = 'hash'")
    assert rows == [(4, 3)]


async def test_a_fast_attack_is_an_alarm_within_two_turns(database: Database) -> None:
    """Ten failures in a minute, whatever their hashes: in the metrics after the turn that stores them."""
    metrics = ApiMetrics()
    metrics.begin()
    events = [received(n, charge(n, paid=n % 12 == 0, email=f"{n}@example.org")) for n in range(24)]
    await watch(database, *events, metrics=metrics)
    signals = await attempt_signals(database, LIMITS)
    assert {(signal.by, signal.subject, signal.level) for signal in signals} == {
        ("account", "", Level.ALARM),
        ("ticket", "story-1", Level.ALARM),
    }
    assert shown(metrics, Name.CARD_TESTING, Level.ALARM) == 2
    assert 2 * TURN_S < 60


async def test_a_rush_of_honest_donors_is_no_alarm(database: Database) -> None:
    """Ten of a hundred attempts in a minute fail."""
    events = [received(n, charge(n, paid=n % 10 > 0, email=f"{n}@example.org")) for n in range(110)]
    await watch(database, *events)
    assert await attempt_signals(database, LIMITS) == []


async def test_each_attempt_is_counted_by_one_of_its_events(database: Database) -> None:
    """A failed charge and its PaymentIntent's event are one failure; a failure without a charge is one as well."""
    intent = {
        "id": "pi_1",
        "amount": 500,
        "currency": "usd",
        "metadata": {"ticketId": "story-1"},
        "receipt_email": EMAIL,
    }
    await watch(
        database,
        received(1, charge(1, paid=False)),
        received(1, {**intent, "latest_charge": "ch_1"}, "payment_intent.payment_failed"),
        received(2, {**intent, "id": "pi_2", "latest_charge": None}, "payment_intent.payment_failed"),
        received(3, charge(3, paid=True), "charge.updated"),
    )
    [(attempts_, failures)] = await database.fetch(
        "SELECT attempts::int, failures::int FROM payment_attempts WHERE kind = 'hash'"
    )
    assert (attempts_, failures) == (2, 2)


async def test_the_ledger_keeps_no_hash_of_a_failed_attempt(database: Database) -> None:
    """It is in the table of attempts only, and there for 24 hours only; the e-mail itself is nowhere."""
    await watch(database, received(1, charge(1, paid=False)))
    [(hash_,)] = await database.fetch("SELECT subject FROM payment_attempts WHERE kind = 'hash'")
    assert len(hash_) == 64
    ledger = await database.fetch(
        "SELECT a::text FROM stripe_attributions a UNION ALL SELECT f::text FROM stripe_failed_charges f"
    )
    assert ledger
    assert not [row for (row,) in ledger if hash_ in row or "xample" in row]
    await database.fetch("UPDATE payment_attempts SET hour = now() - interval '23 hours 50 minutes'")
    await attempts.delete_old(database)
    assert len(await database.fetch("SELECT kind FROM payment_attempts WHERE kind = 'hash'")) == 1
    await database.fetch("UPDATE payment_attempts SET hour = now() - interval '24 hours'")
    await attempts.delete_old(database)
    assert await database.fetch("SELECT kind FROM payment_attempts") == []


async def test_the_table_has_a_limit_and_keeps_what_failed_most(database: Database) -> None:
    """Thousands of hashes that failed once leave one that failed again and again in its place."""
    counter = AttemptCounter(lambda: AT)
    for _ in range(40):
        counter.count(Attempt(True, "", "story-1", None, "a" * 64))
    await attempts.store(database, counter, LIMITS.minute_percent)
    await database.fetch("UPDATE payment_attempts SET hour = date_trunc('hour', now()) - interval '20 hours'")
    counter = AttemptCounter(one_moment())
    for number in range(MAX_ROWS + 700):
        counter.count(Attempt(True, "", None, None, f"{number:064x}"))
        if number % 400 == 0:
            await attempts.store(database, counter, LIMITS.minute_percent)
    await attempts.store(database, counter, LIMITS.minute_percent)
    await attempts.delete_old(database)
    [(rows,)] = await database.fetch("SELECT count(*) FROM payment_attempts WHERE kind = 'hash'")
    assert rows == MAX_ROWS
    assert [signal.subject for signal in await attempt_signals(database, LIMITS) if signal.by == "hash"] == ["a" * 64]


async def test_the_failures_of_a_minute_add_up_over_processes_and_turns(database: Database) -> None:
    """Also where one of them is a minute behind; a new minute begins at nothing."""
    now = float(AT // 60 * 60)
    one, other = AttemptCounter(lambda: now), AttemptCounter(lambda: now)
    for number in range(9):
        (one if number % 2 else other).count(Attempt(True, "", None, None))
        await attempts.store(database, one, 30)
        await attempts.store(database, other, 30)
    now += 60
    one.count(Attempt(True, "", None, None))
    await attempts.store(database, one, 30)
    query = "SELECT attempts::int, failures::int, minute_failures::int, worst_minute::int FROM payment_attempts"
    assert await database.fetch(query) == [(10, 10, 1, 9)]
    for _ in range(9):
        one.count(Attempt(False, "", None, None))
    one.count(Attempt(True, "", None, None))
    await attempts.store(database, one, 30)
    assert await database.fetch(query) == [(20, 11, 2, 9)]
    for _ in range(3):
        now += 60
        one.count(Attempt(True, "", None, None))
    await attempts.store(database, one, 30)  # several minutes at once, as after an outage
    assert await database.fetch(query) == [(23, 14, 1, 9)]


async def test_what_an_outage_did_not_store_is_stored_afterwards(database: Database) -> None:
    """The counts wait in memory, minute by minute, and none is stored twice."""
    now = float(AT // 60 * 60)
    counter = AttemptCounter(lambda: now)
    counter.count(Attempt(True, "", None, None))
    now += 60
    counter.count(Attempt(True, "", None, None))
    stored: list[str] = []

    class Failing:
        async def fetch(self, _sql: str, params: dict[str, str]) -> list[object]:
            if stored:
                raise TimeoutError
            stored.append(params["counts"])
            return []

    with pytest.raises(TimeoutError):
        await attempts.store(Failing(), counter, 30)  # type: ignore[arg-type]
    assert json.loads(stored[0])[0]["minute"] == now - 60
    assert [(count.minute, count.failures) for count in counter.take()] == [(now, 1)]


async def test_bursts_and_soon_refunds_are_read_from_the_journal(database: Database) -> None:
    """Five payments of one hash within an hour, three of them refunded within a day. The metric has what was read last:
    another process, which reads the journal at other times, does not replace it by what it read before."""
    metrics = ApiMetrics()
    other = FraudWatch(database, metrics, LIMITS, None)
    await other._turn(0)
    refunded = [received(100 + n, charge(n, paid=True, amount_refunded=500), "charge.refunded") for n in range(3)]
    await watch(database, *(received(n, charge(n, paid=True)) for n in range(5)))
    await watch(database, *refunded, metrics=metrics)
    await other._turn(1)
    assert shown(metrics, Name.BURST, Level.SUSPICIOUS) == 1
    signals = await ledger_signals(database, LIMITS, datetime.now(UTC), None)
    assert [(signal.name, signal.by, signal.tickets) for signal in signals] == [
        (Name.BURST, "hash", ("story-1",)),
        (Name.SOON_REFUNDS, "hash", ("story-1",)),
        (Name.SOON_REFUNDS, "ticket", ("story-1",)),
    ]
    assert await ledger_signals(database, LIMITS, datetime.now(UTC) + timedelta(hours=25), None) == []


async def test_a_signal_is_logged_once(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the hash and the ticket that it names."""
    await watch(database, *(received(n, charge(n, paid=False)) for n in range(12)), turns=3)
    lines = [line for line in capsys.readouterr().out.splitlines() if "[Fraud]" in line]
    assert len(lines) == 3  # account, ticket, hash
    assert not [line for line in lines if "story-1" in line or "xample" in line]


async def test_the_report_prints_each_signal_with_its_reason(database: Database, database_url: str) -> None:
    """As text and as JSON; alarms come first."""
    await watch(database, *(received(n, charge(n, paid=False)) for n in range(12)))
    warning = {"id": "issfr_1", "charge": "ch_0", "actionable": True, "created": AT, "fraud_type": "fraudulent"}
    await watch(database, received(50, warning, "radar.early_fraud_warning.created"))
    environ = {"DATABASE_URL": database_url, "DISPUTE_FEE": "15.00 USD"}

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(main, ["report", "fraud", *arguments], env=environ)

    done = await asyncio.to_thread(run, "--json")
    assert done.exit_code == 0, done.output
    signals = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(signal["level"], signal["name"], signal["by"]) for signal in signals] == [
        ("alarm", "card-testing", "account"),
        ("alarm", "card-testing", "ticket"),
        ("suspicious", "card-testing", "hash"),
        ("suspicious", "early-warning", "donation"),
    ]
    text = (await asyncio.to_thread(run)).stdout
    assert "alarm       card-testing   account of the charity: 12 attempts failed within one minute" in text
    assert "a fee of $15.00" in text
    refused = await asyncio.to_thread(
        CliRunner().invoke, main, ["report", "fraud"], env={**environ, "FRAUD_HASH_FAILURES": "many"}
    )
    assert refused.exit_code == 1
    assert "FRAUD_HASH_FAILURES: must be a whole number" in refused.output


async def test_operators_read_the_same_signals_over_http(database: Database, aiohttp_client: MakeClient) -> None:
    """With the scope read, and nothing without a token."""
    await watch(database, *(received(n, charge(n, paid=False)) for n in range(12)))
    client = await aiohttp_client(application(database, follower(), tokens=TOKENS))
    assert (await client.get("/api/operator/reports/fraud")).status == 401
    reply = await client.get("/api/operator/reports/fraud", headers=bearer(READER))
    assert reply.status == 200, await reply.text()
    signals = (await reply.json())["signals"]
    expected = await find_signals(database, LIMITS, datetime.now(UTC), None)
    assert [(signal["subject"], signal["reason"]) for signal in signals] == [(s.subject, s.reason) for s in expected]
    assert len(signals) == 3


async def test_counting_costs_a_delivery_nothing(database: Database) -> None:
    """While the database does not answer, attempts are counted in memory and the watch goes on."""

    class Down:
        async def fetch(self, *_arguments: object) -> list[object]:
            raise DatabaseUnavailable("timeout")

    watching = FraudWatch(Down(), ApiMetrics(), LIMITS, None, sleep=Turns(3).sleep)  # type: ignore[arg-type]
    watching.count(Attempt(True, "", None, None))
    with pytest.raises(asyncio.CancelledError):
        await watching.run()
    assert [count.failures for count in watching._counter.take()] == [1]
