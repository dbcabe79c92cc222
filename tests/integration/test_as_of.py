"""Figures as they were known at an earlier moment, and the journal's last entry with every reply (SPEC 9)."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import datetime
from hashlib import sha256
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from click.testing import CliRunner

from daemon.api.app import build
from daemon.api.metrics import ApiMetrics
from daemon.api.tickets import Donations
from daemon.api.webhook import Webhook
from daemon.cli.main import main
from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.reader import Ledger
from daemon.ledger.recorder import Recorder
from daemon.ledger.stripe_events import read
from daemon.runtime.http.auth import OperatorAuthentication, parse_tokens
from daemon.simulator import scenarios, sender
from sql.database import Database
from tests.simulator.random_payments import random_scenario
from tests.support.api_application import reply_parts

Client = TestClient[Any, Any]
NOW = 1_760_000_000
TICKET = "story-1"
TOTAL = f"/api/tickets/{TICKET}/donations/total"
READER = {"Authorization": "Bearer reader-token"}
EXPORTER = {"Authorization": "Bearer exporter-token"}
TOKENS = ",".join(
    f"{name}:{scope}:{sha256(f'{name}-token'.encode()).hexdigest()}"
    for name, scope in (("reader", "read"), ("exporter", "export"))
)


@pytest.fixture
async def client(database: Database, aiohttp_client: Callable[..., Awaitable[Client]]) -> Client:
    """An API with one known ticket, and operators."""
    await database.fetch("INSERT INTO recording_tickets (id) VALUES (%s)", [TICKET])
    metrics = ApiMetrics()
    app = build(
        Webhook(None, metrics, secrets=("whsec",), livemode=False, hash_key=None),  # type: ignore[arg-type]
        Donations(Ledger(database), "USD", OperatorAuthentication(parse_tokens(TOKENS)), database),
        reply_parts(metrics),
    )
    return await aiohttp_client(app)


def amounts(reply: dict[str, Any]) -> dict[str, Any]:
    """The amounts of each currency; zeros are what no entry says anything of."""
    found = {currency: figures["breakdown"] for currency, figures in reply["byCurrency"].items()}
    return {currency: figures for currency, figures in found.items() if any(figures.values())}


async def history(client: Client, database: Database) -> list[tuple[int, dict[str, Any]]]:
    """Records many payments event by event. The last entry and the amounts after each."""
    events = scenarios.shuffled(scenarios.generate(8, 30, [TICKET], now=NOW), 2)
    seen = []
    for event in random.Random(1).sample(events, len(events)):
        await Recorder(database).record([ReceivedEvent(read(sender.encode(event), livemode=False, hash_key=None))])
        reply = await client.get(TOTAL)
        seen.append((int(reply.headers["X-Ledger-Seq"]), amounts(await reply.json())))
    return seen


async def test_each_earlier_moment_shows_the_figures_of_that_moment(client: Client, database: Database) -> None:
    """By an entry's number and by its time, the totals are those that were answered when it was the last one."""
    seen = await history(client, database)
    assert len({seq for seq, _ in seen}) > 20
    for seq, figures in seen:
        by_seq = await client.get(TOTAL, params={"asOf": str(seq)}, headers=READER)
        found = await by_seq.json()
        assert (amounts(found), found["asOf"]["seq"], by_seq.headers["X-Ledger-Seq"]) == (figures, seq, str(seq))
        assert by_seq.headers["Cache-Control"] == "no-store"
        if seq:
            moment = found["asOf"]["recordedAt"]
            by_time = await client.get(TOTAL, params={"asOf": moment}, headers=READER)
            assert await by_time.json() == found


async def test_a_moment_outside_the_journal(client: Client, database: Database) -> None:
    """Before the first entry there is nothing. A moment that has not come yet is an error, as in exports and reports:
    its totals would still change.
    """
    await history(client, database)
    # The last one has an offset that PostgreSQL does not take.
    for moment in ("0", "1999-01-01", "1999-01-01T00:00+23:59"):
        reply = await (await client.get(TOTAL, params={"asOf": moment}, headers=READER)).json()
        assert (amounts(reply), reply["asOf"]) == ({}, {"seq": 0, "recordedAt": None})
    for moment, problem in (
        ("9" * 18, f"asOf: there is no entry {'9' * 18} yet; the last one is"),
        ("1.999", "asOf: there is no fee 999 yet"),
        ("2999-01-01T00:00Z", "asOf: this time has not come yet"),
    ):
        found = await client.get(TOTAL, params={"asOf": moment}, headers=READER)
        assert (found.status, problem in await found.text()) == (400, True)


