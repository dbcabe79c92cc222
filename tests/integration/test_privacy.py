"""No part of a donor's data is found anywhere, whatever fails, except the facts that donationd keeps.

Every person's field of every event is replaced by canary words; then everything the system wrote or said is searched.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
import psycopg2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon.ledger import privacy
from daemon.ledger.stripe_events import CannotApply, NotAnEvent, read
from daemon.simulator import scenarios, sender
from daemon.simulator.stripe_objects import Json
from tests.support.api_process import SECRET, Api, ended
from tests.support.instance import free_ports
from tests.support.postgres import Server
from tests.support.process import Process

CANARY = "canary"
LAST_NAME = "Allowedname"
EMAIL = "canary.mail@secret.example"
# What a person's fields of Stripe's objects are called, and what stands there in this test.
CANARIES: dict[str, Any] = {
    "name": f"Canaryfirst CanaryMiddle {LAST_NAME}",
    "customer_name": "Canaryfirst Evidence",
    "email": EMAIL,
    "receipt_email": EMAIL,
    "customer_email_address": EMAIL,
    "phone": "+1 202 canary-phone",
    "line1": "12 canary street",
    "line2": "canary flat 3",
    "billing_address": "12 canary street",
    "city": "Canaryville",
    "postal_code": "canary-zip",
    "state": "canary-state",
    "customer_purchase_ip": "canary-203.0.113.77",
    "last4": "canary-4242",
    "fingerprint": "canary-fingerprint",
    "description": "a donation from canary",
    "client_reference_id": "canary street 12",
    "receipt_url": "https://pay.example/canary",
    "client_secret": "canary-secret",
    "message": "canary declined",
}
# Shapes that can't be applied, each holding a canary where something else belongs.
BREAKAGES: tuple[tuple[str, Any], ...] = (
    ("amount", "canary-amount"),
    ("currency", "canary-currency"),
    ("created", {"canary": "canary"}),
    ("payment_intent", "canary intent"),
    ("metadata", "canary-metadata"),
    ("id", "canary id"),
    ("status", ["canary"]),
)

LOG_EVERYTHING = """
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET log_statement = %L', current_database(), 'all'); END $$
"""
WAIT_S = 60

# What a site may have put where a ticket id belongs.
NO_TICKETS = (
    "ann.reference@secret.example",
    "+12025550177",
    "12025550177",
    "202 555 0177",
    "4242424242424242",
    "203.0.113.77",
    "2001:db8::77",
    "laptop-of-ann.secret.example",
    "Ann Reference",
)
A_TICKET = "20250177"  # a number this short is one


def with_canaries(value: Any) -> Any:
    """The same JSON with every person's field replaced."""
    if isinstance(value, dict):
        changed = {key: CANARIES.get(key, with_canaries(inner)) for key, inner in value.items()}
        return changed | {"metadata": {**changed["metadata"], "note": "canary"}} if "metadata" in changed else changed
    return [with_canaries(inner) for inner in value] if isinstance(value, list) else value


def canary_events(seed: int) -> list[Json]:
    generated = scenarios.generate(seed, 40, ["story-1"], now=int(time.time()))
    return [with_canaries(event) for event in scenarios.shuffled(generated, seed)]


def naming(reference: str, key: str) -> list[Json]:
    """A payment, a charge and a session of their own that name their ticket so, each in every place there is."""
    money = {"amount": 500, "currency": "usd", "created": 1_760_000_000, "metadata": {"ticketId": reference}}
    charge = {"id": f"ch_{key}", "paid": True, "captured": True, "amount_captured": 500, "status": "succeeded"}
    session = {"id": f"cs_{key}", "mode": "payment", "amount_total": 500, "client_reference_id": reference}
    objects = {
        "payment_intent.succeeded": {"id": f"pi_{key}", "amount_received": 500, **money},
        "charge.succeeded": charge | money,
        "checkout.session.completed": session | money,
    }
    return [
        {"id": f"evt_{stripe_object['id']}", "object": "event", "type": event_type, "created": 1_760_000_001}
        | {"livemode": False, "data": {"object": stripe_object}}
        for event_type, stripe_object in objects.items()
    ]


def broken(events: list[Json]) -> list[Json]:
    """Signed events of handled types that can't be applied."""
    charges = [event for event in events if event["type"] == "charge.succeeded"]
    return [
        {**charge, "id": f"evt_broken{n}", "data": {"object": {**charge["data"]["object"], key: value}}}
        for n, (charge, (key, value)) in enumerate(zip(charges, BREAKAGES, strict=False))
    ]


