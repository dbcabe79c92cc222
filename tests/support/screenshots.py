"""Draws the pictures of the pages in deploy/docs/pictures/: `make screenshots` (needs chromium)."""

import asyncio
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from playwright.sync_api import Browser, ViewportSize

from daemon.cli.demo import fill_and_welcome
from daemon.reports import daily_sums
from sql import migrate
from sql.database import Database
from tests.bench.machine import API, SECRET, query, site, stored
from tests.support.browser import running_browser
from tests.support.operators import entry
from tests.support.pages import ADD_TICKET, Site
from tests.support.postgres import Server, running_server

FOLDER = Path(__file__).parents[2] / "deploy" / "docs" / "pictures"
WIDTH, HEIGHT = 760, 1180
NARROW, TALL = 360, 900
CONSOLE_SIZE: ViewportSize = {"width": 1120, "height": 900}
CONSOLE: tuple[tuple[str, str, Literal["light", "dark"]], ...] = (
    ("console-overview", "/operator", "light"),
    ("console-donation", "/operator/donations/{id}#timeline", "light"),
    ("console-reports", "/operator/reports", "dark"),
)
DISPUTED = "SELECT id FROM stripe_attributions WHERE status = 'DISPUTED' ORDER BY id LIMIT 1"
NAMES = ("Okafor", "Lindqvist", "García", "Nguyễn", "محمود", "김", "O'Brien", "Smith")
# Some donations of different amounts, each hour one; every third donor does not want the name to be shown.
DONATIONS = """
INSERT INTO stripe_attributions (id, root, version, facts, ticket_id, status, amount_minor, currency, refunded_minor,
    disputed_minor, created_at, paid_at, donor_last_name, consent)
SELECT 'pi_' || n, 'pi_' || n, 1, '{}', 'roof', 'PAID', (ARRAY[2500, 5000, 1000, 10000, 7500])[n %% 5 + 1], 'USD', 0, 0,
    at, at, (%(names)s::text[])[n %% 8 + 1], n %% 3 > 0 AND n > 120
FROM generate_series(1, 134) n CROSS JOIN LATERAL (SELECT timestamptz '2026-11-20 07:12Z' + n * interval '1 hour') t(at)
"""
TOTALS = """
INSERT INTO ticket_totals
SELECT ticket_id, currency, sum(amount_minor), 0, 0, count(*), 0, 0, 0 FROM stripe_attributions GROUP BY 1, 2
"""
ENTRY = """
INSERT INTO ledger_entries
SELECT 4711, max(paid_at), max(paid_at), 5000, 'payment', 'pi_1', 'roof', 'USD', 'ch_1', 'evt_1'
FROM stripe_attributions
"""


def draw(browser: Browser, site: Site, folder: Path) -> None:
    """All pictures: usual, dark, and narrow from right to left."""
    shots: tuple[tuple[str, str, int, int, Literal["light", "dark"]], ...] = (
        ("ticket-page", "/tickets/roof?lang=en", WIDTH, HEIGHT, "light"),
        ("ticket-page-dark", "/tickets/roof?lang=de", WIDTH, HEIGHT, "dark"),
        ("ticket-page-narrow", "/tickets/roof?lang=ar", NARROW, TALL, "light"),
    )
    for name, path, width, height, scheme in shots:
        with closing(browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)) as context:
            page = context.new_page()
            page.goto(site.address + path)
            page.screenshot(path=folder / f"{name}.png")
            print(folder / f"{name}.png", file=sys.stderr)


def draw_console(server: Server, folder: Path) -> None:
    """The pictures of the operator console, with what `donationd demo` shows."""
    with TemporaryDirectory() as name, stored(server, "console", Path(name)) as database:
        settings = {"OPERATOR_TOKENS": entry("anna", "read+act+export", "token")}
        with site(API, database, Path(name), settings=settings) as api:
            environ = {"DATABASE_URL": database.url, "STRIPE_WEBHOOK_SECRET": SECRET, "STRIPE_LIVEMODE": "false"}
            fill_and_welcome(300, environ | {"HOST": "127.0.0.1", "PORT": str(api.port)}, Path(name))
            asyncio.run(_add_sums(database.url))
            [(disputed,)] = query(database.url, DISPUTED)
            with running_browser() as browser:
                for picture, path, scheme in CONSOLE:
                    with closing(browser.new_context(viewport=CONSOLE_SIZE, color_scheme=scheme)) as context:
                        page = context.new_page()
                        page.goto(f"{api.url}/operator")
                        page.get_by_label("Your operator token").fill("token")
                        page.keyboard.press("Enter")
                        page.get_by_role("button", name="Sign out").wait_for()
                        page.goto(api.url + path.replace("{id}", str(disputed)), wait_until="networkidle")
                        page.screenshot(path=folder / f"{picture}.png")
                        print(folder / f"{picture}.png", file=sys.stderr)


async def _add_sums(url: str) -> None:
    database = Database(
        url, pool_size=1, statement_timeout_s=10, connect_timeout_s=5, application_name="donationd pictures"
    )
    while await daily_sums.add(database, "UTC"):
        pass
    await database.close()


def main() -> None:
    """Draws them on a database of their own."""
    FOLDER.mkdir(exist_ok=True)
    with running_server({"max_connections": "50"}, in_memory=True) as server:
        draw_console(server, FOLDER)
        _draw_public(server)


def _draw_public(server: Server) -> None:
    with running_browser() as browser:
        url = server.url.format(name="postgres")
        migrate.apply(url)
        with Site(url).running() as site:
            title = "A new roof for the village school"
            site.sql(ADD_TICKET, {"id": "roof", "title": title, "state": "open", "goal": 1_000_000})
            site.sql(DONATIONS, {"names": list(NAMES)})
            site.sql(TOTALS)
            site.sql(ENTRY)
            draw(browser, site, FOLDER)


if __name__ == "__main__":
    main()
