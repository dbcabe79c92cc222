"""The delivery of simulated events: signed, tried again and counted as Stripe would."""

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable

import pytest
import stripe
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from daemon.simulator.scenarios import generate, shuffled
from daemon.simulator.sender import Outcome, Retry, deliver, sign
from daemon.simulator.stripe_objects import Json

NOW = 1_800_000_000
SECRET = "whsec_simulated"
EVENTS = shuffled(generate(1, 4, ["story-1"], now=NOW), 1, duplicates=0)
AT_ONCE = Retry(delay_s=0)
Reply = Callable[[Json], web.Response]


# --- Signatures


@given(st.text(), st.text(min_size=1).filter(str.strip), st.integers(0, 2**40))
def test_signature_is_stripe_s(text: str, secret: str, timestamp: int) -> None:
    """Stripe's own library accepts the header for this body, and no other body."""
    body = text.encode()
    header = sign(body, secret, timestamp)
    assert stripe.WebhookSignature.verify_header(body, header, secret)
    with pytest.raises(stripe.SignatureVerificationError):
        stripe.WebhookSignature.verify_header(body + b" ", header, secret)


# --- The player, against a stand-in for the API


class Receiver:
    """Answers webhooks: the given statuses first, then 200; knows each event again."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.seen: list[str] = []
        self.headers: list[str] = []

    async def receive(self, request: web.Request) -> web.Response:
        """Checks the signature on the raw body, as the API does."""
        body = await request.read()
        header = request.headers["Stripe-Signature"]
        stripe.WebhookSignature.verify_header(body, header, SECRET, tolerance=300)
        self.headers.append(header)
        if self.statuses:
            return web.Response(status=self.statuses.pop(0), headers={"Retry-After": "30"}, text="no JSON here")
        event = json.loads(body)
        known = event["id"] in self.seen
        self.seen.append(event["id"])
        handled = event["type"] != "charge.pending"
        return web.json_response({"received": True, "type": event["type"], "idempotent": known, "handled": handled})

    def server(self) -> TestServer:
        """A server on a free loopback port."""
        app = web.Application()
        app.router.add_post("/webhooks/stripe", self.receive)
        return TestServer(app)


def recorder(waits: list[float]) -> Callable[[float], Awaitable[None]]:
    """A sleep that only notes how long it was asked to."""

    async def sleep(delay_s: float) -> None:
        waits.append(delay_s)

    return sleep


async def test_play_counts_applied_and_duplicates() -> None:
    """Every event is delivered once; a second delivery of the same events finds them all known."""
    receiver = Receiver()
    seen: list[int] = []
    async with receiver.server() as server:
        url = str(server.make_url("/"))
        first = await deliver(url, SECRET, EVENTS, progress=lambda outcome: seen.append(outcome.remaining))
        second = await deliver(url, SECRET, EVENTS)
    assert first.applied + first.ignored == len(EVENTS) == first.replies["200"]
    assert first.acknowledged == {event["id"] for event in EVENTS}
    assert seen == list(range(len(EVENTS) - 1, -1, -1))
    assert (second.duplicate, second.applied, second.remaining) == (len(EVENTS), 0, 0)


async def test_play_waits_as_503_asks() -> None:
    """A 503 is tried again after its Retry-After, cut at the longest delay, and then applied."""
    receiver, waits = Receiver(503, 503), list[float]()
    async with receiver.server() as server:
        url = str(server.make_url("/"))
        outcome = await deliver(url, SECRET, EVENTS[:1], sleep=recorder(waits))
        receiver.statuses = [503]
        await deliver(url, SECRET, EVENTS[:1], retry=Retry(longest_delay_s=0.25), sleep=recorder(waits))
    assert waits == [30, 30, 0.25]
    assert outcome.replies == {"503": 2, "200": 1}
    assert (outcome.applied, outcome.undelivered, outcome.remaining) == (1, 0, 0)


async def test_play_gives_up_in_the_end() -> None:
    """Attempts are bounded; an event that used them up is undelivered, and not acknowledged."""
    receiver, waits = Receiver(*[503] * 3), list[float]()
    async with receiver.server() as server:
        url = str(server.make_url("/"))
        outcome = await deliver(url, SECRET, EVENTS[:1], retry=Retry(attempts=3), sleep=recorder(waits))
    assert (outcome.undelivered, outcome.remaining, outcome.replies["503"]) == (1, 0, 3)
    assert outcome.acknowledged == set()
    assert len(waits) == 2


@pytest.mark.parametrize("status", [400, 413, 422, 500])
async def test_play_takes_other_statuses_as_final(status: int) -> None:
    """A refusal is counted by its status and not tried again."""
    async with Receiver(status).server() as server:
        outcome = await deliver(str(server.make_url("/")), SECRET, EVENTS[:1], retry=AT_ONCE)
    assert outcome.replies == {str(status): 1}
    assert (outcome.refused, outcome.applied) == (1, 0)


async def test_play_survives_a_closed_port() -> None:
    """A refused connection counts as no reply, is tried again with a doubling delay, and ends as undelivered."""
    server = Receiver().server()
    async with server:
        url = str(server.make_url("/"))
    waits: list[float] = []
    outcome = await deliver(url, SECRET, EVENTS[:1], retry=Retry(attempts=4), sleep=recorder(waits))
    assert outcome.replies == {"no reply": 4}
    assert waits == [1, 2, 4]
    assert outcome.undelivered == 1


async def test_each_attempt_is_signed_anew() -> None:
    """A retry carries the time of its own attempt, as Stripe's do."""
    receiver = Receiver(503)
    times = iter([4_000_000_000.9, 4_000_000_007.1])
    async with receiver.server() as server:
        url = str(server.make_url("/"))
        await deliver(url, SECRET, EVENTS[:1], clock=lambda: next(times), sleep=recorder([]))
    assert [header.split(",")[0] for header in receiver.headers] == ["t=4000000000", "t=4000000007"]


def test_ctrl_c_keeps_the_count() -> None:
    """SIGINT in the middle of a delivery ends it with what was counted so far, and nothing raises."""

    def interrupt(outcome: Outcome) -> None:
        if len(outcome.acknowledged) == 5:
            os.kill(os.getpid(), signal.SIGINT)

    async def interrupted() -> Outcome:
        async with Receiver().server() as server:
            return await deliver(str(server.make_url("/")), SECRET, EVENTS, concurrency=1, progress=interrupt)

    outcome = asyncio.run(interrupted())
    assert outcome.interrupted
    assert len(outcome.acknowledged) == 5
    assert outcome.remaining == len(EVENTS) - 5
