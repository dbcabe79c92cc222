"""A client that has a reply gets 304 until the reply changes, and not a moment longer (SPEC 5)."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from daemon.api import tickets
from daemon.api.parameters import opaque
from daemon.ledger import operator_actions
from daemon.ledger.changes import Derivation, ReceivedEvent
from daemon.ledger.donation import DonationRow
from daemon.ledger.reader import Cursor, Ledger
from daemon.ledger.recorder import Recorder
from daemon.ledger.stripe_events import read
from daemon.simulator import scenarios, sender
from sql.connection import Params, Row
from sql.database import Database
from tests.support.api_application import NOW, Client, MakeClient, application, follower
from tests.support.former_release import FormerRelease
from tests.support.ledger import TICKET, fill

TICKETS = ("story-1", "story-2")
SUFFIXES = (
    "",
    "?limit=2",
    "?limit=3",
    "?status=PAID",
    "?status=FAILED",
    "?currency=usd",
    "/total",
    "/total?currency=eur",
)
PATHS = [f"/api/tickets/{ticket}/donations{suffix}" for ticket in TICKETS for suffix in SUFFIXES]
# A change of each column that a page shows, as any writer could make it.
CHANGES = {
    "id": "pi_another",
    "amount_minor": 5001,
    "currency": "EUR",
    "status": "DISPUTED",
    "donor_last_name": "Jones",
    "donor_country": "CA",
    "created_at": "2024-01-01T00:00:00Z",
    "paid_at": "2024-12-16T10:31:16Z",
    "refunded_at": "2024-12-17T00:00:00Z",
    "session_id": "cs_another",
    "refunded_minor": 1,
    "disputed_minor": 1,
}


@pytest.fixture
async def other(database_url: str, aiohttp_client: MakeClient) -> AsyncIterator[Client]:
    """An API process that shares nothing with the test's writer but the database."""
    database = Database(
        database_url, pool_size=4, statement_timeout_s=10, connect_timeout_s=5, application_name="donationd other"
    )
    yield await aiohttp_client(application(database, follower()))
    await database.close()


class Replies:
    """What a client has of each path, asked for again with its tag; and what is true at that moment."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._had: dict[str, tuple[str, bytes]] = {}
        self.unchanged = self.changed = 0

    async def check(self, path: str) -> None:
        """What the client has is confirmed only if a client without it gets the same; otherwise it gets the new one."""
        tag, body = self._had.get(path, ("", b""))
        reply = await self._client.get(path, headers={"If-None-Match": tag} if tag else {})
        fresh = await self._client.get(path)
        now = await fresh.read()
        assert reply.headers["ETag"] == fresh.headers["ETag"]
        assert reply.headers["X-Ledger-Seq"] == fresh.headers["X-Ledger-Seq"]
        if reply.status == 304:
            assert body == now
            self.unchanged += 1
        else:
            assert await reply.read() == now
            self.changed += 1
        self._had[path] = (fresh.headers["ETag"], now)


async def act(database: Database, rng: random.Random, number: int) -> None:
    """Assigns or erases a donation, derives it again, and changes a ticket."""
    donations = await database.fetch("SELECT id FROM stripe_attributions ORDER BY id") or [("",)]
    [donation] = rng.choice(donations)
    facts = await Ledger(database).facts_of(donation)
    if facts is not None:
        assigned = operator_actions.assign(facts, donation, rng.choice(TICKETS), actor="alex", at_us=number)
        erased = operator_actions.erase(facts, donation, actor="alex", at_us=number)
        await Recorder(database).record([rng.choice([assigned, erased]), Derivation(donation)])
    currency = rng.choice(["EUR", "USD", "JPY"])
    await database.fetch("UPDATE recording_tickets SET currency = %s WHERE id = %s", [currency, TICKETS[0]])


@pytest.mark.parametrize("writer", [Database, FormerRelease])
async def test_after_any_write_every_process_answers_what_is_true_now(
    database_url: str, other: Client, writer: type[Database]
) -> None:
    """Events of all kinds, unpaid donations too, operator actions, changed tickets, rows derived again: once a write is
    acknowledged, another process confirms no reply that it changed. So too if the release before wrote it.
    """
    rng = random.Random(8)
    database = writer(
        database_url, pool_size=1, statement_timeout_s=10, connect_timeout_s=5, application_name="donationd test"
    )
    recorder, replies = Recorder(database), Replies(other)
    await fill(database, [], *TICKETS)
    events = scenarios.shuffled(scenarios.generate(5, 16, TICKETS, now=NOW), 3)
    for number, event in enumerate(events):
        await recorder.record([ReceivedEvent(read(sender.encode(event), livemode=False, hash_key=None))])
        for path in rng.sample(PATHS, 4):
            await replies.check(path)
        if number % 8 == 0:
            await act(database, rng, number)
            for path in PATHS:
                await replies.check(path)
    assert min(replies.unchanged, replies.changed) > 100
    await database.close()


@pytest.mark.parametrize("column", DonationRow._fields)
async def test_a_page_changes_with_each_column_that_it_shows(client: Client, database: Database, column: str) -> None:
    """Any writer may change it; nothing has to be noted beside the row."""
    await fill(database, scenarios.seed_example(), TICKET)
    await database.fetch("ALTER TABLE stripe_attributions DROP CONSTRAINT facts_at_root")
    path = f"/api/tickets/{TICKET}/donations"
    before = await client.get(path)
    await database.fetch(
        f"UPDATE stripe_attributions SET {column} = %s WHERE donor_last_name = 'Smith'",  # noqa: S608 - our own columns
        [CHANGES[column]],
    )
    after = await client.get(path, headers={"If-None-Match": before.headers["ETag"]})
    assert after.status == 200
    assert await after.read() != await before.read()


async def test_a_page_changes_with_the_currency_of_its_ticket(client: Client, database: Database) -> None:
    """A donation whose currency is not known is shown in the ticket's."""
    await fill(database, scenarios.seed_example(), TICKET)
    await database.fetch("UPDATE stripe_attributions SET currency = NULL, amount_minor = NULL, refunded_minor = 0")
    path = f"/api/tickets/{TICKET}/donations"
    before = await client.get(path)
    await database.fetch("UPDATE recording_tickets SET currency = 'JPY'")
    after = await client.get(path, headers={"If-None-Match": before.headers["ETag"]})
    assert after.status == 200
    assert {donation["currency"] for donation in (await after.json())["donations"]} == {"JPY"}


