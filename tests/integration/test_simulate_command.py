"""`donationd simulate` as a new user meets it: never into a real ledger, and never a long wait for nothing."""

import os
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from click.testing import CliRunner, Result

from daemon.cli import simulate as simulate_command
from daemon.cli.main import main
from daemon.simulator import sender
from daemon.simulator.fake_stripe.fake import FakeStripe
from daemon.simulator.scenarios import generate
from tests.support.live import PATIENT, SECRET, TICKET, living

AT_ONCE_S = 30.0  # the limit of the look at the address, and what a busy machine adds


@pytest.fixture
def simulate(database_url: str) -> Callable[..., Result]:
    """Runs `donationd simulate` against the test's database, with these variables besides."""

    def run(*arguments: str, **environ: str) -> Result:
        hidden = {name: None for name in os.environ if name.isupper()}
        known = {"DATABASE_URL": database_url, "STRIPE_WEBHOOK_SECRET": SECRET, "STRIPE_LIVEMODE": "false", **environ}
        CliRunner().invoke(main, ["tickets", "add", TICKET], env={**hidden, **known})
        return CliRunner().invoke(main, ["simulate", *arguments], env={**hidden, **known})

    return run


@pytest.fixture
def closed_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port of 127.0.0.1 that takes connections and never replies."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def test_the_fake_has_the_objects_of_the_events(fake_stripe: FakeStripe) -> None:
    """A fake that plays the same payments has exactly their events."""
    made = generate(7, 20, [TICKET], now=1_800_000_000)
    arguments = {"seed": 7, "payments": 20, "tickets": [TICKET], "now": 1_800_000_000}
    await sender.control_fake(fake_stripe.base_url, "play", arguments)
    events = {event.id: event.shown for event in fake_stripe.world.collections["event"]}
    assert events == {event["id"]: event for scenario in made for event in scenario.events}


def test_no_fake_at_the_address(
    simulate: Callable[..., Result], closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where STRIPE_API_BASE names this machine and no fake is there, nothing is sent."""

    async def replies(_url: str, _timeout_s: float) -> None:
        return None

    monkeypatch.setattr(sender, "no_reply_reason", replies)
    failed = simulate("--url", "http://127.0.0.1:1", STRIPE_API_BASE=f"http://127.0.0.1:{closed_port}")
    assert failed.exit_code == 1
    assert "the fake of Stripe's API" in failed.output
    assert "deliveries" not in failed.output


@pytest.mark.parametrize("livemode", ["true", "", "1"])
def test_a_ledger_in_live_mode_is_refused(simulate: Callable[..., Result], livemode: str) -> None:
    """Made-up donations never reach a real ledger: before anything is sent, with how to have a ledger for trials."""
    began_s = time.monotonic()
    refused = simulate("--url", "http://127.0.0.1:1", STRIPE_LIVEMODE=livemode)
    assert refused.exit_code == 1
    assert "live mode" in refused.output
    assert "STRIPE_LIVEMODE=false" in refused.output
    assert time.monotonic() < began_s + AT_ONCE_S


def test_nothing_listens(simulate: Callable[..., Result], closed_port: int) -> None:
    """Where no API runs, a sentence within seconds says so, with the address and what to do."""
    began_s = time.monotonic()
    for arguments, environ in (
        (("--url", f"http://127.0.0.1:{closed_port}/"), {}),
        ((), {"HOST": "127.0.0.1", "PORT": str(closed_port)}),
    ):
        failed = simulate(*arguments, **environ)
        assert failed.exit_code == 1
        assert f"http://127.0.0.1:{closed_port}" in failed.output
        assert "donationd up" in failed.output
        assert "deliveries" not in failed.output
    assert time.monotonic() < began_s + AT_ONCE_S


@pytest.mark.parametrize("url", ["127.0.0.1:3003", "ftp://127.0.0.1", "http://", "http://no-such-host.invalid"])
def test_what_is_no_address_is_named(simulate: Callable[..., Result], url: str) -> None:
    """A mistake in --url is a sentence and no trace."""
    failed = simulate("--url", url)
    assert failed.exit_code == 1
    assert f"at {url}" in failed.output
    assert isinstance(failed.exception, SystemExit)


def test_a_program_that_never_replies(
    simulate: Callable[..., Result], silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program at the address is known by its silence, within the limit of the look."""
    monkeypatch.setattr(simulate_command, "FIRST_REPLY_S", 0.2)
    failed = simulate("--url", f"http://127.0.0.1:{silent_port}")
    assert (failed.exit_code, "no reply" in failed.output) == (1, True)


def test_a_running_api_gets_the_payments(
    simulate: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory, database_url: str
) -> None:
    """In test mode, with an API at the address, every payment is delivered."""
    with living(tmp_path_factory.mktemp("live"), database_url, database_url, PATIENT) as live:
        done = simulate("--payments", "3", "--url", live.api_url)
        assert (done.exit_code, "3 payments" in done.output) == (0, True)
        assert live.total().status == 200
        assert live.differences() == []
