"""Each row of the webhook's table, with truly signed bodies and a real PostgreSQL."""

import io
import json
from typing import Any

import pytest
from aiohttp import ClientResponse
from structlog.testing import capture_logs

from daemon.api.app import build
from daemon.api.metrics import ApiMetrics
from daemon.api.tickets import Donations
from daemon.api.webhook import BODY_LIMIT, Webhook
from daemon.ledger.changes import Outcome, ReceivedEvent
from daemon.ledger.reader import Ledger
from daemon.simulator import scenarios, sender
from sql.database import Database
from sql.errors import DatabaseUnavailable
from tests.support.api_application import (
    NOW,
    OLD_SECRET,
    SECRET,
    Client,
    MakeClient,
    application,
    follower,
    reply_parts,
)
from tests.support.ledger import EMPTY_LEDGER


@pytest.fixture(scope="module")
def database_url(shared_url: str) -> str:
    """All tests have the same database."""
    return shared_url


@pytest.fixture
async def client(database: Database, aiohttp_client: MakeClient) -> Client:
    """An API whose ledger is empty."""
    await database.fetch(EMPTY_LEDGER)
    return await aiohttp_client(application(database, follower()))


@pytest.fixture
def event() -> dict[str, Any]:
    scenario = next(scenario for scenario in scenarios.generate(1, 40, ["story-1"], now=NOW) if scenario.kind == "paid")
    return next(dict(e) for e in scenario.events if e["type"] == "charge.succeeded")


async def post(
    client: Client, event: object, *, secret: str = SECRET, at: int = NOW, header: str | None = None
) -> ClientResponse:
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    signature = sender.sign(body, secret, at) if header is None else header
    return await client.post("/webhooks/stripe", data=io.BytesIO(body), headers={"Stripe-Signature": signature})


async def stored(database: Database) -> list[tuple[Any, ...]]:
    return await database.fetch("SELECT id, type, error FROM stripe_events")


async def test_an_event_is_applied_once_and_then_seen(client: Client, database: Database, event: Any) -> None:
    """Applied: 200, not idempotent; again: 200, idempotent; the ledger has it once."""
    reply = await post(client, event)
    assert reply.status == 200
    assert await reply.json() == {"received": True, "type": event["type"], "idempotent": False, "handled": True}
    again = await post(client, event, at=NOW + 5)
    assert await again.json() == {"received": True, "type": event["type"], "idempotent": True, "handled": True}
    assert await stored(database) == [(event["id"], event["type"], None)]
    assert await database.fetch("SELECT count(*) FROM stripe_attributions") == [(1,)]


@pytest.mark.parametrize("secret", [OLD_SECRET, SECRET])
async def test_either_secret_counts_while_they_roll(client: Client, event: Any, secret: str) -> None:
    """A body signed under any of the configured secrets is taken."""
    assert (await post(client, event, secret=secret)).status == 200


@pytest.mark.parametrize("at", [NOW - 300, NOW + 300])
async def test_within_the_tolerance_both_ways(client: Client, event: Any, at: int) -> None:
    """300 s old or ahead is still taken."""
    assert (await post(client, event, at=at)).status == 200


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"header": ""}, "missing"),
        ({"header": "nonsense"}, "missing"),
        ({"header": f"t={NOW}"}, "no v1"),
        ({"header": f"t={NOW},v0={'0' * 64}"}, "no v1"),
        ({"header": f"t={NOW},v1=00"}, "no v1"),
        ({"header": f"t={NOW},v1={'0' * 64}"}, "no signature"),
        ({"header": f"t={NOW}" + f",v1={'0' * 64}" * 11}, "too many"),
        ({"header": f"t={'9' * 5000},v1=00"}, "missing"),
        ({"header": "t=²,v1=00"}, "missing"),
        ({"secret": "whsec_other"}, "no signature"),
        ({"at": NOW - 301}, "too far"),
        ({"at": NOW + 301}, "too far"),
    ],
)
async def test_a_bad_signature_is_refused(
    client: Client, database: Database, event: Any, how: dict[str, Any], words: str
) -> None:
    """400, with the reason and without the body, and nothing is stored."""
    reply = await post(client, event, **how)
    assert reply.status == 400
    error = await reply.json()
    assert words in error.pop("message")
    assert error == {"success": False, "error": "Bad Request"}
    assert await stored(database) == []


