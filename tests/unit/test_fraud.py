"""The signals of fraud: which numbers give one, how attempts are counted, and how often the signals are right."""

import hashlib
import sys
from collections.abc import Iterable
from itertools import chain, count

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon.api.config import CommandConfig
from daemon.ledger.events.event_facts import Attempt
from daemon.reports import fraud
from daemon.reports.attempts import MAX_SUBJECTS, AttemptCounter, Counted, Kind
from daemon.reports.fraud import AttemptsRow, BurstRow, Level, Name, Signal, SoonRefundRow
from daemon.reports.fraud_thresholds import Thresholds
from daemon.runtime.config import ConfigError
from tests.bench.fraud import REQUIRED, measure

AT = 1_760_000_400
LIMITS = Thresholds()
HASH = hashlib.sha256(b"someone@example.org").hexdigest()


def row(kind: Kind, attempts: int, failures: int, *, worst: int = 0, subject: str = "a", hour: int = AT) -> AttemptsRow:
    return AttemptsRow(kind, subject, hour, attempts, failures, worst)


def levels(signals: list[Signal]) -> list[tuple[str, str]]:
    return [(signal.by, signal.level) for signal in signals]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row(Kind.HASH, 3, 3)], [("hash", "suspicious")]),
        ([row(Kind.HASH, 2, 2), row(Kind.HASH, 1, 1, hour=AT - 3600)], [("hash", "suspicious")]),
        ([row(Kind.HASH, 2, 2)], []),
        ([row(Kind.HASH, 4, 3)], []),  # the donor has paid
        ([row(Kind.TICKET, 100, 10, worst=10)], [("ticket", "alarm")]),
        ([row(Kind.ACCOUNT, 100, 40, worst=9)], []),
        ([row(Kind.TICKET, 10, 8)], [("ticket", "alarm")]),
        ([row(Kind.TICKET, 9, 9)], []),
        ([row(Kind.TICKET, 20, 15)], []),
        ([row(Kind.TICKET, 10, 8), row(Kind.TICKET, 1000, 10, hour=AT - 3600)], [("ticket", "alarm")]),
        ([row(Kind.TICKET, 5, 4), row(Kind.TICKET, 5, 5, hour=AT - 3600)], [("ticket", "alarm")]),
        ([row(Kind.COUNTRY, 100, 100, worst=50)], []),
    ],
)
def test_card_testing_is_seen_from_its_thresholds_on(rows: list[AttemptsRow], expected: list[tuple[str, str]]) -> None:
    """Failures of one hash that hardly pays; failures in a minute; the share of failures in an hour and in a day."""
    assert levels(fraud.card_testing(rows, 0, LIMITS)) == expected


def test_in_a_rush_a_hash_needs_more_failures() -> None:
    """Of so many donors a few give up after three failures; one more is needed for each hundred hashes that failed."""
    rows = [row(Kind.HASH, 4, 4)]
    assert [len(fraud.card_testing(rows, hashes, LIMITS)) for hashes in (99, 199, 200)] == [1, 1, 0]


@pytest.mark.parametrize(
    ("attempts", "failures", "is_signal"), [(5, 5, True), (4, 2, False), (2, 2, False), (105, 100, False)]
)
def test_a_country_is_a_signal_only_together_with_failures(attempts: int, failures: int, is_signal: bool) -> None:
    """One from which hardly a payment comes is none by itself, and failures from a usual country are none either."""
    usual = row(Kind.COUNTRY, 100, 5, subject="DE")
    found = fraud.unusual_countries([usual, row(Kind.COUNTRY, attempts, failures, subject="BR")], LIMITS)
    assert [signal.subject for signal in found] == ["BR"] * is_signal
    assert fraud.unusual_countries([row(Kind.COUNTRY, 9, 9, subject="BR")], LIMITS) == []  # nothing to compare with


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=30))
@example([0, 0, 0, 0, 3600])
@example([0, 0, 0, 0, 3601])
def test_a_burst_is_the_most_payments_within_any_hour(times: list[int]) -> None:
    """Whenever the hour begins; checked against counting at each payment."""
    times.sort()
    most = max(sum(first <= at <= first + 3600 for at in times) for first in times)
    found = fraud.bursts([BurstRow(HASH, times, ["a", ""])], LIMITS)
    assert bool(found) is (most >= LIMITS.burst_payments)
    if found:
        assert found[0].reason.startswith(f"{most} payments with one e-mail hash")
        assert found[0].tickets == ("a",)