async def test_only_operators_who_may_read_ask_for_the_past(client: Client) -> None:
    """asOf needs a token with the scope read; a moment that is none, and an unknown ticket, are errors."""
    for headers, status in (({}, 401), (EXPORTER, 403), (READER, 200)):
        assert (await client.get(TOTAL, params={"asOf": "0"}, headers=headers)).status == status
    for moment in ("", "yesterday", "-1", "1" * 19, "2026-02-30", "0001-01-01T00:00+23:59"):
        assert (await client.get(TOTAL, params={"asOf": moment}, headers=READER)).status == 400
    unknown = "/api/tickets/nowhere/donations/total"
    assert (await client.get(unknown, params={"asOf": "0"}, headers=READER)).status == 404


async def test_pages_and_totals_name_the_last_entry(client: Client, database: Database) -> None:
    """X-Ledger-Seq is the journal's last entry in the snapshot of the reply, also when nothing changed since."""
    seen = await history(client, database)
    for path in (TOTAL, f"/api/tickets/{TICKET}/donations"):
        reply = await client.get(path)
        assert reply.headers["X-Ledger-Seq"] == str(seen[-1][0])
        same = await client.get(path, headers={"If-None-Match": reply.headers["ETag"]})
        assert (same.status, same.headers["X-Ledger-Seq"]) == (304, str(seen[-1][0]))


async def test_the_last_moment_shows_the_time_that_each_donation_was_paid(database: Database) -> None:
    """After the last entry a donation was paid when the ledger says: a payment that was taken back, or that was booked
    at another time before more was known, does not count.
    """
    rng = random.Random(4)
    for number in range(60):
        scenario = random_scenario(rng, [TICKET], key=str(number), start=NOW)
        for event in rng.sample(scenario.events, len(scenario.events)):
            body = sender.encode(event)
            await Recorder(database).record([ReceivedEvent(read(body, livemode=False, hash_key=None))])
    found = await Ledger(database).donations_as_of(TICKET, 10**9)
    rows = await database.fetch("SELECT id, paid_at FROM stripe_attributions WHERE paid_at IS NOT NULL")
    stored: dict[str, datetime] = dict(rows)
    assert len(found) > 10
    assert {each.donation_id: each.paid_at for each in found} == {
        each.donation_id: stored[each.donation_id] for each in found
    }


async def test_the_command_shows_a_ticket_as_it_was_known(
    client: Client, database: Database, database_url: str
) -> None:
    """`donationd ledger --as-of` shows each donation and the totals after an entry, or at a time."""
    charge = {
        "id": "ch_1",
        "amount": 500,
        "amount_captured": 500,
        "paid": True,
        "status": "succeeded",
        "currency": "usd",
    }
    refund = {"id": "re_1", "amount": 200, "charge": "ch_1", "created": NOW + 5, "currency": "usd", "status": "pending"}
    paid = {
        "created": NOW,
        "type": "charge.succeeded",
        "data": {"object": {**charge, "metadata": {"ticketId": TICKET}}},
    }
    for number, event in enumerate((paid, {"created": NOW + 5, "type": "refund.created", "data": {"object": refund}})):
        body = sender.encode({"id": f"evt_{number}", "livemode": False, **event})
        await Recorder(database).record([ReceivedEvent(read(body, livemode=False, hash_key=None))])

    async def run(*arguments: str, status: int = 0) -> str:
        command = ["ledger", TICKET, "--as-of", *arguments]
        done = await asyncio.to_thread(CliRunner().invoke, main, command, env={"DATABASE_URL": database_url})
        assert done.exit_code == status, done.output
        return done.output

    [(at,)] = await database.fetch("SELECT recorded_at FROM ledger_entries WHERE seq = 1")
    assert isinstance(at, datetime)
    for moment in ("1", at.isoformat()):
        shown = await run(moment)
        assert "$5.00 paid - ch_1" in shown
        assert "Total: $5.00 ($5.00 paid)" in shown
    assert "Total: $3.00 ($5.00 paid, $2.00 refunded)" in await run("2")
    assert '"paid":5.00,"refunded":2.00,"disputed":0.00' in await run("2", "--json")
    assert "Total" not in await run("0")
    assert "there is no entry 3 yet; the last one is 2" in await run("3", status=1)
