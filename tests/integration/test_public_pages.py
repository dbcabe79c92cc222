"""The public pages of a ticket over HTTP (SPEC 13): what they show, and that nothing else comes with it."""

import asyncio
import html
import re
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from xml.etree import ElementTree

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from daemon.languages import CODES
from daemon.ledger.consent import signature, withdrawal_key
from daemon.ledger.recorder import Recorder
from daemon.pages.languages import language, preferred
from daemon.pages.ticket_views import Entered
from daemon.pages.tickets import NAMED, PREPARE, Tickets
from daemon.runtime.http.limits import Places
from daemon.runtime.readiness import Readiness
from sql.database import Database
from tests.support.api_application import Client, MakeClient, application, follower
from tests.support.pages import ADDRESS, CHECKOUT, SETTINGS, consenting_payment, page_routes

AT = datetime(2026, 11, 25, 12, tzinfo=UTC)
PAGES = ("/tickets/story-1", "/tickets/story-1/embed", "/tickets/story-1/share", "/tickets/story-1/badge.svg")
HOSTILE = '<script>alert(1)</script> & "quotes" \' \u202e \u200fسقف'
ADD_DONATION = """
INSERT INTO stripe_attributions (id, root, version, facts, ticket_id, status, amount_minor, currency, refunded_minor,
    disputed_minor, created_at, paid_at, donor_last_name, consent)
SELECT 'pi_' || n, 'pi_' || n, 1, '{}', %(ticket)s, %(status)s, %(amount)s, %(currency)s, %(refunded)s, 0, at, at,
    %(name)s, %(consent)s
FROM generate_series(%(first)s, %(last)s) n CROSS JOIN LATERAL (SELECT %(at)s + n * interval '1 minute') t(at)
"""
SET_TOTALS = """
INSERT INTO ticket_totals
SELECT ticket_id, currency, sum(amount_minor), sum(refunded_minor), sum(disputed_minor),
    count(*) FILTER (WHERE status = 'PAID'), count(*) FILTER (WHERE status = 'REFUNDED'),
    count(*) FILTER (WHERE status = 'DISPUTED'), 0
FROM stripe_attributions GROUP BY 1, 2
ON CONFLICT (ticket_id, currency) DO UPDATE SET paid_minor = excluded.paid_minor,
    refunded_minor = excluded.refunded_minor, paid = excluded.paid, refunded = excluded.refunded
"""


ADD_ENTRY = """
INSERT INTO ledger_entries
    (seq, recorded_at, donation_id, ticket_id, currency, kind, object_id, effective_at, amount_minor, cause)
VALUES (7, now(), 'pi_1', 'story-1', 'USD', 'payment', 'pi_1', now(), 1, 'evt_1')
"""


async def add_ticket(database: Database, title: str = "A new roof", **values: object) -> None:
    row = {"id": "story-1", "title": title, "currency": "USD", "goal": 2_000_00, "state": "open"} | values
    await database.fetch(
        "INSERT INTO recording_tickets (id, title, currency, goal_minor, state)"
        " VALUES (%(id)s, %(title)s, %(currency)s, %(goal)s, %(state)s)",
        row,
    )


async def add_donations(database: Database, first: int, last: int, **values: object) -> None:
    """Paid donations with the ids pi_first to pi_last, and the totals of all that there are."""
    row = {"ticket": "story-1", "status": "PAID", "amount": 5000, "currency": "USD", "refunded": 0, "at": AT}
    row |= {"name": None, "consent": False, "first": first, "last": last} | values
    await database.fetch(ADD_DONATION, row)
    await database.fetch(SET_TOTALS)


@pytest.fixture
async def client(database: Database, aiohttp_client: MakeClient) -> Client:
    """An API with an open ticket and its pages."""
    await add_ticket(database)
    return await aiohttp_client(application(database, follower(), feature_routes=page_routes(database)))


async def text_of(client: Client, path: str = "/tickets/story-1?lang=en", status: int = 200) -> str:
    reply = await client.get(path)
    assert reply.status == status, await reply.text()
    return await reply.text()


