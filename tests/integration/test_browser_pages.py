"""The public pages in a real browser: used by donors, by keyboard and without a script, and judged by axe-core."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg2
import pytest
from aiohttp import web
from playwright.sync_api import Browser, BrowserContext, Page, Response, expect

from daemon.ledger.consent import signature, withdrawal_key
from daemon.ledger.recorder import Recorder
from daemon.pages.ticket_views import Entered
from daemon.runtime.readiness import Readiness
from tests.support.browser import WAIT_S, problems, running_browser
from tests.support.pages import ADD_TICKET, DONATIONS, Site, consenting_payment

LONG = "سقف جديد <script>document.title='bad'</script> Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbau" * 2


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def site(postgres: str, migrated: str) -> Iterator[Site]:
    """A ticket with donations, an open one without, a closed one, and one with long texts."""
    with closing(psycopg2.connect(postgres.format(name="postgres"))) as admin:
        admin.autocommit = True
        admin.cursor().execute(f"CREATE DATABASE browser_pages TEMPLATE {migrated}")
    with Site(postgres.format(name="browser_pages")).running(begin=begin) as site:
        for id_, title, state in (
            ("story-1", "A new roof for the village school", "open"),
            ("empty", "Nothing yet", "open"),
            ("closed", "Done", "closed"),
            ("long", LONG[:200], "open"),
        ):
            site.sql(ADD_TICKET, {"id": id_, "title": title, "state": state, "goal": 100_000})
        for id_, name in (("story-1", "Smith"), ("long", LONG[:64]), ("closed", "Jones")):
            site.sql(DONATIONS, {"ticket": id_, "name": name, "count": 12})
        yield site


async def begin(request: web.Request, ticket: str, entered: Entered) -> str:
    """The payment's page is a page of this site, so that no browser leaves this machine."""
    monthly = "monthly" if entered.monthly else "once"
    return f"/tickets/{ticket}?checkout=done&paid={entered.amount}-{monthly}-{entered.show_name}"


# Each context of the browser has processes of its own: tests share one where they need no other.


@pytest.fixture(scope="module")
def shared_page(browser: Browser) -> Iterator[Page]:
    with closing(browser.new_context()) as context:
        yield opened(context)


@pytest.fixture
def page(shared_page: Page) -> Iterator[Page]:
    yield shared_page
    shared_page.goto("about:blank")  # an open page of a ticket goes on asking for its figures


@pytest.fixture(scope="module")
def shared_polling_page(browser: Browser) -> Iterator[Page]:
    with closing(browser.new_context()) as context:
        page = opened(context)
        page.clock.install()
        yield page


@pytest.fixture
def polling_page(shared_polling_page: Page) -> Iterator[Page]:
    """A page whose time `poll` lets pass."""
    yield shared_polling_page
    shared_polling_page.goto("about:blank")


@pytest.fixture(scope="module")
def plain_page(browser: Browser) -> Iterator[Page]:
    """A page without a script."""
    with closing(browser.new_context(java_script_enabled=False)) as context:
        yield opened(context)


def opened(context: BrowserContext) -> Page:
    """A page in which every mistake of a script, and whatever the policy forbids, fails the test."""
    page = context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"error in a script: {error}"))
    page.on("console", lambda message: pytest.fail(message.text) if "Content Security Policy" in message.text else None)
    return page


PATHS = (
    *("/tickets/story-1?lang=en", "/tickets/story-1?lang=ar", "/tickets/long?lang=en", "/tickets/long?lang=ar"),
    *("/tickets/empty?lang=en", "/tickets/closed?lang=ar", "/tickets/nothing?lang=en"),
    *("/tickets/long/embed?lang=ar", "/tickets/story-1/share?lang=en"),
)


def test_axe_finds_nothing(page: Page, site: Site) -> None:
    """In every view, from left to right and from right to left."""
    found = dict[str, list[str]]()
    for path in PATHS:
        page.goto(site.address + path)
        found[path] = problems(page)
    assert found == {path: [] for path in PATHS}


