"""What is no event that Stripe signed: each way to forge one, against the real handler over HTTP and a real PostgreSQL.

Nothing of it is stored, each is counted by its reason, none costs as much work as an event, and a flood of them is one
line in the log.
"""

import hmac
import io
import json
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from aiohttp import ClientResponse
from structlog.testing import capture_logs

from daemon.api import webhook
from daemon.api.metrics import ApiMetrics
from daemon.api.webhook import BODY_LIMIT
from daemon.ledger import stripe_events
from daemon.ledger.recorder import Recorder
from daemon.runtime.rate_limited_log import CountingLog
from daemon.simulator import scenarios
from daemon.simulator.sender import sign
from sql.database import Database
from tests.support.api_application import NOW, OLD_SECRET, SECRET, Client, MakeClient, application, follower

EVENT: dict[str, Any] = next(
    dict(event)
    for scenario in scenarios.generate(1, 40, ["story-1"], now=NOW)
    if scenario.kind == "paid"
    for event in scenario.events
    if event["type"] == "charge.succeeded"
)
BODY = json.dumps(EVENT).encode()
STAMP, GOOD = sign(BODY, SECRET, NOW).split(",")
FORGED = f"v1={'0' * 64}"

# Headers that carry no signature of the body, and the reason each is counted under.
FORGERIES = {
    "no header at all": ("", "malformed"),
    "v0 only": (f"{STAMP},{GOOD.replace('v1', 'v0')}", "malformed"),
    "an empty v1": (f"{STAMP},v1=", "malformed"),
    "commas": ("," * 4000, "malformed"),
    "no timestamp": (GOOD, "malformed"),
    "an empty timestamp": (f"t=,{GOOD}", "malformed"),
    "a negative timestamp": (f"t=-{NOW},{GOOD}", "malformed"),
    "a timestamp of a thousand digits": (f"t={'9' * 1000},{GOOD}", "malformed"),
    "a timestamp in other digits": ("t=١٢٣," + GOOD, "malformed"),
    "an old timestamp under an old signature": (sign(BODY, SECRET, NOW - 301), "timestamp"),
    "a future timestamp under its signature": (sign(BODY, SECRET, NOW + 301), "timestamp"),
    "a good signature under another timestamp": (f"t={NOW + 1},{GOOD}", "mismatch"),
    "a good signature after another timestamp": (f"t={NOW + 1},{STAMP},{GOOD}", "mismatch"),
    "ten wrong v1": (",".join([STAMP, *[FORGED] * 10]), "mismatch"),
    "the right v1 behind ten wrong ones": (",".join([STAMP, *[FORGED] * 10, GOOD]), "malformed"),
    "a shortened v1": (f"{STAMP},{GOOD[:-1]}", "malformed"),
    "an upper-case v1": (f"{STAMP},v1={GOOD[3:].upper()}", "mismatch"),
    "a v1 that is no hexadecimal": (f"{STAMP},v1={'z' * 64}", "mismatch"),
    "the signature under another secret": (sign(BODY, "whsec_other", NOW), "mismatch"),
    "the signature of another body": (sign(BODY + b" ", SECRET, NOW), "mismatch"),
    "the signature under the empty secret": (sign(BODY, "", NOW), "mismatch"),
}


@pytest.fixture
def metrics() -> ApiMetrics:
    return ApiMetrics()