def lines_of(page: str) -> list[Decimal]:
    """The amounts of the lines of the list, in the page's order."""
    body = page.split("<tbody>")[1].split("</tbody>", maxsplit=1)[0]
    return [Decimal(each.replace(",", "")) for each in re.findall(r"<bdi>\$([\d.,]+)</bdi>", body)]


# --- What the page shows


async def test_the_lines_add_up_to_the_total_exactly(client: Client, database: Database) -> None:
    """Donors with consent by name, all others in one line, refunds taken off: together the total, which the badge, the
    frame and the JSON show too."""
    await add_donations(database, 1, 2, name="Smith", consent=True)
    await add_donations(database, 3, 5, name="Hidden", amount=1234)
    await add_donations(database, 6, 6, name="Jones", consent=True, refunded=1999)
    await add_donations(database, 7, 7, name="Gone", consent=True, refunded=5000, status="REFUNDED")
    page = await text_of(client)
    assert page.count("Smith") == 2
    assert "Jones" in page
    assert "Hidden" not in page
    assert "Gone" not in page
    total = Decimal("50.00") * 2 + Decimal("12.34") * 3 + Decimal("30.01")
    assert sum(lines_of(page)) == total
    shown = "$167.03"
    assert page.count(shown) >= 2
    assert shown in await text_of(client, "/tickets/story-1/embed?lang=en")
    assert shown in await text_of(client, "/tickets/story-1/badge.svg?lang=en")
    reply = await (await client.get("/api/tickets/story-1/donations/total")).json()
    assert Decimal(str(reply["total"])) == total


async def test_a_long_list_is_cut_and_still_adds_up(client: Client, database: Database) -> None:
    """Of more donors than a page shows the newest are named; the line of the others says that it is not only anonymous
    ones. The page stays under 50 kB."""
    await add_donations(database, 1, NAMED + 30, name="Ł" * 64, consent=True)
    page = await text_of(client)
    assert len(lines_of(page)) == NAMED + 1
    assert sum(lines_of(page)) == Decimal("50.00") * (NAMED + 30)
    assert ("All other donations" in page, "Anonymous" in page) == (True, False)
    assert len(page.encode()) < 50_000


async def test_other_currencies_stand_beside_the_tickets_own(client: Client, database: Database) -> None:
    """Each currency has its own total and its own line; they are never added together."""
    await add_donations(database, 1, 1)
    await add_donations(database, 2, 2, currency="JPY", amount=700, name="Sato", consent=True)
    page = await text_of(client)
    assert ("$50.00" in page, page.count("¥700")) == (True, 3)


@pytest.mark.parametrize(
    ("goal", "amount", "shown"),
    [
        (None, 5000, None),
        (10_000, 5000, "50% of the goal of $100"),
        (10_000, 25_000, "250% of the goal of $100: the goal"),
    ],
)
async def test_the_goal(client: Client, database: Database, goal: int | None, amount: int, shown: str | None) -> None:
    """No goal, one that is not reached, one that is exceeded: in words, and as a bar that is never longer than full."""
    await database.fetch("UPDATE recording_tickets SET goal_minor = %(goal)s", {"goal": goal})
    await add_donations(database, 1, 1, amount=amount)
    page = await text_of(client)
    assert ("<progress" in page) == (shown is not None)
    if shown and goal:
        assert shown in page
        assert f'max="{goal}" value="{min(goal, amount)}"' in page


async def test_a_ticket_without_donations(client: Client) -> None:
    """Zero, an invitation, and no list."""
    page = await text_of(client)
    assert ("$0" in page, "There are no donations yet" in page, "<table" in page) == (True, True, False)


async def test_a_closed_ticket_has_no_form(client: Client, database: Database) -> None:
    """It says so, and a form that was open before is refused."""
    assert "<form" in await text_of(client)
    await database.fetch("UPDATE recording_tickets SET state = 'closed'")
    page = await text_of(client)
    assert ("<form" in page, "This fundraiser is closed" in page) == (False, True)
    reply = await client.post("/tickets/story-1/give?lang=en", data={"preset": "10"})
    assert (reply.status, "This fundraiser is closed" in await reply.text()) == (409, True)


