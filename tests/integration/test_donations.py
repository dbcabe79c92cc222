"""The ledger's and the totals' replies, on a real PostgreSQL."""

import base64
import json
import re
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from daemon.cli.tickets import _ledger_line, _read_ledger, _total_lines
from daemon.ledger.donation import ShownDonation
from daemon.ledger.reader import Ledger
from daemon.simulator import scenarios
from sql.database import Database
from tests.support.api_application import NOW, Client, MakeClient, application, follower
from tests.support.docs import REFERENCE, section
from tests.support.ledger import TICKET, fill, put_ticket

LEDGER_VIEW = """\
[2024-12-16 10:31] $50.00 - Smith (US) - PAID
[2024-12-15 14:21] $100.00 - Johnson (CA) - REFUNDED (refund: 2024-12-16 09:00)
[2024-12-14 08:15] $75.00 - Anonymous - PAID
[2024-12-13 16:45] $125.00 - Garcia (MX) - PAID

Total: $250.00 (4 paid, 1 refunded)"""


async def test_the_ledger_view_line_for_line(database: Database) -> None:
    """The original design's four donations print its section 9.2."""
    await fill(database, scenarios.seed_example(), TICKET)
    donations, totals = await _read_ledger(Ledger(database), TICKET, "USD")
    assert "\n".join([*map(_ledger_line, donations), *_total_lines(totals, "USD")]) == LEDGER_VIEW


def shown(amount: str, status: str, refunded: str = "0.00", at: str = "null") -> str:
    """The line of a donation in dollars, from what the API shows of it."""
    donation = f'''{{"id": "pi_1", "amount": {amount}, "currency": "USD", "status": "{status}", "donor": "Smith",
        "country": null, "createdAt": "2024-12-16T10:30:00Z", "paidAt": "2024-12-16T10:31:15Z",
        "refundedAmount": {refunded}, "refundedAt": {at}, "sessionId": null, "disputedAmount": 0.00}}'''
    return _ledger_line(msgspec.json.decode(donation, type=ShownDonation))


def test_a_partial_refund_is_shown_with_its_amount() -> None:
    """A refund of everything stands there as in the original design, any other with what went back, to the cent."""
    at = '"2024-12-17T09:00:00Z"'
    assert shown("50.00", "REFUNDED", "50.00", at).endswith("- REFUNDED (refund: 2024-12-17 09:00)")
    assert shown("50.00", "PAID", "19.99", at).endswith("- PAID (refund: $19.99, 2024-12-17 09:00)")
    assert shown("50.00", "DISPUTED", "0.01", at).endswith("- DISPUTED (refund: $0.01, 2024-12-17 09:00)")
    assert shown("50.00", "PAID").endswith("- PAID")


async def test_what_is_shown_elsewhere_has_the_fields_and_values_of_the_reply(
    client: Client, database: Database
) -> None:
    """A donation of the API's reply is the JSON of the `ShownDonation` that the terminal shows: no field and no digit
    is lost.
    """
    await fill(database, scenarios.generate(7, 120, ["story-1"], now=NOW), "story-1")
    donations, _totals = await _read_ledger(Ledger(database), "story-1", "USD")
    reply = await (await client.get("/api/tickets/story-1/donations?limit=1000")).read()
    sent = msgspec.json.decode(reply, type=dict[str, msgspec.Raw])["donations"]
    assert len(donations) > 50
    assert [bytes(each) for each in msgspec.json.decode(sent, type=list[msgspec.Raw])] == [
        donation.json() for donation in donations
    ]
    for donation in donations:
        assert msgspec.json.decode(donation.json(), type=ShownDonation) == donation


async def test_ids_are_shown_on_request(database: Database) -> None:
    """Each line then ends with the donation's id, which `assign` and `erase` take; nothing else differs."""
    await fill(database, scenarios.seed_example(), TICKET)
    donations, _totals = await _read_ledger(Ledger(database), TICKET, "USD")
    for donation in donations:
        assert _ledger_line(donation, with_id=True) == f"{_ledger_line(donation)} - {donation.id}"


