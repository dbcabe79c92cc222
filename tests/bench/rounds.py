"""What is measured: one round of everything, side by side, and what takes all the rounds' time together."""

import asyncio
import http.client
import timeit
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from daemon.runtime.readiness import ReadinessClient
from tests.bench import disk, fill, journal, peers
from tests.bench.conditions import Conditions, Watch
from tests.bench.load import Measured, get, post_again, post_new, tag_of
from tests.bench.machine import (
    API,
    EMPTY,
    ONE_BY_ONE,
    SHARE,
    WITHOUT_JOURNAL,
    Broken,
    Site,
    Stored,
    query,
    resident_mb,
    site,
    stored,
)
from tests.bench.stream import Pool, Stream
from tests.support.postgres import Server

SECONDS = 4 if SHARE == 1 else 2  # of each measurement
CONNECTIONS, MANY_CONNECTIONS = 64, 256
PRIMED = (
    10_000 // SHARE
)  # events recorded before a round: a second of the record minute, so that donations are going on
WRITTEN_TO_DISK = 50_000 // SHARE
BOOKED = 3_000 // SHARE  # payments, with the journal and without it
TICKETS = [f"ticket_{number:04}" for number in range(1000)]
MILLION, TEN, HOT = "ticket_million", "ticket_ten", "ticket_hot"
DEEP_PAGES, PAGE_LIMIT = 300 // SHARE, 1000
EARLY_WEBHOOKS, WEBHOOKS = 10_000 // SHARE, 1_000_000
MEMORY_S_PER_ROUND = 60 // SHARE
LOOKS = 1_000_000
PLANNED = ("not analysed", "analysed while empty")

Say = Callable[[str], None]