async def test_without_a_stripe_key_the_page_says_how_to_give(database: Database, aiohttp_client: MakeClient) -> None:
    """Instead of a form."""
    await add_ticket(database)
    settings = replace(SETTINGS, takes_payments=False)
    client = await aiohttp_client(application(database, follower(), feature_routes=page_routes(database, settings)))
    page = await text_of(client)
    assert ("<form" in page, "ask the charity" in page) == (False, True)
    assert (await client.post("/tickets/story-1/give", data={"preset": "10"})).status == 409


async def test_each_page_says_how_new_its_figures_are(client: Client, database: Database) -> None:
    """Also where nothing has changed, and where the form is shown again: each may have been read from a replica."""
    await database.fetch(ADD_ENTRY)
    for path in PAGES:
        reply = await client.get(path)
        same = await client.get(path, headers={"If-None-Match": reply.headers["ETag"]})
        assert (reply.headers["X-Ledger-Seq"], same.status, same.headers["X-Ledger-Seq"]) == ("7", 304, "7")
    again = await client.post("/tickets/story-1/give", data={"other": "ten"})
    assert (again.status, again.headers["X-Ledger-Seq"]) == (400, "7")


@pytest.mark.parametrize("path", [*PAGES, "/tickets/story-1/picture.png"])
async def test_hidden_and_unknown_tickets_look_alike(client: Client, database: Database, path: str) -> None:
    """404, as a page, and nothing of the ticket."""
    unknown = await text_of(client, path.replace("story-1", "story-2"), 404)
    await database.fetch("UPDATE recording_tickets SET state = 'hidden'")
    assert await text_of(client, path, 404) == unknown
    assert "This page does not exist" in unknown
    assert "roof" not in unknown


async def test_texts_of_others_stay_text(client: Client, database: Database) -> None:
    """Markup, script and text in another direction in a title and a name are shown and not run; 200 characters fit."""
    title = (HOSTILE * 10)[:200]
    await database.fetch("UPDATE recording_tickets SET title = %(title)s", {"title": title})
    await add_donations(database, 1, 1, name=HOSTILE[:64], consent=True)
    for path in PAGES:
        page = await text_of(client, f"{path}?lang=ar")
        assert "<script>alert" not in page
        assert html.escape(HOSTILE[:20]) in html.escape(html.unescape(page))
    ElementTree.fromstring(await text_of(client, "/tickets/story-1/badge.svg"))  # noqa: S314 - our own


@pytest.mark.parametrize(
    "path",
    [
        *("/tickets/%00", "/tickets/" + "a" * 2000, "/tickets/123456789", "/tickets/story-1/", "/tickets/a%2Fb/embed"),
        *("/consent/pi_1/" + "A" * 22, "/consent/pi_1/%ff", "/assets/other.js", "/tickets/ü/badge.svg"),
    ],
)
async def test_any_other_address_is_a_page_that_is_missing(client: Client, path: str) -> None:
    """404 in the reader's language, with nothing of the address in it."""
    page = await text_of(client, f"{path}?lang=en&lang=de&x=%ff", 404)
    assert "This page does not exist" in page
    assert path.rpartition("/")[2][:50] not in page or path.endswith("/")


# --- Languages


def test_every_language_has_every_text() -> None:
    """The same keys, with the same values in them, and all plural forms of its own."""
    english = language("en").messages
    for code in CODES:
        own = language(code)
        assert own.messages.keys() == english.keys(), code
        for key, text in own.messages.items():
            if isinstance(text, str):
                assert set(re.findall(r"{\w+}", text)) == set(re.findall(r"{\w+}", str(english[key]))), (code, key)
            else:
                assert text.keys() == set(own.locale.plural_form.tags) | {"other"}, (code, key)


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("", "en"),
        ("de-AT,de;q=0.9,en;q=0.5", "de"),
        ("nl, fr;q=0.8, en;q=0.9", "en"),
        ("ar-EG", "ar"),
        ("xx, *;q=0.1", "en"),
        ("es;q=zero, fr;q=0.1", "fr"),
    ],
)
def test_the_reader_gets_the_preferred_language(header: str, code: str) -> None:
    """By the weights of Accept-Language; English for all others."""
    assert preferred(header) == code