async def test_the_ledger_counts_as_the_api_does(client: Client, database: Database) -> None:
    """The first line has the figures of the API's reply, the next ones those of its other currencies, and every
    donation with a paidAt counts as paid.
    """
    await fill(database, scenarios.generate(7, 120, ["story-1"], now=NOW), "story-1")
    reply = await client.get("/api/tickets/story-1/donations/total")
    api = json.loads(await reply.text(), parse_float=str)
    donations, totals = await _read_ledger(Ledger(database), "story-1", "USD")
    empty, *lines = _total_lines(totals, "USD")
    assert empty == ""
    others = [figures for currency, figures in api["byCurrency"].items() if currency != api["currency"]]
    assert len(lines) == 1 + len(others)
    for line, figures in zip(lines, [api, *others], strict=True):
        counts = figures["counts"]
        wanted = [(counts["total"], "paid"), (counts["refunded"], "refunded")]
        wanted += [
            (counts[key], name)
            for key, name in (("partiallyRefunded", "partially refunded"), ("disputed", "disputed"))
            if counts[key]
        ]
        assert line.split(" (")[1] == ", ".join(f"{count} {name}" for count, name in wanted) + ")"
        assert re.sub(r"[^0-9.-]", "", line.split(" (")[0]) == str(figures["total"])
    paid = [each for each in donations if each.paid_at]
    assert sum(figures["counts"]["total"] for figures in [api, *others]) == len(paid)
    assert any("partially refunded" in line for line in lines)


async def test_the_tickets_own_currency_stands_first(client: Client, database: Database) -> None:
    """As in the API's reply, also when there is no donation in it yet."""
    await fill(database, scenarios.seed_example())
    await put_ticket(database, TICKET, "EUR")
    _donations, totals = await _read_ledger(Ledger(database), TICKET, "USD")
    assert _total_lines(totals, "USD") == ["", "Total: €0.00 (0 paid, 0 refunded)", LEDGER_VIEW.splitlines()[-1]]


@pytest.mark.parametrize("path", ["donations", "donations/total"])
async def test_what_a_client_has_is_not_sent_again(client: Client, database: Database, path: str) -> None:
    """The ETag brings 304 and no body until something changes."""
    first, *others = scenarios.seed_example()
    await fill(database, others, TICKET)
    url = f"/api/tickets/{TICKET}/{path}"
    tag = (await client.get(url)).headers["ETag"]
    for known in (tag, f'"other", {tag}', "*"):
        same = await client.get(url, headers={"If-None-Match": known})
        assert (same.status, await same.read(), same.headers["ETag"]) == (304, b"", tag)
    await fill(database, [first])
    changed = await client.get(url, headers={"If-None-Match": tag})
    assert changed.status == 200
    assert changed.headers["ETag"] != tag


async def test_the_ledger_reply_key_for_key(client: Client, database: Database) -> None:
    """The seed's first example, with the keys that were added since."""
    await fill(database, scenarios.seed_example(), TICKET)
    reply = await client.get(f"/api/tickets/{TICKET}/donations", params={"limit": "2"})
    text = await reply.text()
    page = json.loads(text)
    first, second = page.pop("donations")
    assert page.pop("nextCursor")
    assert page == {"success": True, "count": 2, "ticketId": TICKET}
    assert list(first) == [
        *("id", "amount", "currency", "status", "donor", "country", "createdAt", "paidAt", "refundedAt", "sessionId"),
        *("refundedAmount", "disputedAmount"),
    ]
    assert first["id"].startswith("pi_")
    assert first["sessionId"].startswith("cs_")
    seeds = {"currency": "USD", "status": "PAID", "donor": "Smith", "country": "US", "amount": 50.0}
    assert first | seeds == first
    assert first["createdAt"] == "2024-12-16T10:30:00Z"
    assert first["paidAt"] == "2024-12-16T10:31:15Z"
    assert first["refundedAt"] is None
    assert second | {"status": "REFUNDED", "donor": "Johnson", "country": "CA", "refundedAmount": 100.0} == second
    assert second["refundedAt"] == "2024-12-16T09:00:00Z"
    assert '"amount":50.00,' in text


