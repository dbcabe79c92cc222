"""Pure: which attempts, payments, refunds and warnings are signals of fraud, and why (SPEC 11).

A signal is a reason to look, never an action: nothing is refused, refunded or hidden because of one. Each rule is a
function from what was counted to signals; `Thresholds` are its settings. What is counted comes from `attempts.py` and
from the journal, `fraud_report.py` reads it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from msgspec import Struct

from daemon.reports.attempts import Kind
from daemon.reports.early_warnings import EarlyWarning, State
from daemon.reports.fraud_thresholds import Thresholds

HOUR_S = 3600


class Name(StrEnum):
    """The signals, by the names that metrics and reports have for them."""

    CARD_TESTING = "card-testing"
    BURST = "burst"
    SOON_REFUNDS = "soon-refunds"
    EARLY_WARNING = "early-warning"
    COUNTRY = "country"


class Level(StrEnum):
    """How sure a signal is: something to look at, or something that goes on now."""

    SUSPICIOUS = "suspicious"
    ALARM = "alarm"


class AttemptsRow(NamedTuple):
    """A row of list_attempts.sql: the attempts in one hour, which begins at `hour` (Unix seconds)."""

    kind: Kind
    subject: str
    hour: int
    attempts: int
    failures: int
    worst_minute: int


class BurstRow(NamedTuple):
    """A row of payment_bursts.sql: one e-mail hash."""

    hash: str
    paid_at: list[int]
    tickets: list[str]


class SoonRefundRow(NamedTuple):
    """A row of soon_refunds.sql: one donation, and the number of payments for its ticket in the same 24 hours."""

    donation: str
    ticket: str | None
    hash: str | None
    paid_at: int
    refunded_at: int
    ticket_payments: int


class Signal(Struct, frozen=True):
    """Something to look at.

    Args:
        by: what `subject` is: an account, ticket, hash, country or donation.
        subject: its id; '' is the charity's own account.
        reason: a sentence without the subject, so that a log that must not contain a hash can contain it.
        since, until: when it began, and when something of it happened last, in Unix seconds; of attempts only the hours
            are known, by their beginnings.
        tickets: which tickets it concerns, if that is known.
    """

    name: Name
    level: Level
    by: str
    subject: str
    reason: str
    since: int
    until: int
    tickets: tuple[str, ...] = ()


class _Subject(Struct):
    """All that was counted for one subject."""

    kind: Kind
    id: str
    hours: Sequence[AttemptsRow]

    @property
    def attempts(self) -> int:
        return sum(hour.attempts for hour in self.hours)

    @property
    def failures(self) -> int:
        return sum(hour.failures for hour in self.hours)

    @property
    def since(self) -> int:
        """The first hour with a failure."""
        return min((hour.hour for hour in self.hours if hour.failures), default=0)

    @property
    def until(self) -> int:
        """The last hour with a failure."""
        return max((hour.hour for hour in self.hours if hour.failures), default=0)

    @property
    def tickets(self) -> tuple[str, ...]:
        return (self.id,) if self.kind == Kind.TICKET else ()


def _subjects(rows: Iterable[AttemptsRow]) -> Iterator[_Subject]:
    of_subject = attrgetter("kind", "subject")
    for (kind, id_), hours in groupby(sorted(rows, key=of_subject), key=of_subject):
        yield _Subject(kind, id_, list(hours))


def card_testing(rows: Iterable[AttemptsRow], failed_hashes: int, limits: Thresholds) -> list[Signal]:
    """Who tries stolen cards makes many small attempts, most of which fail.

    An alarm for an account or ticket with too many failures in a minute, or whose attempts mostly failed, in one of the
    hours or in all of them. A hash is suspicious from a few failures on, unless it has paid: a donor who mistypes a
    card tries again until it works. Where very many donors come, a few give up after as many failures.

    Args:
        failed_hashes: how many e-mail hashes failed at least once.
    """
    found = []
    needed = limits.hash_failures + failed_hashes // limits.rush_hashes
    for subject in _subjects(rows):
        if subject.kind == Kind.HASH and _fails(subject, needed, limits):
            reason = (
                f"{_of_attempts(subject.failures, subject.attempts)} with one e-mail hash failed within 24 hours "
                f"({needed} are suspicious)."
            )
            found.append(_testing(subject, Level.SUSPICIOUS, reason))
        elif subject.kind in (Kind.ACCOUNT, Kind.TICKET) and (reason := _testing_reason(subject, limits)):
            found.append(_testing(subject, Level.ALARM, reason))
    return found


def _fails(subject: _Subject, needed: int, limits: Thresholds) -> bool:
    """Whether a hash or country has the needed number of failures, and hardly any success."""
    is_share = subject.failures * 100 >= subject.attempts * limits.failed_percent
    return is_share and subject.failures >= needed


def _testing(subject: _Subject, level: Level, reason: str) -> Signal:
    since, until = subject.since, subject.until
    return Signal(Name.CARD_TESTING, level, subject.kind, subject.id, reason, since, until, subject.tickets)


def _testing_reason(subject: _Subject, limits: Thresholds) -> str:
    """Why an account or ticket is an alarm; '' if it is none."""
    worst = max(hour.worst_minute for hour in subject.hours)
    if worst >= limits.minute_failures:
        return f"{worst} attempts failed within one minute (the limit is {limits.minute_failures})."
    for hour in sorted(subject.hours, key=attrgetter("failures"), reverse=True):
        if _mostly_failed(hour.attempts, hour.failures, limits):
            return f"{_of_attempts(hour.failures, hour.attempts)} failed within one hour ({_limit(limits)})."
    if _mostly_failed(subject.attempts, subject.failures, limits):
        return f"{_of_attempts(subject.failures, subject.attempts)} failed within 24 hours ({_limit(limits)})."
    return ""


def _mostly_failed(attempts: int, failures: int, limits: Thresholds) -> bool:
    return attempts >= limits.min_attempts and failures * 100 >= attempts * limits.failed_percent


def _of_attempts(failures: int, attempts: int) -> str:
    return f"{failures} of {attempts} attempts"


def _limit(limits: Thresholds) -> str:
    return f"the limit is {limits.failed_percent} % of at least {limits.min_attempts}"


def unusual_countries(rows: Iterable[AttemptsRow], limits: Thresholds) -> list[Signal]:
    """A country from which hardly any payment comes, and from which attempts fail. Neither alone is a signal."""
    countries = [subject for subject in _subjects(rows) if subject.kind == Kind.COUNTRY]
    paid = sum(country.attempts - country.failures for country in countries)
    found = []
    for country in countries:
        from_here = country.attempts - country.failures
        if paid and _fails(country, limits.hash_failures, limits) and from_here * 100 <= paid * limits.country_percent:
            reason = (
                f"{_of_attempts(country.failures, country.attempts)} from a country failed that {from_here} of the "
                f"{paid} payments of 24 hours came from (up to {limits.country_percent} % is unusual)."
            )
            since, until = country.since, country.until
            found.append(Signal(Name.COUNTRY, Level.SUSPICIOUS, Kind.COUNTRY, country.id, reason, since, until))
    return found


def bursts(rows: Iterable[BurstRow], limits: Thresholds) -> list[Signal]:
    """One donor, by e-mail hash, who pays again and again within an hour."""
    found = []
    for row in rows:
        most, since = _most_within(row.paid_at, HOUR_S)
        if most >= limits.burst_payments:
            reason = f"{most} payments with one e-mail hash within one hour ({limits.burst_payments} are suspicious)."
            tickets = tuple(ticket for ticket in row.tickets if ticket)
            found.append(
                Signal(Name.BURST, Level.SUSPICIOUS, Kind.HASH, row.hash, reason, since, row.paid_at[-1], tickets)
            )
    return found


def _most_within(times: Sequence[int], length_s: int) -> tuple[int, int]:
    """The most of these times, which are in order, that lie within so many seconds, and the first of them."""
    most, since, first = 0, 0, 0
    for number, at in enumerate(times, 1):
        while times[first] < at - length_s:
            first += 1
        if number - first > most:
            most, since = number - first, times[first]
    return most, since


def soon_refunds(rows: Iterable[SoonRefundRow], limits: Thresholds) -> list[Signal]:
    """Several donations of one hash or ticket that were refunded soon after they were paid: who pays with a stolen card
    may ask for the money on another way. A single one is nearly always a mistake of the donor."""
    groups: dict[tuple[Kind, str], list[SoonRefundRow]] = defaultdict(list)
    for row in rows:
        if row.hash:
            groups[Kind.HASH, row.hash].append(row)
        if row.ticket:
            groups[Kind.TICKET, row.ticket].append(row)
    found = []
    for (kind, subject), refunds in groups.items():
        payments = refunds[0].ticket_payments
        is_usual = kind == Kind.TICKET and len(refunds) * 100 < payments * limits.soon_refund_percent
        if len(refunds) >= limits.soon_refunds and not is_usual:
            reason = (
                f"{len(refunds)} donations of one {'e-mail hash' if kind == Kind.HASH else 'ticket'} were refunded "
                f"within {limits.soon_refund_hours} hours of their payment ({limits.soon_refunds} are suspicious)."
            )
            tickets = tuple(sorted({row.ticket for row in refunds if row.ticket}))
            times = sorted(row.refunded_at for row in refunds)
            found.append(
                Signal(Name.SOON_REFUNDS, Level.SUSPICIOUS, kind, subject, reason, times[0], times[-1], tickets)
            )
    return found


def open_warnings(warnings: Iterable[EarlyWarning], dispute_fee: str | None) -> list[Signal]:
    """Each early fraud warning that still waits for a decision."""
    return [
        Signal(
            Name.EARLY_WARNING,
            Level.SUSPICIOUS,
            "donation",
            warning.donation,
            warning.reason(dispute_fee),
            warning.made_at,
            warning.made_at,
            (warning.ticket,) if warning.ticket else (),
        )
        for warning in warnings
        if warning.state is State.OPEN
    ]
