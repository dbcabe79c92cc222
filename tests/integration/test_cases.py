"""The cases of tests/cases, each played through the real application: in several orders, with duplicates, in batches.

Whatever the play, what stands afterwards is what the case expects, and the bytes of every reply are the same.
"""

import asyncio
import difflib
import io
import json
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import msgspec
import psycopg2
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from msgspec import UNSET, Struct, UnsetType
from structlog.testing import capture_logs

from daemon.api.app import build
from daemon.api.metrics import ApiMetrics
from daemon.api.tickets import Donations
from daemon.api.webhook import Webhook
from daemon.ledger import money
from daemon.ledger.batcher import Batcher
from daemon.ledger.changes import Outcome, ReceivedEvent
from daemon.ledger.reader import Ledger
from daemon.ledger.recorder import Recorder
from daemon.ledger.verification import verify
from daemon.simulator import sender
from sql.database import Database
from sql.snapshot import snapshot
from tests.support.api_application import Client, reply_parts
from tests.support.ledger import EMPTY_LEDGER

CASES = Path(__file__).parents[1] / "cases"
EXPECTED = ".expect.json"
NAMES = sorted(path.name.removesuffix(EXPECTED) for path in CASES.glob(f"*{EXPECTED}"))
TICKETS = ("story-1", "story-9")
NOW = 1_800_000_000  # after every event of the cases
SECRET = "whsec_cases"
DEADLINE_S = 20.0
PAGE_SIZES = (1, 100)
MOST_PAGES = 100

Json = dict[str, Any]


class Row(Struct, forbid_unknown_fields=True):
    """A donation as a case expects it; a field that is not named is not judged."""

    ticket: str | UnsetType | None = UNSET
    status: str | UnsetType = UNSET
    amount_minor: int | UnsetType | None = UNSET
    currency: str | UnsetType | None = UNSET
    refunded_minor: int | UnsetType = UNSET
    disputed_minor: int | UnsetType = UNSET
    paid_at: int | UnsetType | None = UNSET
    last_name: str | UnsetType | None = UNSET
    session_id: str | UnsetType | None = UNSET
    account: str | UnsetType | None = UNSET


# The id, then Row's fields in their order.
STORED = """
SELECT id, ticket_id, status, amount_minor, currency, refunded_minor, disputed_minor,
       extract(epoch FROM paid_at)::bigint, donor_last_name, session_id, account
FROM stripe_attributions
ORDER BY id
"""


class Figures(Struct, forbid_unknown_fields=True):
    """A ticket's totals in one currency as a case expects them; a figure that is not named is not judged."""

    paid: int | UnsetType = UNSET
    refunded: int | UnsetType = UNSET
    disputed: int | UnsetType = UNSET
    net: int | UnsetType = UNSET


class Also(Enum):
    """What a case may ask for besides, in words; it is judged in every case."""

    SAME_BYTES = "GET /donations/total of every ticket must be the same bytes in every order of these events"


class Expected(Struct, forbid_unknown_fields=True):
    """A `.expect.json`. An unknown key is an error, so that nothing that a case asks for stays unjudged."""

    source: str
    situation: str
    status_http: int
    donations: dict[str, Row]
    no_other_donations: bool
    ticket: str
    totals_minor_by_currency: dict[str, Figures] | None  # None: not judged
    also: Also | None = None


@dataclass(frozen=True)
class Case:
    """A case: the events, and what must stand afterwards."""

    events: list[Json]
    expected: Expected

    @classmethod
    def read(cls, name: str) -> "Case":
        """Reads the two files of a case."""
        events = json.loads((CASES / f"{name}.json").read_text())
        return cls(events, msgspec.json.decode((CASES / f"{name}{EXPECTED}").read_bytes(), type=Expected))


@dataclass(frozen=True)
class Play:
    """One way to deliver a case: positions of its events, cut into batches."""

    batches: tuple[tuple[int, ...], ...]

    @property
    def name(self) -> str:
        """The positions in their order, the batches apart from each other."""
        return " ".join("+".join(map(str, batch)) for batch in self.batches)