async def test_the_totals_reply_key_for_key(client: Client, database: Database) -> None:
    """The seed's second example: its keys, its nesting, and net = paid - refunded."""
    await fill(database, scenarios.seed_example(), TICKET)
    reply = await client.get(f"/api/tickets/{TICKET}/donations/total")
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    assert reply.headers["Access-Control-Expose-Headers"] == "X-Ledger-Seq"
    assert reply.headers["Cache-Control"] == "max-age=5"
    figures = {
        "total": 250.0,
        "currency": "USD",
        "breakdown": {"paid": 350.0, "refunded": 100.0, "disputed": 0.0, "net": 250.0},
        "counts": {"paid": 3, "refunded": 1, "disputed": 0, "partiallyRefunded": 0, "total": 4},
    }
    assert await reply.json() == {
        "success": True,
        **figures,
        "lastDonation": {"paidAt": "2024-12-16T10:31:15Z", "amount": 50.0, "currency": "USD", "donor": "Smith"},
        "byCurrency": {"USD": figures},
    }


@pytest.mark.parametrize(
    ("total", "ready", "status"),
    [
        ("story-1/donations/total", True, 200),
        ("story-1/donations/total?currency=dollars", True, 400),
        ("story.1/donations/total", True, 400),
        ("story-2/donations/total", True, 404),
        ("story-1/donations/total", False, 503),
    ],
)
async def test_a_site_can_read_every_reply_of_the_totals(
    aiohttp_client: MakeClient, database: Database, total: str, ready: bool, status: int
) -> None:
    """A page of another site sees the reason of an error too; without the header a browser hides it from the page."""
    await fill(database, [], "story-1")
    client = await aiohttp_client(application(database, follower(ready)))
    reply = await client.get(f"/api/tickets/{total}")
    assert (reply.status, reply.headers.get("Access-Control-Allow-Origin")) == (status, "*")


async def test_no_other_endpoint_is_for_other_sites(client: Client, database: Database) -> None:
    """Ledger, health and webhooks answer without the header, so that a browser shows them to no other site."""
    await fill(database, [], "story-1")
    for path in ("/api/tickets/story-1/donations", "/health", "/webhooks/stripe", "/api/tickets/story-1"):
        assert "Access-Control-Allow-Origin" not in (await client.get(path)).headers, path


@pytest.mark.parametrize("limit", [1, 3, 7])
async def test_pages_put_together_are_the_ledger(client: Client, database: Database, limit: int) -> None:
    """Following nextCursor gives each donation once, in the ledger's order, whatever the page's size."""
    await fill(database, scenarios.generate(7, 60, ["story-1"], now=NOW), "story-1")
    path = "/api/tickets/story-1/donations"
    whole = (await (await client.get(path, params={"limit": "1000"})).json())["donations"]
    pages: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        params = {"limit": str(limit), **({"cursor": cursor} if cursor else {})}
        page = await (await client.get(path, params=params)).json()
        assert page["count"] == len(page["donations"]) <= limit
        pages += page["donations"]
        cursor = page["nextCursor"]
    assert pages == whole
    assert len(whole) > 40
    keys = [(d["paidAt"] or "", d["createdAt"]) for d in whole]
    assert keys == sorted(keys, reverse=True)


async def test_filters(client: Client, database: Database) -> None:
    """`status` and `currency` narrow the ledger."""
    await fill(database, scenarios.generate(7, 60, ["story-1"], now=NOW), "story-1")
    path = "/api/tickets/story-1/donations"
    refunded = await (await client.get(path, params={"status": "REFUNDED", "currency": "usd"})).json()
    assert {d["status"] for d in refunded["donations"]} == {"REFUNDED"}
    assert (await (await client.get(path, params={"currency": "XXX"})).json())["count"] == 0


