"""The client of Stripe's API against a server that answers as it is asked to."""

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import stripe
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from daemon.stripe_api import transport
from daemon.stripe_api.client import API_VERSION, ATTEMPTS, Page, StripeApi, StripeRejected, StripeUnavailable
from daemon.stripe_api.config import StripeApiConfig
from daemon.stripe_api.rate_limit import BURST, MAX_BACKOFF_S, RATE_PER_S, RateLimit, backoff_s

CANARY = "canary@example.org"
KEY = "sk_test_canary"
DATE = "Thu, 26 Nov 2026 10:00:00 GMT"
OK = web.json_response


@dataclass
class Clock:
    """A clock that sleeping moves."""

    now_s: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds
        await asyncio.sleep(0)


@dataclass
class Stub:
    """What it answers, one reply after the other, the last one again and again; and what it was asked."""

    replies: list[Callable[[], web.StreamResponse]]
    asked: list[web.Request] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)
    delay_s: float = 0.0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        self.bodies.append(await request.text())
        await asyncio.sleep(self.delay_s)
        return self.replies[min(len(self.asked), len(self.replies)) - 1]()


def config(base: str) -> StripeApiConfig:
    return StripeApiConfig.from_environ(
        {
            "DATABASE_URL": "postgresql://nowhere",
            "STRIPE_LIVEMODE": "false",
            "STRIPE_API_KEY": KEY,
            "STRIPE_API_BASE": base,
        }
    )


@asynccontextmanager
async def stripe_that_answers(
    *replies: Callable[[], web.StreamResponse], **options: Any
) -> AsyncIterator[tuple[StripeApi, Stub, Clock]]:
    stub, clock = Stub(list(replies)), Clock()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", stub.answer)
    async with TestServer(app) as server:
        given_options = {"clock": clock, "sleep": clock.sleep, "share": lambda: 1.0, **options}
        api = StripeApi(config(str(server.make_url(""))), **given_options)
        try:
            yield api, stub, clock
        finally:
            await api.close()


def failing(status: int, code: str = "some_code", **headers: str) -> Callable[[], web.Response]:
    error = {"message": f"No such thing: {CANARY}", "code": code, "param": "line_items[0]", "type": "x"}
    return lambda: OK({"error": error}, status=status, headers={"Request-Id": "req_1", **headers})


def text(body: str, status: int = 200, **headers: str) -> Callable[[], web.Response]:
    return lambda: web.Response(text=body, status=status, headers=headers)


def listed(*ids: str, has_more: bool) -> Callable[[], web.Response]:
    return lambda: OK({"object": "list", "data": [{"id": each} for each in ids], "has_more": has_more})


async def caught(asking: Awaitable[Any], kind: type[Exception]) -> Any:
    """The exception, which contains nothing of the reply, however it is shown."""
    with pytest.raises(kind) as found:
        await asking
    error = found.value
    assert CANARY not in "".join([*traceback.format_exception(error), repr(error), repr(vars(error))])
    assert error.__context__ is None
    return error


# --- the rate limit ----------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 2), st.sampled_from(["call", "pause"])), min_size=1, max_size=200))
def test_no_second_has_more_calls_than_stripe_allows(steps: list[tuple[float, str]]) -> None:
    """Whenever calls are wanted: none begins before its time, at most 25 begin in a second, and none in a pause."""
    limit = RateLimit()
    now_s, starts, paused_until_s = 0.0, list[float](), 0.0
    for wait_s, step in steps:
        now_s += wait_s / 10
        if step == "pause":
            paused_until_s = max(paused_until_s, now_s + wait_s)
            limit.pause(now_s + wait_s)
        else:
            starts.append(now_s + limit.reserve(now_s).wait_s)
            assert starts[-1] >= max(now_s, paused_until_s) - 1e-9
    starts.sort()
    for first, last in zip(starts, starts[int(RATE_PER_S) + BURST :], strict=False):
        assert last - first > 1 - 1e-6


def test_a_rush_is_spread_at_the_rate() -> None:
    """A hundred calls at once begin at once as far as the burst allows, and then one every twentieth of a second."""
    limit = RateLimit()
    starts = [limit.reserve(0.0).wait_s for _ in range(100)]
    assert starts[:BURST] == [0.0] * BURST
    assert [round(later - earlier, 9) for earlier, later in pairwise(starts[BURST - 1 :])] == [0.05] * (100 - BURST)


@given(st.integers(1, 50), st.floats(0, 1))
def test_backoff_is_bounded_and_jittered(attempt: int, share: float) -> None:
    """It is a share of a time that doubles up to a limit."""
    assert 0 <= backoff_s(attempt, share) <= backoff_s(attempt, 1.0) <= MAX_BACKOFF_S
    assert backoff_s(attempt + 1, 1.0) in (2 * backoff_s(attempt, 1.0), MAX_BACKOFF_S)


# --- calls ---------------------------------------------------------------------------------------------------------


