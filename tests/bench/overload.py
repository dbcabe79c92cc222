"""`make overload`: more signed deliveries than one API process can record, then hostile clients (tests.bench.hostile).

In the first table best and overload are measured by turns, because the machine is not equally fast at all times; what
the clients cost, they take from the server's own cores.
"""

import http.client
import os
import resource
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from tests.bench import hostile
from tests.bench.load import Measured, post_new
from tests.bench.machine import API, SHARE, Broken, Site, forget_peak, peak_mb, resident_mb, site, stored
from tests.bench.stream import Pool, Stream
from tests.support.guard import guarded
from tests.support.postgres import Server, running_server

CONNECTIONS = (64, 128, 256)  # one of them gives the best throughput
OVERLOAD = 2560
ROUNDS, SECONDS, WARM_S = (3, 5, 15) if SHARE == 1 else (1, 2, 3)
TICKETS = [f"ticket_{number:04}" for number in range(1000)]
ASK_EVERY_S = 0.01
PATIENCE_S = 10
DESCRIPTORS = 4096  # for wrk
SHORT_NOTE = ["SHORT: times were a part of what they should be; these figures mean little."] if SHARE > 1 else []


@dataclass
class Asked:
    """What a client of its own saw meanwhile: seconds to each reply, by what was asked and the status."""

    took_s: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))

    def ms(self, what: str, status: int, share: float) -> float:
        """The time that such a share of these replies did not exceed, in milliseconds; NaN without any."""
        took_s = sorted(self.took_s[what, status])
        return took_s[min(int(len(took_s) * share), len(took_s) - 1)] * 1e3 if took_s else float("nan")

    def slowest_ms(self, what: str) -> float:
        """The longest wait for a reply of any status, or for none, in milliseconds."""
        return max(max(took_s) for (name, _), took_s in self.took_s.items() if name == what) * 1e3

    def count(self, what: str) -> dict[int, int]:
        """How many replies of each status."""
        return {status: len(took_s) for (name, status), took_s in sorted(self.took_s.items()) if name == what}


def main() -> int:
    """Runs everything. Returns the exit status: 1 when something broke, 130 after Ctrl-C."""
    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, signal.default_int_handler)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))
    try:
        hostile.chosen()  # a wrong KIND is reported before anything starts
        with guarded():
            _run()
    except Broken as reason:
        print(f"overload: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _run() -> None:
    with (
        running_server({"max_connections": "50"}) as server,
        tempfile.TemporaryDirectory(prefix="donationd-overload-") as name,
    ):
        if not os.environ.get("KIND"):
            print(_signed(server, Path(name)), flush=True)
        _hostile(server, Path(name))


def _hostile(server: Server, folder: Path) -> None:
    print(f"\n{hostile.HEAD}", flush=True)
    measured = []
    for row in hostile.rows(server, folder):
        print(row, flush=True)
        measured.append(row)
    print("\n".join(["", hostile.footnote(measured), *SHORT_NOTE]))


def _signed(server: Server, folder: Path) -> str:
    """The table of what far too many signed deliveries do."""
    with stored(server, "overload", folder) as database, site(API, database, folder) as api:
        stream = Stream(Pool(), TICKETS)
        post_new(api, stream, connections=CONNECTIONS[1], seconds=WARM_S)
        tried = {count: post_new(api, stream, connections=count, seconds=SECONDS).per_s for count in CONNECTIONS}
        best = max(tried, key=lambda count: tried[count])
        ratios, per_cpu, floods, grown, asked = [], [], [], [], Asked()
        for _ in range(ROUNDS):
            before, before_cpu = _measured(api, stream, best)
            before_mb = resident_mb(api)
            forget_peak(api)
            with _asking(api, asked):
                flood, flood_cpu = _measured(api, stream, OVERLOAD)
            grown.append(peak_mb(api) / before_mb)
            after, after_cpu = _measured(api, stream, best)
            ratios.append(2 * flood.per_s / (before.per_s + after.per_s))
            per_cpu.append(2 * flood_cpu / (before_cpu + after_cpu))
            floods.append(flood)
        return _table(tried, (ratios, per_cpu, grown), floods, asked)


def _measured(api: Site, stream: Stream, connections: int) -> tuple[Measured, float]:
    """What so many clients saw, and the events acknowledged per second of the process's own CPU."""
    before_s = _cpu_s(api)
    measured = post_new(api, stream, connections=connections, seconds=SECONDS)
    return measured, measured.accepted / (_cpu_s(api) - before_s)


def _cpu_s(api: Site) -> float:
    [pid] = api.pids
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _asking(api: Site, asked: Asked) -> Iterator[None]:
    """Asks for health and delivers rubbish all the time, each over a connection of its own, and notes what came."""
    stop = threading.Event()

    def ask(what: str, method: str, path: str) -> None:
        while not stop.wait(ASK_EVERY_S):
            connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=PATIENCE_S)
            began_s = time.perf_counter()
            try:
                connection.request(method, path, body=b"{}" if method == "POST" else None)
                status = connection.getresponse().status
            except (OSError, http.client.HTTPException):
                status = 0
            finally:
                connection.close()
            asked.took_s[what, status].append(time.perf_counter() - began_s)

    threads = [
        threading.Thread(target=ask, args=arguments)
        for arguments in (("health", "GET", "/health/db"), ("webhook", "POST", "/webhooks/stripe"))
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _table(
    tried: dict[int, float],
    to_best: tuple[list[float], list[float], list[float]],
    floods: list[Measured],
    asked: Asked,
) -> str:
    ratios, per_cpu, grown = to_best
    refused = [flood.refused / flood.duration_us * 1e6 for flood in floods]
    share = [flood.refused / flood.answered for flood in floods]
    rows = [
        ("acknowledged ÷ best", f"{statistics.median(ratios):.2f}", "≥ 0.80", _range(ratios)),
        ("the same per second of its CPU", f"{statistics.median(per_cpu):.2f}", "", _range(per_cpu)),
        ("peak of resident memory ÷ at best", f"{statistics.median(grown):.2f}", "≤ 1.10", _range(grown)),
        ("health, slowest of all, ms", f"{asked.slowest_ms('health'):.0f}", "≤ 100", _health(asked)),
        ("503, p99, ms", f"{asked.ms('webhook', 503, 0.99):.0f}", "", f"p50 {asked.ms('webhook', 503, 0.5):.0f}"),
        ("503 of all replies", f"{statistics.median(share):.2f}", "", f"{statistics.median(refused):,.0f} a second"),
    ]
    found = ", ".join(f"{count}: {per_s:,.0f}" for count, per_s in tried.items())
    lost = sum(flood.lost for flood in floods)
    return "\n".join(
        [
            "| figure | median | required | |",
            "| --- | ---: | ---: | --- |",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            f"Acknowledged a second by connections: {found}. {OVERLOAD} clients "
            f"delivered to one process, each again as soon as it was answered. {ROUNDS} rounds of {SECONDS} s "
            f"on {os.cpu_count()} cores, shared with wrk and PostgreSQL. Connections lost without an answer: {lost}.",
            f"A client of its own saw meanwhile, by status: health {asked.count('health')}, "
            f"webhooks {asked.count('webhook')}.",
            *SHORT_NOTE,
        ]
    )


def _range(values: list[float]) -> str:
    return f"{min(values):.2f} – {max(values):.2f}"


def _health(asked: Asked) -> str:
    ok = HTTPStatus.OK
    return f"p50 {asked.ms('health', ok, 0.5):.0f}, p99 {asked.ms('health', ok, 0.99):.0f}"


if __name__ == "__main__":
    sys.exit(main())
