"""What `up` prints when the API is ready: what to open, and what to try next."""

import contextlib
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from daemon.api.config import Config
from daemon.instance.console import say
from daemon.instance.environment import made_operator_token, operator_token_file
from daemon.instance.health_client import address


def welcome(environ: Mapping[str, str], state: Path) -> None:
    """Prints the addresses, the folder of the logs, and the next commands."""
    api = address(environ["HOST"], environ["PORT"])
    metrics = address(environ["METRICS_HOST"], environ["METRICS_PORT"])
    donationd, supervisorctl = _command("donationd"), _command("supervisorctl")
    if "DONATIOND_FAKE_PORT" in environ:
        steps = _fake_steps(donationd, api, environ)
    elif Config.from_environ(environ).stripe_livemode:
        steps = _real_steps(donationd, api)
    else:
        steps = _trial_steps(donationd, api)
    say(f"""
donationd is ready.

  API        http://{api}/health
  console    {_console(environ, api, state)}
  metrics    http://{metrics}/metrics
  logs       {state}/logs
  processes  {supervisorctl} -s unix://{environ["DONATIOND_RUN"]}/supervisor.sock status

{steps}

Ctrl-C stops everything.""")


def _console(environ: Mapping[str, str], api: str, state: Path) -> str:
    """Where operators sign in, and with which token."""
    if not environ.get("OPERATOR_TOKENS"):
        return "closed until OPERATOR_TOKENS is set"
    made = made_operator_token(environ, state) is not None
    token = f"the token in {operator_token_file(state)}" if made else "a token of OPERATOR_TOKENS"
    return f"http://{api}/operator ({token})"


def _fake_steps(donationd: str, api: str, environ: Mapping[str, str]) -> str:
    base, key = environ["STRIPE_API_BASE"], environ["STRIPE_API_KEY"]
    return f"""A fake of Stripe's API listens at {base}. Try next, in another terminal:

  {donationd} tickets add story-1 --title "A well for the village"
  {donationd} simulate --payments 20
  {donationd} ledger story-1
  {donationd} stripe setup --url http://{api}
  curl {base}/v1/charges -u {key}:

Donate at http://{api}/tickets/story-1: the fake has a page in place of Stripe's. What it has is lost when it ends
(deploy/docs/fake-stripe.md)."""


def _trial_steps(donationd: str, api: str) -> str:
    return f"""Try next, in another terminal:

  {donationd} tickets add story-1 --title "A well for the village"
  {donationd} simulate --payments 20
  {donationd} ledger story-1

With a Stripe account (set STRIPE_WEBHOOK_SECRET to the secret it prints, and start again):

  stripe listen --forward-to {api}/webhooks/stripe"""


def _real_steps(donationd: str, api: str) -> str:
    return f"""The ledger is in live mode. Next, in another terminal:

  {donationd} tickets add story-1 --title "A well for the village"
  {donationd} ledger story-1

Stripe delivers to your webhook endpoint, https://YOUR-HOST/webhooks/stripe: a proxy with TLS passes it on to
http://{api}/webhooks/stripe (deploy/docs/stripe-account.md)."""


def _command(name: str) -> str:
    """What to type here for a command of this Python environment: its name if PATH finds it, else its path."""
    command = Path(sys.executable).with_name(name)
    if shutil.which(name) == str(command):
        return name
    with contextlib.suppress(ValueError):
        return str(command.relative_to(Path.cwd()))
    return str(command)
