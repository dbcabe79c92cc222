"""Donations over the operator API: searched, shown, assigned, erased; and what waits for a person."""

import itertools
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest

from daemon.api.endpoints import PREFIX
from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.recorder import Recorder
from daemon.ledger.search import SCAN
from daemon.ledger.stripe_events import StripeEvent
from daemon.simulator import scenarios
from daemon.simulator.stripe_objects import Json
from sql.database import Database
from tests.support.api_application import NOW, Client, MakeClient, application, follower
from tests.support.ledger import ask, fill, put_ticket
from tests.support.operators import ACTOR, READER, TOKENS, bearer
from tests.support.postgres import MakeTemplate

TICKETS = ("story-1", "story-2")
SEVERAL = scenarios.generate(3, 80, [*TICKETS, "nowhere"], now=NOW)
ALL = "SELECT id, ticket_id, status, currency, donor_email_hash FROM stripe_attributions"


@pytest.fixture(scope="module")
def template(make_template: MakeTemplate) -> str:
    """Every test begins with the payments of a simulation."""
    return make_template(lambda url: ask(url, lambda database: fill(database, SEVERAL, *TICKETS)))


@pytest.fixture
async def client(database: Database, aiohttp_client: MakeClient) -> Client:
    return await aiohttp_client(application(database, follower(), tokens=TOKENS))


async def get(client: Client, path: str, **query: Any) -> Any:
    reply = await client.get(PREFIX + path, params=query, headers=bearer(READER))
    assert reply.status == 200, await reply.text()
    return await reply.json()


async def post(client: Client, path: str, status: int = 200, **body: Any) -> Any:
    reply = await client.post(PREFIX + path, json=body, headers=bearer(ACTOR))
    assert reply.status == status, await reply.text()
    return await reply.json(content_type=None)


async def pages(client: Client, path: str, name: str, **query: Any) -> AsyncIterator[list[Any]]:
    """The pages of a list, to its end."""
    cursor: dict[str, str] = {}
    while True:
        page = await get(client, path, **query, **cursor)
        yield page[name]
        if page["nextCursor"] is None:
            return
        cursor = {"cursor": page["nextCursor"]}


async def listed(client: Client, path: str = "donations", name: str = "donations", **query: Any) -> list[Any]:
    return [each async for page in pages(client, path, name, **query) for each in page]


async def acts(database: Database) -> list[tuple[Any, ...]]:
    return await database.fetch("SELECT actor, action, donation_id, event_id, detail FROM operator_acts ORDER BY id")


# --- Search


@pytest.mark.parametrize("limit", [1, 7, 1000])
async def test_a_search_without_conditions_lists_every_donation_once(client: Client, limit: int) -> None:
    """Newest first: by the time of payment, or of creation while a donation is not paid; whatever the pages' size."""
    found = await listed(client, limit=limit)
    order = sorted(found, key=lambda each: each["id"])
    order.sort(key=lambda each: each["paidAt"] or each["createdAt"], reverse=True)
    assert found == order
    stored = await listed(client, limit=1000)
    assert [each["id"] for each in found] == [each["id"] for each in stored]
    assert len({each["id"] for each in found}) == len(found) > 60


async def test_every_stripe_id_finds_its_donation(client: Client, database: Database) -> None:
    """pi_ cs_ ch_ re_ dp_ du_: each object on record leads to the one donation that it belongs to; an invoice and a
    subscription to all that they paid.
    """
    objects = [id_ for (id_,) in await database.fetch("SELECT id FROM stripe_objects")]
    assert {id_.partition("_")[0] for id_ in objects} >= {"pi", "cs", "ch", "re", "du", "in"}
    for id_ in objects[::3]:
        [found] = await listed(client, q=id_)
        shown = await get(client, f"donations/{id_}")
        assert shown["donation"] == found
    subscriptions = await database.fetch(
        "SELECT subscription_id, array_agg(id) FROM stripe_attributions WHERE subscription_id <> '' GROUP BY 1"
    )
    assert subscriptions
    for subscription, ids in subscriptions:
        assert {each["id"] for each in await listed(client, q=subscription)} == set(ids)
    assert await listed(client, q="pi_unknown") == []


