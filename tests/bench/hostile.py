"""Signed deliveries and health checks beside a thousand hostile clients of one kind, through HAProxy and directly.

For each row the API process and HAProxy are new, so that no row suffers from the memory of another one.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.bench import fill
from tests.bench.deliveries import HEALTH_PER_S, PER_S, Watched, watch
from tests.bench.flood import KINDS, Flood, Flooded, flooding
from tests.bench.haproxy import haproxy
from tests.bench.machine import API, SHARE, Broken, Site, Stored, forget_peak, peak_mb, query, site, stored
from tests.bench.stream import Pool, Stream
from tests.support.postgres import Server

HAPROXY, DIRECT = "haproxy", "direct"
NONE = "none"  # the row of this machine without hostile clients
NO_FLOOD = Flooded({}, 0, 0, 0.0)
CLIENTS, READERS, SECONDS = (1000, 2000, 10) if SHARE == 1 else (250, 500, 3)
ADDRESSES = 250
TICKET = "ticket_large"
EVENTS = 8000  # recorded before: more than a page of 1,000 donations
MIN_SHARE, MAX_P99_MS, MAX_HEALTH_P99_MS = 0.99, 1000, 100
HEAD = """| clients | through | answered 200 | p99, ms | health p99, ms | peak memory, MB | what the clients got |
| --- | --- | ---: | ---: | ---: | ---: | --- |
| *required* | | ≥ 0.99 | < 1000 | < 100 | | |"""


@dataclass(frozen=True)
class Row:
    """What one kind of clients did to deliveries, health checks and the API process."""

    kind: str
    through: str
    watched: Watched
    flooded: Flooded
    peak_mb: float

    def __str__(self) -> str:
        """A line of the table; bold is what misses its requirement."""
        deliveries, health = self.watched.deliveries, self.watched.health
        cells = (
            self.kind,
            self.through,
            _cell(f"{deliveries.share_ok:.3f}", deliveries.share_ok >= MIN_SHARE),
            _cell(f"{deliveries.p99_ms:.0f}", deliveries.p99_ms < MAX_P99_MS),
            _cell(f"{health.p99_ms:.0f}", health.p99_ms < MAX_HEALTH_P99_MS and health.share_ok == 1),
            f"{self.peak_mb:.0f}",
            _outcome(self.flooded),
        )
        return f"| {' | '.join(cells)} |"


def _cell(text: str, holds: bool) -> str:
    return text if holds else f"**{text}**"


def _outcome(flooded: Flooded) -> str:
    counts = [f"{status}: {count:,}" for status, count in sorted(flooded.replies.items())]
    ended, failed = flooded.ended_without_reply, flooded.connections_failed
    counts += [f"{ended:,} ended without a reply"] if ended else []
    counts += [f"{failed:,} not connected"] if failed else []
    return ", ".join(counts)


def chosen() -> list[tuple[str, str]]:
    """Kind and way of each row: those of KIND and THROUGH in the environment (comma separated), or all.

    Raises:
        Broken: there is no such kind or way.
    """
    kinds = _words("KIND", (NONE, *KINDS))
    return [(kind, through) for through in _words("THROUGH", (HAPROXY, DIRECT)) for kind in kinds]


def _words(variable: str, known: Sequence[str]) -> Sequence[str]:
    words = [word for word in os.environ.get(variable, "").split(",") if word] or known
    if unknown := [word for word in words if word not in known]:
        raise Broken(f"{variable}: {', '.join(unknown)} is none of {', '.join(known)}")
    return words


def rows(server: Server, folder: Path) -> Iterator[Row]:
    """Measures row by row."""
    stream = Stream(Pool(), [TICKET])
    with stored(server, "hostile", folder) as database:
        query(database.url, "INSERT INTO recording_tickets (id, currency) VALUES (%s, 'USD')", [TICKET])
        fill.record(database, stream.take(EVENTS))
        for kind, through in chosen():
            yield _row(kind, through, database, folder, stream)


def _row(kind: str, through: str, database: Stored, folder: Path, stream: Stream) -> Row:
    with ExitStack() as stack:
        api = stack.enter_context(site(API, database, folder))
        scheme, port = _address(through, api, folder, stack)
        clients = READERS if kind == "ticket-pages" else CLIENTS
        flood = Flood(kind, port, scheme == "https", TICKET, clients, ADDRESSES, SECONDS)
        forget_peak(api)
        running = stack.enter_context(flooding(flood)) if kind != NONE else None
        watched = watch(f"{scheme}://127.0.0.1:{port}", stream.take(PER_S * SECONDS))
        return Row(kind, through, watched, running.result() if running else NO_FLOOD, peak_mb(api))


def _address(through: str, api: Site, folder: Path, stack: ExitStack) -> tuple[str, int]:
    """Scheme and port that all clients use."""
    if through == DIRECT:
        return "http", api.port
    return "https", stack.enter_context(haproxy(api.port, folder)).https_port


def footnote(measured: Sequence[Row]) -> str:
    """What was measured, and what the hostile clients themselves cost."""
    cores = [row.flooded.cpu_s / SECONDS for row in measured]
    text = f"""
        {CLIENTS:,} clients of a kind ({READERS:,} readers of ticket pages) from {ADDRESSES} addresses, each again as
        soon as it is answered, for {SECONDS} s.
        Beside them {PER_S} signed deliveries a second, each over a new connection, and {HEALTH_PER_S} health checks
        over kept ones. Through HAProxy with TLS. One API process, HAProxy and PostgreSQL on {os.cpu_count()} cores,
        shared with the clients, which took {min(cores):.2f} to {max(cores):.2f} of a core at low priority.
    """
    return " ".join(text.split())
