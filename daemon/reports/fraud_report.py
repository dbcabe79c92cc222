"""Reads what the signals of fraud are made from, and orders them for people (SPEC 11)."""

from datetime import datetime, timedelta

from daemon.reports import fraud
from daemon.reports.attempts import Kind
from daemon.reports.early_warnings import read_warnings
from daemon.reports.fraud import AttemptsRow, BurstRow, Level, Signal, SoonRefundRow
from daemon.reports.fraud_thresholds import Thresholds
from sql import load
from sql.database import Database

DAY = timedelta(hours=24)


async def attempt_signals(database: Database, limits: Thresholds) -> list[Signal]:
    """The signals that attempts give. They are counted in a small table, so this can be asked every few seconds."""
    rows = await database.fetch(load("list_attempts"), {"failures": limits.fewest_failures})
    attempts = [AttemptsRow(Kind(kind), *rest) for kind, *rest in rows]
    [(failed_hashes,)] = await database.fetch(load("failed_hashes"))
    return fraud.card_testing(attempts, failed_hashes, limits) + fraud.unusual_countries(attempts, limits)


async def ledger_signals(
    database: Database, limits: Thresholds, now: datetime, dispute_fee: str | None
) -> list[Signal]:
    """The signals that payments, refunds and early fraud warnings give.

    Args:
        now: payments and refunds of the 24 hours before it count, by the time when they were recorded.
        dispute_fee: for the reason of a warning; None if it is not configured.
    """
    since = now - DAY
    payments = await database.fetch(load("payment_bursts"), {"since": since, "payments": limits.burst_payments})
    within_s = limits.soon_refund_hours * fraud.HOUR_S
    refunds = await database.fetch(load("soon_refunds"), {"since": since, "within_s": within_s})
    return [
        *fraud.bursts(map(BurstRow._make, payments), limits),
        *fraud.soon_refunds(map(SoonRefundRow._make, refunds), limits),
        *fraud.open_warnings(await read_warnings(database), dispute_fee),
    ]


async def find_signals(database: Database, limits: Thresholds, now: datetime, dispute_fee: str | None) -> list[Signal]:
    """Every signal: alarms first, then by kind, the newest first."""
    found = await attempt_signals(database, limits) + await ledger_signals(database, limits, now, dispute_fee)
    return sorted(found, key=lambda signal: (signal.level != Level.ALARM, signal.name, -signal.since, signal.subject))
