"""The operator console without a browser: what its pages show and do (SPEC 13)."""

import asyncio
from contextlib import closing
from datetime import date
from http import HTTPStatus
from urllib.parse import quote

import psycopg2
import pytest
from aiohttp import hdrs

from daemon.ledger.audit import actions
from daemon.ledger.tickets import tickets
from daemon.pages.console_pages import PAGES, search_parameters
from daemon.reports import daily_sums
from sql.database import Database
from tests.support.api_application import Client, MakeClient, application, follower
from tests.support.console import FIELDS, ONE_FORM, Visitor, record_payments
from tests.support.ledger import put_ticket
from tests.support.operators import ACTOR, TOKENS

SAFE = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
}
HOSTILE = "<script>alert(1)</script>\"'&{{ 7*7 }}"
TITLES = [
    HOSTILE,
    "مدرسة جديدة للقرية",
    "\u202eevil",
    "👨‍👩‍👧‍👦" * 28,
    "x" * 200,
    "کتاب\u200cخانه",
    "a\u200bb",
    "x" * 201,
]
NO_TITLES = {TITLES[2], *TITLES[6:]}


@pytest.fixture
async def client(database: Database, aiohttp_client: MakeClient) -> Client:
    return await aiohttp_client(application(database, follower(), tokens=TOKENS))


@pytest.fixture
async def anna(client: Client) -> Visitor:
    """An operator who may read and act."""
    return await Visitor(client).sign_in(ACTOR)


async def test_every_reply_is_protected_and_no_page_contains_a_script_or_a_style(
    anna: Visitor, database: Database
) -> None:
    ids = await record_payments(database, 5)
    paths = ["/operator" + page.path.replace("{id}", ids[0]) for page in PAGES]
    for path in [*paths, "/operator/sign-in", "/operator/nothing", "/operator/donations?limit=x"]:
        reply = await anna.get(path)
        if reply.status == HTTPStatus.SEE_OTHER:  # the sign-in: there is a session
            continue
        text = await reply.text()
        assert SAFE.items() <= reply.headers.items() and reply.content_type == "text/html"
        policy = reply.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert not [each for each in ("<script", " style=", "<style", " onclick", "javascript:") if each in text]


async def test_a_database_that_is_away_is_reported_as_a_page(database: Database, aiohttp_client: MakeClient) -> None:
    client = await aiohttp_client(application(database, follower(ready=False), tokens=TOKENS))
    reply = await client.get("/operator")
    assert (reply.status, reply.content_type) == (HTTPStatus.SERVICE_UNAVAILABLE, "text/html")
    assert reply.headers[hdrs.RETRY_AFTER] == "30"
    assert "currently unavailable" in await reply.text()


# --- What pages show and do


async def test_hostile_and_foreign_titles_are_shown_as_text(anna: Visitor, database: Database) -> None:
    for number, title in enumerate(TITLES):
        reply = await anna.post(ONE_FORM, FIELDS | {"id": f"t{number}", "title": title})
        if title in NO_TITLES:
            assert reply.status == HTTPStatus.BAD_REQUEST and "printable" in await reply.text()
            continue
        assert reply.headers[hdrs.LOCATION] == "/operator?done=put_ticket"
    page = await anna.page("/operator/tickets")
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&amp;{{ 7*7 }}" in page
    assert f"<bdi>{TITLES[1]}</bdi>" in page and f"<bdi>{TITLES[4]}</bdi>" in page
    assert [ticket.title for ticket in await tickets(database)] == [each for each in TITLES if each not in NO_TITLES]


async def test_a_ticket_is_added_and_changed(anna: Visitor, database: Database) -> None:
    await anna.post(ONE_FORM, FIELDS | {"goal": "99.50", "currency": "EUR", "back": "/operator/tickets?limit=5"})
    [ticket] = await tickets(database)
    assert (ticket.id, ticket.currency, ticket.goal_minor, ticket.state) == ("story-9", "EUR", 9950, "open")
    reply = await anna.post(ONE_FORM, FIELDS | {"state": "closed", "back": "/operator/tickets?limit=5"})
    assert reply.headers[hdrs.LOCATION] == "/operator/tickets?limit=5&done=put_ticket"
    assert 'role="status">The ticket was saved.' in await anna.page(reply.headers[hdrs.LOCATION])
    [ticket] = await tickets(database)
    assert (ticket.currency, ticket.goal_minor, ticket.state) == (None, None, "closed")
    reply = await anna.post(ONE_FORM, FIELDS | {"goal": "0.001"})
    assert reply.status == HTTPStatus.BAD_REQUEST
    reply = await anna.post(ONE_FORM, FIELDS | {"new": "true", "title": "Another one"})
    assert reply.status == HTTPStatus.CONFLICT and "there is a ticket with this id already" in await reply.text()
    assert await tickets(database) == [ticket], "a form that adds a ticket changes none"
    assert [(row.by, row.action) for row in await actions(database, 9)] == [("anna", "ticket"), ("anna", "ticket")]


