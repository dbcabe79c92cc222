"""Draws deploy/grafana/on-call.svg, a picture of the dashboard, from real data: `make picture`, three minutes.

Grafana is not needed: this is a plain drawing of the same panels. An instance under supervisord goes through load, a
killed process and an outage; Prometheus scrapes it, and evaluates the expressions of each panel.
"""

import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from tests.support.dashboards import FOLDER, render
from tests.support.guard import guarded
from tests.support.instance import Instance, eventually, instance_of_its_own
from tests.support.monitoring import Monitoring, Series

PICTURE = FOLDER / "on-call.svg"
UID = "donationd-on-call"
LOAD_S = 150
OUTAGE_AT_S, OUTAGE_S = 70, 20
RATE = "15s"  # for Grafana's $__rate_interval, at a scrape each second
CELL_W, CELL_H, GAP = 50, 24, 8
COLOURS = ("#3274d9", "#e0752d", "#56a64b", "#a352cc", "#c4162a", "#8f8f8f", "#1f9ba8", "#b8860b")


def live(instance: Instance) -> tuple[float, float]:
    """Some minutes with load, a killed process and an outage; returns their begin and end."""
    instance.start()
    instance.donationd("tickets", "add", "story-1")
    begun_s = time.time()
    killed = stopped = started = False
    number = 0
    while (passed_s := time.time() - begun_s) < LOAD_S:
        number += 1
        instance.donationd("simulate", "--payments", str(10 + 10 * (number % 4)), "--seed", str(number))
        if passed_s > OUTAGE_AT_S / 2 and not killed:
            os.kill(instance.pids()["api:api_00"], signal.SIGKILL)
            killed = True
        if passed_s > OUTAGE_AT_S and not stopped:
            instance.supervisorctl("stop", "postgres")
            stopped = True
        if passed_s > OUTAGE_AT_S + OUTAGE_S and not started:
            instance.supervisorctl("start", "postgres")
            started = True
    return begun_s, time.time()


def draw(monitoring: Monitoring, begin_s: float, end_s: float) -> str:
    """The dashboard as SVG."""
    panels = json.loads(render(UID))["panels"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) * CELL_H
    parts = [part for panel in panels for part in _panel(panel, monitoring, begin_s, end_s)]
    frame = f'<rect width="{24 * CELL_W}" height="{height}" fill="#f4f5f8"/>'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {24 * CELL_W} {height}" '
            'font-family="sans-serif" font-size="11">',
            frame,
            *parts,
            "</svg>\n",
        ]
    )


def _panel(panel: dict[str, Any], monitoring: Monitoring, begin_s: float, end_s: float) -> Iterator[str]:
    place = panel["gridPos"]
    x, y = place["x"] * CELL_W, place["y"] * CELL_H
    width, height = place["w"] * CELL_W - GAP, place["h"] * CELL_H - GAP
    yield f'<g transform="translate({x + GAP / 2} {y + GAP / 2})">'
    if panel["type"] == "row":
        yield f'<text y="14" font-size="14" font-weight="bold">{escape(panel["title"])}</text></g>'
        return
    yield f'<rect width="{width}" height="{height}" rx="3" fill="#fff" stroke="#d8d9da"/>'
    yield f'<text x="8" y="16" font-weight="bold">{escape(panel["title"])}</text>'
    found = [
        series
        for target in panel["targets"]
        for series in monitoring.history(
            target["expr"].replace("$__rate_interval", RATE), target["legendFormat"], begin_s, end_s
        )
    ]
    drawing = _stat if panel["type"] == "stat" else _lines
    yield from drawing(panel, found, width, height)
    yield "</g>"


def _stat(panel: dict[str, Any], found: list[Series], width: float, height: float) -> Iterator[str]:
    defaults = panel["fieldConfig"]["defaults"]
    legend, points = found[0] if found else ("", [])
    value = points[-1][1] if points else 0.0
    steps = defaults["thresholds"]["steps"]
    colour = next(step["color"] for step in reversed(steps) if step["value"] is None or value >= step["value"])
    shade = {"green": "#56a64b", "red": "#c4162a", "blue": "#3274d9"}[colour]
    text = legend or _number(value, defaults["unit"])
    yield f'<rect x="4" y="24" width="{width - 8}" height="{height - 28}" rx="3" fill="{shade}"/>'
    yield (
        f'<text x="{width / 2}" y="{height / 2 + 20}" font-size="26" fill="#fff" text-anchor="middle">'
        f"{escape(text)}</text>"
    )


def _lines(panel: dict[str, Any], found: list[Series], width: float, height: float) -> Iterator[str]:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    left, top, right, bottom = 52.0, 28.0, width - 10, height - 28
    found = sorted(found, key=_highest, reverse=True)  # there may be no room for all legends
    times = [at for _, points in found for at, _ in points]
    highest = max(map(_highest, found), default=0.0) or 1.0
    first, last = (min(times), max(times)) if times else (0.0, 1.0)
    span = (last - first) or 1.0
    for share in (0.0, 0.5, 1.0):
        level = bottom - share * (bottom - top)
        yield f'<line x1="{left}" y1="{level:.1f}" x2="{right}" y2="{level:.1f}" stroke="#e4e5e6"/>'
        label = _number(share * highest, unit)
        yield f'<text x="{left - 4}" y="{level + 4:.1f}" text-anchor="end" fill="#666">{label}</text>'
    for number, (_, points) in enumerate(found):
        path = " ".join(
            f"{left + (at - first) / span * (right - left):.1f},{bottom - value / highest * (bottom - top):.1f}"
            for at, value in points
        )
        colour = COLOURS[number % len(COLOURS)]
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    at = left
    for number, (legend, _) in enumerate(found[: len(COLOURS)]):
        if at + 6.5 * len(legend) > width:
            break
        yield f'<text x="{at:.0f}" y="{height - 8}" fill="{COLOURS[number]}">{escape(legend)}</text>'
        at += 6.5 * len(legend) + 8


def _highest(series: Series) -> float:
    return max((value for _, value in series[1]), default=0.0)


def _number(value: float, unit: str) -> str:
    if unit == "bool_yes_no":
        return "Yes" if value >= 1 else "No"
    if unit == "percentunit":
        return f"{value:.2%}"
    if unit == "s" and value < 1:
        return f"{value * 1000:.3g} ms"
    if unit == "s" and value >= 3600:
        return f"{value / 3600:.1f} h"
    return f"{value:.3g}{' s' if unit == 's' else ''}" if value < 1000 else f"{value:,.0f}"


def main() -> None:
    """Runs the instance, asks Prometheus, draws the panels."""
    with (
        guarded(),
        tempfile.TemporaryDirectory(prefix="picture-") as folder,
        instance_of_its_own() as instance,
    ):
        monitoring = Monitoring(Path(folder), instance.sidecar.removeprefix("http://"))
        with monitoring.running():
            begin_s, end_s = live(instance)
            eventually(lambda: monitoring.ask("db_ready") == [1.0], "ready again")
            PICTURE.write_text(draw(monitoring, begin_s, end_s))


if __name__ == "__main__":
    main()
