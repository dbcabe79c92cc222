"""What `donationd report fraud` does."""

from datetime import UTC, datetime

import click
import msgspec

from daemon.api.config import CommandConfig
from daemon.cli.database import LONG_S, ask
from daemon.cli.settings import settings
from daemon.ledger.donation import minute
from daemon.reports.attempts import Kind
from daemon.reports.fraud import Signal
from daemon.reports.fraud_report import find_signals


def print_signals(*, as_json: bool) -> None:
    """Prints every signal, alarms first."""
    config, now = settings(CommandConfig), datetime.now(UTC)
    signals = ask(
        lambda database: find_signals(database, config.fraud_thresholds, now, config.shown_dispute_fee),
        timeout_s=LONG_S,
    )
    for signal in signals:
        click.echo(_json(signal) if as_json else _text(signal))
    click.echo(f"{len(signals)} signals of fraud in the 24 hours until {minute(now)} UTC", err=True)


def _json(signal: Signal) -> bytes:
    times = {name: datetime.fromtimestamp(getattr(signal, name), UTC) for name in ("since", "until")}
    return msgspec.json.encode({**msgspec.structs.asdict(signal), **times})


def _text(signal: Signal) -> str:
    """`[2026-11-26 10:00] alarm       card-testing   ticket story-1: 30 of 31 attempts failed within one hour (…).`"""
    since = minute(datetime.fromtimestamp(signal.since, UTC))
    subject = signal.subject or "of the charity"
    tickets = f" For {', '.join(signal.tickets)}." if signal.tickets and signal.by != Kind.TICKET else ""
    return f"[{since}] {signal.level:<10}  {signal.name:<13}  {signal.by} {subject}: {signal.reason}{tickets}"
