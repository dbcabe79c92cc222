"""Writes deploy/grafana/*.json: `make dashboards`. A table, because Grafana's format hides the expressions.

Each panel is a title, a unit of Grafana's, and expressions for Prometheus, each with a legend.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
WIDTH = 24  # Grafana's grid
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

WEBHOOKS = 'http_requests_total{route="/webhooks/stripe",method="POST"}'
EVENTS = "webhook_events_total"
INTERVAL = "$__rate_interval"  # Grafana puts it in


class Panel(NamedTuple):
    """A panel; `asks` are PromQL and legend. A stat shows one number, red from `alarm` on (or below 1)."""

    title: str
    unit: str
    asks: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    alarm: float | None = None


class Row(NamedTuple):
    """A row of panels of one height."""

    title: str
    panels: tuple[Panel, ...]


def stat(title: str, unit: str, ask: str, alarm: float | None = 1, legend: str = "") -> Panel:
    return Panel(title, unit, ((ask, legend),), "stat", alarm)


def series(title: str, unit: str, *asks: tuple[str, str]) -> Panel:
    return Panel(title, unit, asks)


def quantiles(histogram: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (
            f"histogram_quantile({share}, sum by (le) (rate({histogram}_bucket[$__rate_interval])))",
            f"p{share * 100:.0f}",
        )
        for share in (0.5, 0.99)
    )


def signals(levels: str) -> str:
    """The present signals of fraud of these levels; each API process has all of them."""
    return f'max by (signal, level) (fraud_signals{{level=~"{levels}"}})'


ON_CALL = (
    Row(
        "Is it running?",
        (
            stat("Database", "bool_yes_no", "min(db_ready)", alarm=None),
            stat(
                "Processes not running", "short", 'count(supervisord_process_state{state="RUNNING"} == 0) or vector(0)'
            ),
            stat("Time since the last ping", "s", "time() - min(db_last_ping_timestamp_seconds)", alarm=120),
            stat("Alerts firing", "short", 'count(ALERTS{alertstate="firing"}) or vector(0)'),
            stat("Release", "short", "donationd_build_info", alarm=None, legend="{{version}}"),
        ),
    ),
    Row(
        "Payments and events",
        (
            series(
                "Payments and refunds per hour",
                "short",
                (f'sum(increase({EVENTS}{{type="payment_intent.succeeded",outcome="applied"}}[1h]))', "payments"),
                (f'sum(increase({EVENTS}{{type=~"charge.refunded|refund.created",outcome="applied"}}[1h]))', "refunds"),
                (f'sum(increase({EVENTS}{{type="charge.dispute.created",outcome="applied"}}[1h]))', "disputes"),
            ),
            series(
                "Events by outcome",
                "eps",
                (f"sum by (outcome) (rate({EVENTS}[$__rate_interval]))", "{{outcome}}"),
            ),
            series(
                "Events, now and a week ago",
                "eps",
                (f'sum(rate({EVENTS}{{outcome!="refused"}}[1h]))', "now"),
                (f'sum(rate({EVENTS}{{outcome!="refused"}}[1h] offset 1w))', "a week ago"),
            ),
            stat(
                "Age of the newest event", "s", "time() - (max(webhook_newest_event_timestamp_seconds) > 0)", alarm=None
            ),
            stat("Donations without a ticket", "short", "max(donations_unassigned)"),
        ),
    ),
    Row(
        "Failures",
        (
            series(
                "Replies to Stripe", "reqps", (f"sum by (status) (rate({WEBHOOKS}[$__rate_interval]))", "{{status}}")
            ),
            series(
                "Share of failed deliveries",
                "percentunit",
                ("max(donationd:webhook_errors:ratio_rate1h) or vector(0)", "an hour"),
                ("max(donationd:webhook_errors:ratio_rate6h) or vector(0)", "six hours"),
            ),
            series(
                "Rejected requests, by reason",
                "eps",
                ("sum by (reason) (rate(webhook_refused_total[$__rate_interval]))", "{{reason}}"),
            ),
            series(
                "Restarts per hour",
                "short",
                ("sum by (process) (increase(supervisord_process_restarts_total[1h]))", "{{process}}"),
            ),
            stat("Failed events that wait", "short", "max(webhook_events_failed_waiting)"),
            stat("Difference from Stripe's clock", "s", "max(abs(webhook_clock_skew_seconds))", alarm=30),
        ),
    ),
    Row(
        "Fraud",
        (
            stat("Alarms", "short", f"sum({signals('alarm')}) or vector(0)"),
            stat("Suspicious", "short", f"sum({signals('suspicious')}) or vector(0)"),
            series(
                "Attempts to pay per hour",
                "short",
                ("sum by (outcome) (increase(payment_attempts_total[1h]))", "{{outcome}}"),
            ),
            series("Signals, by kind", "short", (signals("alarm|suspicious"), "{{signal}}, {{level}}")),
        ),
    ),
    Row(
        "Times",
        (
            series("Time from webhook to reply", "s", *quantiles("webhook_duration_seconds")),
            series(
                "Time of requests, 99th percentile",
                "s",
                (
                    "histogram_quantile(0.99, sum by (le, route) "
                    "(rate(http_request_duration_seconds_bucket[$__rate_interval])))",
                    "{{route}}",
                ),
            ),
            series("Uptime", "s", ("time() - supervisord_process_start_time_seconds", "{{process}}")),
        ),
    ),
)

DATABASE = (
    Row(
        "Readiness",
        (
            series("Ready", "bool_yes_no", ("db_ready", "{{instance}}")),
            series("Failed pings in a row", "short", ("db_consecutive_ping_failures", "{{instance}}")),
            series("Error of the last ping", "bool_yes_no", ("db_last_ping_error", "{{error}}")),
        ),
    ),
    Row(
        "Watchdog",
        (
            series("Time of a ping", "s", *quantiles("db_ping_duration_seconds")),
            series("Failed pings per hour", "short", ("sum(increase(db_ping_failures_total[1h]))", "failed")),
            series(
                "Attempts to reconnect per hour",
                "short",
                ("sum by (outcome) (increase(db_reconnects_total[1h]))", "{{outcome}}"),
            ),
            series(
                "Gate runs per hour",
                "short",
                ("sum by (outcome) (increase(startup_gate_runs_total[1h]))", "{{outcome}}"),
            ),
        ),
    ),
    Row(
        "Load",
        (
            series(
                "Connections of the API",
                "short",
                ("sum by (state) (db_pool_connections)", "{{state}}"),
                ("sum(db_pool_connections_max)", "at most"),
            ),
            series(
                "Events per statement",
                "short",
                (
                    "sum(rate(webhook_batch_events_sum[$__rate_interval])) "
                    "/ sum(rate(webhook_batch_events_count[$__rate_interval]))",
                    "mean",
                ),
                *quantiles("webhook_batch_events"),
            ),
            series("Events waiting", "short", ("sum(webhook_queue_events)", "waiting")),
            series(
                "Statements per second", "wps", ("sum(rate(webhook_batch_events_count[$__rate_interval]))", "writes")
            ),
        ),
    ),
)

DASHBOARDS = {
    "donationd-on-call": ("donationd: on call", ON_CALL),
    "donationd-database": ("donationd: database", DATABASE),
}


def render(uid: str) -> str:
    """A dashboard as Grafana imports it."""
    title, rows = DASHBOARDS[uid]
    dashboard = {
        "uid": uid,
        "title": title,
        "tags": ["donationd"],
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}]
        },
        "panels": [{"id": number, **panel} for number, panel in enumerate(_panels(rows), 1)],
    }
    return json.dumps(dashboard, indent=1) + "\n"


def _panels(rows: tuple[Row, ...]) -> Iterator[dict[str, object]]:
    y = 0
    for row in rows:
        yield {"type": "row", "title": row.title, "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1}, "collapsed": False}
        y += 1
        for kind, height in (("stat", 4), ("timeseries", 8)):
            panels = [panel for panel in row.panels if panel.kind == kind]
            for place, panel in enumerate(panels):
                width = WIDTH // len(panels)
                yield _panel(panel, {"x": place * width, "y": y, "w": width, "h": height})
            y += height if panels else 0


def _panel(panel: Panel, place: dict[str, int]) -> dict[str, object]:
    thresholds = {"mode": "absolute", "steps": _steps(panel)}
    return {
        "type": panel.kind,
        "title": panel.title,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "thresholds": thresholds}, "overrides": []},
        **({"options": {"colorMode": "background", "textMode": "auto"}} if panel.kind == "stat" else {}),
        "targets": [
            {"refId": chr(ord("A") + number), "expr": ask, "legendFormat": legend, "datasource": DATASOURCE}
            for number, (ask, legend) in enumerate(panel.asks)
        ],
    }


def _steps(panel: Panel) -> list[dict[str, object]]:
    if panel.unit == "bool_yes_no":
        return [{"color": "red", "value": None}, {"color": "green", "value": 1}]
    if panel.alarm is None:
        return [{"color": "blue", "value": None}]
    return [{"color": "green", "value": None}, {"color": "red", "value": panel.alarm}]


def panel_expressions() -> list[str]:
    """Every expression of every panel, from the files as they are shipped."""
    dashboards = [json.loads((FOLDER / f"{uid}.json").read_text()) for uid in DASHBOARDS]
    targets = [
        target for dashboard in dashboards for panel in dashboard["panels"] for target in panel.get("targets", [])
    ]
    return [target["expr"].replace(INTERVAL, "5m") for target in targets]


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(render(name))