NO_TEXT = [
    r'"\ud800"',
    r'"Ann \udc00 Smith"',
    '"Ann \xe9"',
    "null",
    "5",
    "true",
    "[]",
    "{}",
    '["Ann"]',
    r'{"name": "\ud800"}',
]
NO_JSON = ['"Ann \\x"', '"Ann', "", "}", "[" * 5000 + "]" * 5000]
KNOWN = {"name": '"Ann Smith"', "email": '"ann@example.com"', "address": '{"country": "us"}'}
REDUCED = privacy.Donor("Smith", "US", privacy.email_hash("ann@example.com", None))


def raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode("latin-1"))


def raw_object(fields: dict[str, str]) -> msgspec.Raw:
    return raw("{" + ", ".join(f'"{name}": {text}' for name, text in fields.items()) + "}")


@pytest.mark.parametrize("bad", NO_TEXT)
def test_what_is_no_text_counts_as_absent(bad: str) -> None:
    """In place of the donor object or of one of its fields, and for that field only; nothing is ever raised."""
    assert privacy.reduce_email(raw(bad), None) is None
    assert privacy.reduce_details(raw(bad), None) == privacy.Donor()
    assert privacy.reduce_details(raw_object(KNOWN | {"name": bad}), None) == replace(REDUCED, last_name=None)
    assert privacy.reduce_details(raw_object(KNOWN | {"email": bad}), None) == replace(REDUCED, email_hash=None)
    assert privacy.reduce_details(raw_object(KNOWN | {"address": bad}), None) == replace(REDUCED, country=None)
    street = f'{{"line1": {bad}, "country": "us"}}'
    assert privacy.reduce_details(raw_object(KNOWN | {"address": street, "phone": bad}), None) == REDUCED


@pytest.mark.parametrize("bad", NO_JSON)
def test_what_is_no_json_counts_as_absent(bad: str) -> None:
    """Where it is not clear what the fields are, there are none."""
    assert privacy.reduce_email(raw(bad), None) is None
    assert privacy.reduce_details(raw(bad), None) == privacy.Donor()
    assert privacy.reduce_details(raw_object(KNOWN | {"name": bad}), None) == privacy.Donor()


@given(st.binary() | st.text(st.sampled_from('{}[]":,\\ud8nameil 0')).map(str.encode))
def test_no_bytes_make_the_reduction_raise(text: bytes) -> None:
    """Whatever stands where a donor belongs, there is a donor, if an empty one."""
    assert privacy.reduce_email(msgspec.Raw(text), None) is None or text.strip().startswith(b'"')
    assert isinstance(privacy.reduce_details(msgspec.Raw(text), None), privacy.Donor)


@pytest.mark.parametrize("country", ["", "USA", "u", "ß", "\ufb01", "\u0131t", "U1", "US "])
def test_a_country_is_two_letters(country: str) -> None:
    """Anything else, even what would become two letters in capitals, is none."""
    details = msgspec.Raw(msgspec.json.encode({"address": {"country": country}}))
    assert privacy.reduce_details(details, None).country is None


WORDS = st.text().map(lambda text: f"canary {text}")
ANYTHING = st.recursive(
    WORDS | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(st.dictionaries(st.sampled_from(["name", "email", "address", "phone"]), ANYTHING) | ANYTHING)
@example({"name": "canary", "email": 5})
def test_a_reason_names_places_not_values(details: object) -> None:
    """Whatever stands where billing details belong, the reason for refusing it repeats none of it."""
    [scenario] = scenarios.seed_example()[:1]
    charge = next(event for event in scenario.events if event["type"] == "charge.succeeded")
    event = {**charge, "data": {"object": {**charge["data"]["object"], "billing_details": details}}}
    try:
        read(sender.encode(event), livemode=False, hash_key=None)
    except (CannotApply, NotAnEvent) as refusal:
        assert CANARY not in str(refusal)


class Witness:
    """Posts to the API and keeps everything that it replies."""

    def __init__(self, api: Api, session: aiohttp.ClientSession) -> None:
        self.api, self.session = api, session
        self.replies: list[str] = []
        self.statuses: list[int] = []

    async def post(self, body: bytes, *, secret: str = SECRET) -> int:
        headers = {"Stripe-Signature": sender.sign(body, secret, int(time.time()))}
        async with self.session.post(f"{self.api.base}/webhooks/stripe", data=body, headers=headers) as reply:
            await self._keep(reply)
            self.statuses.append(reply.status)
            return reply.status

    async def get(self, url: str) -> None:
        async with self.session.get(url) as reply:
            await self._keep(reply)

    async def _keep(self, reply: aiohttp.ClientResponse) -> None:
        self.replies.append(f"{reply.headers} {await reply.text()}")


@pytest.fixture
def api(tmp_path_factory: pytest.TempPathFactory, database_url: str) -> Api:
    api = Api(tmp_path_factory.mktemp("api"), database_url)
    api.environ |= {"LOG_LEVEL": "DEBUG", "DB_STATEMENT_TIMEOUT_MS": "3000"}
    return api


def admin(url: str, *statements: str) -> None:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


async def provoke(witness: Witness, url: str, events: list[Json]) -> None:
    """Everything that can go wrong on an event's way, each with a body full of canaries."""
    bodies = [sender.encode(event) for event in events]
    assert await witness.post(bodies[0], secret="whsec_wrong") == 400
    assert await witness.post(bodies[0][:-9]) == 400
    for event in broken(events):
        assert await witness.post(sender.encode(event)) == 422
    admin(url, "ALTER TABLE stripe_attributions ADD CONSTRAINT refusal CHECK (donor_country IS NULL) NOT VALID")
    assert 422 in [await witness.post(body) for body in bodies[:20]]
    admin(url, "ALTER TABLE stripe_attributions DROP CONSTRAINT refusal", "ALTER TABLE ticket_totals RENAME TO hidden")
    assert 503 in [await witness.post(body) for body in bodies[20:24]]
    admin(url, "ALTER TABLE hidden RENAME TO ticket_totals")
    with closing(psycopg2.connect(url)) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE stripe_events")
        assert await witness.post(bodies[30]) == 503
    admin(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )


async def _until_ready(session: aiohttp.ClientSession, api: Api) -> None:
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                async with session.get(f"{api.base}/health/db") as reply:
                    if reply.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.05)


