"""`donationd stripe`: the settings at Stripe."""

import sys

import click

from daemon.cli.arguments import json_option

url_option = click.option(
    "--url",
    metavar="URL",
    help="Where Stripe reaches the API, such as https://give.example.org; without it PUBLIC_URL.",
)


@click.group()
def stripe() -> None:
    """Set up what is needed at Stripe, and check it.

    Both commands need STRIPE_API_KEY.

    \b
    Examples:
      donationd stripe setup --url https://give.example.org
      donationd stripe check
    """


@stripe.command("setup")
@url_option
@click.option(
    "--replace",
    is_flag=True,
    help="Make a new endpoint with a new secret and this release's API version, and delete the one that there is.",
)
@json_option
def _setup(url: str | None, replace: bool, as_json: bool) -> None:
    """Make the webhook endpoint at Stripe, or correct the one that there is.

    It receives exactly the events that donationd uses, in a fixed version of Stripe's API. The signing secret of a new
    endpoint is printed once; where DATABASE_URL is not set it is also added to the secrets of `donationd up --embedded`
    in this folder. For a URL there is never a second endpoint. The command can be interrupted and repeated.

    Without a path in URL, /webhooks/stripe is added.

    \b
    Examples:
      donationd stripe setup --url https://give.example.org
      donationd stripe setup --url https://give.example.org --replace
      donationd stripe setup --json | jq -r .secret
    """
    from daemon.cli import stripe

    stripe.set_up(url, replace=replace, as_json=as_json)


@stripe.command("check")
@url_option
@json_option
def _check(url: str | None, as_json: bool) -> None:
    """Compare the key, its permissions and the webhook endpoint with what donationd needs.

    Each problem is printed with the command, or the step in Stripe's dashboard, that corrects it; the exit status is
    then 1. Nothing is changed. Without --url and PUBLIC_URL the endpoint is recognized by what `stripe setup` wrote
    into its metadata.

    \b
    Examples:
      donationd stripe check
      donationd stripe check --url https://give.example.org --json | jq .problems
    """
    from daemon.cli import stripe

    sys.exit(stripe.check(url, as_json=as_json))
