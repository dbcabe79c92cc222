"""What an export of a million rows takes: memory and time of the command, for each kind and format.

`make bench-export`
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2

from sql import migrate
from tests.support.guard import base_environ, guarded
from tests.support.postgres import running_server

ROWS = int(os.environ.get("ROWS", "1000000"))
MIB = 1024
FILL = Path(__file__).parents[1] / "support" / "many_rows.sql"
EXPORTS = ("donations --format csv", "donations --format csv --profile excel-de --tz Europe/Berlin",
           "donations --format jsonl", "entries --format csv", "entries --format hledger",
           "entries --format beancount")  # fmt: skip


def fill(url: str) -> None:
    """Adds the rows, and settles the tables."""
    migrate.apply(url)
    connection = psycopg2.connect(url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(FILL.read_text(encoding="utf-8"), {"rows": ROWS})
        cursor.execute("VACUUM (ANALYZE)")
    connection.close()


def figures(url: str) -> Iterator[str]:
    """A line for each export by command."""
    command = Path(sys.executable).with_name("donationd")
    for words in EXPORTS:
        begun_s = time.monotonic()
        with Path(os.devnull).open("wb") as nowhere:
            process = subprocess.Popen(
                [command, "export", *words.split()],
                env=base_environ() | {"DATABASE_URL": url},
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
        print(f"{ROWS} rows, by command")
        for line in figures(url):
            print(line, flush=True)


if __name__ == "__main__":
    main()
