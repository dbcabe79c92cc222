"""Debian's Prometheus and Alertmanager with what deploy/prometheus ships, in front of an instance."""

import contextlib
import json
import re
import signal
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.debian import program
from tests.support.instance import free_ports
from tests.support.process import Process
from tests.support.prometheus_tools import FOLDER, RULES

Series = tuple[str, list[tuple[float, float]]]  # legend; time and value


class Monitoring:
    """A Prometheus and an Alertmanager with the files of deploy/, at shorter intervals."""

    def __init__(self, folder: Path, target: str) -> None:
        prometheus, alertmanager = free_ports(2)
        self.prometheus = f"http://127.0.0.1:{prometheus}"
        self.alertmanager = f"http://127.0.0.1:{alertmanager}"
        self._folder = folder
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
        with contextlib.ExitStack() as stack:
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

    def _program(self, *command: str) -> Process:
        return Process(command, self._folder / "log", stop=signal.SIGKILL, cwd=self._folder)

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
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as reply:  # noqa: S310 - our own
        return json.loads(reply.read())
    return None