async def test_a_call_carries_key_version_account_and_idempotency_key() -> None:
    """The request is what Stripe expects, and the reply comes with its date."""
    async with stripe_that_answers(lambda: OK({"id": "cs_1"}, headers={"Date": DATE})) as (api, stub, _):
        reply = await api.post(
            "/v1/checkout/sessions",
            {"mode": "payment", "line_items": [{"price": "p"}]},
            idempotency_key="k",
            account="acct_1",
        )
    [request] = stub.asked
    assert reply == (b'{"id": "cs_1"}', 1795687200)
    assert request.method == "POST"
    assert request.path == "/v1/checkout/sessions"
    assert stub.bodies == ["mode=payment&line_items[0][price]=p"]
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.headers["Stripe-Version"] == API_VERSION
    assert request.headers["Stripe-Account"] == "acct_1"
    assert request.headers["Idempotency-Key"] == "k"


def test_the_version_is_that_of_the_locked_library() -> None:
    """A new release of the library is read before its version of the API is used."""
    assert stripe.api_version == API_VERSION


async def test_a_throttled_call_is_no_success_and_all_others_wait() -> None:
    """After a 429 no call begins before Retry-After; the one that was throttled is made again."""
    ended: list[str] = []
    async with stripe_that_answers(
        failing(429, "rate_limit", **{"Retry-After": "7"}), lambda: OK({}), count=ended.append
    ) as (
        api,
        stub,
        clock,
    ):
        await api.get("/v1/events")
        assert clock.now_s >= 1007
        assert len(stub.asked) == 2
    assert ended == ["unavailable", "ok"]


async def test_a_pause_that_is_too_long_is_reported_at_once() -> None:
    """Where Retry-After exceeds the deadline, this call and the next fail without a wait, and say for how long."""
    async with stripe_that_answers(failing(429, **{"Retry-After": "120"})) as (api, stub, clock):
        error = await caught(api.get("/v1/events"), StripeUnavailable)
        assert (error.reason, error.retry_after_s) == ("too many requests", 120)
        clock.now_s += 20
        error = await caught(api.get("/v1/events"), StripeUnavailable)
        assert (error.reason, error.retry_after_s) == ("too many requests", 100)
        assert (len(stub.asked), clock.slept) == (1, [])


@dataclass
class Shared:
    """A limit of all processes together whose answers the test sets."""

    answer: tuple[bool, float, bool] | None
    asked: list[float] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)

    async def reserve(self, _name: str, within_s: float, **_rate: float) -> tuple[bool, float, bool] | None:
        self.asked.append(within_s)
        return self.answer

    async def pause(self, _name: str, pause_s: float) -> None:
        self.pauses.append(pause_s)


async def test_a_call_waits_for_the_limit_of_all_processes() -> None:
    """It begins when that allows, and fails at once if that is too late."""
    shared = Shared((True, 3.0, False))
    async with stripe_that_answers(lambda: OK({}), shared=shared) as (api, _, clock):
        await api.get("/v1/events")
        assert (clock.slept, shared.asked) == ([3.0], [60.0])
        shared.answer = (False, 90.0, True)
        error = await caught(api.get("/v1/events"), StripeUnavailable)
        assert (error.reason, error.retry_after_s) == ("too many requests", 90.0)


async def test_a_pause_holds_for_all_processes_and_here_in_any_case() -> None:
    """After a 429 the other processes are paused too; this one waits even if the shared limit does not know of it."""
    shared = Shared((True, 0.0, False))
    replies = (failing(429, **{"Retry-After": "7"}), lambda: OK({}))
    async with stripe_that_answers(*replies, shared=shared) as (api, stub, clock):
        await api.get("/v1/events")
        assert (shared.pauses, len(stub.asked)) == ([7.0], 2)
        assert clock.now_s >= 1007


async def test_where_the_shared_limit_cannot_be_asked_a_process_has_a_part_of_the_rate() -> None:
    """A quarter of it, without a burst."""
    async with stripe_that_answers(lambda: OK({}), shared=Shared(None)) as (api, _, clock):
        for _ in range(5):
            await api.get("/v1/events")
        assert clock.now_s == pytest.approx(1000 + 4 / (RATE_PER_S / 4))


@pytest.mark.parametrize("reply", [failing(500), failing(503), failing(409), text("<html>", 502), text("{}", 302)])
async def test_a_failure_is_tried_again_a_few_times_with_the_same_key(reply: Callable[[], web.Response]) -> None:
    """So that nothing is done twice."""
    async with stripe_that_answers(reply) as (api, stub, clock):
        await caught(api.post("/v1/refunds", idempotency_key="k"), StripeUnavailable)
    assert [request.headers["Idempotency-Key"] for request in stub.asked] == ["k"] * ATTEMPTS
    assert clock.slept == [0.5, 1.0, 2.0]


def cut_off() -> web.Response:
    reply = web.Response(body=b"{}", headers={"Content-Length": "100"})
    reply.force_close()
    return reply


def too_large() -> web.Response:
    return web.Response(body=b'"' + b" " * 2000 + b'"')


