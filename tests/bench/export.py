"""What an export of a million rows takes, by command and over HTTP, and what webhooks beside it notice.

`make bench-export`; ROWS=100000 does less, PART=command or PART=http one half.
"""

import asyncio
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import aiohttp

from daemon.simulator import sender
from tests.bench.deliveries import Seen
from tests.bench.fill import settle
from tests.bench.machine import API, SECRET, Site, Stored, forget_peak, peak_mb, query, resident_mb, site, stored
from tests.bench.stream import Pool, Stream
from tests.support.guard import base_environ, guarded
from tests.support.postgres import running_server

PART = os.environ.get("PART", "")
ROWS = int(os.environ.get("ROWS", "1000000"))
FILL = Path(__file__).parents[1] / "support" / "many_rows.sql"
KIB_PER_MIB = 1024
POLL_S = 0.05
EXPORTS = (
    "donations --format csv",
    "donations --format csv --profile excel-de --tz Europe/Berlin",
    "donations --format jsonl",
    "entries --format csv",
    "entries --format hledger",
    "entries --format beancount",
)
PATHS = ("export.csv?kind=donations", "export.jsonl?kind=entries")
TOKEN = "token-of-the-benchmark"
PER_S = 100
QUIET_S = 10  # of deliveries without an export
READ = """
import sys, urllib.request
request = urllib.request.Request(sys.argv[1], headers={"Authorization": "Bearer " + sys.argv[2]})
with urllib.request.urlopen(request) as reply:
    size = 0
    while part := reply.read(1 << 20):
        size += len(part)
print(size)
"""


def by_command(url: str) -> Iterator[str]:
    """A line for each export by command."""
    command = Path(sys.executable).with_name("donationd")
    for words in EXPORTS:
        begun_s = time.monotonic()
        process = subprocess.Popen(
            [command, "export", *words.split()],
            env=base_environ() | {"DATABASE_URL": url},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        pid, peak_mib = 0, 0.0
        while not pid:  # the kernel's own peak would contain what this process had when it started the command
            time.sleep(POLL_S)
            peak_mib = max([peak_mib, *memory_mib(process.pid, "VmHWM")])
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, words
        cpu_s = used.ru_utime + used.ru_stime
        took_s = time.monotonic() - begun_s
        yield f"{words:<62} {peak_mib:5.1f} MiB {took_s:6.1f} s {cpu_s:6.1f} s of processor time"


def over_http(api: Site, bodies: Iterator[bytes]) -> Iterator[str]:
    """Lines about deliveries without an export and beside each one, in turns."""
    for path in PATHS:
        quiet = asyncio.run(deliver(api.url, list(islice(bodies, QUIET_S * PER_S)), until=None))
        yield f"{'no export':<28} {shown(quiet)}; {resident_mb(api):.1f} MiB"
        forget_peak(api)
        begun_s = time.monotonic()
        reader = subprocess.Popen(
            [sys.executable, "-c", READ, f"{api.url}/api/operator/{path}", TOKEN], stdout=subprocess.PIPE, text=True
        )
        beside = asyncio.run(deliver(api.url, bodies, until=reader))
        took_s = time.monotonic() - begun_s
        size, _ = reader.communicate()
        assert reader.returncode == 0, path
        yield (
            f"{path:<28} {shown(beside)}; at most {peak_mb(api):.1f} MiB; "
            f"{took_s:.1f} s, {int(size) / 1e6 / took_s:.1f} MB/s"
        )


def memory_mib(pid: int, figure: str) -> list[float]:
    """A figure of a process's memory; none of a process that has ended."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return [int(line.split()[1]) / KIB_PER_MIB for line in lines if line.startswith(f"{figure}:")]


def shown(seen: Seen) -> str:
    """How deliveries were answered."""
    took_ms = sorted(took_s * 1e3 for took_s in seen.took_s)
    return (
        f"{seen.replies.total()} deliveries, {seen.share_ok:.2%} answered 200, "
        f"p50 {took_ms[len(took_ms) // 2]:.1f} ms, p99 {seen.p99_ms:.1f} ms"
    )


async def deliver(url: str, bodies: Sequence[bytes] | Iterator[bytes], until: subprocess.Popen[str] | None) -> Seen:
    """Delivers PER_S bodies a second, all of them or until a process has ended; times count from when each was due."""
    seen = Seen()
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        begun_s = time.monotonic()
        for number, body in enumerate(bodies):
            if until and until.poll() is not None:
                break
            due_s = begun_s + number / PER_S
            await asyncio.sleep(due_s - time.monotonic())
            group.create_task(_post(session, url, body, due_s, seen))
    return seen


async def _post(session: aiohttp.ClientSession, url: str, body: bytes, due_s: float, seen: Seen) -> None:
    headers = {"Stripe-Signature": sender.sign(body, SECRET, int(time.time()))}
    async with session.post(f"{url}/webhooks/stripe", data=body, headers=headers) as reply:
        await reply.read()
    seen.note(reply.status, time.monotonic() - due_s)


def main() -> None:
    """Prints the figures."""
    tokens = f"bench:export:{hashlib.sha256(TOKEN.encode()).hexdigest()}"
    with (
        guarded(),
        tempfile.TemporaryDirectory() as folder,
        running_server({"max_wal_size": "8GB"}) as server,
        stored(server, "exports", Path(folder)) as database,
    ):
        fill(database)
        print(f"{ROWS} rows", flush=True)
        if PART != "http":
            for line in by_command(database.url):
                print(line, flush=True)
        if PART != "command":
            print(f"over HTTP, beside {PER_S} deliveries a second", flush=True)
            with site(API, database, Path(folder), settings={"OPERATOR_TOKENS": tokens}) as api:
                bodies = Stream(Pool(payments=5000), ["story-1"]).take(100_000)
                for line in over_http(api, iter(bodies)):
                    print(line, flush=True)


def fill(database: Stored) -> None:
    """Adds the rows, and leaves the tables as they are after the first minutes."""
    query(database.url, FILL.read_text(encoding="utf-8").replace("%(rows)s", str(ROWS)))
    settle(database)


if __name__ == "__main__":
    main()