ENTERED = {"title": 'Two "wells"', "currency": "EUR", "goal": "5,5", "state": "closed"}


@pytest.mark.parametrize("form", ["new", "ticket-story-1"])
async def test_a_form_that_is_not_accepted_comes_back_with_what_was_entered(
    anna: Visitor, database: Database, form: str
) -> None:
    """Of two forms on the page the right one, with the message beside the field, which names it (WCAG 3.3.1)."""
    await put_ticket(database, "story-1")
    id_ = "story-9" if form == "new" else "story-1"
    back = "/operator/tickets?limit=1"
    reply = await anna.post(ONE_FORM, {"id": id_, **ENTERED, "form": form, "back": back})
    assert (reply.status, reply.headers["Cache-Control"]) == (HTTPStatus.BAD_REQUEST, "no-store")
    page = await reply.text()
    mistake = "a number above 0 in major units, with at most the decimals of the currency"
    assert f'role="alert">Nothing was changed: <a href="#{form}-goal">{mistake}</a>' in page
    assert f'id="{form}-title" name="title" value="Two &#34;wells&#34;"' in page
    assert f'id="{form}-goal" name="goal" value="5,5" aria-invalid="true" aria-describedby="mistake"' in page
    assert page.count(f'<span class="mistake" id="mistake">{mistake}</span>') == 1
    assert page.count('<option value="closed" selected>') == 1 and page.count("5,5") == 1
    assert page.count("<details open>") == (form != "new")
    assert page.count(f'name="back" value="{back}"') == 1


async def test_a_form_for_a_ticket_that_does_not_exist_comes_back_beside_its_donation(
    anna: Visitor, database: Database
) -> None:
    await record_payments(database)
    [first, second, *_] = [str(id_) for (id_,) in await database.fetch(
        "SELECT id FROM stripe_attributions WHERE ticket_id IS NULL AND paid_at IS NOT NULL ORDER BY id"
    )]  # fmt: skip
    for back in ("/operator/unassigned", f"/operator/donations/{first}"):
        fields = {"ticket": "<nowhere>", "form": first, "back": back}
        reply = await anna.post(f"/operator/donations/{first}/assign", fields)
        page = await reply.text()
        assert reply.status == HTTPStatus.BAD_REQUEST
        assert f'id="{first}-ticket" name="ticket" value="&lt;nowhere&gt;" aria-invalid="true"' in page
        assert (f'id="{second}-ticket" name="ticket" value=""' in page) == (back == "/operator/unassigned")
    other = await anna.post(f"/operator/donations/{first}/assign", {"ticket": "x", "back": "/operator/sign-in"})
    assert (other.status, "there is no ticket x" in await other.text()) == (HTTPStatus.CONFLICT, True)


async def test_a_donation_without_a_ticket_gets_one_and_its_timeline_shows_the_effect(
    anna: Visitor, database: Database
) -> None:
    await record_payments(database)
    [(id_,)] = await database.fetch("SELECT id FROM stripe_attributions WHERE ticket_id IS NULL AND paid_at IS NOT NULL"
                                    " ORDER BY id LIMIT 1")  # fmt: skip
    assert id_ in await anna.page("/operator/unassigned")
    path = f"/operator/donations/{id_}"
    reply = await anna.post(f"{path}/assign", {"ticket": "story-1", "back": path})
    assert reply.headers[hdrs.LOCATION] == f"{path}?done=assign_donation"
    page = await anna.page(path)
    assert "ticket story-1: paid +" in page and "ticket none: paid -" in page
    assert id_ not in await anna.page("/operator/unassigned")
    reply = await anna.post(f"{path}/assign", {"ticket": "nowhere", "back": path})
    assert reply.status == HTTPStatus.CONFLICT and "there is no ticket nowhere" in await reply.text()
    await database.fetch("UPDATE stripe_attributions SET consent = true WHERE id = %s", [id_])
    assert "Hide the name" in await anna.page(path)
    await anna.post(f"{path}/withdraw-consent", {"back": path})
    assert "Hide the name" not in await anna.page(path)
    await anna.post(f"{path}/erase", {"back": path})
    assert "<bdi>Anonymous</bdi>" in await anna.page(path)
    assert [row.action for row in await actions(database, 9)] == ["erase", "withdraw", "assign"]


