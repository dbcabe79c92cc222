"""`donationd simulate`: invented payments for a trial."""

import click


@click.command()
@click.option(
    "--payments", type=click.IntRange(1, 1_000_000), default=20, show_default=True, help="Send this many payments."
)
@click.option("--seed", type=int, help="The same seed gives the same payments; without it they differ each time.")
@click.option("--url", help="The API's address; without it http://HOST:PORT.")
def simulate(payments: int, seed: int | None, url: str | None) -> None:
    """Send invented payments to a running API.

    They are paid, refunded, disputed, expired, or without a ticket; their Stripe events arrive out of order and some of
    them twice. The events are signed with STRIPE_WEBHOOK_SECRET and name the tickets that exist. A ledger in live mode
    (STRIPE_LIVEMODE) is refused.

    \b
    Examples:
      donationd simulate --payments 20
      donationd simulate --payments 1000 --seed 7 --url http://127.0.0.1:3003
    """
    from daemon.cli.simulate import simulate

    simulate(payments, seed, url)
