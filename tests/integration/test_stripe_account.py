"""`donationd stripe setup`, `stripe check` and the daily job: each wrong setting at Stripe is named with its remedy."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from daemon.cli import stripe as commands
from daemon.cli.main import main
from daemon.instance.environment import complete_environ
from daemon.jobs.check_account import job
from daemon.jobs.config import JobsConfig
from daemon.jobs.schedule import JobDependencies, ProblemsFound
from daemon.ledger.stripe_events import HANDLERS
from daemon.simulator.fake_stripe.failures import Failure
from daemon.simulator.fake_stripe.fake import TEST_KEY, FakeStripe
from daemon.simulator.fake_stripe.webhook_endpoints import WebhookEndpoint
from daemon.stripe_api import client
from daemon.stripe_api.account_check import PERMISSIONS
from daemon.stripe_api.client import API_VERSION, StripeApi, StripeUnavailable
from daemon.stripe_api.config import StripeAccount
from daemon.stripe_api.rate_limit import RateLimit
from daemon.stripe_api.webhook_endpoint import endpoint_url, set_up
from tests.support.docs import STRIPE_ACCOUNT

ADDRESS = "https://give.example.org"
URL = f"{ADDRESS}/webhooks/stripe"
RESTRICTED = "rk_test_restricted"
DATABASE = {"DATABASE_URL": "postgresql://nowhere"}


def environ(fake: FakeStripe, key: str = TEST_KEY) -> dict[str, str]:
    return {"STRIPE_API_BASE": fake.base_url, "STRIPE_API_KEY": key, "STRIPE_LIVEMODE": "false"}


@pytest.fixture(autouse=True)
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls do not wait for each other: what the limit is, the tests of the client show."""
    monkeypatch.setattr(client, "RateLimit", lambda: RateLimit(rate_per_s=10_000, burst=1000))


@pytest.fixture
async def stripe(fake_stripe: FakeStripe) -> AsyncIterator[StripeApi]:
    api = StripeApi(StripeAccount.from_environ(environ(fake_stripe)), share=lambda: 0.0)
    yield api
    await api.close()


async def run(fake: FakeStripe, *words: str, **variables: str) -> Result:
    """The command with these variables only, beside the fake."""

    def invoke() -> Result:
        return CliRunner().invoke(main, ["stripe", *words], env={**environ(fake), **variables})

    return await asyncio.to_thread(invoke)


def endpoints(fake: FakeStripe) -> list[WebhookEndpoint]:
    return list(fake.world.collections["webhook_endpoint"])


async def test_setup_makes_one_endpoint_and_shows_its_secret_once(fake_stripe: FakeStripe) -> None:
    """It receives exactly the handled events in a fixed version; a second run changes nothing."""
    done = await run(fake_stripe, "setup", "--url", ADDRESS, **DATABASE)
    assert done.exit_code == 0, done.output
    [endpoint] = endpoints(fake_stripe)
    assert (endpoint.url, endpoint.api_version, endpoint.status) == (URL, API_VERSION, "enabled")
    assert sorted(endpoint.enabled_events) == sorted(HANDLERS)
    assert done.stdout.splitlines() == [
        f"secret: {endpoint.secret}",
        f"created: the webhook endpoint {endpoint.id} for {URL}",
    ]
    assert "add it to STRIPE_WEBHOOK_SECRET" in done.stderr
    again = await run(fake_stripe, "setup", "--url", f"{ADDRESS}/", **DATABASE)
    assert again.stdout == f"unchanged: the webhook endpoint {endpoint.id} for {URL}\n"
    assert "--replace" in again.stderr
    assert endpoints(fake_stripe) == [endpoint]
    checked = await run(fake_stripe, "check", "--url", ADDRESS, **DATABASE)
    assert checked.exit_code == 0, checked.output