def test_the_sign_of_a_currency_stands_behind_its_letters_from_right_to_left_too(page: Page, site: Site) -> None:
    """US$ is not shown as $US, neither in the figures nor in the lines."""
    page.goto(f"{site.address}/tickets/story-1?lang=ar")
    assert page.evaluate("getComputedStyle(document.documentElement).direction") == "rtl"
    places = page.evaluate(
        """() => {
            const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
            while (texts.nextNode()) {
                const node = texts.currentNode, at = node.data.indexOf("US$");
                if (at < 0 || !node.parentElement.checkVisibility()) continue;
                found.push([0, 1, 2].map(each => {
                    const range = document.createRange();
                    range.setStart(node, at + each);
                    range.setEnd(node, at + each + 1);
                    return range.getBoundingClientRect().left;
                }));
            }
            return found;
        }"""
    )
    assert len(places) > 5
    assert [each for each in places if each != sorted(each)] == []


def test_a_page_is_two_requests_and_light(browser: Browser, plain_page: Page, site: Site) -> None:
    """The page and its script, together under 50 kB; without a script only the page, which shows the same."""
    check_light(plain_page, site, requests=1)
    with closing(browser.new_context()) as context:  # which has kept nothing of an earlier page
        check_light(opened(context), site, requests=2)


def check_light(page: Page, site: Site, *, requests: int) -> None:
    """The page itself needs so many requests."""
    replies = list[Response]()
    page.on("response", lambda reply: replies.append(reply))  # noqa: PLW0108 - a method is refused
    page.goto(f"{site.address}/tickets/story-1?lang=en", wait_until="load")
    loaded = [reply for reply in replies if "/api/" not in reply.url]
    assert len(loaded) == requests + sum(reply.url.startswith("data:") for reply in loaded)
    assert sum(len(reply.body()) for reply in loaded) < 50_000
    expect(page.get_by_role("heading", level=1)).to_have_text("A new roof for the village school")
    expect(page.locator("#figures")).to_contain_text("$600 raised")
    expect(page.get_by_role("progressbar")).to_be_visible()
    expect(page.get_by_role("row")).to_have_count(9)
    expect(page.get_by_role("button", name="Continue to payment")).to_be_visible()
    assert page.context.cookies() == []


def test_a_donor_gives_by_keyboard(page: Page, site: Site) -> None:
    """Every control is reached with the tab key and shows it; the donor chooses monthly, an amount and the name."""
    page.goto(f"{site.address}/tickets/empty?lang=en")
    page.get_by_role("radio", name="Once").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="$50")).to_be_checked()
    page.keyboard.press("Tab")
    page.keyboard.type("12,50")
    for _ in range(2):
        page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/tickets/empty?checkout=done&paid=12.50-monthly-True")
    expect(page.get_by_role("status").first).to_contain_text("Thank you!")


def test_a_mistake_in_the_form_is_explained(plain_page: Page, site: Site) -> None:
    """Without a script too: the page comes back with what was entered, and says what to do."""
    page = plain_page
    page.goto(f"{site.address}/tickets/empty?lang=en")
    page.get_by_label("Another amount").fill("ten")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("alert")).to_have_text("Please enter an amount such as $10.00.")
    expect(page.get_by_label("Another amount")).to_have_value("ten")
    expect(page.get_by_label("Another amount")).to_have_attribute("aria-invalid", "true")


