"""`donationd up --embedded --with-fake-stripe`: what needs an account at Stripe, without one."""

import json
import re
import urllib.request
from collections.abc import Iterator

import pytest

from daemon.instance.console import CannotStart
from daemon.instance.fake_stripe import with_fake_stripe
from tests.support.instance import Instance, eventually, get, instance_of_its_own

TICKET = "story-1"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"DONATIOND_INCLUDE": ""}, "--embedded"),
        ({"STRIPE_LIVEMODE": "true"}, "STRIPE_LIVEMODE"),
        ({"STRIPE_API_KEY": "sk_test_own"}, "STRIPE_API_KEY"),
        ({"STRIPE_API_BASE": "https://api.stripe.com"}, "STRIPE_API_BASE"),
    ],
)
def test_where_it_is_refused(change: dict[str, str], named: str) -> None:
    """Beside a database of one's own, in live mode, or with an account at Stripe, with what to change."""
    embedded = {"DONATIOND_INCLUDE": "deploy/embedded.conf", "STRIPE_LIVEMODE": "false"}
    with pytest.raises(CannotStart, match=named) as refused:
        with_fake_stripe({"HOST": "127.0.0.1", "PORT": "3003", **embedded, **change})
    assert "sk_test_own" not in str(refused.value)


@pytest.fixture
def instance() -> Iterator[Instance]:
    """An instance without settings of an account at Stripe, not yet started."""
    with instance_of_its_own() as instance:
        yield instance


def test_a_demo_and_its_fake(instance: Instance) -> None:
    """`donationd demo` shows its pages, and its ledger is what the fake has. The payments of `simulate` are at the fake
    as well, what happens there is delivered, and nothing is left."""
    printed = instance.start(demo_payments=10)
    addresses = re.findall(r"http://\S+", printed)
    assert [get(address)[0] for address in addresses] == [200] * 4
    assert donationd(instance, "reconcile", "--dry-run") == ""
    donationd(instance, "tickets", "add", TICKET)
    donationd(instance, "simulate", "--payments", "5", "--seed", "2")
    assert ask(instance, "/v1/payment_intents")["data"]
    donate(instance, "42.17")
    eventually(lambda: "42.17" in donationd(instance, "ledger", TICKET), "the fake's event is delivered")
    assert instance.up is not None
    instance.up.terminate()
    assert instance.end() == 0
    assert instance.running_processes() == []


def donationd(instance: Instance, *words: str) -> str:
    """What a command prints in the folder of the instance."""
    done = instance.donationd(*words)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def donate(instance: Instance, amount: str) -> None:
    """Gives an amount through our API and the page of the fake, as a donor's browser does."""
    checkout, form = json.dumps({"amount": float(amount), "currency": "USD"}), b"outcome=paid&name=Ann"
    headers = {"Content-Type": "application/json"}
    url = f"{instance.api}/api/tickets/{TICKET}/checkout"
    request = urllib.request.Request(url, checkout.encode(), headers)  # noqa: S310 - our own address
    with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310 - our own address
        page = json.load(reply)["url"]
    with urllib.request.urlopen(page, form, timeout=30) as reply:  # noqa: S310 - our own address
        assert reply.url.startswith(f"{instance.api}/tickets/{TICKET}")


def ask(instance: Instance, path: str, form: bytes | None = None) -> dict[str, list[object]]:
    """What the fake replies to a GET, or to a POST of a form."""
    environ = instance.environ
    headers = {"Authorization": f"Bearer {environ['STRIPE_API_KEY']}"}
    request = urllib.request.Request(environ["STRIPE_API_BASE"] + path, form, headers)  # noqa: S310 - our own address
    with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310 - our own address
        decoded: dict[str, list[object]] = json.load(reply)
        return decoded
