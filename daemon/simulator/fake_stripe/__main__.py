"""The fake as a program: serves on 127.0.0.1 until it is stopped."""

import asyncio
import os
import signal
import sys
import time

import click

from daemon.simulator import scenarios
from daemon.simulator.balance import DOLLARS, RATES
from daemon.simulator.fake_stripe.fake import TEST_KEY, FakeStripe
from daemon.simulator.fake_stripe.server import serving
from daemon.simulator.fake_stripe.webhook_endpoints import WebhookEndpoint

PORT = 12111  # that of Stripe's own stripe-mock


@click.command(
    epilog="""\b
    Examples:
      python -m daemon.simulator.fake_stripe
      python -m daemon.simulator.fake_stripe --port 0 --payments 1000 --seed 7
      curl http://127.0.0.1:12111/v1/charges -u sk_test_fake:
      STRIPE_WEBHOOK_SECRET=whsec_… python -m daemon.simulator.fake_stripe \\
          --webhook http://127.0.0.1:3003/webhooks/stripe
    """
)
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0 takes a free one.")
@click.option("--payments", type=click.IntRange(0), default=0, help="So many payments of the last 30 days exist.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed gives the same payments.")
@click.option(
    "--currency",
    type=click.Choice(sorted(RATES)),
    default=DOLLARS,
    show_default=True,
    help="What the account settles in.",
)
@click.option("--ticket", "tickets", multiple=True, default=("story-1",), help="What the payments are for; several.")
@click.option("--webhook", metavar="URL", help="An endpoint that receives every event from now on.")
def main(*, port: int, payments: int, seed: int, currency: str, tickets: tuple[str, ...], webhook: str | None) -> None:
    """Serves a fake of Stripe's API on 127.0.0.1, with a world that lasts as long as the process.

    It prints its address on standard output. It accepts the API keys in STRIPE_API_KEY (comma separated), or
    sk_test_fake; events for --webhook are signed with STRIPE_WEBHOOK_SECRET.
    """
    keys = os.environ.get("STRIPE_API_KEY") or TEST_KEY
    fake = FakeStripe(keys.split(","), currency=currency)
    fake.add(scenarios.generate(seed, payments, tickets, now=int(time.time())))
    if webhook is not None:
        secret = os.environ.get("STRIPE_WEBHOOK_SECRET", "").partition(",")[0]
        if not secret:
            raise click.UsageError("set STRIPE_WEBHOOK_SECRET to the endpoint's signing secret")
        fake.world.collections["webhook_endpoint"].add(
            WebhookEndpoint("we_1Configured", int(time.time()), webhook, ["*"], fake.api.version, False, secret)
        )
    sys.exit(asyncio.run(_serve(fake, port)))


async def _serve(fake: FakeStripe, port: int) -> int:
    """Serves until a signal; returns the exit status."""
    stopped: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 0)):
        asyncio.get_running_loop().add_signal_handler(number, _stop, stopped, status)
    try:
        async with serving(fake, port):
            click.echo(fake.base_url)
            return await stopped
    except OSError as error:
        click.echo(
            f"the fake of Stripe can't listen on port {port} ({error.strerror}): choose another --port", err=True
        )
        return 1


def _stop(stopped: asyncio.Future[int], status: int) -> None:
    if not stopped.done():
        stopped.set_result(status)


if __name__ == "__main__":
    main(prog_name="python -m daemon.simulator.fake_stripe")