async def test_a_changed_body_is_refused(client: Client, event: Any) -> None:
    """One bit changed after signing: 400."""
    body = bytearray(json.dumps(event).encode())
    header = sender.sign(bytes(body), SECRET, NOW)
    body[-2] ^= 1
    assert (await post(client, bytes(body), header=header)).status == 400


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff\xfe", b"null", b"[]", b"{}", b'{"id": "evt_1"}', b"[" * 100_000, b"1" * 5000, b'{"a": "\\ud800"}'],
)
async def test_signed_but_no_event_is_refused(client: Client, database: Database, body: bytes) -> None:
    """Signed bytes that are no Stripe event: 400, nothing stored."""
    header = "t=1" if b"\xff" in body else sender.sign(body, SECRET, NOW)
    reply = await post(client, body, header=header)
    assert reply.status == 400
    assert await stored(database) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"type": "customer.created"}, "this type changes nothing"),
        ({"livemode": True}, "this is an event of the other mode"),
        ({"object": "v2.core.event", "created": "2025-10-09T08:53:20Z", "data": None}, "a thin event changes nothing"),
    ],
)
async def test_what_changes_nothing_is_recorded(
    client: Client, database: Database, event: Any, changes: dict[str, Any], reason: str
) -> None:
    """Other types, the other mode and thin events: 200, not handled, recorded, and no donation."""
    changed = {**event, **changes}
    reply = await post(client, changed)
    assert reply.status == 200
    expected = {"received": True, "type": changed["type"], "idempotent": False, "handled": False, "reason": reason}
    assert await reply.json() == expected
    assert await stored(database) == [(event["id"], changed["type"], None)]
    assert await database.fetch("SELECT count(*) FROM stripe_attributions") == [(0,)]


async def test_what_cannot_be_applied_is_kept_scrubbed_and_taken_later(
    client: Client, database: Database, event: Any
) -> None:
    """422, with the place and no value; not seen before when it comes in a good shape."""
    good = event["data"]["object"]
    bad = {**event, "data": {"object": {**good, "amount": "Jane Canary"}}}
    for _ in range(2):
        reply = await post(client, bad)
        assert reply.status == 422
        assert "Canary" not in await reply.text()
    [(id_, _, error)] = await stored(database)
    assert id_ == event["id"]
    assert "$.amount" in error
    assert "Canary" not in error
    assert (await (await post(client, event)).json())["idempotent"] is False
    assert await stored(database) == [(event["id"], event["type"], None)]


@pytest.mark.parametrize("dismissed_at", [None, "2025-10-09T09:00Z"])
async def test_a_failed_event_is_applied_once_a_release_understands_it(
    client: Client, database: Database, event: Any, dismissed_at: str | None
) -> None:
    """The next delivery applies it and clears its reason, whether an operator dismissed it or not; then it is known."""
    await database.fetch(
        "INSERT INTO stripe_events (id, type, stripe_created, livemode, error, dismissed_at) "
        "VALUES (%s, %s, to_timestamp(%s), false, 'an unknown shape', %s)",
        [event["id"], event["type"], event["created"], dismissed_at],
    )
    for idempotent in (False, True):
        reply = await post(client, event)
        assert reply.status == 200
        shown = {"received": True, "type": event["type"], "idempotent": idempotent, "handled": True}
        assert await reply.json() == shown
    assert await stored(database) == [(event["id"], event["type"], None)]
    assert await database.fetch("SELECT count(*) FROM stripe_attributions WHERE paid_at IS NOT NULL") == [(1,)]