def _around(text: str) -> str:
    """Where a canary was found, for the test's own message."""
    place = text.lower().find(CANARY)
    return text[max(0, place - 200) : place + 80]


Play = Callable[[Witness], Awaitable[None]]


async def everything_said(api: Api, database_url: str, server: Server, play: Play) -> dict[str, str]:
    """What is left after `play`, by place: the logs of API, sidecar and PostgreSQL, every reply, the database."""
    admin(database_url, LOG_EVERYTHING)
    logged_before = server.log.stat().st_size
    [port] = free_ports(1)
    environ = {**api.environ, "METRICS_PORT": str(port), "ALLOW_LOGGED_STATEMENTS": "true"}
    sidecar_log = api.log.with_name("sidecar.log")
    with Process([sys.executable, "-m", "health_sidecar"], sidecar_log, environ):
        async with api.running() as process, aiohttp.ClientSession() as session:
            witness = Witness(api, session)
            await _until_ready(session, api)
            await play(witness)
            for path in ("/api/tickets/story-1/donations", "/api/tickets/story-1/donations/total", "/health"):
                await witness.get(api.base + path)
            await witness.get(f"http://127.0.0.1:{port}/metrics")
            process.terminate()
            await ended(process)
    return {
        "api": api.log.read_text(),
        "sidecar": sidecar_log.read_text(),
        "replies": "\n".join(witness.replies),
        "dump": await asyncio.to_thread(server.dump, database_url),
        "postgresql": server.log.read_bytes()[logged_before:].decode(),
    }


async def test_no_canary_is_found_anywhere(api: Api, database_url: str, server: Server) -> None:
    """Payments full of canaries, with events that fail and a database in trouble: only what may be kept is found."""
    events = canary_events(4)

    async def play(witness: Witness) -> None:
        await provoke(witness, database_url, events)
        await _until_ready(witness.session, api)
        for event in events:
            await witness.post(sender.encode(event))

    said = await everything_said(api, database_url, server, play)
    for place, text in said.items():
        assert CANARY not in text.lower(), f"{place}: {_around(text)}"
    assert LAST_NAME in said["dump"]
    assert str(privacy.email_hash(EMAIL, None)) in said["dump"]
    assert "refusal" in said["postgresql"]
    assert "statement: " in said["postgresql"]
    assert said["api"].count("can't be applied") >= len(BREAKAGES)
    assert "webhook_events_total" in said["replies"]


async def test_a_reference_that_is_no_ticket_id_is_not_stored(api: Api, database_url: str, server: Server) -> None:
    """An address or a number of a person, wherever a ticket is named, is found neither in the database nor in a log, a
    reply or a metric; the money is in the ledger without a ticket.
    """
    statuses: list[int] = []

    async def play(witness: Witness) -> None:
        for number, reference in enumerate(NO_TICKETS):
            for event in naming(reference, f"no{number}"):
                statuses.append(await witness.post(sender.encode(event)))
            await witness.get(f"{api.base}/api/tickets/{quote(reference, safe='')}/donations")
        for event in naming(A_TICKET, "yes"):
            statuses.append(await witness.post(sender.encode(event)))

    said = await everything_said(api, database_url, server, play)
    found = [(place, text) for place, all_text in said.items() for text in NO_TICKETS if text in all_text]
    assert found == []
    assert set(statuses) == {200}
    assert A_TICKET in said["dump"]
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT ticket_id, count(*) FROM stripe_attributions GROUP BY 1 ORDER BY 1")
        assert cursor.fetchall() == [(A_TICKET, 3), (None, 3 * len(NO_TICKETS))]
