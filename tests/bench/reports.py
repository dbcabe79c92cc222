"""What the reports of a million donations take: memory and time of each command.

`python -m tests.bench.reports`
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from sql import migrate
from tests.bench.export import FILL, ROWS
from tests.bench.machine import query
from tests.support.guard import base_environ, guarded
from tests.support.postgres import running_server

MIB = 1024
# As many bytes of facts as a simulated donation has: a query that reads a whole table reads these as well.
FACTS = """json_build_object('facts', repeat(md5(n::text), 33))"""
# Recorded in the end, so that a quarter can be closed with some of its entries.
RECORDED = "to_timestamp(1760000000 + n * 20 + 6)", "to_timestamp(1785000000 + n / 1000)"
QUARTER, MONTH = "2025-Q4 --tz Europe/Berlin", "2025-11 --tz Europe/Berlin"
REPORTS = (
    f"income --period {QUARTER}",
    f"income --period {QUARTER} --ticket story-7",
    "income --period 2025-01-01..2026-12-31",
    "series --by day",
    f"close {QUARTER} --as-of 100000",
    f"restated {QUARTER} --csv",
    f"summary --period {QUARTER}",
    "summary",
    "tickets",
    f"tickets --period {MONTH}",
    "donors",
    f"donors --period {MONTH}",
)


def fill(url: str) -> None:
    """Adds the rows, and settles the tables."""
    migrate.apply(url)
    rows = FILL.read_text(encoding="utf-8").replace("'{}'", FACTS).replace(*RECORDED)
    query(url, rows.replace("%(rows)s", str(ROWS)))
    query(url, "VACUUM (ANALYZE)")


def figures(url: str) -> Iterator[str]:
    """A line for each report."""
    command = Path(sys.executable).with_name("donationd")
    for words in REPORTS:
        begun_s = time.monotonic()
        with Path(os.devnull).open("wb") as nowhere:
            process = subprocess.Popen(
                [command, "report", *words.split()],
                env=base_environ() | {"DATABASE_URL": url, "USER": "bench"},
                stdout=nowhere,
                stderr=subprocess.DEVNULL,
            )
            _pid, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, words
        cpu_s = used.ru_utime + used.ru_stime
        yield (
            f"{words:<64} {used.ru_maxrss / MIB:5.1f} MiB  {time.monotonic() - begun_s:5.1f} s  "
            f"{cpu_s:5.1f} s of processor time"
        )


def main() -> None:
    """Prints the figures."""
    with guarded(), running_server({"max_wal_size": "8GB"}) as server:
        url = server.url.format(name="postgres")
        fill(url)
        print(f"{ROWS} donations and as many entries, by command")
        for line in figures(url):
            print(line, flush=True)


if __name__ == "__main__":
    main()