@dataclass(frozen=True)
class Result:
    """What a play left behind: each reply's status, the stored rows by id, the replies by path, and verify's report."""

    statuses: list[tuple[str, int]]
    rows: dict[str, Row]
    replies: dict[str, bytes]
    verified: list[str]


def plays(count: int) -> Iterator[Play]:
    """The plays of a case with so many events, each of them once."""
    given = list(range(count))
    one_by_one, in_batches, all_at_once = (1,), (2, 3, 1, 4), (len(given) * 3,)
    known = set[tuple[tuple[int, ...], ...]]()
    for order, pattern in (
        (given, one_by_one),
        (given[::-1], in_batches),
        (shuffled(given, 1), one_by_one),
        (shuffled(given, 2), in_batches),
        (shuffled(given, 3), all_at_once),
    ):
        batches = tuple(cut(order, pattern))
        if batches not in known:
            known.add(batches)
            yield Play(batches)


def shuffled(positions: Sequence[int], seed: int) -> list[int]:
    """In another order, each once or more often."""
    rng = random.Random(seed)
    delivered = [n for n in positions for _ in range(rng.choice((1, 2, 3)))]
    rng.shuffle(delivered)
    return delivered


def cut(positions: Sequence[int], pattern: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Cuts into batches, whose sizes repeat the pattern."""
    rest = iter(positions)
    for size in cycle(pattern):
        batch = tuple(islice(rest, size))
        if not batch:
            return
        yield batch


class Site:
    """The application over a database of its own, and the client that delivers to it and reads from it."""

    def __init__(self, url: str, database: Database) -> None:
        self._url = url
        self._database = database
        self._batcher = Batcher(Recorder(database), limit=1000)
        self._missing = 0  # deliveries of the present batch that have not arrived
        self._complete = asyncio.Event()
        self.client: Client

    def application(self) -> web.Application:
        """The whole application, ready."""
        metrics = ApiMetrics()
        webhook = Webhook(
            self._record, metrics, secrets=(SECRET,), livemode=False, hash_key=None, clock=lambda: float(NOW)
        )
        donations = Donations(Ledger(self._database), "USD")
        return build(webhook, donations, reply_parts(metrics, deadline_s=DEADLINE_S))

    async def _record(self, received: ReceivedEvent, size: int) -> Outcome:
        """Records when the whole batch has arrived, so that the batcher writes it by one statement."""
        self._arrive()
        await self._complete.wait()
        return await self._batcher.record(received, size)

    def _arrive(self) -> None:
        self._missing -= 1
        if self._missing == 0:
            self._complete.set()

    async def play(self, events: Sequence[Json], play: Play) -> Result:
        """Delivers the events to an empty ledger, and collects everything that stands afterwards."""
        await self._database.fetch(EMPTY_LEDGER)
        statuses: list[tuple[str, int]] = []
        for batch in play.batches:
            self._missing, self._complete = len(batch), asyncio.Event()
            statuses += await asyncio.gather(*(self._deliver(events[n]) for n in batch))
        rows = {id_: Row(*fields) for id_, *fields in await self._database.fetch(STORED)}
        replies = {path: body for ticket in TICKETS for path, body in (await self._read(ticket)).items()}
        with snapshot(self._url, "donationd test") as moment:
            verified = [str(difference) for difference in verify(moment, lambda _done: None)]
        return Result(statuses, rows, replies, verified)

    async def _deliver(self, event: Json) -> tuple[str, int]:
        body = json.dumps(event).encode()
        headers = {"Stripe-Signature": sender.sign(body, SECRET, NOW)}
        async with self.client.post("/webhooks/stripe", data=io.BytesIO(body), headers=headers) as reply:
            if reply.status == 400:  # rejected before there was anything to record
                self._arrive()
            return event["id"], reply.status

    async def _read(self, ticket: str) -> dict[str, bytes]:
        """A ticket's totals, and its ledger in pages of each size."""
        base = f"/api/tickets/{ticket}/donations"
        replies = {f"{base}/total": await self._get(f"{base}/total")}
        for size in PAGE_SIZES:
            path = f"{base}?limit={size}"
            for _ in range(MOST_PAGES):
                replies[path] = await self._get(path)
                cursor = msgspec.json.decode(replies[path])["nextCursor"]
                if cursor is None:
                    break
                path = f"{base}?limit={size}&cursor={cursor}"
        return replies

    async def _get(self, path: str) -> bytes:
        async with self.client.get(path) as reply:
            assert reply.status == 200, f"{path} answers {reply.status}"
            return await reply.read()


@asynccontextmanager
async def serving(url: str) -> AsyncIterator[Site]:
    """A site that serves until the end of the block."""
    database = Database(
        url, pool_size=2, statement_timeout_s=10, connect_timeout_s=5, application_name="donationd test"
    )
    site = Site(url, database)
    try:
        async with TestClient(TestServer(site.application())) as site.client:
            yield site
    finally:
        await database.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(postgres: str, migrated: str) -> AsyncIterator[Site]:
    """One site for all cases."""
    with closing(psycopg2.connect(postgres.format(name="postgres"))) as admin:
        admin.autocommit = True
        admin.cursor().execute(f"CREATE DATABASE cases TEMPLATE {migrated}")
    url = postgres.format(name="cases")
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO recording_tickets (id) SELECT unnest(%s)", [list(TICKETS)])
    async with serving(url) as site:
        yield site


def judge(expected: Expected, outcome: Result) -> Iterator[str]:
    """A line for each difference between what a case expects and what a play left behind."""
    for event_id, status in sorted(set(outcome.statuses)):
        if status != expected.status_http:
            yield f"event {event_id} is answered {status}, should be {expected.status_http}"
    for id_, row in expected.donations.items():
        if id_ not in outcome.rows:
            yield f"donation {id_} is missing"
        else:
            yield from judge_fields(f"donation {id_}", row, outcome.rows[id_])
    if expected.no_other_donations:
        yield from (f"donation {id_} should not exist" for id_ in sorted(outcome.rows.keys() - expected.donations))
    if expected.totals_minor_by_currency is not None:
        path = f"/api/tickets/{expected.ticket}/donations/total"
        yield from judge_totals(expected.totals_minor_by_currency, read_totals(outcome.replies[path]))
    yield from (f"verify: {difference}" for difference in outcome.verified)


def judge_fields(what: str, expected: Struct, actual: Struct) -> Iterator[str]:
    """A line for each field that the expected object names and the other one does not agree with."""
    is_ = msgspec.structs.asdict(actual)
    for name, ought in msgspec.structs.asdict(expected).items():
        if ought is not UNSET and is_[name] != ought:
            yield f"{what}: {name} is {is_[name]!r}, should be {ought!r}"


def judge_totals(expected: dict[str, Figures], actual: dict[str, Figures]) -> Iterator[str]:
    """A line for each currency and figure of a ticket's totals that is not as expected."""
    for currency, figures in expected.items():
        if currency in actual:
            yield from judge_fields(f"total in {currency}", figures, actual[currency])
        else:
            yield f"total in {currency} is missing"
    yield from (f"total in {currency} should not exist" for currency in sorted(actual.keys() - expected))


def read_totals(reply: bytes) -> dict[str, Figures]:
    """A reply's totals by currency, in minor units."""
    by_currency = json.loads(reply, parse_float=Decimal)["byCurrency"]
    return {
        currency: Figures(
            **{name: int(amount * 10 ** money.exponent(currency)) for name, amount in total["breakdown"].items()}
        )
        for currency, total in by_currency.items()
    }


def compare_replies(first: dict[str, bytes], other: dict[str, bytes]) -> Iterator[str]:
    """A line for each reply whose bytes are not those of the first play, with what differs."""
    for path in sorted(first.keys() | other.keys()):
        if path not in first or path not in other:
            yield f"GET {path} exists only in {'this' if path in other else 'the first'} play"
        elif first[path] != other[path]:
            changes = difflib.unified_diff(first[path].decode().split(","), other[path].decode().split(","), n=0)
            shown = [line for line in changes if line[0] in "+-" and line[:3] not in ("+++", "---")]
            yield f"GET {path} differs from the first play: {' '.join(shown)[:300]}"


def report(expected: Expected, lines: dict[str, list[str]], count: int) -> str:
    """The differences of a case for a reader: each with the plays in which it was seen."""
    shown = [f"Situation: {expected.situation}"]
    for line, names in lines.items():
        where = "in every play" if len(names) == count else f"in {len(names)} of {count} plays, first: {names[0]}"
        shown.append(f"  {line}\n      ({where})")
    return "\n".join(shown)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", NAMES)
async def test_every_play_of_a_case(site: Site, name: str) -> None:
    """In every order, with duplicates and in any batches: the case's statuses, rows and totals, and the same bytes."""
    case = Case.read(name)
    lines = defaultdict[str, list[str]](list)
    played, first = list(plays(len(case.events))), None
    for play in played:
        with capture_logs():  # thousands of lines about events would hide the differences
            outcome = await site.play(case.events, play)
        first = first or outcome.replies
        for line in [*judge(case.expected, outcome), *compare_replies(first, outcome.replies)]:
            lines[line].append(play.name)
    if lines:
        pytest.fail(report(case.expected, lines, len(played)), pytrace=False)


def test_every_file_is_a_part_of_a_case() -> None:
    """No file of events is left without what it expects, and the other way round."""
    parts = {f"{name}{suffix}" for name in NAMES for suffix in (".json", EXPECTED)} | {"README.md"}
    assert {path.name for path in CASES.iterdir()} == parts
    assert NAMES


@pytest.mark.parametrize(
    "unknown",
    [{"donors": 1}, {"donations": {"pi_1": {"fee": 3}}}, {"also": "something else"},
     {"totals_minor_by_currency": {"USD": {"count": 1}}}],
    ids="-".join,
)  # fmt: skip
def test_what_a_case_asks_for_is_never_left_unjudged(unknown: Json) -> None:
    """A key that this module does not know is an error, wherever it stands."""
    known = json.loads((CASES / f"{NAMES[0]}{EXPECTED}").read_text())
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**known, **unknown}, Expected)