@pytest.fixture
async def client(database: Database, aiohttp_client: MakeClient, metrics: ApiMetrics) -> Client:
    return await aiohttp_client(application(database, follower(), metrics))


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the dear steps of an event's way: HMACs, bodies decoded, and writes."""
    done = Counter[str]()

    def counted(step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            done[step] += 1
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(hmac.HMAC, "copy", counted("hmac", hmac.HMAC.copy))
    monkeypatch.setattr(webhook, "read", counted("decode", stripe_events.read))
    monkeypatch.setattr(Recorder, "record", counted("write", Recorder.record))
    return done


async def post(client: Client, body: bytes, header: str) -> ClientResponse:
    headers = {"Stripe-Signature": header} if header else {}
    return await client.post("/webhooks/stripe", data=io.BytesIO(body), headers=headers)


async def stored(database: Database) -> tuple[list[Any], list[Any]]:
    """The events, and the donations with everything that is known of them."""
    events = await database.fetch("SELECT id, type, livemode, error FROM stripe_events ORDER BY id")
    donations = await database.fetch(
        "SELECT id, status, amount_minor, currency, ticket_id, facts::jsonb::text FROM stripe_attributions ORDER BY id"
    )
    return events, donations


def rejected(metrics: ApiMetrics, reason: str) -> float | None:
    return metrics.registry.get_sample_value("webhook_refused_total", {"reason": reason})


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_a_forgery_is_counted_and_leaves_nothing(
    client: Client, database: Database, metrics: ApiMetrics, work: Counter[str], forgery: str
) -> None:
    """400, counted under its reason, nothing stored; an HMAC only where all else is right, and nothing is decoded."""
    header, reason = FORGERIES[forgery]
    assert (await post(client, BODY, header)).status == 400
    assert rejected(metrics, reason) == 1
    assert work == ({"hmac": 2} if reason == "mismatch" else {})  # one for each secret, however many v1 there are
    assert await stored(database) == ([], [])


async def test_an_event_costs_what_no_forgery_does(client: Client, work: Counter[str]) -> None:
    """The work that the forgeries are measured by: an HMAC for each secret, one decoding and one write."""
    assert (await post(client, BODY, f"{STAMP},{GOOD}")).status == 200
    assert work == {"hmac": 2, "decode": 1, "write": 1}


async def test_order_does_not_make_a_forgery(client: Client) -> None:
    """What Stripe signed is taken in any order of the header's parts, and beside nine signatures that do not fit."""
    rng = random.Random(6)
    parts = [STAMP, GOOD, f"v0={'0' * 64}", *[FORGED] * 9]
    for _ in range(10):
        rng.shuffle(parts)
        assert (await post(client, BODY, ",".join(parts))).status == 200


async def test_every_bit_counts(client: Client, database: Database) -> None:
    """A body changed in any one bit is refused under its signature: bits all over it are tried."""
    for bit in range(0, len(BODY) * 8, 97):
        changed = bytearray(BODY)
        changed[bit // 8] ^= 1 << (bit % 8)
        assert (await post(client, bytes(changed), f"{STAMP},{GOOD}")).status == 400
    assert await stored(database) == ([], [])


async def test_nothing_and_too_much(client: Client, database: Database, metrics: ApiMetrics) -> None:
    """An empty body is not an event even when it is signed; a huge one is rejected unread, and both are counted."""
    assert (await post(client, b"", sign(b"", SECRET, NOW))).status == 400
    huge = b" " * (BODY_LIMIT + 1)
    assert (await post(client, huge, sign(huge, SECRET, NOW))).status == 413
    assert (rejected(metrics, "no event"), rejected(metrics, "too large")) == (1, 1)
    assert await stored(database) == ([], [])


@pytest.mark.parametrize(
    "changes",
    [
        {"livemode": True},
        {"object": "v2.core.event", "type": "v1.charge.succeeded", "created": "2025-10-09T08:53:20Z", "data": None},
    ],
)
async def test_a_signed_event_that_is_not_meant(client: Client, database: Database, changes: dict[str, Any]) -> None:
    """A true event of the other mode and a thin one are acknowledged and recorded, and make no donation."""
    body = json.dumps({**EVENT, **changes}).encode()
    reply = await post(client, body, sign(body, SECRET, NOW))
    assert reply.status == 200
    assert (await reply.json())["handled"] is False
    events, donations = await stored(database)
    assert [event[0] for event in events] == [EVENT["id"]]
    assert donations == []


def other_body(change: str) -> bytes:
    """The event's id, with a body that says something else."""
    charge = EVENT["data"]["object"]
    smaller = {**charge, "amount": charge["amount"] - 1, "amount_captured": charge["amount"] - 1}
    return json.dumps(
        {
            "smaller amount": {**EVENT, "data": {"object": smaller}},
            "earlier and failed": {
                **EVENT,
                "created": EVENT["created"] - 9,
                "data": {"object": {**smaller, "paid": False, "captured": False, "status": "failed"}},
            },
            "another type": {**EVENT, "type": "customer.created"},
            "the other mode": {**EVENT, "livemode": True},
            "a shape that can't be applied": {**EVENT, "data": {"object": {**charge, "amount": "many"}}},
        }[change]
    ).encode()


CHANGES = ["smaller amount", "earlier and failed", "another type", "the other mode", "a shape that can't be applied"]


@pytest.mark.parametrize("change", CHANGES)
async def test_a_known_id_with_another_body_takes_nothing_back(client: Client, database: Database, change: str) -> None:
    """Unsigned: 400. Signed, Stripe's other rendering: seen before, and event and donation stand as they were."""
    assert (await post(client, BODY, f"{STAMP},{GOOD}")).status == 200
    events, [[*donation, _]] = await stored(database)
    body = other_body(change)
    assert (await post(client, body, f"{STAMP},{GOOD}")).status == 400
    reply = await post(client, body, sign(body, OLD_SECRET, NOW))
    assert reply.status == 200
    assert (await reply.json())["idempotent"] is True
    events_after, [[*donation_after, _]] = await stored(database)
    assert (events_after, donation_after) == (events, donation)


async def test_of_two_bodies_of_one_id_the_order_does_not_matter(client: Client, database: Database) -> None:
    """The facts of both are merged, as Stripe's two renderings are for endpoints of two versions: no order decides."""
    results = []
    for bodies in ([BODY, other_body("smaller amount")], [other_body("smaller amount"), BODY]):
        for body in bodies:
            assert (await post(client, body, sign(body, SECRET, NOW))).status == 200
        results.append(await stored(database))
        for table in ("stripe_events", "stripe_attributions", "stripe_objects", "ticket_totals"):
            await database.fetch(f"DELETE FROM {table}")  # noqa: S608 - names of our own
    assert results[0] == results[1]
    assert len(results[0][1]) == 1


async def test_a_flood_is_one_line(
    database: Database, aiohttp_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred forgeries write nothing by themselves; what counts them all is one line, with no word of theirs."""
    later = list[Callable[[], None]]()
    monkeypatch.setattr(webhook, "CountingLog", partial(CountingLog, later=lambda _delay_s, call: later.append(call)))
    client = await aiohttp_client(application(database, follower()))
    with capture_logs() as lines:
        for _ in range(50):
            await post(client, BODY, f"{STAMP},{FORGED}")
            await post(client, BODY, "canary")
        assert lines == []
        [say] = later
        say()
    assert [(line["mismatch"], line["malformed"]) for line in lines] == [(50, 50)]
    assert "canary" not in repr(lines)