@pytest.mark.parametrize(
    "reply",
    [
        text(f'{{"email": "{CANARY}"'),
        text(f'["{CANARY}"]'),
        text("\ud800".encode("utf-8", "surrogatepass").decode("latin-1")),
        too_large,
        cut_off,
    ],
)
async def test_a_malformed_reply_is_no_success(
    reply: Callable[[], web.Response], monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON that is cut off or no object, and more than is ever right."""
    monkeypatch.setattr(transport, "MAX_REPLY_BYTES", 1000)
    async with stripe_that_answers(reply) as (api, stub, _):
        await caught(api.get("/v1/events"), StripeUnavailable)
        assert len(stub.asked) == ATTEMPTS


@pytest.mark.parametrize("error", [b'"CANARY"', b'["CANARY"]', b'"CANARY \xff"'])
@pytest.mark.parametrize("status", [400, 429, 502])
async def test_an_error_that_is_not_in_the_form_of_stripes_is_no_other_exception(status: int, error: bytes) -> None:
    """A proxy's, for example. The library's own exceptions about it would contain the reply."""
    body = b'{"error": %s}' % error.replace(b"CANARY", CANARY.encode())
    async with stripe_that_answers(lambda: web.Response(body=body, status=status)) as (api, *_):
        await caught(api.get("/v1/events"), StripeUnavailable)


@pytest.mark.parametrize(
    ("status", "code"), [(400, "parameter_missing"), (401, None), (403, "x"), (404, "resource_missing")]
)
async def test_a_rejection_is_reported_at_once_without_its_text(status: int, code: str | None) -> None:
    """Codes and ids are kept, what Stripe says in words is not."""
    async with stripe_that_answers(failing(status, code or CANARY)) as (api, stub, _):
        error = await caught(api.get("/v1/events/evt_1"), StripeRejected)
    assert (error.status, error.request_id, len(stub.asked)) == (status, "req_1", 1)
    if status in {400, 404}:
        assert (error.code, error.param) == (code, "line_items[0]")


async def test_a_server_that_does_not_answer_is_given_up_in_time() -> None:
    """The deadline holds for the call as a whole."""
    loop = asyncio.get_running_loop()
    async with stripe_that_answers(lambda: OK({}), deadline_s=0.2, clock=loop.time, sleep=asyncio.sleep) as (
        api,
        stub,
        _,
    ):
        stub.delay_s = 60
        began_s = loop.time()
        error = await caught(api.get("/v1/events"), StripeUnavailable)
        assert loop.time() - began_s < 30
    assert error.reason == "timeout"


async def test_where_no_server_listens_the_call_fails() -> None:
    """A connection that is refused is tried again, and then reported."""
    clock = Clock()
    api = StripeApi(config("http://127.0.0.1:1"), clock=clock, sleep=clock.sleep)
    assert (await caught(api.get("/v1/events"), StripeUnavailable)).reason == "connection failed"
    await api.close()


async def test_nothing_of_a_reply_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The library's own log lines, which have Stripe's texts in them, are not written."""
    with caplog.at_level(logging.DEBUG):
        async with stripe_that_answers(failing(404)) as (api, *_):
            await caught(api.get("/v1/events/evt_1"), StripeRejected)
    assert CANARY not in caplog.text


# --- lists -------------------------------------------------------------------------------------------------------


async def pages(api: StripeApi, **given: Any) -> list[Page]:
    return [page async for page in api.pages("/v1/events", **given)]


async def test_a_list_is_read_to_its_end() -> None:
    """Each page begins behind the last object of the one before."""
    async with stripe_that_answers(listed("evt_3", "evt_2", has_more=True), listed("evt_1", has_more=False)) as (
        api,
        stub,
        _,
    ):
        found = await pages(api, params={"type": "x"}, starting_after="evt_4")
    assert [(len(page.objects), page.last_id, page.has_more) for page in found] == [
        (2, "evt_2", True),
        (1, "evt_1", False),
    ]
    assert [dict(request.query) for request in stub.asked] == [
        {"limit": "100", "type": "x", "starting_after": "evt_4"},
        {"limit": "100", "type": "x", "starting_after": "evt_2"},
    ]


@pytest.mark.parametrize(
    "reply",
    [
        listed(has_more=True),
        lambda: OK({"object": "list", "data": [{"id": "evt_1"}]}),
        lambda: OK({"object": "list", "data": [{}], "has_more": False}),
        lambda: OK({"object": "event", "data": {}, "has_more": False}),
    ],
)
async def test_an_incomplete_page_is_not_taken_for_the_end(reply: Callable[[], web.Response]) -> None:
    """Otherwise objects would be missing without a trace."""
    async with stripe_that_answers(reply) as (api, *_):
        await caught(pages(api), StripeUnavailable)


async def test_a_list_that_does_not_go_on_ends() -> None:
    """A page that ends where the one before did is not read for ever."""
    async with stripe_that_answers(listed("evt_1", has_more=True)) as (api, stub, _):
        await caught(pages(api), StripeUnavailable)
    assert len(stub.asked) == 2