async def test_a_donation_shows_its_fees_and_payout(anna: Visitor, database: Database) -> None:
    await record_payments(database)
    [(id_,)] = await database.fetch("SELECT id FROM stripe_attributions WHERE status = 'PAID' ORDER BY id LIMIT 1")
    path = f"/operator/donations/{id_}"
    assert "not known yet" in await anna.page(path)
    await database.fetch(
        "INSERT INTO balance_transactions VALUES (1, now(), 'txn_1', now(), now(), 'charge', 'charge', 'ch_1', %s,"
        " 'po_1', 'EUR', 5000, 175, 4825, 0.9123)",
        [id_],
    )
    page = await anna.page(path)
    assert " at 0.9123, fee " in page
    assert 'href="/operator/donations?find=po_1"' in page and "not known yet" not in page
    assert id_ in await anna.page("/operator/donations?find=po_1")


async def test_a_failed_event_is_dismissed(anna: Visitor, database: Database) -> None:
    await database.fetch("INSERT INTO stripe_events (id, type, stripe_created, livemode, error)"
                         " VALUES ('evt_1', 'charge.updated', now(), false, %s)", [HOSTILE])  # fmt: skip
    assert "evt_1" in (page := await anna.page("/operator/failed")) and "<script>" not in page
    assert '<span class="figure warn">1</span>' in await anna.page("/operator")
    reply = await anna.post("/operator/failed/evt_1/replay", {"back": "/operator/failed"})
    assert reply.status == HTTPStatus.CONFLICT and "STRIPE_API_KEY is not set" in await reply.text()
    await anna.post("/operator/failed/evt_1/dismiss", {"back": "/operator/failed"})
    assert "evt_1" not in await anna.page("/operator/failed")
    assert "evt_1" in await anna.page("/operator/failed?all=true")
    assert "evt_1" in await anna.page("/operator/audit")


async def test_a_mail_is_sent_once_more_or_dismissed(anna: Visitor, database: Database) -> None:
    await database.fetch(
        "INSERT INTO outbox (donation_id, kind, seq, state, reason) VALUES"
        " ('pi_1', 'thanks', 0, 'undelivered', 'no address'), ('pi_2', 'thanks', 0, 'uncertain', NULL)"
    )
    page = await anna.page("/operator/mail")
    assert "no address" in page and "perhaps sent" in page
    assert '<span class="figure warn">2</span> mails not delivered' in await anna.page("/operator")
    ids = [id_ for (id_,) in await database.fetch("SELECT id FROM outbox ORDER BY id")]
    for id_, decision in zip(ids, ("retry", "dismiss"), strict=True):
        await anna.post(f"/operator/mail/{id_}/{decision}", {"back": "/operator/mail"})
    assert await database.fetch("SELECT state FROM outbox ORDER BY id") == [("queued",), ("dismissed",)]
    assert "No mail waits" in await anna.page("/operator/mail")


async def test_a_search_finds_by_any_id_by_ticket_and_by_hash(anna: Visitor, database: Database) -> None:
    await record_payments(database)
    [(id_, charge, hash_)] = await database.fetch(
        "SELECT id, charge_id, donor_email_hash FROM stripe_attributions"
        " WHERE charge_id IS NOT NULL AND donor_email_hash IS NOT NULL AND ticket_id = 'story-1' ORDER BY id LIMIT 1"
    )
    for text in (id_, charge, hash_, f" {charge} ", "story-1"):
        assert f">{id_}<" in await anna.page(f"/operator/donations?find={quote(text)}")
    assert "No donation was found" in await anna.page("/operator/donations?find=pi_unknown")
    assert [row.detail for row in await actions(database, 9)] == ["e-mail hash"]
    reply = await anna.get("/operator/donations?currency=usd&find=x")
    assert reply.status == HTTPStatus.BAD_REQUEST and "three capital letters" in await reply.text()


def test_the_fields_of_the_search_become_parameters() -> None:
    assert search_parameters({"find": "story-1", "to": "2026-12-31", "from": "yesterday"}) == {
        "ticket": "story-1", "to": "2027-01-01T00:00:00Z", "from": "yesterday",
    }  # fmt: skip
    assert search_parameters({"find": "a" * 64}) == {"q": "a" * 64}
    assert search_parameters({"to": "9999-12-31"}) == {"to": "9999-12-31"}, "the day after it does not exist"


