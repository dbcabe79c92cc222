"""Debian's Prometheus and Alertmanager watch the real thing: what we ship works together."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import promql
from tests.support.debian import program
from tests.support.docs import metric_names
from tests.support.instance import Instance, eventually, free_ports, get
from tests.support.prometheus_tools import FOLDER, RULES, promtool
from tests.unit.test_alerts import expressions as alert_expressions
from tests.unit.test_dashboards import expressions as panel_expressions

# Labels anybody may look at; none of them can hold a donor, a ticket or a path.
LABELS = {
    *("type", "outcome", "reason", "route", "method", "object", "status", "le", "state", "process", "error", "version"),
    *("implementation", "major", "minor", "patchlevel", "generation"),
}
TICKET = "story-1"


Series = tuple[str, list[tuple[float, float]]]  # legend; time and value


class Monitoring:
    """A Prometheus and an Alertmanager with what we ship, but for the pace: it is a test's and not a night's."""

    def __init__(self, folder: Path, target: str) -> None:
        prometheus, alertmanager = free_ports(4)[2:]  # the instance, not yet started, has the first two
        self.prometheus = f"http://127.0.0.1:{prometheus}"
        self.alertmanager = f"http://127.0.0.1:{alertmanager}"
        self._folder = folder
        self._log = (folder / "log").open("wb")
        self._write("donationd.rules.yml", re.sub(r"for: \w+", "for: 1s", RULES.read_text()))
        shipped = (FOLDER / "prometheus.yml").read_text()
        quick = shipped.replace("interval: 15s", "interval: 1s").replace("127.0.0.1:9464", target)
        self._write("prometheus.yml", quick.replace("127.0.0.1:9093", self.alertmanager.removeprefix("http://")))
        quick = (FOLDER / "alertmanager.yml").read_text().replace("route:", "route:\n  group_wait: 0s", 1)
        self._write("alertmanager.yml", quick)

    def _write(self, name: str, text: str) -> None:
        (self._folder / name).write_text(text)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Both, until the end of the block."""
        with self._log, contextlib.ExitStack() as stack:
            stack.enter_context(self._program(
                program("prometheus", "prometheus"), "--config.file=prometheus.yml",
                f"--storage.tsdb.path={self._folder}/tsdb",
                f"--web.listen-address={self.prometheus.removeprefix('http://')}",
            ))  # fmt: skip
            stack.enter_context(self._program(
                program("prometheus-alertmanager", "prometheus-alertmanager"), "--config.file=alertmanager.yml",
                f"--storage.path={self._folder}/alerts", "--cluster.listen-address=",
                f"--web.listen-address={self.alertmanager.removeprefix('http://')}",
            ))  # fmt: skip
            yield

    @contextmanager
    def _program(self, *command: str) -> Iterator[None]:
        with subprocess.Popen(command, cwd=self._folder, stdout=self._log, stderr=self._log) as process:
            try:
                yield
            finally:
                process.kill()

    def ask(self, expression: str) -> list[float]:
        """The values of an instant query."""
        query = urllib.parse.urlencode({"query": expression})
        reply = _json(f"{self.prometheus}/api/v1/query?{query}")
        return [float(found["value"][1]) for found in reply["data"]["result"]] if reply else []

    def history(self, expression: str, legend: str, begin_s: float, end_s: float) -> list[Series]:
        """A range's values, a point a second, each series with its `legend` filled in."""
        query = urllib.parse.urlencode({"query": expression, "start": begin_s, "end": end_s, "step": 1})
        reply = _json(f"{self.prometheus}/api/v1/query_range?{query}")
        return [
            (_filled(legend, found["metric"]), [(at, float(value)) for at, value in found["values"] if value != "NaN"])
            for found in reply["data"]["result"]
        ]

    def firing(self, alert: str) -> bool:
        """Whether Prometheus says that the alert fires."""
        return self.ask(f'ALERTS{{alertname="{alert}",alertstate="firing"}}') == [1.0]

    def received(self) -> set[str]:
        """The alerts that Alertmanager has and has not seen resolved."""
        return {alert["labels"]["alertname"] for alert in _json(f"{self.alertmanager}/api/v2/alerts") or []}