@pytest.mark.parametrize("path", ["donations", "donations/total"])
async def test_a_hidden_ticket_is_unknown_to_the_public(client: Client, database: Database, path: str) -> None:
    """Also to a client that had the reply before."""
    await fill(database, scenarios.seed_example(), TICKET)
    url = f"/api/tickets/{TICKET}/{path}"
    tag = (await client.get(url)).headers["ETag"]
    await database.fetch("UPDATE recording_tickets SET state = 'hidden'")
    for headers in ({}, {"If-None-Match": tag}, {"If-None-Match": "*"}):
        reply = await client.get(url, headers=headers)
        assert (reply.status, (await reply.json())["message"]) == (404, f"there is no ticket {TICKET}")
    await database.fetch("UPDATE recording_tickets SET state = 'closed'")
    assert (await client.get(url, headers={"If-None-Match": tag})).status == 304


async def test_a_donation_of_another_page_changes_only_its_own_page(client: Client, database: Database) -> None:
    """And the last page changes when it is no longer the last one."""
    await fill(database, scenarios.seed_example(), TICKET)
    first = f"/api/tickets/{TICKET}/donations?limit=2"
    page = await client.get(first)
    second = f"{first}&cursor={(await page.json())['nextCursor']}"
    tags = [reply.headers["ETag"] for reply in (page, await client.get(second))]
    await database.fetch("UPDATE stripe_attributions SET donor_last_name = 'Jones' WHERE donor_last_name = 'Garcia'")
    replies = [
        await client.get(path, headers={"If-None-Match": tag}) for path, tag in zip((first, second), tags, strict=True)
    ]
    assert [reply.status for reply in replies] == [304, 200]
    whole = await client.get(f"/api/tickets/{TICKET}/donations?limit=4")
    assert (await whole.json())["nextCursor"] is None
    await database.fetch(
        "INSERT INTO stripe_attributions"
        "    (id, root, facts, ticket_id, status, refunded_minor, disputed_minor, created_at)"
        " SELECT 'pi_0', 'pi_0', facts, ticket_id, 'CREATED', 0, 0, created_at"
        " FROM stripe_attributions WHERE donor_last_name = 'Smith'"
    )
    longer = await client.get(
        f"/api/tickets/{TICKET}/donations?limit=4", headers={"If-None-Match": whole.headers["ETag"]}
    )
    assert (await longer.json())["nextCursor"] is not None