async def test_pages_of_a_list_follow_each_other(anna: Visitor, database: Database) -> None:
    ids = await record_payments(database)
    seen, path = list[str](), "/operator/donations?limit=10"
    while path:
        page = await anna.page(path)
        seen += [id_ for id_ in ids if f">{id_}</a></th>" in page]
        [*_, link] = [part.partition('"')[0] for part in page.split('class="button" href="')]
        path = link.replace("&amp;", "&") if "Next page" in page else ""
    assert sorted(seen) == ids


async def test_charts_show_what_the_journal_adds_up_to(anna: Visitor, database: Database) -> None:
    await record_payments(database)
    assert "Nothing moved" in await anna.page("/operator/reports")
    await database.fetch("UPDATE ledger_entries SET effective_at = now()")
    while await daily_sums.add(database, "UTC"):
        pass
    [(paid,)] = await database.fetch(
        "SELECT sum(amount_minor) FROM ledger_entries WHERE kind = 'payment' AND currency = 'USD'"
    )
    assert f"{paid / 100:,.2f}" in await anna.page("/operator/reports?by=month")
    for scheme in ("", "&scheme=dark"):
        reply = await anna.get(f"/operator/chart.svg?by=day&currency=USD{scheme}")
        svg = await reply.text()
        assert (reply.status, reply.content_type) == (HTTPStatus.OK, "image/svg+xml")
        assert "<svg" in svg and "<script" not in svg and "sandbox" in reply.headers["Content-Security-Policy"]
    assert (await anna.get("/operator/chart.svg?by=day&currency=XXX")).status == HTTPStatus.NOT_FOUND


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
async def test_sums_per_day_are_those_of_the_journal_whatever_was_added_at_once(
    database: Database, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when several processes add at the same time, and when the journal goes on."""
    monkeypatch.setattr(daily_sums, "ADDED_AT_ONCE", 7)
    await record_payments(database)
    for _ in range(2):
        while any(await asyncio.gather(*(daily_sums.add(database, zone) for _ in range(3)))):
            pass
        for ticket in ("*", "story-1", ""):
            sums = await database.fetch(
                "SELECT day, currency, kind, amount_minor FROM daily_sums WHERE time_zone = %s AND ticket_id = %s"
                " ORDER BY 1, 2, 3", [zone, ticket]
            )  # fmt: skip
            entries = await database.fetch(
                "SELECT (effective_at AT TIME ZONE %s)::date, currency, kind, sum(amount_minor)::bigint"
                " FROM ledger_entries WHERE %s = '*' OR ticket_id = %s GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
                [zone, ticket, ticket]
            )  # fmt: skip
            assert sums == entries and entries
        await database.fetch(
            "INSERT INTO ledger_entries SELECT seq + (SELECT max(seq) FROM ledger_entries), recorded_at,"
            " effective_at + interval '1 day', amount_minor, kind, donation_id, ticket_id, currency, object_id, cause"
            " FROM ledger_entries"
        )


async def test_of_several_processes_one_at_a_time_adds_to_the_sums_per_day(
    database: Database, database_url: str
) -> None:
    await record_payments(database)
    await database.fetch("INSERT INTO daily_sums_state VALUES ('UTC', 0)")
    with closing(psycopg2.connect(database_url)) as other, other.cursor() as cursor:
        cursor.execute("SELECT FROM daily_sums_state FOR UPDATE")
        async with asyncio.timeout(30):
            assert not await daily_sums.add(database, "UTC")
        assert await database.fetch("SELECT seq FROM daily_sums_state") == [(0,)]
        assert await database.fetch("SELECT FROM daily_sums") == []


def test_the_last_periods_follow_each_other() -> None:
    by = {unit: daily_sums.last_periods(unit, date(2026, 3, 1)) for unit in daily_sums.SHOWN}
    days, weeks, months = by.values()
    assert (days[0], days[-1], len(days)) == (date(2026, 1, 30), date(2026, 3, 1), 31)
    assert (weeks[-1], weeks[-2], len(weeks)) == (date(2026, 2, 23), date(2026, 2, 16), 26)
    assert (months[0], months[-3:], len(months)) == (
        date(2024, 4, 1), [date(2026, 1, 1), date(2026, 2, 1), date(2026, 3, 1)], 24,
    )  # fmt: skip