def refund(number: int, hash_: str | None = HASH, ticket: str | None = "a", payments: int = 3) -> SoonRefundRow:
    return SoonRefundRow(f"pi_{number}", ticket, hash_, AT, AT + 60 + number, payments)


@pytest.mark.parametrize(
    ("refunds", "expected"),
    [
        ([refund(n) for n in range(3)], ["hash", "ticket"]),
        ([refund(n) for n in range(2)], []),
        ([refund(n, hash_=f"{n}") for n in range(3)], ["ticket"]),
        ([refund(n, hash_=f"{n}", payments=16) for n in range(3)], []),  # usual for so many payments
        ([refund(n, ticket=None) for n in range(3)], ["hash"]),
    ],
)
def test_refunds_soon_after_payment_count_per_hash_and_ticket(
    refunds: list[SoonRefundRow], expected: list[str]
) -> None:
    """A single one is a mistake; a ticket with many payments has some."""
    found = fraud.soon_refunds(refunds, LIMITS)
    assert [signal.by for signal in found] == expected
    assert all((signal.since, signal.until) == (AT + 60, AT + 62) for signal in found)


def test_a_reason_is_a_sentence_without_its_subject() -> None:
    """So a log can contain it: neither a hash nor a ticket stands in it."""
    signals = [
        *fraud.card_testing([row(kind, 30, 29, worst=12, subject=HASH) for kind in Kind], 0, LIMITS),
        *fraud.bursts([BurstRow(HASH, [AT] * 9, ["story-1"])], LIMITS),
        *fraud.soon_refunds([refund(n, ticket="story-1") for n in range(3)], LIMITS),
    ]
    assert {signal.name for signal in signals} == {Name.CARD_TESTING, Name.BURST, Name.SOON_REFUNDS}
    for signal in signals:
        assert signal.reason.endswith(".")
        assert HASH not in signal.reason
        assert "story-1" not in signal.reason


def test_each_threshold_is_a_setting() -> None:
    """Each has its variable, the same default, and a wrong value is reported with its name."""
    needed = {"DATABASE_URL": "postgresql://localhost/x"}
    assert CommandConfig.from_environ(needed).fraud_thresholds == LIMITS
    for name in Thresholds._fields:
        variable = f"FRAUD_{name.upper()}"
        assert getattr(CommandConfig.from_environ({**needed, variable: "7"}).fraud_thresholds, name) == 7
        with pytest.raises(ConfigError, match=variable):
            CommandConfig.from_environ({**needed, variable: "-1"})


@pytest.mark.parametrize(("fee", "shown"), [("15.00 USD", "$15.00"), ("2.500 KWD", "KWD 2.500")])
def test_the_fee_of_a_dispute_is_an_exact_amount(fee: str, shown: str) -> None:
    """It has the decimals of its currency, and no other form is accepted."""
    needed = {"DATABASE_URL": "postgresql://localhost/x"}
    assert CommandConfig.from_environ({**needed, "DISPUTE_FEE": fee}).shown_dispute_fee == shown
    for wrong in (f"-{fee}", fee.replace(" ", ""), fee.lower(), f"{fee}X", fee.replace(" ", "0 "), f".{fee}", "15"):
        with pytest.raises(ConfigError, match="DISPUTE_FEE: needs an amount with all its decimals"):
            CommandConfig.from_environ({**needed, "DISPUTE_FEE": wrong})
    assert CommandConfig.from_environ({**needed, "DISPUTE_FEE": "1500 JPY"}).shown_dispute_fee == "¥1500"


