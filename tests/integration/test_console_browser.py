"""The operator console in Chromium: used as by people, without JavaScript, by keyboard, and checked in every view."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from psycopg2.extensions import connection as Connection

from daemon.pages.console_pages import PAGES
from daemon.runtime.http.auth import parse_tokens
from daemon.runtime.http.sessions import COOKIE
from daemon.simulator import scenarios
from tests.support.browser import problems, running_browser
from tests.support.ledger import record
from tests.support.operators import entry
from tests.support.pages import Site

TOKEN = "a-token-for-everything"
TICKETS = """
INSERT INTO recording_tickets (id, title, currency, goal_minor) VALUES
    ('story-1', 'A well for the village', 'USD', 500000), ('story-2', 'مدرسة جديدة للقرية', 'EUR', 900000),
    ('story-3', repeat('👨‍👩‍👧‍👦', 28), null, null),
    ('story-4', '<script>document.title = "broken"</script>', null, null)
"""
MORE = """
INSERT INTO stripe_events (id, type, stripe_created, livemode, error)
VALUES ('evt_failed', 'charge.updated', now(), false, '<img src=x onerror=alert(1)>');
INSERT INTO health_check_runs (at, kind, ok, state, detail) VALUES (now(), 'transition', false, 'not ready', 'timeout')
"""

# A few rows of each list are enough for the rules of accessibility.
EXAMPLES = {"exports": "?kind=donations", "donations": "?limit=8", "unassigned": "?limit=8", "reports": "?by=month"}


@pytest.fixture(scope="module")
def site(postgres: str, administrator: Connection, migrated: str) -> Iterator[Site]:
    """An API with a day of payments."""
    administrator.cursor().execute(f"CREATE DATABASE console_browser TEMPLATE {migrated}")
    url = postgres.format(name="console_browser")
    found = scenarios.generate(5, 60, ["story-1", "story-2"], now=int(time.time()))
    record(url, [event for each in found for event in each.events])
    tokens = parse_tokens(entry("anna", "read+act+export", TOKEN))
    with Site(url).running(tokens=tokens) as site:
        site.sql(TICKETS)
        site.sql(MORE)
        yield site


@pytest.fixture(scope="module")
def browser(site: Site) -> Iterator[Browser]:
    """After the events were recorded: no asyncio loop of this thread can run beside it."""
    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """A page where anna has signed in, without JavaScript: no page of the console needs it."""
    with browser.new_context(base_url=site.address, java_script_enabled=False) as context:
        page = context.new_page()
        sign_in(page)
        yield page


def sign_in(page: Page, path: str = "/operator") -> None:
    page.goto(path)
    page.get_by_label("Your operator token").fill(TOKEN)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Sign out").wait_for()


def donation(site: Site, condition: str) -> str:
    """The first donation of which an SQL condition of ours holds."""
    sql = f"SELECT id FROM stripe_attributions WHERE {condition} ORDER BY id LIMIT 1"  # noqa: S608
    [(id_,)] = site.sql(sql)
    return str(id_)


def test_the_browser_keeps_the_session_on_the_loopback_interface_and_ends_it(browser: Browser, site: Site) -> None:
    """127.0.0.1 counts as secure: the cookie comes without TLS, for this host only, and no script reads it."""
    with browser.new_context(base_url=site.address) as context:
        page = context.new_page()
        sign_in(page, "/operator/audit")
        expect(page).to_have_url(f"{site.address}/operator/audit")
        [cookie] = context.cookies()
        assert (cookie["name"], cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (
            COOKIE,
            True,
            True,
            "Strict",
        )
        assert cookie["domain"] == "127.0.0.1" and page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Sign out").click()
        expect(page).to_have_url(f"{site.address}/operator/sign-in")
        assert context.cookies() == []
        page.goto("/operator")
        assert page.get_by_label("Your operator token").is_visible()


def test_every_page_is_shown_without_an_error_and_axe_finds_nothing_in_any_view(browser: Browser, site: Site) -> None:
    """The page's own policy blocks nothing of it, and nothing comes from elsewhere."""
    errors, hosts = list[str](), set[str]()
    with browser.new_context(base_url=site.address) as context:
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: hosts.add(request.url.partition("/operator")[0]))
        page.goto("/operator")
        found = {"sign-in": problems(page)}
        sign_in(page)
        for each in PAGES:
            path = each.path.replace("{id}", donation(site, "refunded_minor > 0"))
            page.goto(f"/operator{path}{EXAMPLES.get(each.name, '')}")
            assert page.title() == f"{each.title} · donationd"
            assert page.get_by_role("heading", level=1).inner_text() == each.title
            found[each.name] = problems(page)
        assert (errors, hosts) == ([], {site.address})
        page.goto("/operator/unassigned")
        page.get_by_role("textbox").or_(page.get_by_role("combobox")).first.fill("nowhere")
        page.get_by_role("button", name="Assign").first.click()
        expect(page.locator("[aria-invalid]")).to_have_value("nowhere")
        found["a form again"] = problems(page)
    assert {name: each for name, each in found.items() if each} == {}


def test_a_donation_is_assigned_from_the_queue(page: Page, site: Site) -> None:
    id_ = donation(site, "ticket_id IS NULL AND paid_at IS NOT NULL")
    page.goto("/operator")
    page.get_by_role("link", name="donations without a ticket").click()
    page.get_by_label(f"Ticket for {id_}").fill("story-1")
    page.get_by_label(f"Ticket for {id_}").press("Enter")
    expect(page.get_by_role("status")).to_have_text("The donation was assigned.")
    expect(page.get_by_role("link", name=id_)).to_have_count(0)
    page.goto(f"/operator/donations?find={id_}")
    page.get_by_role("link", name=id_).click()
    page.get_by_role("row", name="ticket story-1: paid +").first.wait_for()


def test_an_event_is_dismissed_and_a_ticket_is_changed(page: Page, site: Site) -> None:
    page.goto("/operator/failed")
    page.get_by_role("button", name="Dismiss evt_failed").click()
    expect(page.get_by_role("status")).to_have_text("The event was dismissed.")
    page.goto("/operator/tickets")
    page.get_by_label("Change story-2").click()
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="story-2"))
    row.get_by_label("State").select_option("closed")
    row.get_by_role("button", name="Save story-2").click()
    expect(page.get_by_role("status")).to_have_text("The ticket was saved.")
    assert site.sql("SELECT state, title, goal_minor FROM recording_tickets WHERE id = 'story-2'") == [
        ("closed", "مدرسة جديدة للقرية", 900000)
    ]
    page.goto("/operator/audit")
    assert page.get_by_role("row", name="anna").count() >= 2


def test_a_page_is_used_by_keyboard(page: Page) -> None:
    page.goto("/operator/donations")
    page.keyboard.press("Tab")
    assert page.get_by_text("Skip to the content").bounding_box()["y"] >= 0  # type: ignore[index]
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.type("story-1")
    page.keyboard.press("Enter")
    page.wait_for_url("**/operator/donations?find=story-1*")
    page.get_by_role("row", name="story-1").nth(1).wait_for()


def test_an_export_is_downloaded_and_has_a_manifest(page: Page, tmp_path: Path) -> None:
    page.goto("/operator/exports")
    page.get_by_role("button", name="Show the downloads").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download CSV (RFC 4180)").click()
    download.value.save_as(tmp_path / "donations.csv")
    rows = (tmp_path / "donations.csv").read_text().count("\n") - 1
    page.get_by_role("link", name="Manifest of CSV (RFC 4180)").click()
    expect(page.locator("body")).to_contain_text(re.compile(rf'"rows": ?{rows}\b'))
