"""What `donationd simulate` does: invented payments, sent to a running API as signed Stripe events."""

import asyncio
import sys
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import aiohttp
import click

from daemon.api.config import CommandConfig
from daemon.cli.arguments import Failure
from daemon.cli.database import ask
from daemon.cli.settings import settings
from daemon.cli.tickets import NO_TICKETS
from daemon.instance.health_client import address
from daemon.ledger.tickets import State
from daemon.ledger.tickets import tickets as all_tickets
from daemon.simulator import scenarios, sender

FIRST_REPLY_S = 5.0  # of the API, before anything is sent


def simulate(payments: int, seed: int | None, url: str | None) -> None:
    """Sends the payments and prints what became of their events."""
    config = settings(CommandConfig)
    secret = _signing_secret(config)
    tickets = [ticket.id for ticket in ask(all_tickets) if ticket.state is not State.HIDDEN]
    if not tickets:
        raise Failure(NO_TICKETS)
    base = url or f"http://{address(config.host, config.port)}"
    if reason := asyncio.run(sender.no_reply_reason(base, FIRST_REPLY_S)):
        raise Failure(
            f"no API replies at {base} ({reason}): start it there with `donationd up`, or name its address with --url"
        )
    chosen = seed if seed is not None else time.time_ns() % 2**31
    now = int(time.time())
    generated = scenarios.generate(chosen, payments, tickets, now=now)
    if urlsplit(config.stripe_api_base).hostname == "127.0.0.1":
        _add_to_fake(config.stripe_api_base, {"seed": chosen, "payments": payments, "tickets": tickets, "now": now})
    events = scenarios.shuffled(generated, chosen)
    outcome = asyncio.run(sender.deliver(base, secret, events, progress=print_progress))
    click.echo(err=True)
    click.echo(f"{payments} payments (seed {chosen}), {_summary(outcome)}")
    click.echo(f"next: donationd ledger {tickets[0]}", err=True)
    if outcome.interrupted:
        sys.exit(130)
    if outcome.refused or outcome.undelivered:
        raise Failure(
            f"not every event was accepted (replies: {outcome.replies}); is the API at {base} running and ready?"
        )


def _add_to_fake(base: str, arguments: Mapping[str, object]) -> None:
    """Lets the fake of Stripe's API make the same payments, so that it has the objects of the events."""
    try:
        asyncio.run(sender.control_fake(base, "play", arguments))
    except aiohttp.ClientError as error:
        raise Failure(
            f"the fake of Stripe's API at {base} does not take the payments ({type(error).__name__}): is "
            "STRIPE_API_BASE the one that `donationd up --with-fake-stripe` prints?"
        ) from None


def _signing_secret(config: CommandConfig) -> str:
    """What the events are signed with; fails where invented payments must not be sent, or can't be signed."""
    if config.stripe_livemode:
        raise Failure(
            "this ledger is in live mode, and invented payments do not belong in it: for a trial use another database, "
            "with STRIPE_LIVEMODE=false for the API and for this command (`donationd up --embedded` sets it by itself)"
        )
    if not config.signing_secrets:
        raise Failure("set STRIPE_WEBHOOK_SECRET to the API's signing secret, or start `donationd up --embedded` here")
    return config.signing_secrets[0]


def _summary(outcome: sender.Outcome) -> str:
    return (
        f"{outcome.total} deliveries: {outcome.applied} applied, {outcome.duplicate} seen before, "
        f"{outcome.ignored} without effect, {outcome.refused} refused, {outcome.undelivered} not delivered"
    )


def print_progress(outcome: sender.Outcome) -> None:
    """How many events have a final answer, on a terminal."""
    if sys.stderr.isatty():
        click.echo(f"\r{outcome.total - outcome.remaining} of {outcome.total} delivered", nl=False, err=True)
