"""What `donationd demo` does: an embedded instance, its tickets, and invented payments that its API receives."""

import asyncio
from collections.abc import Mapping
from decimal import Decimal
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from daemon.api.config import CommandConfig
from daemon.cli.arguments import Failure
from daemon.cli.simulate import print_progress
from daemon.instance.console import CannotStart, say
from daemon.instance.environment import made_operator_token
from daemon.instance.health_client import address
from daemon.instance.up import up
from daemon.ledger import tickets
from daemon.ledger.tickets import TicketChange
from daemon.runtime.config import set_variables
from daemon.simulator import scenarios, sender
from daemon.stripe_api.client import StripeApi
from daemon.stripe_api.config import WEBHOOK_PATH
from daemon.stripe_api.webhook_endpoint import set_up
from sql.database import Database

ACTOR = "demo"  # in the audit log
SEED = 7
# A goal that is not reached yet, one that is exceeded, and none.
TICKETS = {
    "well": TicketChange(title="A well for the village", currency="USD", goal=Decimal(25_000)),
    "school": TicketChange(title="A roof for the school", currency="USD", goal=Decimal(5_000)),
    "library": TicketChange(title="مكتبة للأطفال", currency="USD"),
}


def run(given: Mapping[str, str], payments: int, stop_with: int | None) -> int:
    """Runs the instance until it is stopped; returns the exit status.

    Args:
        given: the environment.
        stop_with: the pid of the parent process: stop also when it ends.
    """
    variables = set_variables(given)
    if "DATABASE_URL" in variables or variables.get("STRIPE_LIVEMODE", "false") != "false":
        raise Failure(
            "the payments of the demo are invented and belong into the embedded database only: unset DATABASE_URL and "
            "STRIPE_LIVEMODE"
        )
    return up(
        embedded=True, stop_with=stop_with, fake_stripe=True, when_ready=partial(fill_and_welcome, payments)
    )  # fmt: skip


def fill_and_welcome(payments: int, environ: Mapping[str, str], state: Path) -> None:
    """Adds the tickets, sends the payments, and prints what to open. Raises CannotStart if the API rejects an event.

    Args:
        environ: of the instance's processes.
        state: its state folder.
    """
    config = CommandConfig.from_environ(environ)
    base = f"http://{address(config.host, config.port)}"
    say(f"sending {payments} invented payments to the API")
    if config.stripe_api_key:
        asyncio.run(set_up_endpoint(config))
    begun_at = asyncio.run(_add_tickets(config))
    outcome = asyncio.run(_send_payments(config, base, payments, begun_at))
    if outcome.refused or outcome.undelivered:
        replies = dict(outcome.replies)
        raise CannotStart(f"the API did not accept every event: {replies}; {state}/logs/api_00.log says why")
    token = made_operator_token(environ, state)
    say(_welcome(base, token or "a token of OPERATOR_TOKENS", state))


async def _add_tickets(config: CommandConfig) -> int:
    """Adds those that are missing; returns when the first one was added, in Unix seconds."""
    database = Database(
        config.database_url.get_secret_value(),
        pool_size=1,
        statement_timeout_s=10,
        connect_timeout_s=5,
        application_name="donationd demo",
        schema=config.ledger_schema,
    )
    try:
        added = [
            await tickets.put(database, id_, change, actor=ACTOR, default_currency=config.default_currency)
            for id_, change in TICKETS.items()
        ]
    finally:
        await database.close()
    return int(min(ticket.created_at for ticket, _is_new in added).timestamp())


async def _send_payments(config: CommandConfig, base: str, payments: int, begun_at: int) -> sender.Outcome:
    """The month before the first start: the same events each time, and then the same payments at the fake of Stripe, so
    that the jobs find nothing there that was not received."""
    generated = scenarios.generate(SEED, payments, list(TICKETS), now=begun_at)
    events = scenarios.shuffled(generated, SEED)
    outcome = await sender.deliver(base, config.signing_secrets[0], events, progress=print_progress)
    if urlsplit(config.stripe_api_base).hostname == "127.0.0.1":
        arguments = {"seed": SEED, "payments": payments, "tickets": list(TICKETS), "now": begun_at}
        await sender.control_fake(config.stripe_api_base, "play", arguments)
    return outcome


async def set_up_endpoint(config: CommandConfig) -> None:
    """What `donationd stripe setup` does for the endpoint that the fake of Stripe has (deploy/fake_stripe.conf)."""
    stripe = StripeApi(config)
    try:
        await set_up(stripe, f"http://{config.host}:{config.port}{WEBHOOK_PATH}")
    finally:
        await stripe.close()


def _welcome(base: str, token: str, state: Path) -> str:
    pages = "\n".join(f"  {base}/tickets/{id_}" for id_ in TICKETS)
    return f"""
The demo is ready. The pages that donors see, and can give on, at a fake of Stripe's Checkout:

{pages}

The operator console, and the token to sign in with:

  {base}/operator
  {token}

Everything is in {state}; Ctrl-C stops it, and `make run` shows the same ledger again."""
