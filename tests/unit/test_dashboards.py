"""Prometheus parses the dashboards' expressions; tests/supervised/test_monitoring.py shows that the metrics exist."""

import json
import re
from html import unescape
from pathlib import Path

import pytest

from tests.support import promql
from tests.support.dashboards import DASHBOARDS, FOLDER, panel_expressions, render
from tests.support.prometheus_tools import promtool


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_the_shipped_file_is_what_is_drawn(uid: str) -> None:
    """After a change `make dashboards` draws it anew; there is no other file."""
    assert (FOLDER / f"{uid}.json").read_text() == render(uid)
    assert {path.stem for path in FOLDER.glob("*.json")} == set(DASHBOARDS)


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_panels_have_places_of_their_own(uid: str) -> None:
    """No two overlap, none leaves the grid, ids are unique."""
    panels = json.loads(render(uid))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert all(x < 24 for x, _ in cells)


def test_the_picture_has_the_panels_of_the_on_call_dashboard() -> None:
    """Each row and panel under its title, in their order; after a change `make picture` draws it anew."""
    shown = re.findall(r'font-weight="bold">([^<]*)<', (FOLDER / "on-call.svg").read_text())
    assert list(map(unescape, shown)) == [panel["title"] for panel in json.loads(render("donationd-on-call"))["panels"]]


def test_prometheus_understands_every_expression(tmp_path: Path) -> None:
    """promtool parses each, as the expression of a rule."""
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(panel_expressions())]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", path)


@pytest.mark.parametrize(
    ("expression", "named"),
    [
        ('sum by (a, b) (rate(x_total{c="d", e=~"f(g)"}[5m] offset 1w)) / on (h) y', {"x_total", "y"}),
        ("histogram_quantile(0.99, sum by (le) (rate(x_bucket[5m]))) > 1e3", {"x_bucket"}),
        ('time() - (max(x) > 0) or vector(0) unless a:b:c{d="e"} == 1', {"x", "a:b:c"}),
    ],
)
def test_metrics_are_found_in_an_expression(expression: str, named: set[str]) -> None:
    """Functions, labels, values and durations are no metrics."""
    assert promql.metrics(expression) == named
