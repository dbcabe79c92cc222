"""HAProxy with deploy/haproxy.cfg on ports of 127.0.0.1, in front of an API under test."""

import resource
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.machine import POLL_S, START_TIMEOUT_S, Broken
from tests.support.debian import find
from tests.support.instance import get
from tests.support.process import ROOT, Process
from tests.support.tls import certificate

CONFIGURATION = ROOT / "deploy" / "haproxy.cfg"
# As many as the file has, unless this user may not open twice as many files, which they need.
CONNECTIONS = min(4000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 2 - 100)


@dataclass(frozen=True)
class Proxy:
    """A running HAProxy."""

    https_port: int
    http_port: int
    metrics_port: int

    @property
    def metrics_url(self) -> str:
        """Where its figures for Prometheus are."""
        return f"http://127.0.0.1:{self.metrics_port}/metrics"


@contextmanager
def haproxy(api_port: int, folder: Path, changes: Mapping[str, str] = {}) -> Iterator[Proxy]:
    """HAProxy from when it serves until the end.

    Args:
        folder: for its log and its certificate.
        changes: texts of the file, and what stands in their place.

    Raises:
        Broken: it is not installed, or it does not start.
    """
    program = find("haproxy")
    if program is None:
        raise Broken("haproxy is missing: apt-get install haproxy")
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in ("https", "http", "metrics")]
        https, http, metrics = (f"fd@{listener.fileno()}" for listener in listeners)
        environ = {
            "PROXY_CERTIFICATE": str(certificate(folder)),
            "PROXY_API": f"127.0.0.1:{api_port}",
            "PROXY_HTTPS": https,
            "PROXY_HTTP": http,
            "PROXY_METRICS": metrics,
            "PROXY_CONNECTIONS": str(CONNECTIONS),
            "PROXY_UNPRIVILEGED": "yes",
        }
        command = [program, "-db", "-f", str(_changed(folder, changes) if changes else CONFIGURATION)]
        descriptors = [listener.fileno() for listener in listeners]
        log = folder / "haproxy.log"
        stack.enter_context(Process(command, log, environ, pass_fds=descriptors))
        proxy = Proxy(*(listener.getsockname()[1] for listener in listeners))
        _await_figures(proxy, log)
        yield proxy


def _changed(folder: Path, changes: Mapping[str, str]) -> Path:
    text = CONFIGURATION.read_text()
    for shipped, ours in changes.items():
        if shipped not in text:
            raise Broken(f"{CONFIGURATION} does not contain: {shipped}")
        text = text.replace(shipped, ours)
    file = folder / CONFIGURATION.name
    file.write_text(text)
    return file


def _await_figures(proxy: Proxy, log: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while get(proxy.metrics_url)[0] != 200:
        if time.monotonic() > deadline_s:
            raise Broken(f"HAProxy does not start: {log.read_text()}")
        time.sleep(POLL_S)