WRONG: dict[str, Callable[[WebhookEndpoint], object]] = {
    "does not receive charge.failed": lambda endpoint: endpoint.enabled_events.remove("charge.failed"),
    "receives events that donationd does not use: *": lambda endpoint: endpoint.enabled_events.append("*"),
    "receives events that donationd does not use: plan.created": lambda each: each.enabled_events.append(
        "plan.created"
    ),
    "is disabled": lambda endpoint: setattr(endpoint, "status", "disabled"),
    "has 2019-05-16 of Stripe's API": lambda endpoint: setattr(endpoint, "api_version", "2019-05-16"),
    "has the account's default version": lambda endpoint: setattr(endpoint, "api_version", None),
    "no webhook endpoint for": lambda endpoint: setattr(endpoint, "url", "https://old.example.org"),
}


@pytest.mark.parametrize("said", WRONG)
async def test_each_wrong_setting_is_named_with_the_command_that_corrects_it(
    fake_stripe: FakeStripe, stripe: StripeApi, said: str
) -> None:
    """The daily job finds it too; after that command all is well."""
    await set_up(stripe, URL)
    WRONG[said](endpoints(fake_stripe)[0])
    checked = await run(fake_stripe, "check", "--url", ADDRESS, **DATABASE)
    assert checked.exit_code == 1
    problem, remedy = checked.stdout.splitlines()
    assert said in problem
    with pytest.raises(ProblemsFound, match=re.escape(said)):
        await run_job(fake_stripe, stripe, PUBLIC_URL=ADDRESS)
    command = remedy.split()
    assert command[:2] == ["donationd", "stripe"]
    assert (await run(fake_stripe, *command[2:], **DATABASE)).exit_code == 0
    assert (await run(fake_stripe, "check", "--url", ADDRESS, **DATABASE)).exit_code == 0
    await run_job(fake_stripe, stripe, PUBLIC_URL=ADDRESS)


async def run_job(fake: FakeStripe, stripe: StripeApi, **variables: str) -> None:
    config = JobsConfig.from_environ({**environ(fake), **DATABASE, **variables})
    await job(config).run(
        JobDependencies(config=config, database=None, recorder=None, stripe_api=stripe, metrics=None)  # type: ignore[arg-type]
    )


async def test_replace_leaves_one_endpoint_with_a_new_secret(fake_stripe: FakeStripe, stripe: StripeApi) -> None:
    """However many there were; endpoints of other URLs are not touched."""
    for url in (URL, "https://other.example.org/hook"):
        await set_up(stripe, url)
    await stripe.post("/v1/webhook_endpoints", {"url": URL, "enabled_events": ["*"]}, idempotency_key="k")
    checked = await run(fake_stripe, "check", "--url", ADDRESS, "--json", **DATABASE)
    assert "several endpoints have the same URL" in json.loads(checked.stdout)["problems"][-1]["problem"]
    before = {each.secret for each in endpoints(fake_stripe)}
    done = await run(fake_stripe, "setup", "--url", ADDRESS, "--replace", "--json", **DATABASE)
    shown = json.loads(done.stdout)
    [ours] = [each for each in endpoints(fake_stripe) if each.url == URL]
    assert len(endpoints(fake_stripe)) == 2
    assert shown == {
        "url": URL,
        "endpoints": [{"id": ours.id, "action": "replaced"}],
        "secret": ours.secret,
        "kept": None,
    }
    assert ours.secret not in before


async def test_a_reply_that_is_lost_makes_no_second_endpoint(fake_stripe: FakeStripe, stripe: StripeApi) -> None:
    """The attempt after it has the same idempotency key, so that the secret is not lost either."""
    fake_stripe.failures.add(Failure("disconnect", "POST", after_work=True))
    [(action, made)] = await set_up(stripe, URL)
    [endpoint] = endpoints(fake_stripe)
    assert (action, made.secret) == ("created", endpoint.secret)


async def test_an_interrupted_replacement_is_completed_by_the_next(fake_stripe: FakeStripe, stripe: StripeApi) -> None:
    """The secret of the new endpoint was shown before anything was deleted."""
    await set_up(stripe, URL)
    fake_stripe.failures.add(Failure("status", "DELETE", times=client.ATTEMPTS))
    shown: list[str | None] = []
    with pytest.raises(StripeUnavailable):
        await set_up(stripe, URL, replace=True, created=lambda made: shown.append(made.secret))
    assert set(shown) < {each.secret for each in endpoints(fake_stripe)}
    await set_up(stripe, URL, replace=True)
    assert len(endpoints(fake_stripe)) == 1