async def test_a_body_over_the_limit_is_refused(client: Client, database: Database) -> None:
    """Over 1 MiB: 413."""
    reply = await post(client, b" " * (BODY_LIMIT + 1))
    assert reply.status == 413
    assert await stored(database) == []


async def test_not_ready_is_503_before_anything_else(database: Database, aiohttp_client: MakeClient) -> None:
    """Not ready: 503 in the original's words with Retry-After, for every path but the health checks."""
    client = await aiohttp_client(application(database, follower(ready=False)))
    for path in ("/webhooks/stripe", "/api/tickets/x/donations", "/nothing"):
        reply = await client.request("POST" if "webhooks" in path else "GET", path)
        assert reply.status == 503
        assert reply.headers["Retry-After"] == "30"
        assert await reply.json() == {
            "error": "Service Unavailable",
            "message": "Database connection is currently unavailable",
            "retryAfter": 30,
        }
    assert (await client.get("/health/live")).status == 200
    assert (await client.get("/health/db")).status == 503


async def test_a_lost_database_is_503_and_reported(aiohttp_client: MakeClient, event: Any) -> None:
    """Lost while processing: 503 with Retry-After, and it is reported to the sidecar."""
    nowhere = Database(
        "postgresql://nobody@127.0.0.1:1/none",
        pool_size=1,
        statement_timeout_s=1,
        connect_timeout_s=1,
        application_name="donationd test",
    )
    follows = follower()
    reports: list[bool] = []
    follows.report_failure = lambda: reports.append(True)  # type: ignore[method-assign]
    reply = await post(await aiohttp_client(application(nowhere, follows)), event)
    assert (reply.status, reply.headers["Retry-After"]) == (503, "30")
    assert reports == [True]
    await nowhere.close()


async def test_the_lines_of_a_delivery_bear_its_request_and_its_event(client: Client, event: Any) -> None:
    """Applied, seen before: each request has an id of its own; the event's is the same in all its lines."""
    with capture_logs() as lines:
        await post(client, event)
        await post(client, event)
    applied, duplicate = [line for line in lines if line["event"].startswith("[Webhook]")]
    assert applied["event_id"] == duplicate["event_id"] == event["id"]
    assert applied["event_id"] in applied["event"]
    assert applied["request"] != duplicate["request"]


async def test_a_fault_while_an_event_is_written_names_the_event(aiohttp_client: MakeClient, event: Any) -> None:
    """The line of a trouble says which delivery met it first; the next that meets it has no line of its own."""

    async def fail(_received: ReceivedEvent, _size: int) -> Outcome:
        raise DatabaseUnavailable("timeout")

    metrics = ApiMetrics()
    webhook = Webhook(fail, metrics, secrets=(SECRET,), livemode=False, hash_key=None, clock=lambda: float(NOW))
    unused = Donations(Ledger(None), "USD")  # type: ignore[arg-type]
    client = await aiohttp_client(build(webhook, unused, reply_parts(metrics)))
    with capture_logs() as lines:
        for _ in range(2):
            assert (await post(client, event)).status == 503
    [down] = lines
    assert down["event"] == "[API] Database unavailable: timeout"
    assert down["event_id"] == event["id"]
    assert down["remedy"] == "look in pg_stat_activity for what is slow"


async def test_an_unknown_status_is_applied_and_counted(database: Database, aiohttp_client: MakeClient) -> None:
    """A new word of Stripe's is no failure: 200, and a metric says that there is one."""
    metrics = ApiMetrics()
    client = await aiohttp_client(application(database, follower(), metrics))
    dispute = {"id": "dp_1", "amount": 500, "currency": "usd", "charge": "ch_1", "status": "arbitration"}
    head = {"id": "evt_new", "type": "charge.dispute.updated", "created": NOW, "livemode": False}
    for idempotent in (False, True):
        reply = await post(client, {**head, "data": {"object": dispute}})
        assert (reply.status, (await reply.json())["idempotent"]) == (200, idempotent)
        assert metrics.registry.get_sample_value("stripe_unknown_statuses_total", {"object": "dispute"}) == 1