@given(st.text())
def test_any_header_names_a_language(header: str) -> None:
    """Whatever a client sends."""
    assert preferred(header) in CODES


async def test_amounts_and_words_are_the_readers(client: Client, database: Database) -> None:
    """By CLDR; the address with `lang` is the same for all readers, the one without it depends on the browser."""
    await add_donations(database, 1, 1, amount=123_456)
    shown = {"de": "1.234,56\xa0$", "fr": "1\u202f234,56\xa0$US", "es": "1.234,56\xa0US$", "en": "$1,234.56"}
    for code, amount in shown.items():
        reply = await client.get("/tickets/story-1", headers={"Accept-Language": code})
        assert (amount in await reply.text(), reply.headers["Vary"]) == (True, "Accept-Language"), code
        fixed = await client.get(f"/tickets/story-1?lang={code}")
        assert ("Vary" in fixed.headers, fixed.headers["Content-Language"]) == (False, code)
    arabic = await text_of(client, "/tickets/story-1?lang=ar")
    assert '<html lang="ar" dir="rtl">' in arabic


# --- Caches and safety


@pytest.mark.parametrize("path", PAGES)
async def test_pages_are_cached_for_seconds_and_known_by_their_tag(
    client: Client, database: Database, path: str
) -> None:
    """The tag changes with what is shown, and with nothing else."""
    first = await client.get(f"{path}?lang=en")
    assert first.headers["Cache-Control"] == "public, max-age=15"
    tag = {"If-None-Match": first.headers["ETag"]}
    await add_donations(database, 1, 1, ticket="story-2")
    again = await client.get(f"{path}?lang=en", headers=tag)
    assert (again.status, await again.read()) == (304, b"")
    await add_donations(database, 2, 2)
    assert (await client.get(f"{path}?lang=en", headers=tag)).status == (304 if path.endswith("share") else 200)


async def test_what_a_page_may_do(client: Client) -> None:
    """Nothing from elsewhere, no script in the page, no frame but that of a named site, no cookie; a picture is for
    every site."""
    for path in PAGES:
        reply = await client.get(path)
        policy = reply.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert "Set-Cookie" not in reply.headers
        if path.endswith("embed"):
            assert policy.endswith("frame-ancestors https://charity.example")
        elif path.endswith("svg"):
            assert reply.headers["Access-Control-Allow-Origin"] == "*"
        else:
            assert policy.endswith("frame-ancestors 'none'")


async def test_the_picture_is_small(client: Client, database: Database) -> None:
    """A PNG of 1200 by 630 pixels, under 100 kB, also for 200 characters in any script."""
    await database.fetch("UPDATE recording_tickets SET title = %(title)s", {"title": (HOSTILE * 10)[:200]})
    await add_donations(database, 1, 1, amount=999_999_999_900)
    for code in ("en", "ar"):
        reply = await client.get(f"/tickets/story-1/picture.png?lang={code}")
        body = await reply.read()
        assert (reply.content_type, body[:8], len(body) < 100_000) == ("image/png", b"\x89PNG\r\n\x1a\n", True)
        assert (int.from_bytes(body[16:20]), int.from_bytes(body[20:24])) == (1200, 630)


async def test_what_other_sites_read_of_the_page(client: Client) -> None:
    """Title, sentence and picture, by their whole addresses."""
    page = await text_of(client)
    assert f'<meta property="og:image" content="{ADDRESS}/tickets/story-1/picture.png?lang=en">' in page
    assert '<meta property="og:title" content="A new roof">' in page


# --- Limits and trouble


