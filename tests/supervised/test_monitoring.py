"""Debian's Prometheus and Alertmanager watch a running instance: the files of deploy/ work together."""

import json
import os
import re
import signal
import urllib.parse
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.support import promql
from tests.support.dashboards import panel_expressions
from tests.support.docs import metric_names
from tests.support.instance import Instance, eventually, get
from tests.support.monitoring import Monitoring
from tests.support.prometheus_tools import RULES, alert_expressions, promtool

# Labels anybody may look at; none of them can hold a donor, a ticket or a path.
LABELS = {
    *("type", "outcome", "reason", "route", "method", "object", "status", "le", "state", "process", "error", "version"),
    *("implementation", "major", "minor", "patchlevel", "generation"),
    *("signal", "level", "name", "kind"),
}
TICKET = "story-1"


def page(site: Instance) -> str:
    with urllib.request.urlopen(f"{site.sidecar}/metrics", timeout=30) as reply:  # noqa: S310 - our own
        text: str = reply.read().decode()
    return text


def counted(site: Instance, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(page(site))
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def test_an_outage_is_seen_alerted_and_cleared(instance: Instance, tmp_path: Path) -> None:
    """The whole way from a stopped database to Alertmanager and back, after work that fills the metrics."""
    monitoring = Monitoring(tmp_path, instance.sidecar.removeprefix("http://"))
    with monitoring.running():
        instance.start(API_PROCESSES="2")
        assert instance.donationd("tickets", "add", TICKET).returncode == 0
        assert instance.donationd("simulate", "--payments", "10", "--seed", "1").returncode == 0
        check_metrics_page(instance)
        check_killed_process_keeps_its_counts(instance)
        eventually(lambda: monitoring.ask("db_ready") == [1.0], "Prometheus sees the database ready")
        eventually(lambda: monitoring.ask("webhook_events_failed_waiting") == [0.0], "the backlog is counted")
        check_outage(instance, monitoring)


def check_metrics_page(site: Instance) -> None:
    """promtool finds no fault, labels are harmless, the reference lists exactly the metrics that are served, and no
    alert or panel uses another one.
    """
    eventually(lambda: metric_names() <= served(page(site)), "every process has reported, and the backlog is counted")
    text = page(site)
    assert promtool("check", "metrics", stdin=text) == ""
    families = list(text_string_to_metric_families(text))
    samples = [sample for family in families for sample in family.samples]
    assert {label for sample in samples for label in sample.labels} <= LABELS
    assert not [sample for sample in samples if any(TICKET in value for value in sample.labels.values())]
    names = {sample.name for sample in samples} | {family.name for family in families}
    assert {name for name in served(text) if not name.startswith(("process_", "python_"))} == metric_names()
    recorded = set(re.findall(r"record: (\S+)", RULES.read_text()))
    for expression in [*panel_expressions(), *alert_expressions()]:
        assert promql.metrics(expression) <= names | recorded | {"up", "ALERTS"}, expression


def served(text: str) -> set[str]:
    """The names of the metrics on a page."""
    families = text_string_to_metric_families(text)
    return {f"{family.name}_total" if family.type == "counter" else family.name for family in families}


def check_killed_process_keeps_its_counts(site: Instance) -> None:
    """After kill -9 of an API process nothing vanishes and nothing doubles, and its restart is counted."""
    before = counted(site, "webhook_events_total")
    assert before > 0
    os.kill(site.pids()["api:api_00"], signal.SIGKILL)
    eventually(
        lambda: counted(site, "supervisord_process_restarts_total", process="api:api_00") == 1, "a restart counted"
    )
    eventually(lambda: counted(site, "db_pool_connections_max") == 32, "both processes have reported their pools")
    assert counted(site, "webhook_events_total") == before


def first_problem(site: Instance) -> str:
    """The first one that `donationd status` shows, with exit status 1; empty if it shows none."""
    status = site.donationd("status", "--json")
    problems: list[str] = json.loads(status.stdout)["problems"]
    assert status.returncode == bool(problems)
    return problems[0] if problems else ""


def check_outage(site: Instance, monitoring: Monitoring) -> None:
    """The database is stopped and started; metrics, alert, Alertmanager and `donationd status` follow."""
    site.supervisorctl("stop", "postgres")
    eventually(lambda: get(f"{site.api}/api/tickets/{TICKET}/donations")[0] == 503, "503")
    eventually(lambda: monitoring.ask("db_ready") == [0.0], "Prometheus sees db_ready 0")
    eventually(lambda: monitoring.firing("DatabaseNotReady"), "the alert fires")
    eventually(lambda: "DatabaseNotReady" in monitoring.received(), "Alertmanager has it")
    eventually(lambda: "connection refused" in first_problem(site), "`donationd status` names the reason")
    site.supervisorctl("start", "postgres")
    eventually(lambda: monitoring.ask("db_ready") == [1.0], "Prometheus sees db_ready 1")
    eventually(lambda: not monitoring.firing("DatabaseNotReady"), "the alert clears")
    eventually(lambda: "DatabaseNotReady" not in monitoring.received(), "Alertmanager receives that too")