async def test_an_email_hash_finds_its_donations_and_is_on_record(client: Client, database: Database) -> None:
    """In whatever case it is written. The record says who searched by a hash, and not which; other searches are not on
    record, and neither is one that is rejected.
    """
    found = await listed(client, limit=1000)
    wanted = next(each["emailHash"] for each in found if each["emailHash"])
    expected = [each for each in found if each["emailHash"] == wanted]
    assert await listed(client, q=wanted) == expected
    assert await listed(client, q=wanted.upper(), limit=1) == expected
    await client.get(f"{PREFIX}donations?q={wanted}&limit=0", headers=bearer(READER))
    recorded = await acts(database)
    assert set(recorded) == {("rita", "search", None, None, "e-mail hash")}
    assert len(recorded) == 1 + len(expected)


@pytest.mark.parametrize("q", ["", "pi 1", "pi_1'--", "%00", "x" * 256, "ä"])
async def test_what_cannot_be_searched_for_is_explained(client: Client, q: str) -> None:
    """What is no id at all."""
    reply = await client.get(f"{PREFIX}donations?q={q if q == '%00' else quote(q)}", headers=bearer(READER))
    assert reply.status == 400
    detail = (await reply.json(content_type=None))["detail"]
    assert "po_ txn_), or an e-mail hash" in detail or "control characters" in detail


@pytest.mark.parametrize("limit", [20, 1000])
async def test_conditions_count_together(client: Client, limit: int) -> None:
    """Ticket, status, currency and time: each combination lists what all of them allow, in the same order."""
    everything = await listed(client, limit=1000)
    times = sorted(each["paidAt"] or each["createdAt"] for each in everything)
    values: dict[str, list[str | None]] = {
        "ticket": [None, "story-1", "nowhere"],
        "status": [None, "PAID"],
        "currency": [None, "USD"],
        "from": [None, times[20]],
        "to": [None, times[60]],
    }
    for chosen in itertools.product(*values.values()):
        query = {name: value for name, value in zip(values, chosen, strict=True) if value}
        expected = [
            each["id"] for each in everything
            if all(each[name] == query.get(name, each[name]) for name in ("ticket", "status", "currency"))
            and query.get("from", "") <= (each["paidAt"] or each["createdAt"]) < query.get("to", "9")
        ]  # fmt: skip
        assert [each["id"] for each in await listed(client, limit=limit, **query)] == expected, query


async def test_a_time_may_have_any_offset(client: Client) -> None:
    """Offsets that RFC 3339 allows and PostgreSQL does not take."""
    everything = await listed(client, limit=1000)
    assert await listed(client, limit=1000, to="2518-12-11T00:57:18-18:16") == everything
    assert await listed(client, limit=1000, **{"from": "0001-01-01T23:59:00+23:59"}) == everything


async def test_rows_that_arrive_between_two_pages_move_nothing(client: Client, database: Database) -> None:
    """Each donation that was there before the first page is listed once, whatever arrives meanwhile."""
    before = [each["id"] for each in await listed(client, limit=1000)]
    seen = list[str]()
    more = iter(scenarios.generate(77, 200, list(TICKETS), now=NOW))
    async for page in pages(client, "donations", "donations", limit=10):
        seen += [each["id"] for each in page]
        await fill(database, list(itertools.islice(more, 3)))
    assert [id_ for id_ in seen if id_ in set(before)] == before