async def test_without_a_url_the_endpoint_is_recognized_by_its_mark(fake_stripe: FakeStripe, stripe: StripeApi) -> None:
    """So the daily job works where PUBLIC_URL is not set."""
    await stripe.post(
        "/v1/webhook_endpoints", {"url": "https://x.example.org", "enabled_events": ["*"]}, idempotency_key="k"
    )
    missing = await run(fake_stripe, "check", **DATABASE)
    assert (
        "there is no webhook endpoint of donationd\n  donationd stripe setup --url https://YOUR-HOST" in missing.stdout
    )
    await set_up(stripe, URL)
    assert (await run(fake_stripe, "check", **DATABASE)).exit_code == 0
    await run_job(fake_stripe, stripe)


# What the fake calls each permission whose lack can be found out.
REVOKED = {
    "Webhook Endpoints": "webhook_read",
    "Events": "event_read",
    "PaymentIntents": "payment_intent_read",
    "Charges and Refunds": "charge_read",
    "Disputes": "dispute_read",
    "Early Fraud Warnings": "radar_read",
    "Customers": "customer_read",
    "Invoices": "invoice_read",
    "Subscriptions": "subscription_read",
    "Checkout Sessions": "checkout_session_write",
    "Balance": "balance_read",
    "Payouts": "payout_read",
}


@pytest.mark.parametrize("lacking", PERMISSIONS, ids=lambda permission: permission.name)
async def test_each_missing_permission_is_named(fake_stripe: FakeStripe, stripe: StripeApi, lacking: Any) -> None:
    """A restricted key needs each of them; with checkout also that of making sessions."""
    await set_up(stripe, URL)
    fake_stripe.keys.add(RESTRICTED)
    permissions = {"checkout_session_read", *REVOKED.values()}
    fake_stripe.failures.permissions[RESTRICTED] = permissions
    variables = {"STRIPE_API_KEY": RESTRICTED, "PUBLIC_URL": ADDRESS, **DATABASE}
    assert (await run(fake_stripe, "check", **variables)).stdout.count("\n") == 1
    fake_stripe.failures.permissions[RESTRICTED] = permissions - {REVOKED[lacking.name]}
    checked = await run(fake_stripe, "check", **variables)
    assert checked.exit_code == 1
    assert f"the key lacks the permission {lacking.name}: {lacking.access}" in checked.stdout


async def test_a_revoked_key_is_named(fake_stripe: FakeStripe) -> None:
    """With one sentence, and without the key."""
    fake_stripe.keys.clear()
    checked = await run(fake_stripe, "check", **DATABASE)
    assert checked.exit_code == 1
    assert "Stripe does not accept STRIPE_API_KEY" in checked.stdout
    assert TEST_KEY not in checked.output


