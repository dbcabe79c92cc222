"""Debian's Chromium, driven by Playwright: pages are used as people do, and checked by the rules of axe-core."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--force-color-profile=srgb",
)  # fmt: skip
WAIT_S = 90.0  # for the start of the browser, and for what a page is expected to show
expect.set_options(timeout=WAIT_S * 1000)
WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
COLOURS = ["color-contrast", "link-in-text-block"]
SIZES = ["target-size", "scrollable-region-focusable"]


@dataclass(frozen=True)
class View:
    """How a page is shown to a person: the window's size, what the browser is asked for, and the rules of axe-core that
    may come out differently then: all of them in the first view."""

    rules: list[str]
    width: int = 1280
    height: int = 800
    color_scheme: Literal["light", "dark"] = "light"
    forced_colors: Literal["none", "active"] = "none"


VIEWS = {
    "light": View(WCAG),
    "dark": View(COLOURS, color_scheme="dark"),
    "forced colours": View(COLOURS, forced_colors="active", color_scheme="dark"),
    "200 % zoom": View(SIZES, width=640, height=400),  # of a window of 1,280 pixels
    "320 pixels": View(SIZES, width=320, height=640),
}


@contextmanager
def running_browser() -> Iterator[Browser]:
    """A browser; the test is skipped where there is none, except in CI. No test may be asynchronous meanwhile."""
    if not CHROMIUM.exists():
        if os.environ.get("CI") == "true":
            pytest.fail("apt-get install chromium")
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS), timeout=WAIT_S * 1000)
        try:
            yield browser
        finally:
            browser.close()


def problems(page: Page) -> list[str]:
    """What is wrong with a page that is loaded, in any view: the rules of accessibility that it breaks, with the
    elements, and a window that it is wider than. In the end it is shown in the first view again."""
    page.evaluate(AXE_SCRIPT)
    found = list[str]()
    for name, view in VIEWS.items():
        _show(page, view)
        found += [f"{name}: {each}" for each in _violations(page, view.rules)]
        wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        found += [f"{name}: the page is {wider} pixels wider than the window"] if wider > 0 else []
    _show(page, VIEWS["light"])
    return found


def _show(page: Page, view: View) -> None:
    page.set_viewport_size({"width": view.width, "height": view.height})
    page.emulate_media(color_scheme=view.color_scheme, forced_colors=view.forced_colors)


def _violations(page: Page, rules: list[str]) -> list[str]:
    # No page of ours has frames or styles of other hosts; to leave them and the paths of elements out saves a third.
    options = {"runOnly": rules, "resultTypes": ["violations"], "iframes": False, "preload": False, "selectors": False}
    found = page.evaluate("options => axe.run(options).then(results => results.violations)", options)
    return [f"{each['id']}: {[node['html'][:200] for node in each['nodes']]}" for each in found]