async def test_a_page_looks_at_a_bounded_number_of_donations(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no index finds is looked for in some thousand donations: a page may be empty and be followed by another, and
    all pages together list everything.
    """
    assert SCAN >= 1000
    monkeypatch.setattr("daemon.ledger.search.SCAN", 10)
    sizes = [len(page) async for page in pages(client, "donations", "donations", status="DISPUTED", limit=1000)]
    assert len(sizes) > 5
    assert 0 in sizes
    assert sum(sizes) == len([each for each in await listed(client, limit=1000) if each["status"] == "DISPUTED"])


FORGED = ("x", "MTow", "OTk5OTk5OTk5OTk5OnBpXzE", "MTpwaV8xOzI", "MToneA", "MTpwaV8xCg", "LTE6cGlfMQ", "x" * 501, "%00",
          "w6Q")  # fmt: skip


@pytest.mark.parametrize("path", ["donations", "unassigned", "failed-events", "tickets", "actions"])
async def test_a_forged_cursor_does_no_harm(client: Client, path: str) -> None:
    """It is a place in the list, or it is answered 400; never an error of the server."""
    for cursor in FORGED:
        reply = await client.get(f"{PREFIX}{path}?cursor={cursor}", headers=bearer(READER))
        assert reply.status in (200, 400), cursor
        if reply.status == 400:
            assert "cursor: " in (await reply.json(content_type=None))["detail"]


# --- One donation


async def test_a_donation_is_shown_with_its_timeline(client: Client) -> None:
    """Its facts, changes of status and entries in the order of time; the entries add up to its amounts."""
    for each in [each for each in await listed(client, limit=1000) if each["paidAt"]][:40]:
        shown = await get(client, f"donations/{each['id']}")
        timeline = shown["timeline"]
        assert [item["at"] for item in timeline] == sorted(item["at"] for item in timeline)
        assert [item["name"] for item in timeline if item["kind"] == "status"][-1] == each["status"]
        entries = [item["entry"] for item in timeline if item["entry"]]
        assert sum(entry["amount"] for entry in entries if entry["kind"] == "payment") == pytest.approx(each["amount"])


async def test_amounts_are_written_with_the_decimals_of_their_currency(client: Client) -> None:
    """The text of the reply itself contains `50.00`, not a float's `50.0`."""
    reply = await client.get(f"{PREFIX}donations?status=PAID&currency=USD&limit=5", headers=bearer(READER))
    amounts = [part.partition(",")[0] for part in (await reply.text()).split('"amount":')[1:]]
    assert amounts
    assert all(len(amount.partition(".")[2]) == 2 for amount in amounts)


@pytest.mark.parametrize("path", ["donations/pi_unknown", "donations/evt_1"])
async def test_an_unknown_donation_is_not_there(client: Client, path: str) -> None:
    """404, for reading and for both changes; nothing is on record."""
    assert (await client.get(PREFIX + path, headers=bearer(READER))).status == 404
    await post(client, f"{path}/assign", 404, ticket="story-1")
    await post(client, f"{path}/erase", 404)
    assert await listed(client, "actions", "actions") == []


# --- Changes


async def test_a_donation_is_assigned_as_by_the_command(client: Client, database: Database) -> None:
    """By any of its objects; the token's name is on record, and the action is in the chain."""
    donation = (await listed(client, "unassigned"))[0]["id"]
    [charge] = [(await get(client, f"donations/{donation}"))["donation"]["chargeId"]]
    done = await post(client, f"donations/{charge}/assign", ticket="story-2")
    assert (done["donation"], done["action"], done["by"]) == (donation, "assign", "anna")
    assert (await get(client, f"donations/{donation}"))["donation"]["ticket"] == "story-2"
    assert await acts(database) == [("anna", "assign", donation, None, "story-2")]
    [action] = await listed(client, "actions", "actions")
    assert action["hash"] == (await get(client, "actions"))["newestHash"]
    assert donation not in [each["id"] for each in await listed(client, "unassigned")]


async def test_an_assignment_needs_a_ticket_that_exists(client: Client, database: Database) -> None:
    """409 says how to add it; nothing changes."""
    donation = (await listed(client, "unassigned"))[0]["id"]
    problem = await post(client, f"donations/{donation}/assign", 409, ticket="story-3")
    assert "PUT /api/operator/tickets/story-3" in problem["detail"]
    assert await acts(database) == []


async def test_consent_is_withdrawn_as_by_the_command(client: Client, database: Database) -> None:
    """No field but `consent` of the donation changes, and the action is on record."""
    donation = (await listed(client, limit=1))[0]
    done = await post(client, f"donations/{donation['id']}/withdraw-consent")
    assert (done["donation"], done["action"]) == (donation["id"], "withdraw")
    assert (await get(client, f"donations/{donation['id']}"))["donation"] == donation | {"consent": False}
    assert [act[:3] for act in await acts(database)] == [("anna", "withdraw", donation["id"])]
    await post(client, "donations/pi_unknown/withdraw-consent", 404)


async def test_a_donor_is_erased_as_by_the_command(client: Client, database: Database) -> None:
    """The three fields are gone, no amount changes, and the action is on record."""
    donor = next(each for each in await listed(client, limit=1000) if each["emailHash"] and each["paidAt"])
    totals = await database.fetch("SELECT * FROM ticket_totals ORDER BY ticket_id, currency")
    done = await post(client, f"donations/{donor['id']}/erase")
    assert (done["donation"], done["action"]) == (donor["id"], "erase")
    erased = (await get(client, f"donations/{donor['id']}"))["donation"]
    assert erased == donor | {"donor": "Anonymous", "country": None, "emailHash": None}
    assert donor["emailHash"] not in str(await get(client, f"donations/{donor['id']}"))
    assert await database.fetch("SELECT * FROM ticket_totals ORDER BY ticket_id, currency") == totals
    assert [act[:3] for act in await acts(database)] == [("anna", "erase", donor["id"])]


# --- Queues


@pytest.mark.parametrize("limit", [1, 4, 1000])
async def test_money_without_a_ticket_is_listed(client: Client, database: Database, limit: int) -> None:
    """Paid donations that name no ticket, or an unknown one, paid last first."""
    found = await listed(client, "unassigned", limit=limit)
    rows = await database.fetch(
        "SELECT id FROM stripe_attributions WHERE paid_at IS NOT NULL AND coalesce(ticket_id, '') NOT IN %(known)s"
        " ORDER BY paid_at DESC, created_at DESC, id",
        {"known": TICKETS},
    )
    assert [each["id"] for each in found] == [id_ for (id_,) in rows]
    assert {each["ticket"] for each in found} == {None, "nowhere"}


async def failed(database: Database, *ids: str) -> None:
    """Events that could not be applied are recorded, one after the other."""
    for id_ in ids:
        event = StripeEvent(id_, "charge.dispute.updated", NOW, False, None)
        await Recorder(database).record([ReceivedEvent(event, "an unknown shape")])


@pytest.mark.parametrize("limit", [1, 2, 1000])
async def test_failed_events_are_listed_and_dismissed(client: Client, database: Database, limit: int) -> None:
    """Received last first; a dismissed one is listed with `all` only; each reason why one cannot be is explained."""
    await failed(database, "evt_1", "evt_2", "evt_3")
    await database.fetch(
        "INSERT INTO stripe_events (id, type, stripe_created, livemode) VALUES ('evt_4', 'x', now(), true)"
    )
    events = await listed(client, "failed-events", "events", limit=limit)
    assert [event["id"] for event in events] == ["evt_3", "evt_2", "evt_1"]
    assert events[0]["error"] == "an unknown shape"
    assert await post(client, "failed-events/evt_2/dismiss") == {"event": "evt_2", "by": "anna"}
    waiting = await listed(client, "failed-events", "events", limit=limit)
    assert [event["id"] for event in waiting] == ["evt_3", "evt_1"]
    everything = await listed(client, "failed-events", "events", limit=limit, all="true")
    assert [event["dismissedAt"] is None for event in everything] == [True, False, True]
    assert "dismissed before" in (await post(client, "failed-events/evt_2/dismiss", 409))["detail"]
    assert "did not fail" in (await post(client, "failed-events/evt_4/dismiss", 409))["detail"]
    assert "no event" in (await post(client, "failed-events/evt_5/dismiss", 404))["detail"]
    assert await acts(database) == [("anna", "dismiss", None, "evt_2", "")]


# --- Tickets


async def put(client: Client, ticket: str, status: int, **body: Any) -> Any:
    reply = await client.put(f"{PREFIX}tickets/{ticket}", json=body, headers=bearer(ACTOR))
    assert reply.status == status, await reply.text()
    return await reply.json(content_type=None)


async def test_a_ticket_is_added_and_changed(client: Client, database: Database) -> None:
    """201 for a new one; what is left out stays, and null takes away. Each change is on record; a call that changes
    nothing is not.
    """
    new = await put(client, "story-3", 201, title="A new roof", currency="EUR", goal=5000)
    assert new | {"createdAt": 0} == {
        "id": "story-3", "title": "A new roof", "currency": "EUR", "goal": 5000, "state": "open", "createdAt": 0
    }  # fmt: skip
    assert await put(client, "story-3", 200, state="closed") == new | {"state": "closed"}
    assert await put(client, "story-3", 200, state="closed") == new | {"state": "closed"}
    assert (await put(client, "story-3", 200, goal=None))["goal"] is None
    assert (await put(client, "story-3", 200, currency="JPY", goal=700))["goal"] == 700
    assert [act[-1] for act in await acts(database)] == [
        "title, currency EUR, goal 5000.00", "state closed", "goal none", "currency JPY, goal 700"
    ]  # fmt: skip
    found: list[Json] = await listed(client, "tickets", "tickets", limit=1)
    assert [each["id"] for each in found] == ["story-1", "story-2", "story-3"]
    assert {action["ticket"] for action in await listed(client, "actions", "actions")} == {"story-3"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"goal": 0}, "goal: an amount is above 0"),
        ({"goal": -1}, "goal: an amount is above 0"),
        ({"goal": 10**12}, "goal: an amount is above 0 and has at most 12 digits"),
        ({"goal": 1.005}, "goal: an amount in USD has at most 2 decimals"),
        ({"goal": "5.00"}, "goal: a number above 0"),
        ({"goal": True}, "goal: a number above 0"),
        ({"currency": "eur"}, "currency: three capital letters"),
        ({"currency": "JPY"}, "goal: the ticket has a goal: give it in the new currency too"),
        ({"state": "gone"}, "state: one of closed, hidden, open"),
        ({"state": None}, "state: one of"),
        ({"title": "x" * 201}, "title: at most 200 characters"),
        ({"title": "a\u200bb"}, "title: at most 200 characters, all of them printable"),
        ({"title": "a\u0000b"}, "title: control characters"),
        ({"title": None}, "title: at most"),
        ({"titel": "x"}, "unknown parameter"),
    ],
)
async def test_a_wrong_ticket_is_explained(client: Client, database: Database, body: Json, words: str) -> None:
    """400 names the field; neither the ticket nor the record changes."""
    await put(client, "story-1", 200, goal=20)
    before = await listed(client, "tickets", "tickets")
    assert words in (await put(client, "story-1", 400, **body))["detail"]
    assert await listed(client, "tickets", "tickets") == before
    assert len(await acts(database)) == 1


async def test_a_ticket_of_an_older_rule_is_listed(client: Client, database: Database) -> None:
    """An id with a dot, which migration 0006 kept, is shown and has a place in the list."""
    await database.fetch("ALTER TABLE recording_tickets DROP CONSTRAINT ticket_id_form")
    await put_ticket(database, "story.4")
    await put_ticket(database, "story-5")
    found = await listed(client, "tickets", "tickets", limit=1)
    assert [each["id"] for each in found] == ["story-1", "story-2", "story.4", "story-5"]