def cursor(place: str) -> str:
    """As nextCursor writes a place."""
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=x", "cursor"),
        ("cursor=%00", "cursor"),
        ("cursor=MTp4", "cursor"),
        ("cursor=" + cursor("1:2:\0"), "cursor"),  # which PostgreSQL takes in no text
        ("cursor=" + cursor("1:2:pi_1\n"), "cursor"),
        ("cursor=" + cursor("1_0:2:pi_1"), "cursor"),
        ("cursor=" + cursor("-1:-1:pi_1"), "cursor"),
        ("cursor=" + cursor(f"{10**12}:2:pi_1"), "cursor"),
        ("status=paid", "status"),
        ("currency=dollars", "currency"),
        ("nonsense=1", "unknown parameter"),
    ],
)
async def test_a_bad_parameter_is_named(client: Client, database: Database, query: str, name: str) -> None:
    """400, in the one form of errors, naming the parameter."""
    await fill(database, [], "story-1")
    reply = await client.get(f"/api/tickets/story-1/donations?{query}")
    assert reply.status == 400
    error = await reply.json()
    assert (error["success"], error["error"]) == (False, "Bad Request")
    assert error["message"].startswith(name)


async def test_the_reference_names_every_field_that_the_public_can_read(client: Client, database: Database) -> None:
    """The table under "What anybody can read" has the ledger's fields, and the text below names those of the totals."""
    public = section(REFERENCE, "What anybody can read")
    rows = [line.split("|")[1] for line in public.splitlines() if line.startswith("| `")]
    await fill(database, scenarios.seed_example(TICKET), TICKET)
    [donation, *_] = (await (await client.get(f"/api/tickets/{TICKET}/donations")).json())["donations"]
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(donation)
    total = await (await client.get(f"/api/tickets/{TICKET}/donations/total")).json()
    assert set(total["lastDonation"]) == {"paidAt", "amount", "currency", "donor"}
    assert "(`lastDonation`)" in public


@pytest.mark.parametrize("path", ["donations", "donations/total"])
async def test_an_unknown_ticket_is_not_found(client: Client, path: str) -> None:
    """404, in the one form of errors."""
    reply = await client.get(f"/api/tickets/nobodys/{path}")
    assert reply.status == 404
    assert await reply.json() == {"success": False, "error": "Not Found", "message": "there is no ticket nobodys"}


@pytest.mark.parametrize("path", ["donations", "donations/total"])
@pytest.mark.parametrize("ticket", ["story.1", "203.0.113.77", "123456789", "x" * 65, "a b", "é", "١٢٣"])
async def test_what_is_no_ticket_id_is_a_bad_request(client: Client, ticket: str, path: str) -> None:
    """400, and the reply repeats nothing of it; a number of 8 digits may be one."""
    reply = await client.get(f"/api/tickets/{quote(ticket)}/{path}")
    assert reply.status == 400
    assert ticket not in await reply.text()
    assert (await client.get(f"/api/tickets/12345678/{path}")).status == 404


async def test_a_ticket_without_donations(client: Client, database: Database) -> None:
    """An empty page, and totals of zero in the default currency."""
    await fill(database, [], "story-1")
    page = await (await client.get("/api/tickets/story-1/donations")).json()
    assert (page["count"], page["donations"], page["nextCursor"]) == (0, [], None)
    total = await (await client.get("/api/tickets/story-1/donations/total")).json()
    assert (total["total"], total["currency"], total["lastDonation"], total["byCurrency"]) == (0, "USD", None, {})


async def test_other_addresses_and_methods_are_clear_errors(client: Client) -> None:
    """404 and 405 in the one form of errors."""
    for method, path, status in (("GET", "/nothing", 404), ("GET", "/webhooks/stripe", 405)):
        reply = await client.request(method, path)
        assert reply.status == status
        assert (await reply.json())["success"] is False