def _filled(legend: str, labels: dict[str, str]) -> str:
    """Grafana's `{{label}}`."""
    return re.sub(r"{{(\w+)}}", lambda place: labels.get(place[1], ""), legend)


def _json(url: str) -> Any:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=3) as reply:  # noqa: S310 - our own
        return json.loads(reply.read())
    return None


def page(site: Instance) -> str:
    with urllib.request.urlopen(f"{site.sidecar}/metrics", timeout=5) as reply:  # noqa: S310 - our own
        text: str = reply.read().decode()
    return text


def donationd(*words: str) -> subprocess.CompletedProcess[str]:
    """A command of this folder's site."""
    command = [sys.executable, "-m", "daemon.cli.main", *words]
    return subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)


def counted(site: Instance, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(page(site))
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def test_an_outage_is_seen_alerted_and_cleared(
    instance: Instance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The whole way from a stopped database to Alertmanager and back, with a life before it that fills the metrics."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monitoring = Monitoring(tmp_path, instance.sidecar.removeprefix("http://"))
    with monitoring.running():
        instance.start()
        assert donationd("tickets", "add", TICKET).returncode == 0
        assert donationd("simulate", "--payments", "10", "--seed", "1").returncode == 0
        check_metrics_page(instance)
        check_killed_process_keeps_its_counts(instance)
        eventually(lambda: monitoring.ask("db_ready") == [1.0], "Prometheus sees the database ready")
        eventually(lambda: monitoring.ask("webhook_events_failed_waiting") == [0.0], "the backlog is counted")
        check_outage(instance, monitoring)


def check_metrics_page(site: Instance) -> None:
    """promtool finds no fault, labels are harmless, the reference lists exactly the metrics that are served, and no
    alert or panel uses another one.
    """
    text = page(site)
    assert promtool("check", "metrics", stdin=text) == ""
    families = list(text_string_to_metric_families(text))
    samples = [sample for family in families for sample in family.samples]
    assert {label for sample in samples for label in sample.labels} <= LABELS
    assert not [sample for sample in samples if any(TICKET in value for value in sample.labels.values())]
    names = {sample.name for sample in samples} | {family.name for family in families}
    served = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
    assert {name for name in served if not name.startswith(("process_", "python_"))} == metric_names()
    recorded = set(re.findall(r"record: (\S+)", RULES.read_text()))
    for expression in [*panel_expressions(), *alert_expressions()]:
        assert promql.metrics(expression) <= names | recorded | {"up", "ALERTS"}, expression


def check_killed_process_keeps_its_counts(site: Instance) -> None:
    """After kill -9 of an API process nothing vanishes and nothing doubles, and its restart is counted."""
    before = counted(site, "webhook_events_total")
    assert before > 0
    os.kill(site.pids()["api:api_00"], signal.SIGKILL)
    eventually(
        lambda: counted(site, "supervisord_process_restarts_total", process="api:api_00") == 1, "a restart counted"
    )
    eventually(lambda: counted(site, "db_pool_connections_max") == 10, "both processes have told their pools")
    assert counted(site, "webhook_events_total") == before


def check_outage(site: Instance, monitoring: Monitoring) -> None:
    """The database is stopped and started; metrics, alert, Alertmanager and `donationd status` follow."""
    site.supervisorctl("stop", "postgres")
    eventually(lambda: get(f"{site.api}/api/tickets/{TICKET}/donations")[0] == 503, "503")
    eventually(lambda: monitoring.ask("db_ready") == [0.0], "Prometheus sees db_ready 0")
    eventually(lambda: monitoring.firing("DatabaseNotReady"), "the alert fires")
    eventually(lambda: "DatabaseNotReady" in monitoring.received(), "Alertmanager has it")
    told = donationd("status", "--json")
    assert told.returncode == 1
    assert "connection refused" in json.loads(told.stdout)["problems"][0]
    site.supervisorctl("start", "postgres")
    eventually(lambda: monitoring.ask("db_ready") == [1.0], "Prometheus sees db_ready 1")
    eventually(lambda: not monitoring.firing("DatabaseNotReady"), "the alert clears")
    eventually(lambda: "DatabaseNotReady" not in monitoring.received(), "Alertmanager hears of that too")
