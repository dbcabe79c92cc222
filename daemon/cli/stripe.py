"""What `donationd stripe setup` and `donationd stripe check` do."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click

from daemon.cli.arguments import Failure
from daemon.cli.settings import settings
from daemon.instance import environment, state_folder
from daemon.instance.console import CannotStart
from daemon.runtime.config import set_variables
from daemon.stripe_api.account_check import account_problems
from daemon.stripe_api.client import StripeApi, StripeRejected, StripeUnavailable
from daemon.stripe_api.config import StripeAccount
from daemon.stripe_api.webhook_endpoint import WebhookEndpoint, endpoint_url
from daemon.stripe_api.webhook_endpoint import set_up as set_up_endpoint

T = TypeVar("T")

NO_KEY = "STRIPE_API_KEY: not set; use a key from Stripe's dashboard, under Developers, API keys"
CALL_S = 15.0  # for one call, while a person waits; Stripe usually answers within a second
TOTAL_S = 60.0  # for all calls of a command: some fifteen
SECRET = "STRIPE_WEBHOOK_SECRET"  # noqa: S105 - the name of a variable


def set_up(url: str | None, *, replace: bool, as_json: bool) -> None:
    """Makes or corrects the endpoint, and prints what was done, with the secret of a new one."""
    config = settings(StripeAccount)
    wanted = _given_url(url) or config.endpoint_url
    if wanted is None:
        raise Failure("name the address at which Stripe reaches the API: --url https://give.example.org, or PUBLIC_URL")
    kept: list[Path] = []

    def created(made: WebhookEndpoint) -> None:
        kept.extend(_keep(made.secret or ""))
        if not as_json:
            click.echo(f"secret: {made.secret}")

    results = _ask(config, lambda stripe: set_up_endpoint(stripe, wanted, replace=replace, created=created))
    made = next((result.endpoint for result in results if result.endpoint.secret), None)
    if as_json:
        endpoints = [{"id": endpoint.id, "action": action} for action, endpoint in results]
        click.echo(
            json.dumps(
                {
                    "url": wanted,
                    "endpoints": endpoints,
                    "secret": made and made.secret,
                    "kept": str(kept[0]) if kept else None,
                }
            )
        )
    else:
        for action, endpoint in results:
            click.echo(f"{action}: the webhook endpoint {endpoint.id} for {wanted}")
    click.echo(_next_step(kept) if made else _where_the_secret_is(wanted), err=True)


def check(url: str | None, *, as_json: bool) -> int:
    """Prints what is wrong at Stripe, with what to do about it; returns the exit status."""
    config = settings(StripeAccount)
    wanted = _given_url(url) or config.endpoint_url
    problems = _ask(
        config,
        lambda stripe: account_problems(
            stripe, wanted, livemode=config.stripe_livemode, has_checkout=config.public_url is not None
        ),
    )
    if as_json:
        named = [{"problem": text, "remedy": remedy} for text, remedy in problems]
        click.echo(json.dumps({"ok": not problems, "problems": named}))
    else:
        for text, remedy in problems:
            click.echo(f"{text}\n  {remedy}")
        if not problems:
            click.echo("the key, its permissions and the webhook endpoint are as they should be")
    return 1 if problems else 0


def _given_url(url: str | None) -> str | None:
    try:
        return endpoint_url(url) if url else None
    except ValueError as error:
        raise click.UsageError(f"--url {error}") from None


def _ask(config: StripeAccount, question: Callable[[StripeApi], Awaitable[T]]) -> T:
    if config.stripe_api_key is None:
        raise Failure(NO_KEY)

    async def answer() -> T:
        stripe = StripeApi(config, deadline_s=CALL_S)
        try:
            async with asyncio.timeout(TOTAL_S):
                return await question(stripe)
        finally:
            await stripe.close()

    advice = f"check that this machine reaches {config.stripe_api_base}, and try again later"
    try:
        return asyncio.run(answer())
    except StripeUnavailable as error:
        raise Failure(f"{error}; {advice}") from None
    except TimeoutError:
        raise Failure(f"Stripe's API did not answer every call within {TOTAL_S:g} s; {advice}") from None
    except StripeRejected as rejection:
        raise Failure(f"{rejection}; `donationd stripe check` says more") from None


def _keep(secret: str) -> list[Path]:
    """Adds the secret to those of this folder's embedded instance, unless another database is meant.

    Returns the file that contains it now, if any.
    """
    if {"DATABASE_URL", SECRET} & set_variables(os.environ).keys():
        return []
    state = state_folder.state_folder()
    try:
        state_folder.make_folders(state)
        return [environment.keep_signing_secret(state, secret)]
    except (CannotStart, OSError) as error:
        click.echo(f"the secret was not kept in {state}: {error}", err=True)
        return []


def _next_step(kept: list[Path]) -> str:
    if kept:
        return f"the secret was added to {kept[0]}: start `donationd up --embedded` (or `make run`) again, if it runs"
    return f"the secret is not shown again: add it to {SECRET}, after a comma if one is set, and start donationd again"


def _where_the_secret_is(url: str) -> str:
    return (
        "its secret was printed when it was made, and Stripe's dashboard shows it under Webhooks; for another one: "
        f"donationd stripe setup --url {url} --replace"
    )