async def test_a_page_is_read_by_keys_whenever_it_was_planned(database: Database) -> None:
    """Planned while the tables are empty, as in a new ledger: no table is read, and no ticket's whole ledger."""
    tickets = Tickets(database, "USD")
    assert await tickets.read("story-1") is None
    plan = "\n".join(
        text for (text,) in await database.fetch("EXPLAIN EXECUTE ticket_pages ('{a}', 9)", prepare=PREPARE)
    )
    assert "Seq Scan" not in plan
    assert {"attributions_by_consent", "attributions_by_ticket", "entries_by_ticket"} <= set(
        re.findall(r"using (\w+)", plan)
    )


async def test_pages_have_places_of_their_own(database: Database, aiohttp_client: MakeClient) -> None:
    """When all are taken, a page is answered 503 in the reader's language, and the API's own endpoints answer.

    A payment that waits for Stripe takes none."""
    await add_ticket(database)
    hold, begun = asyncio.Event(), asyncio.Event()

    async def begin(_request: web.Request, _ticket: str, _entered: Entered) -> str:
        begun.set()
        await hold.wait()
        return CHECKOUT

    places = Places("public pages", 1)
    routes = page_routes(database, begin=begin, places=places)
    client = await aiohttp_client(application(database, follower(), feature_routes=routes))
    giving = asyncio.create_task(client.post("/tickets/story-1/give", data={"preset": "5"}, allow_redirects=False))
    await begun.wait()
    assert "A new roof" in await text_of(client)
    places.take()
    reply = await client.get("/tickets/story-1?lang=de")
    assert (reply.status, reply.content_type, reply.headers["Retry-After"]) == (503, "text/html", "30")
    assert "im Moment nicht verfügbar" in await reply.text()
    assert (await client.get("/api/tickets/story-1/donations/total")).status == 200
    hold.set()
    places.release()
    assert (await giving).status == 303


async def test_without_a_database_the_page_says_so(database: Database, aiohttp_client: MakeClient) -> None:
    """503 as a page, with Retry-After, and not cached."""
    readiness = follower()
    client = await aiohttp_client(application(database, readiness, feature_routes=page_routes(database)))
    readiness._keep(Readiness(ready=False))
    reply = await client.get("/tickets/story-1", headers={"Accept-Language": "fr"})
    assert (reply.status, reply.headers["Retry-After"], reply.headers["Cache-Control"]) == (503, "30", "no-store")
    assert "pas disponible" in await reply.text()


# --- Withdrawing consent


async def consent_path(database: Database, donation: str) -> str:
    return f"/consent/{donation}/{signature(await withdrawal_key(database), donation)}"


async def test_the_link_of_the_mail_withdraws_in_one_step(client: Client, database: Database) -> None:
    """Opening it changes nothing; its button ends the showing on the page, and the amount stays."""
    await Recorder(database).record(consenting_payment("story-1"))
    path = await consent_path(database, "pi_1")
    assert "Example" in await text_of(client)
    for _ in range(2):
        reply = await client.get(f"{path}?lang=en")
        page = await reply.text()
        assert (reply.status, reply.headers["Cache-Control"], "Show my name no longer" in page) == (
            200,
            "no-store",
            True,
        )
        assert ("A new roof" in page, "Example" in page) == (True, False)
    for _ in range(2):
        done = await client.post(f"{path}?lang=en")
        assert (done.status, "Your name is not shown" in await done.text()) == (200, True)
    page = await text_of(client)
    assert ("Example" in page, "Anonymous" in page, sum(lines_of(page))) == (False, True, Decimal("50.00"))
    assert await database.fetch("SELECT actor, action FROM operator_acts") == [("donor", "withdraw")]


async def test_only_a_signed_link_opens(client: Client, database: Database) -> None:
    """404, as for any unknown page: another donation, a changed signature, an unknown donation; nothing is recorded."""
    await Recorder(database).record(consenting_payment("story-1"))
    path = await consent_path(database, "pi_1")
    changed = path[:-1] + ("A" if path[-1] != "A" else "B")
    for wrong in (path.replace("pi_1", "pi_2"), changed, path + "A", await consent_path(database, "pi_9")):
        assert (await client.get(wrong)).status == 404
        assert (await client.post(wrong)).status == 404
    assert await database.fetch("SELECT count(*) FROM operator_acts") == [(0,)]