def test_the_figures_follow_and_recover(polling_page: Page, site: Site) -> None:
    """A donation appears without a reload. While the database is away the page says so and keeps its figures; it
    recovers by itself. A ticket that disappears leaves the page of a missing ticket."""
    page = polling_page
    site.sql(ADD_TICKET, {"id": "live", "title": "Live", "state": "open", "goal": None})
    site.sql(DONATIONS, {"ticket": "live", "name": "Smith", "count": 1})
    page.goto(f"{site.address}/tickets/live?lang=en")
    figures, stale = page.locator("#figures"), page.locator("#stale")
    poll(page, 1)
    expect(figures).to_contain_text("$50 raised")
    site.sql(DONATIONS, {"ticket": "live", "name": "Jones", "count": 2})
    poll(page, 1)
    expect(figures).to_contain_text("$100 raised")
    expect(page.locator("#donations")).to_contain_text("Jones")
    site.readiness._keep(Readiness(ready=False))
    poll(page, 1)
    expect(stale).to_be_visible()
    expect(figures).to_contain_text("$100 raised")
    site.readiness._keep(Readiness(ready=True))
    poll(page, 6)
    expect(stale).to_be_hidden()
    site.sql("UPDATE recording_tickets SET state = 'hidden' WHERE id = 'live'")
    poll(page, 1)
    expect(page.get_by_role("heading", level=1)).to_have_text("This page does not exist")


def poll(page: Page, times: int) -> None:
    """Lets so many of the page's usual intervals pass."""
    for _ in range(times):
        page.clock.fast_forward(13_000)
        page.wait_for_timeout(60)


def poll_until(page: Page, holds: Callable[[], bool]) -> None:
    """Lets the page's usual intervals pass until this holds. While the page waits for a reply it has no interval."""
    until_s = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < until_s
        poll(page, 1)


def test_the_figures_follow_beside_a_mistake_in_the_form(polling_page: Page, site: Site) -> None:
    """The page that came back for a form is kept up to date from the ticket's own address."""
    page = polling_page
    page.goto(f"{site.address}/tickets/empty?lang=en")
    page.get_by_label("Another amount").fill("ten")
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("alert")).to_be_visible()
    begun = len(site.requests)
    asked = {"GET /tickets/empty", "GET /api/tickets/empty/donations/total"}
    poll_until(page, lambda: set(site.requests[begun:]) >= asked)
    assert set(site.requests[begun:]) == asked
    expect(page.locator("#stale")).to_be_hidden()


def test_nothing_is_asked_for_while_the_page_is_not_wanted(polling_page: Page, site: Site) -> None:
    """A reader turns the updates off, and no request follows."""
    page = polling_page
    with page.expect_response("**/donations/total"):
        page.goto(f"{site.address}/tickets/story-1?lang=en")
    page.get_by_label("Update the figures automatically").uncheck()
    before = list(site.requests)
    poll(page, 5)
    assert site.requests == before


def test_a_name_disappears_with_its_consent(page: Page, site: Site) -> None:
    """By the link of the mail: one button, in the donor's language, and the name is gone from the page."""
    site.sql(ADD_TICKET, {"id": "named", "title": "Named", "state": "open", "goal": None})
    site.run(Recorder(site.database).record(consenting_payment("named")))
    key = site.run(withdrawal_key(site.database))
    page.goto(f"{site.address}/tickets/named?lang=en")
    expect(page.locator("#donations")).to_contain_text("Example")
    page.goto(f"{site.address}/consent/pi_1/{signature(key, 'pi_1')}?lang=ar")
    assert problems(page) == []
    page.get_by_role("button").click()
    expect(page.get_by_role("status")).to_be_visible()
    page.goto(f"{site.address}/tickets/named?lang=en")
    page.reload()  # not what the browser has kept, for 15 s
    expect(page.locator("#donations")).not_to_contain_text("Example")


def test_another_site_shows_only_what_is_made_for_it(page: Page, site: Site) -> None:
    """The small page in a frame of a named site; the page itself in no frame."""
    policies = {}
    for path in ("/tickets/story-1", "/tickets/story-1/embed"):
        reply = page.goto(site.address + path)
        assert reply is not None
        policies[path] = reply.headers["content-security-policy"].partition("frame-ancestors ")[2]
    assert list(itertools.chain(policies.values())) == ["'none'", "https://charity.example"]
