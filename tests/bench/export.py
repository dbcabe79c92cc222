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
# As many paid donations, and one entry for each.
FILL = """
INSERT INTO recording_tickets (id, title) SELECT 'story-' || n, 'A roof for story ' || n FROM generate_series(0, 99) n;
INSERT INTO stripe_attributions (id, root, version, facts, ticket_id, status, amount_minor, currency, refunded_minor,
    disputed_minor, created_at, paid_at, refunded_at, donor_last_name, donor_country, donor_email_hash, session_id,
    charge_id)
SELECT 'pi_' || left(md5(n::text), 24), 'pi_' || left(md5(n::text), 24), 1, '{}', 'story-' || mod(n, 100), 'PAID',
       100 + n, (ARRAY['USD', 'EUR', 'JPY', 'KWD'])[1 + mod(n, 4)], 0, 0, to_timestamp(1760000000 + n * 20),
       to_timestamp(1760000000 + n * 20 + 5), NULL, (ARRAY['Smith', 'Müller', 'García', '山田'])[1 + mod(n, 4)], 'DE',
       encode(sha256(n::text::bytea), 'hex'), 'cs_test_' || md5(n::text) || md5(n::text),
       'ch_' || left(md5(n::text), 24)
FROM generate_series(1, %(rows)s) n;
INSERT INTO ledger_entries
SELECT n, to_timestamp(1760000000 + n * 20 + 6), to_timestamp(1760000000 + n * 20 + 5), 100 + n, 'payment',
       'pi_' || left(md5(n::text), 24), 'story-' || mod(n, 100), (ARRAY['USD', 'EUR', 'JPY', 'KWD'])[1 + mod(n, 4)],
       'ch_' || left(md5(n::text), 24), 'evt_' || left(md5(n::text), 24)
FROM generate_series(1, %(rows)s) n;
"""
EXPORTS = ("donations --format csv", "donations --format csv --profile excel-de --tz Europe/Berlin",
           "donations --format jsonl", "entries --format csv", "entries --format hledger",
           "entries --format beancount")  # fmt: skip


def fill(url: str) -> None:
    """Adds the rows, and settles the tables."""
    migrate.apply(url)
    connection = psycopg2.connect(url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(FILL, {"rows": ROWS})
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