def test_each_kind_of_difference_is_reported() -> None:
    """A wrong status, row, field, other donation, total, reply and ledger each give a line."""
    expected = msgspec.convert(
        {
            **{"source": "", "situation": "", "status_http": 200, "no_other_donations": True, "ticket": "story-1"},
            "donations": {"pi_1": {"status": "PAID", "paid_at": None}, "pi_2": {}},
            "totals_minor_by_currency": {"USD": {"paid": 5000}, "EUR": {}},
        },
        Expected,
    )
    totals = b'{"byCurrency": {"USD": {"breakdown": {"paid": 49.99}}, "JPY": {"breakdown": {"paid": 7}}}}'
    replies = {"/api/tickets/story-1/donations/total": totals}
    rows = {"pi_1": Row(status="REFUNDED", paid_at=5), "ch_3": Row()}
    assert list(judge(expected, Result([("evt_1", 422), ("evt_2", 200)], rows, replies, ["a total is wrong"]))) == [
        "event evt_1 is answered 422, should be 200",
        "donation pi_1: status is 'REFUNDED', should be 'PAID'",
        "donation pi_1: paid_at is 5, should be None",
        "donation pi_2 is missing",
        "donation ch_3 should not exist",
        "total in USD: paid is 4999, should be 5000",
        "total in EUR is missing",
        "total in JPY should not exist",
        "verify: a total is wrong",
    ]
    assert list(compare_replies({"/a": b'{"n":1,"m":2}', "/b": b""}, {"/a": b'{"n":1,"m":3}', "/c": b""})) == [
        'GET /a differs from the first play: -"m":2} +"m":3}',
        "GET /b exists only in the first play",
        "GET /c exists only in this play",
    ]