# --- counting ----------------------------------------------------------------------------------------------------


def test_an_attempt_counts_for_all_that_it_names() -> None:
    """By minute; a hash that has failed counts its payments too."""
    counter = AttemptCounter(lambda: AT + 61.5)
    counter.count(Attempt(True, "", "story-1", "DE", HASH))
    counter.count(Attempt(False, "acct_1", None, None, HASH))
    counter.count(Attempt(False, "", "story-1", None, "b" * 64))
    minute = AT + 60
    assert sorted(counter.take()) == [
        Counted(Kind.ACCOUNT, "", minute, 2, 1),
        Counted(Kind.ACCOUNT, "acct_1", minute, 1, 0),
        Counted(Kind.COUNTRY, "DE", minute, 1, 1),
        Counted(Kind.HASH, HASH, minute, 2, 1),
        Counted(Kind.HASH, "b" * 64, minute, 1, 0),
        Counted(Kind.TICKET, "story-1", minute, 2, 1),
    ]
    assert counter.take() == []


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc"), st.sampled_from([None, "x", "y"])), max_size=40))
def test_what_could_not_be_stored_counts_again(drawn: list[tuple[bool, str, str | None]]) -> None:
    """Taken and put back at any moment, the counts are those of a counter that was left alone."""
    attempts = [Attempt(failed, account, None, None, hash_) for failed, account, hash_ in drawn]
    alone, interrupted = AttemptCounter(lambda: AT), AttemptCounter(lambda: AT)
    for attempt in attempts:
        alone.count(attempt)
        interrupted.count(attempt)
        interrupted.put_back(interrupted.take())
    assert sorted(interrupted.take()) == sorted(alone.take())


def test_a_hundred_thousand_attempts_take_less_than_a_megabyte() -> None:
    """With ten thousand tickets and hashes, and never stored: what is too much is counted, and not kept."""
    numbers = count()
    counter = AttemptCounter(lambda: AT + next(numbers) / 100)
    for number in range(10_000):
        for failed in (True, False) * 5:
            counter.count(Attempt(failed, "", f"ticket-{number}", "DE", f"{number:064x}"))
    assert memory(vars(counter), set()) < 1_000_000
    taken = counter.take()
    assert len(taken) <= 5 * MAX_SUBJECTS
    assert sum(each.attempts for each in taken if each.kind is Kind.ACCOUNT) == 100_000
    assert counter.not_counted > 0


def memory(value: object, seen: set[int]) -> int:
    """The bytes of an object and of all that it contains."""
    if id(value) in seen:
        return 0
    seen.add(id(value))
    inside: Iterable[object] = ()
    if isinstance(value, dict):
        inside = chain(value.keys(), value.values())
    elif isinstance(value, list | tuple):
        inside = value
    return sys.getsizeof(value) + sum(memory(each, seen) for each in inside)


# --- how often they are right ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_nine_of_ten_signals_are_right_and_nine_of_ten_attacks_are_found(seed: int) -> None:
    """In a labelled world with rushes of honest donors, shared e-mails and mistakes (`make fraud-figures`)."""
    figures = measure(seed, 50)
    assert figures.precision >= REQUIRED, figures.table()
    assert figures.recall >= REQUIRED, figures.table()
    assert set(figures.found) == {"fast", "slow", "cashing", "refunds"}


def test_an_alarm_does_not_wait_for_the_end_of_the_day() -> None:
    """A fast attack is an alarm from its tenth failure in a minute on, whatever else the hour contained."""
    before = row(Kind.TICKET, 500, 20, worst=3)
    assert fraud.card_testing([before], 0, LIMITS) == []
    [signal] = fraud.card_testing([before._replace(attempts=510, failures=30, worst_minute=10)], 0, LIMITS)
    assert signal.level is Level.ALARM