@pytest.mark.parametrize(
    "failure",
    [
        Failure("status", times=None, status=429, retry_after=100),
        Failure("status", times=None, status=500),
        Failure("malformed", times=None),
        Failure("truncated", times=None),
        Failure("disconnect", times=None),
        Failure("hang", times=None, seconds=5),
    ],
    ids=lambda failure: f"{failure.kind} {failure.status}",
)
@pytest.mark.parametrize("words", ["check", f"setup --url {ADDRESS}"])
async def test_where_stripe_cannot_be_used_a_command_says_so(
    fake_stripe: FakeStripe, monkeypatch: pytest.MonkeyPatch, failure: Failure, words: str
) -> None:
    """It ends in time with exit status 1 and one sentence."""
    monkeypatch.setattr("daemon.stripe_api.rate_limit.FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(client, "ATTEMPT_S", 0.1)
    fake_stripe.failures.add(failure)
    done = await run(fake_stripe, *words.split(), **DATABASE)
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: Stripe's API cannot be used: ")
    assert endpoints(fake_stripe) == []


async def test_a_command_does_not_wait_long_for_a_stripe_that_hangs(
    fake_stripe: FakeStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives up before the first of the attempts that a process makes, and names the address that does not answer."""
    assert commands.CALL_S <= 15
    monkeypatch.setattr(commands, "CALL_S", 0.2)
    fake_stripe.failures.add(Failure("hang", times=None, seconds=60))
    done = await run(fake_stripe, "check", **DATABASE)
    assert (done.exit_code, done.stderr) == (
        1,
        "Error: Stripe's API cannot be used: timeout; check that this machine reaches "
        f"{fake_stripe.base_url}, and try again later\n",
    )


async def test_a_command_does_not_wait_long_for_many_slow_calls(
    fake_stripe: FakeStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call is answered in time, and all together are not."""
    monkeypatch.setattr(commands, "TOTAL_S", 0.3)
    fake_stripe.failures.add(Failure("slow", times=None, seconds=0.1))
    done = await run(fake_stripe, "check", **DATABASE)
    assert (done.exit_code, "did not answer every call within 0.3 s; check that" in done.stderr) == (1, True)


async def test_the_embedded_instance_of_the_folder_gets_the_secret(
    fake_stripe: FakeStripe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`donationd up --embedded` uses it beside the one that it has made; a secret of the environment is not changed."""
    state = tmp_path / "state"
    monkeypatch.setenv("DONATIOND_STATE", str(state))
    made = complete_environ({}, state, embedded=True)["STRIPE_WEBHOOK_SECRET"] if state.exists() else ""
    done = await run(fake_stripe, "setup", "--url", ADDRESS)
    assert done.exit_code == 0, done.output
    assert f"the secret was added to {state}/environment" in done.stderr
    used = complete_environ({}, state, embedded=True)["STRIPE_WEBHOOK_SECRET"].split(",")
    assert used[0] == endpoints(fake_stripe)[0].secret
    assert len(used) == 2
    assert made in used[1]
    assert (state / "environment").stat().st_mode & 0o077 == 0
    given = await run(fake_stripe, "setup", "--url", ADDRESS, "--replace", STRIPE_WEBHOOK_SECRET="whsec_" + "a" * 32)
    assert "add it to STRIPE_WEBHOOK_SECRET" in given.stderr
    assert complete_environ({}, state, embedded=True)["STRIPE_WEBHOOK_SECRET"].split(",") == used


async def test_what_a_command_needs_is_named(fake_stripe: FakeStripe) -> None:
    """The key, the address, and the mode: each with one sentence."""
    without_key = await run(fake_stripe, "check", STRIPE_API_KEY="", **DATABASE)
    assert (without_key.exit_code, "STRIPE_API_KEY: not set" in without_key.stderr) == (1, True)
    without_url = await run(fake_stripe, "setup", **DATABASE)
    assert (without_url.exit_code, "--url https://give.example.org" in without_url.stderr) == (1, True)
    other_mode = await run(fake_stripe, "check", STRIPE_LIVEMODE="true", **DATABASE)
    assert (other_mode.exit_code, "it is a key of test mode" in other_mode.stderr) == (1, True)
    wrong = await run(fake_stripe, "setup", "--url", "give.example.org", **DATABASE)
    assert (wrong.exit_code, "--url needs an address" in wrong.stderr) == (2, True)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("https://Give.Example.org", URL),
        ("https://give.example.org/", URL),
        ("https://give.example.org:8443/hooks/stripe", "https://give.example.org:8443/hooks/stripe"),
    ],
)
def test_the_endpoint_of_an_address(address: str, url: str) -> None:
    """Without a path it is the API's own."""
    assert endpoint_url(address) == url


def test_the_table_of_permissions_is_that_of_the_code() -> None:
    """An operator who makes a key by the table has every permission that the check asks for, and no other one."""
    rows = re.findall(r"^\| ([A-Z][\w ]+) \| (Read|Write) \| (.*) \|$", STRIPE_ACCOUNT.read_text(), re.MULTILINE)
    assert rows == [(name, access, purpose) for name, access, _, purpose in PERMISSIONS]
