"""`make bench`: the conditions and the table on stdout, progress on stderr, everything in build/bench.json.

ROUNDS sets how often everything is measured; PEERS=1 adds programs of others (peers.py). The exit status says whether
the run was whole, not whether the figures are good.
"""

import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.bench import conditions, figures, peers, rounds
from tests.bench.machine import SHARE, Broken, query
from tests.support.guard import guarded
from tests.support.postgres import Server, running_server
from tests.support.process import ROOT

ROUNDS = 5
RESULT = ROOT / "build" / "bench.json"
FLUSHES = 300


def main() -> int:
    """Runs everything. Returns the exit status: 1 when something broke, 2 for wrong usage, 130 after Ctrl-C."""
    if len(sys.argv) > 1:
        print(f"There are no arguments.\n\n{__doc__}", file=sys.stderr)
        return 2
    for sig in (signal.SIGINT, signal.SIGTERM):  # also where a shell's `&` made this process ignore Ctrl-C
        signal.signal(sig, signal.default_int_handler)
    wanted = os.environ.get("ROUNDS") or str(ROUNDS)
    if not (wanted.isascii() and wanted.isdigit() and 1 <= int(wanted) <= 1000):
        print("ROUNDS: a whole number from 1 to 1000", file=sys.stderr)
        return 2
    try:
        with guarded():
            _run(int(wanted))
    except Broken as reason:
        print(f"bench: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _run(count: int) -> None:
    began_s = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began_s:6.0f} s  {line}", file=sys.stderr, flush=True)

    with_peers = peers.wanted()
    rows = figures.FIGURES + (figures.PEER_FIGURES if with_peers else ())
    with (
        running_server({"max_connections": "100"}) as server,
        tempfile.TemporaryDirectory(prefix="donationd-bench-") as folder,
        rounds.bench(server, Path(folder), say, with_peers=with_peers) as bench,
    ):
        machine = _machine(server)
        for number in range(1, count + 1):
            say(f"round {number} of {count}")
            bench.round()
        say("feeding one API process")
        webhooks = bench.memory(Path(folder), count)
        say("done")
    result = {
        "machine": machine,
        "rounds": count,
        "seconds_per_measurement": rounds.SECONDS,
        "webhooks_fed_for_memory": webhooks,
        "failed_requests": bench.failures,
        "figures": figures.as_json(rows, bench.samples, bench.meanwhile),
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    print(_report(rows, count, machine, webhooks, bench))
    if SHARE > 1:
        print(f"SHORT: tables and times were 1/{SHARE} of what they should be; these figures mean nothing.")


def _report(
    rows: Sequence[figures.Figure], count: int, machine: dict[str, object], webhooks: int, bench: rounds.Bench
) -> str:
    facts = "\n".join(f"{name.replace('_', ' ')}: {value}" for name, value in machine.items())
    failures = ", ".join(f"{name} {failed}" for name, failed in bench.failures.items())
    usual, most = figures.foreign(bench.meanwhile)
    return (
        f"{facts}\n"
        f"foreign: other processes used {usual:.1%} of the cores during a measurement (median), at most {most:.1%}\n"
        f"{count} rounds of {rounds.SECONDS} s per measurement, {rounds.CONNECTIONS} connections unless it says "
        f"otherwise; memory after {webhooks:,} webhooks "
        f"(a million, or what {rounds.MEMORY_S_PER_ROUND} s per round allow)\n"
        f"requests refused or lost: {failures or 'none'}\n\n"
        f"{figures.table(rows, bench.samples, bench.meanwhile)}"
    )


def _machine(server: Server) -> dict[str, object]:
    [(version,)] = query(server.url.format(name="postgres"), "SHOW server_version")
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": platform.platform(),
        "python": conditions.interpreter(),
        "postgresql": version,
        "flush_us": round(_flush_us(server.home)),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _flush_us(folder: Path) -> float:
    """What the disk below the database takes to make 8 kB durable."""
    took_s = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(FLUSHES):
            file.seek(0)
            file.write(os.urandom(8192))
            file.flush()
            began_s = time.perf_counter()
            os.fdatasync(file.fileno())
            took_s.append(time.perf_counter() - began_s)
    return statistics.median(took_s) * 1e6


if __name__ == "__main__":
    sys.exit(main())
