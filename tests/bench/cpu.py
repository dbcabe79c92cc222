"""`make bench-cpu`: the CPU time that an event costs, by process, and how many events the cores can take.

One and two API processes at 64 and at 256 connections, in turns; ROUNDS says how often (3). The times are those of one
core, in µs for each event. Progress on stderr, the table of medians on stdout.
"""

import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench import fill
from tests.bench.load import post_new
from tests.bench.machine import API, Site, Stored, query, site, stored
from tests.bench.rounds import CONNECTIONS, MANY_CONNECTIONS, SECONDS, TICKETS
from tests.bench.stream import Pool, Stream
from tests.support.guard import guarded
from tests.support.postgres import running_server

ROUNDS = 3
US_PER_TICK = 1e6 / os.sysconf("SC_CLK_TCK")
BACKENDS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'donationd api'"
BATCHES = "SELECT count(DISTINCT processed_at) FROM stripe_events WHERE processed_at >= to_timestamp(%s)"
COLUMNS = ("per_s", "per_batch", "api", "postgresql", "load", "other", "idle", "total")


@dataclass(frozen=True)
class Cost:
    """What one measurement cost: times in µs of a core for each event; `total` is that of all cores.

    `other` is the kernel's work for the network and the disk, PostgreSQL's other processes and other programs.
    """

    per_s: float
    per_batch: float
    api: float
    postgresql: float
    load: float
    idle: float
    total: float

    @property
    def other(self) -> float:
        """What is left of the total."""
        return self.total - self.idle - self.api - self.postgresql - self.load


def main() -> int:
    """Measures, and prints the table."""
    rounds = int(os.environ.get("ROUNDS") or ROUNDS)
    with guarded(), tempfile.TemporaryDirectory(prefix="donationd-bench-") as folder:
        costs = _costs(Path(folder), rounds)
    print("| API processes, connections | events/s | per batch | API | PostgreSQL | load | other | idle | all cores |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, found in costs.items():
        values = (f"{median(getattr(cost, column) for cost in found):,.0f}" for column in COLUMNS)
        print(f"| {name} | {' | '.join(values)} |")
    return 0


def _costs(folder: Path, rounds: int) -> Mapping[str, Sequence[Cost]]:
    """The costs of each combination, one per round."""
    stream, costs = Stream(Pool(), TICKETS), defaultdict[str, list[Cost]](list)
    with ExitStack() as stack:
        server = stack.enter_context(running_server({"max_connections": "100"}))
        ledger = stack.enter_context(stored(server, "cpu", folder))
        sites = {n: stack.enter_context(site(API, ledger, folder, processes=n)) for n in (1, 2)}
        fill.record(ledger, stream.take(fill.RECORDED))
        for _ in range(rounds):
            for connections in (CONNECTIONS, MANY_CONNECTIONS):
                for processes, where in sites.items():
                    cost = _cost(where, ledger, stream, connections)
                    costs[f"{processes}, {connections}"].append(cost)
                    print(f"{processes} processes, {connections} connections: {cost}", file=sys.stderr, flush=True)
    return costs


def _cost(where: Site, ledger: Stored, stream: Stream, connections: int) -> Cost:
    began_s = time.time()
    measured = post_new(where, stream, connections=connections, seconds=SECONDS)
    backends = [int(str(pid)) for (pid,) in query(ledger.url, BACKENDS)]
    [(batches,)] = query(ledger.url, BATCHES, [began_s])
    used = measured.conditions.used

    def per_event(ticks: float) -> float:
        return ticks * US_PER_TICK / measured.accepted

    return Cost(
        per_s=measured.per_s,
        per_batch=measured.accepted / int(str(batches)),
        api=per_event(sum(used[pid] for pid in where.pids)),
        postgresql=per_event(sum(used.get(pid, 0) for pid in backends)),
        load=per_event(used[os.getpid()]),
        idle=per_event(measured.conditions.idle * measured.conditions.total),
        total=per_event(measured.conditions.total),
    )


if __name__ == "__main__":
    sys.exit(main())
