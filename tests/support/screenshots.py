"""Draws the pictures of the pages in deploy/docs/pictures/: `make screenshots` (needs chromium)."""

import sys
from contextlib import closing
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser

from sql import migrate
from tests.support.browser import running_browser
from tests.support.pages import ADD_TICKET, Site
from tests.support.postgres import running_server

FOLDER = Path(__file__).parents[2] / "deploy" / "docs" / "pictures"
WIDTH, HEIGHT = 760, 1180
NARROW, TALL = 360, 900
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


def main() -> None:
    """Draws them on a database of their own."""
    FOLDER.mkdir(exist_ok=True)
    with running_server({}, in_memory=True) as server, running_browser() as browser:
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