async def test_a_tag_belongs_to_its_parameters(client: Client, database: Database) -> None:
    """A page has another tag for another ticket, limit, status, currency and cursor, even where it shows the same."""
    await fill(database, [], *TICKETS)
    paths = [path for path in PATHS if "total" not in path]
    paths += [f"{paths[0]}?cursor={opaque(str(Cursor(paid, 1, 'pi_1')))}" for paid in (-1, 1)]
    tags = [(await client.get(path)).headers["ETag"] for path in paths]
    assert len(set(tags)) == len(paths)


async def test_a_tag_belongs_to_what_a_release_makes_of_the_rows(
    client: Client, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While two releases serve, a client that has a page of one does not keep it as the page of the other."""
    await fill(database, scenarios.seed_example(), TICKET)
    path = f"/api/tickets/{TICKET}/donations"
    tag = (await client.get(path)).headers["ETag"]
    monkeypatch.setattr(tickets, "RENDERING", tickets.RENDERING.replace(b"Anonymous", b"Unknown"))
    tickets._page_tags.cache_clear()
    assert (await client.get(path, headers={"If-None-Match": tag})).status == 200
    tickets._page_tags.cache_clear()


async def test_a_tag_that_is_none_of_ours_is_no_error(client: Client, database: Database) -> None:
    """The reply is sent as to a client that has nothing; our tag among others is found, also as a weak one."""
    await fill(database, scenarios.seed_example(), TICKET)
    for path in (f"/api/tickets/{TICKET}/donations", f"/api/tickets/{TICKET}/donations/total"):
        reply = await client.get(path)
        tag, body = reply.headers["ETag"], await reply.read()
        half = tag[:17]
        for foreign in (
            f'{half}"',
            f'{half}{"0" * 16}"',
            f'{half}{"é" * 16}"',
            f'{half}{"g" * 16}"',
            f'{tag[:-1]}0"',
            '""',
        ):
            other = await client.get(path, headers={"If-None-Match": foreign})
            assert (other.status, await other.read()) == (200, body), foreign
        for known in (f'"x", {tag}', f"W/{tag}", f'{half}{"0" * 16}", {tag}', "*"):
            assert (await client.get(path, headers={"If-None-Match": known})).status == 304, known


class CountingDatabase(Database):
    """Counts the statements."""

    statements = 0

    async def fetch(self, sql: str, params: Params = (), *, prepare: str | None = None) -> list[Row]:
        """As Database.fetch."""
        self.statements += 1
        return await super().fetch(sql, params, prepare=prepare)


@pytest.mark.parametrize("suffix", ["", "?status=PAID", "/total"])
async def test_many_requests_at_once_are_few_queries(
    database_url: str, aiohttp_client: MakeClient, suffix: str
) -> None:
    """Those that arrive while a query runs share the next one, and each gets its own ticket's reply."""
    database = CountingDatabase(
        database_url, pool_size=4, statement_timeout_s=10, connect_timeout_s=5, application_name="donationd test"
    )
    await fill(database, scenarios.generate(7, 20, TICKETS, now=NOW), *TICKETS)
    client = await aiohttp_client(application(database, follower()))
    paths = [f"/api/tickets/{ticket}/donations{suffix}" for ticket in (*TICKETS, "nowhere")]
    alone = [await (await client.get(path)).read() for path in paths]
    database.statements = 0
    replies = await asyncio.gather(*(client.get(path) for _ in range(20) for path in paths))
    assert [await reply.read() for reply in replies] == alone * 20
    assert database.statements < 20
    await database.close()


async def test_reads_continue_on_new_connections(client: Client, database: Database) -> None:
    """After a failover the queries are prepared again where they are needed."""
    await fill(database, scenarios.seed_example(), TICKET)
    paths = [f"/api/tickets/{TICKET}/donations{suffix}" for suffix in ("", "/total")]
    before = [await (await client.get(path)).read() for path in paths]
    await database.fetch(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        " AND datname = current_database() AND application_name LIKE 'donationd%%'"
    )
    assert [await (await client.get(path)).read() for path in paths] == before