@dataclass
class Bench:
    """Everything that is up while the rounds go on, and what they measured so far."""

    say: Say
    server: Server
    folder: Path
    small: Stored
    full: Stored
    seeds_url: str
    pool: Pool
    sites: dict[str, Site]
    peers: dict[str, Site]
    deep_page: str
    samples: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    meanwhile: dict[str, list[Conditions]] = field(default_factory=lambda: defaultdict(list))
    failures: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.spread, self.hot = Stream(self.pool, TICKETS), Stream(self.pool, [HOT])
        self.spread_full = Stream(self.pool, TICKETS)
        self.unbooked = Stream(self.pool, TICKETS)  # as `spread`, of other payments
        self.elsewhere = {name: Stream(self.pool, TICKETS) for name in (*self.peers, *PLANNED)}

    def round(self) -> None:
        """Measures each quantity once. What is compared is measured close together."""
        fill.empty(self.small)
        fill.record(self.small, self.spread.take(PRIMED))
        fill.record(self.small, self.hot.take(PRIMED))
        fill.settle(self.small)
        answered = self._many_connections() + self._ledgers() + self._more_connections()
        [(events,)] = query(self.small.url, "SELECT count(*) FROM stripe_events")
        if not isinstance(events, int) or events < answered + 2 * PRIMED:
            raise Broken(f"{answered} events were acknowledged and {events} are stored: some are lost")
        self._plans()
        self._reads()
        self._disk()
        self._journal()
        watch = Watch()
        self._note("look", asyncio.run(_look_us(self.small.readiness)), watch.conditions())

    def _many_connections(self) -> int:
        """One process and two, each beside as many empty handlers, and peers. Returns how many events were taken."""
        self._empty("empty", "empty", CONNECTIONS)
        one = post_new(self.sites["api"], self.spread, connections=CONNECTIONS, seconds=SECONDS)
        self._note("one", one.per_s, one.conditions)
        self._note("p50", one.p50_us, one.conditions)
        self._note("p99", one.p99_us, one.conditions)
        self._note("one, idle", one.conditions.idle, one.conditions)
        self._count_failures("one", one)
        for name, peer in self.peers.items():
            self._new(name, peer, self.elsewhere[name], CONNECTIONS)
        self._empty("two empty", "two empty", CONNECTIONS)
        return one.accepted + self._new("two", self.sites["two"], self.spread, CONNECTIONS)

    def _ledgers(self) -> int:
        """What one process is compared with: other ways to write, other tickets, a large database."""
        sites = self.sites
        answered = self._new("without journal", sites["without journal"], self.unbooked, CONNECTIONS)
        answered += self._new("one by one", sites["one by one"], self.spread, CONNECTIONS)
        answered += self._new("hot", sites["api"], self.hot, CONNECTIONS)
        self._new("full", sites["full"], self.spread_full, CONNECTIONS)
        return (
            answered
            + self._new("alone", sites["api"], self.spread, 1)
            + self._new("one by one, alone", sites["one by one"], self.spread, 1)
        )

    def _more_connections(self) -> int:
        self._empty("two empty, 256", "two empty", MANY_CONNECTIONS)
        return sum(
            self._new(f"{name}, 256", self.sites[where], self.spread, MANY_CONNECTIONS)
            for name, where in (("one", "api"), ("two", "two"))
        )

    def _plans(self) -> None:
        """New ledgers under load: as migrated, and with statistics that say that their tables are empty."""
        number = len(self.samples[PLANNED[0]])
        for name in PLANNED:
            with stored(self.server, f"{name.replace(' ', '_')}_{number}", self.folder) as ledger:
                if name == "analysed while empty":
                    fill.settle(ledger)
                with site(API, ledger, self.folder) as where:
                    self._new(name, where, self.elsewhere[name], CONNECTIONS)

    def _empty(self, name: str, where: str, connections: int) -> None:
        measured = post_again(self.sites[where], self.spread, connections=connections, seconds=SECONDS)
        self._note(name, measured.per_s, measured.conditions)

    def _new(self, name: str, where: Site, stream: Stream, connections: int) -> int:
        """Posts new events; over one connection their latency counts, over many their number. Returns the latter."""
        measured = post_new(where, stream, connections=connections, seconds=SECONDS)
        self._note(name, measured.p50_us if connections == 1 else measured.per_s, measured.conditions)
        self._count_failures(name, measured)
        return measured.accepted

    def _reads(self) -> None:
        for name, path in (
            ("total of ten", _total(TEN)),
            ("total of a million", _total(MILLION)),
            ("first page", _page(MILLION)),
            ("deep page", self.deep_page),
        ):
            measured = get(self.sites["full"], path, seconds=SECONDS // 2)
            self._note(name, measured.p50_us, measured.conditions)
        self._reads_of_many()

    def _reads_of_many(self) -> None:
        """Over many connections, beside the empty handler, by clients that have nothing and by clients that have it."""
        full = self.sites["full"]
        for name, where, path, is_known in (
            ("empty GET", self.sites["empty"], "/", False),
            ("total", full, _total(MILLION), False),
            ("known total", full, _total(MILLION), True),
            ("page", full, _page(MILLION), False),
            ("known page", full, _page(MILLION), True),
        ):
            tag = tag_of(where, path) if is_known else ""
            measured = get(where, path, seconds=SECONDS // 2, connections=CONNECTIONS, tag=tag)
            self._note(name, measured.per_s, measured.conditions)
            self._count_failures(name, measured)

    def _disk(self) -> None:
        bodies = self.spread.take(WRITTEN_TO_DISK)
        fill.empty(self.small)
        watch = Watch()
        ours, seeds = disk.ours(self.small, bodies), disk.seeds(self.seeds_url, bodies)
        conditions = watch.conditions()
        for name, value in (
            ("disk", ours.disk),
            ("seed's disk", seeds.disk),
            ("wal", ours.wal),
            ("seed's wal", seeds.wal),
        ):
            self._note(name, value, conditions)

    def _journal(self) -> None:
        fill.empty(self.small)
        watch = Watch()
        booked, unbooked = journal.wal(self.small, BOOKED)
        conditions = watch.conditions()
        self._note("wal of donations", booked, conditions)
        self._note("wal of donations without journal", unbooked, conditions)

    def memory(self, folder: Path, rounds: int) -> int:
        """Feeds one new API process for a minute per round at most. Returns how many webhooks it took."""
        with site(API, self.small, folder) as fed:
            watch = Watch()
            answered, early, batches = 0, 0.0, rounds * MEMORY_S_PER_ROUND // SECONDS
            for _ in range(batches):
                measured = post_new(fed, self.spread, connections=CONNECTIONS, seconds=SECONDS)
                answered += measured.accepted
                if not early and answered >= EARLY_WEBHOOKS:
                    early = resident_mb(fed)
                if answered >= WEBHOOKS:
                    break
            conditions = watch.conditions()
            self._note("memory", resident_mb(fed), conditions)
            self._note("memory early", early or resident_mb(fed), conditions)
        return answered

    def _note(self, name: str, value: float, conditions: Conditions) -> None:
        self.samples[name].append(value)
        self.meanwhile[name].append(conditions)
        self.say(f"  {name}: {value:,.2f} (idle {conditions.idle:.0%}, foreign {conditions.foreign:.0%})")

    def _count_failures(self, name: str, measured: Measured) -> None:
        """A reply of 503 does not end the benchmark, but the reader of its figures must see it."""
        if failures := measured.refused + measured.lost:
            self.failures[name] += failures
            self.say(f"  {name}: {measured.refused} refused, {measured.lost} lost")


@contextmanager
def bench(server: Server, folder: Path, say: Say, *, with_peers: bool) -> Iterator[Bench]:
    """Everything up and filled."""
    with ExitStack() as stack:
        say("generating payments")
        pool = Pool()
        small = stack.enter_context(stored(server, "small", folder))
        full = stack.enter_context(stored(server, "large", folder))
        query(server.url.format(name="postgres"), "CREATE DATABASE seeds")
        say(f"storing {fill.EVENTS:,} events and {fill.DONATIONS:,} donations")
        _fill(full, pool)
        sites = {
            name: stack.enter_context(site(module, database, folder, processes=processes))
            for name, module, database, processes in (
                ("empty", EMPTY, small, 1),
                ("two empty", EMPTY, small, 2),
                ("api", API, small, 1),
                ("two", API, small, 2),
                ("one by one", ONE_BY_ONE, small, 1),
                ("without journal", WITHOUT_JOURNAL, small, 1),
                ("full", API, full, 1),
            )
        }
        others = _peers(stack, server, folder / "peers", say) if with_peers else {}
        say("paging deep into the ledger")
        deep = _deep_page(sites["full"])
        yield Bench(say, server, folder, small, full, server.url.format(name="seeds"), pool, sites, others, deep)


def _peers(stack: ExitStack, server: Server, folder: Path, say: Say) -> dict[str, Site]:
    say("installing the peers from npm")
    peers.install(folder)
    return {program: stack.enter_context(peers.peer(program, server, folder)) for program in peers.PROGRAMS}


def _fill(full: Stored, pool: Pool) -> None:
    fill.record(full, Stream(pool, [MILLION]).take(fill.RECORDED))
    fill.multiply(full)
    ten = (body for body in Stream(pool, [TEN]).take(fill.RECORDED) if b'"payment_intent.succeeded"' in body)
    fill.record(full, [body for body, _ in zip(ten, range(10), strict=False)])
    query(full.url, "INSERT INTO recording_tickets (id) VALUES (%s), (%s)", [MILLION, TEN])
    fill.settle(full)


def _total(ticket: str) -> str:
    return f"/api/tickets/{ticket}/donations/total"


def _page(ticket: str) -> str:
    return f"/api/tickets/{ticket}/donations"


def _deep_page(where: Site) -> str:
    """The path of a page after DEEP_PAGES of PAGE_LIMIT donations, found as a client finds it."""
    cursor = ""
    with closing(http.client.HTTPConnection("127.0.0.1", where.port)) as connection:
        for _ in range(DEEP_PAGES):
            connection.request("GET", f"{_page(MILLION)}?limit={PAGE_LIMIT}{cursor}")
            page = msgspec.json.decode(connection.getresponse().read(), type=_Page)
            cursor = f"&cursor={page.next_cursor}"
    return f"{_page(MILLION)}?{cursor[1:]}"


class _Page(msgspec.Struct, rename="camel"):
    next_cursor: str


async def _look_us(readiness: Path) -> float:
    """What the gateway's look costs, in a process that follows a real sidecar."""
    follower = ReadinessClient(readiness)
    following = asyncio.create_task(follower.run())
    await follower.wait_gate()
    took_s = timeit.timeit("follower.ready", globals={"follower": follower}, number=LOOKS)
    following.cancel()
    return took_s / LOOKS * 1e6
