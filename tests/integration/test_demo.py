"""`donationd demo`: its tickets and payments, the pages that it names, and the token that opens the console."""

import stat
from pathlib import Path

import pytest

from daemon.api.config import CommandConfig, Config
from daemon.api.public_pages import page_settings
from daemon.cli.arguments import Failure
from daemon.cli.demo import TICKETS, fill_and_welcome, run, set_up_endpoint
from daemon.instance.environment import complete_environ, operator_token_file
from daemon.runtime.operator_tokens import Scope, parse_tokens
from daemon.simulator import sender
from daemon.simulator.fake_stripe.fake import TEST_KEY, FakeStripe
from daemon.simulator.fake_stripe.webhook_endpoints import WebhookEndpoint
from daemon.stripe_api.account_check import account_problems
from daemon.stripe_api.client import StripeApi
from tests.bench.machine import API, SECRET, query, site, stored
from tests.support.instance import get
from tests.support.postgres import Server

COUNTS = "SELECT (SELECT count(*) FROM stripe_attributions), (SELECT count(*) FROM operator_acts)"


def test_the_demo_shows_what_it_says(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each address answers, the token is printed, there are donations with and without a ticket; a second time adds
    nothing. The fake of Stripe gets the payments when the ledger has them, so that no job finds them missing."""
    known_at_play: list[object] = []

    async def play(*_arguments: object) -> dict[str, object]:
        known_at_play.extend(query(database.url, COUNTS))
        return {}

    monkeypatch.setattr(sender, "control_fake", play)
    (tmp_path / "run").mkdir()
    made = complete_environ({}, tmp_path, embedded=True)
    settings = {"OPERATOR_TOKENS": made["OPERATOR_TOKENS"]}
    with stored(server, "demo", tmp_path) as database, site(API, database, tmp_path, settings=settings) as api:
        environ = made | {"DATABASE_URL": database.url, "STRIPE_WEBHOOK_SECRET": SECRET, "PORT": str(api.port)}
        environ["STRIPE_API_BASE"] = "http://127.0.0.1:1"
        fill_and_welcome(40, environ, tmp_path)
        printed = capfd.readouterr().out.split()
        [before] = query(database.url, COUNTS)
        fill_and_welcome(40, environ, tmp_path)
        assert [before, before] == known_at_play
        assert [before] == query(database.url, COUNTS)
        [(unassigned,)] = query(database.url, "SELECT count(*) FROM stripe_attributions WHERE ticket_id IS NULL")
        assert unassigned and before == (before[0], len(TICKETS))
        addresses = [word for word in printed if word.startswith("http")]
        assert len(addresses) == len(TICKETS) + 1
        assert [get(address)[0] for address in addresses] == [200] * len(addresses)
    token = operator_token_file(tmp_path)
    assert token.read_text().strip() in printed
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


async def test_the_endpoint_at_the_fake_is_as_it_should_be(fake_stripe: FakeStripe) -> None:
    """So that the job that checks the account finds no problem in a demo; there is no second endpoint."""
    url = "http://127.0.0.1:8080/webhooks/stripe"
    configured = WebhookEndpoint("we_1Configured", 1, url, ["*"], fake_stripe.api.version, False, SECRET)
    fake_stripe.world.collections["webhook_endpoint"].add(configured)
    variables = {
        "DATABASE_URL": "postgresql://h/d",
        "STRIPE_API_KEY": TEST_KEY,
        "STRIPE_API_BASE": fake_stripe.base_url,
    }
    config = CommandConfig.from_environ({**variables, "HOST": "127.0.0.1", "PORT": "8080", "STRIPE_LIVEMODE": "false"})
    await set_up_endpoint(config)
    stripe = StripeApi(config)
    try:
        assert await account_problems(stripe, None, livemode=False, has_checkout=True) == []
    finally:
        await stripe.close()
    assert list(fake_stripe.world.collections["webhook_endpoint"]) == [configured]


def test_an_embedded_instance_keeps_its_operator_token(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    first, second = (complete_environ({}, tmp_path, embedded=True)["OPERATOR_TOKENS"] for _ in range(2))
    assert first == second
    [token] = parse_tokens(first)
    assert (token.name, token.scopes) == ("local", frozenset(Scope))
    given = complete_environ({"OPERATOR_TOKENS": "x"}, tmp_path, embedded=True)
    assert given["OPERATOR_TOKENS"] == "x"
    assert "OPERATOR_TOKENS" not in complete_environ({}, tmp_path, embedded=False)


@pytest.mark.parametrize("environ", [{"DATABASE_URL": "postgresql://h/d"}, {"STRIPE_LIVEMODE": "true"}])
def test_invented_payments_belong_into_no_other_ledger(environ: dict[str, str]) -> None:
    with pytest.raises(Failure, match="unset DATABASE_URL and STRIPE_LIVEMODE"):
        run(environ, 1, None)


@pytest.mark.parametrize(
    ("base", "sites"),
    [
        ("", ("https://checkout.stripe.com",)),
        ("https://proxy.example/stripe", ("https://checkout.stripe.com",)),
        ("http://127.0.0.1:12111", ("https://checkout.stripe.com", "http://127.0.0.1:12111")),
    ],
)
def test_the_form_to_give_may_lead_to_stripe_and_to_a_fake_on_this_machine(base: str, sites: tuple[str, ...]) -> None:
    given = {"DATABASE_URL": "postgresql://h/d", "STRIPE_WEBHOOK_SECRET": SECRET, "STRIPE_API_BASE": base}
    assert page_settings(Config.from_environ(given)).payment_sites == sites
