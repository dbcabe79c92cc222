"""Reads from a real replica: while it is near its primary, and only then (SPEC 14)."""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path

import psycopg2
import pytest
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection as Connection
from pydantic import SecretStr

from daemon.api.config import Config
from daemon.api.read_pools import ReadPools
from daemon.ledger.reader import Ledger
from health_sidecar.read_replica import replica_of
from sql import migrate
from sql.database import Database
from sql.errors import DatabaseUnavailable
from sql.replica import ReadDatabase
from sql.replica_lag import (
    MAX_LAG_BYTES,
    MAX_LAG_S,
    NO_REPLICA,
    OTHER_DATABASE,
    OTHER_HISTORY,
    PRIMARY_IS_STANDBY,
    TOO_FAR,
)
from tests.support.instance import eventually
from tests.support.postgres import USER, Server, running_server
from tests.support.process import WAIT_S

WHO = "SELECT pg_is_in_recovery()"
REPLICA, PRIMARY = [(True,)], [(False,)]
ENTRY = """
INSERT INTO ledger_entries
    (seq, recorded_at, donation_id, ticket_id, currency, kind, object_id, effective_at, amount_minor, cause)
SELECT coalesce(max(seq), 0) + 1, clock_timestamp(), 'pi_1', 't', 'USD', 'payment', 'pi_1', now(), 1, 'evt_1'
FROM ledger_entries
"""
FAST = {"fsync": "off", "wal_keep_size": "1GB"}
ROLE = "reader"


def ask(server: Server, sql: str) -> list[object]:
    """Asks a server directly; the first column of its reply."""
    connection = psycopg2.connect(server.url.format(name="postgres"))
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return [row[0] for row in cursor.fetchall()] if cursor.description else []
    finally:
        connection.close()


def url_of(server: Server) -> str:
    """Its URL for a role that may only read the ledger's tables."""
    return server.url.format(name="postgres").replace(USER, ROLE)


def accepts_connections(server: Server) -> bool:
    """Whether a new connection can be opened."""
    try:
        ask(server, "SELECT 1")
    except psycopg2.OperationalError:
        return False
    return True


def was_ended(connection: Connection) -> bool:
    """Whether the server has ended a session."""
    try:
        connection.cursor().execute("SELECT 1")
    except psycopg2.Error:
        return True
    connection.rollback()
    return False


def catch_up(primary: Server, replica: Server) -> None:
    """Returns when the replica has replayed what the primary has written."""
    [position] = ask(primary, "SELECT pg_current_wal_flush_lsn()")
    eventually(lambda: ask(replica, f"SELECT pg_last_wal_replay_lsn() >= '{position}'") == [True], "it is replayed")


@contextmanager
def streaming_replica(server: Server) -> Iterator[Server]:
    """A streaming replica of a server, as operations.md makes it."""
    with tempfile.TemporaryDirectory(prefix="donationd-replica-", dir=server.home.parent) as folder:
        replica = Server(Path(folder), server.programs)
        replica.run(
            "pg_basebackup", "-R", "-X", "stream", "-c", "fast", "--no-sync", "-h", str(server.home), "-U", USER
        )
        replica.start(FAST)
        try:
            yield replica
        finally:
            replica.stop("immediate")


@pytest.fixture(scope="module")
def primary() -> Iterator[Server]:
    """A migrated primary."""
    with running_server(FAST, in_memory=True) as server:
        migrate.apply(server.url.format(name="postgres"))
        ask(server, f"CREATE ROLE {ROLE} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {ROLE}")
        yield server


@pytest.fixture(scope="module")
def lasting_replica(primary: Server) -> Iterator[Server]:
    """A replica that no test breaks."""
    with streaming_replica(primary) as replica:
        yield replica


@pytest.fixture
def replica(primary: Server, lasting_replica: Server) -> Server:
    """The same, which has replayed everything."""
    ask(lasting_replica, "SELECT pg_wal_replay_resume()")
    catch_up(primary, lasting_replica)
    return lasting_replica


@pytest.fixture
def own_replica(primary: Server) -> Iterator[Server]:
    """A replica of the test's own."""
    with streaming_replica(primary) as replica:
        catch_up(primary, replica)
        yield replica


class Reads:
    """A read database, with a clock that the test moves."""

    def __init__(self, replica: Database, primary: Database) -> None:
        self.now_s = 0.0
        self.database = ReadDatabase(replica, primary, "test", lambda: self.now_s)

    async def compare(self, *, after_s: float = 1.0) -> None:
        """Compares the servers some time later."""
        self.now_s += after_s
        await self.database.compare()

    async def compare_until_near(self) -> None:
        """Compares them until the replica has replayed what PostgreSQL writes by itself too."""
        async with asyncio.timeout(WAIT_S):
            while self.database.lag.bytes or not self.database.is_readable():
                await self.compare(after_s=0)

    async def who(self) -> object:
        """REPLICA or PRIMARY, whichever is read now."""
        return await self.database.fetch(WHO)


def connect(url: SecretStr, pool_size: int = 2, statement_timeout_ms: int = 30_000) -> Database:
    """A pool of connections."""
    return Database(
        url.get_secret_value(),
        pool_size=pool_size,
        statement_timeout_s=statement_timeout_ms / 1000,
        connect_timeout_s=10,
        application_name="donationd test",
    )


MakeReads = Callable[[str, str], Reads]


@pytest.fixture
async def make_reads() -> AsyncIterator[MakeReads]:
    """Makes read databases, with the URLs of replica and primary; they are closed at the end."""
    async with AsyncExitStack() as stack:

        def make(*urls: str) -> Reads:
            pools = [connect(SecretStr(url)) for url in urls]
            for pool in pools:
                stack.push_async_callback(pool.close)
            return Reads(*pools)

        yield make


@pytest.fixture
def reads_of(make_reads: MakeReads) -> Callable[[Server, Server], Reads]:
    """The same, with the servers."""
    return lambda replica, primary: make_reads(url_of(replica), url_of(primary))


ReadsOf = Callable[[Server, Server], Reads]


async def test_a_near_replica_is_read(primary: Server, replica: Server, reads_of: ReadsOf) -> None:
    """From the first comparison on; before it the primary is read. An idle replica is not behind."""
    reads = reads_of(replica, primary)
    assert await reads.who() == PRIMARY
    await reads.compare_until_near()
    assert (await reads.who(), reads.database.lag.problem) == (REPLICA, "")
    assert (reads.database.seconds_behind, reads.database.lag.bytes) == (0, 0)


async def test_a_paused_replica_is_read_for_five_seconds(primary: Server, replica: Server, reads_of: ReadsOf) -> None:
    """After replay was paused the replica is read while it lacks no more than the last five seconds. When replay
    continues it is read again."""
    reads = reads_of(replica, primary)
    await reads.compare_until_near()
    await asyncio.to_thread(ask, replica, "SELECT pg_wal_replay_pause()")
    await asyncio.to_thread(ask, primary, ENTRY)
    read = []
    for _ in range(6):
        await reads.compare()
        read.append(await reads.who())
    assert read == [REPLICA] * 4 + [PRIMARY] * 2
    assert (reads.database.lag.problem, reads.database.seconds_behind) == (TOO_FAR, 6)
    assert reads.database.lag.bytes > 0
    await asyncio.to_thread(ask, replica, "SELECT pg_wal_replay_resume()")
    await reads.compare_until_near()
    assert (await reads.who(), reads.database.seconds_behind) == (REPLICA, 0)


async def test_a_reply_says_how_new_it_is(primary: Server, replica: Server, reads_of: ReadsOf) -> None:
    """`ledger_seq`, which is the header X-Ledger-Seq, is of the server that was read."""
    await asyncio.to_thread(ask, primary, "INSERT INTO recording_tickets (id) VALUES ('t') ON CONFLICT DO NOTHING")
    await asyncio.to_thread(ask, primary, ENTRY)
    reads = reads_of(replica, primary)
    await reads.compare_until_near()
    await asyncio.to_thread(ask, replica, "SELECT pg_wal_replay_pause()")
    await asyncio.to_thread(ask, primary, ENTRY)
    [newest] = await asyncio.to_thread(ask, primary, "SELECT max(seq) FROM ledger_entries")
    seen = []
    for _ in range(2):
        totals = await Ledger(reads.database).totals("t")
        assert totals
        seen.append(totals.ledger_seq)
        reads.now_s += MAX_LAG_S
    assert seen == [int(str(newest)) - 1, newest]


async def test_the_pools_of_an_api_process(primary: Server, replica: Server) -> None:
    """With READ_DATABASE_URL both kinds of reads use the replica, and the metrics show it; without it the primary."""
    settings = {"DATABASE_URL": url_of(primary), "STRIPE_WEBHOOK_SECRET": f"whsec_{'x' * 32}"}
    for environ, expected in ((settings, PRIMARY), (settings | {"READ_DATABASE_URL": url_of(replica)}, REPLICA)):
        reads, registry = ReadPools(Config.from_environ(environ), connect), CollectorRegistry()
        tasks = [asyncio.create_task(task) for task in reads.tasks(registry)]
        try:
            async with asyncio.timeout(WAIT_S):
                while [await each.fetch(WHO) for each in (reads.ledger, reads.pages)] != [expected] * 2:  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.01)
            shown = replica_of(registry)
            assert (shown is not None and shown.is_usable) == (expected == REPLICA)
        finally:
            for task in tasks:
                task.cancel()
            for pool in reads.pools:
                await pool.close()


async def test_a_mebibyte_is_too_much(primary: Server, replica: Server, reads_of: ReadsOf) -> None:
    """A replica that has so much to replay is not read, also within the five seconds."""
    reads = reads_of(replica, primary)
    await reads.compare_until_near()
    await asyncio.to_thread(ask, replica, "SELECT pg_wal_replay_pause()")
    await asyncio.to_thread(
        ask,
        primary,
        f"SELECT pg_logical_emit_message(true, 'test', repeat('x', {MAX_LAG_BYTES}))::text",
    )
    await reads.compare()
    assert (await reads.who(), reads.database.lag.problem) == (PRIMARY, TOO_FAR)


async def test_a_killed_replica(primary: Server, own_replica: Server, reads_of: ReadsOf) -> None:
    """A read that fails on the replica is answered by the primary, and further reads do not use the replica until it
    has been compared again, also if it was restarted meanwhile."""
    reads = reads_of(own_replica, primary)
    await reads.compare_until_near()
    assert await reads.who() == REPLICA
    await asyncio.to_thread(own_replica.stop, "immediate")
    assert await reads.who() == PRIMARY
    await reads.compare()
    assert await reads.who() == PRIMARY
    await asyncio.to_thread(own_replica.start, FAST)
    assert await reads.who() == PRIMARY
    await reads.compare_until_near()
    assert await reads.who() == REPLICA


async def test_a_restarted_replica_is_compared_first(primary: Server, own_replica: Server, reads_of: ReadsOf) -> None:
    """A replica that was restarted between two reads may have gone back: what it says is not used."""
    reads = reads_of(own_replica, primary)
    await reads.compare_until_near()
    await asyncio.to_thread(own_replica.stop, "fast")
    await asyncio.to_thread(own_replica.start, FAST)
    assert reads.database.is_readable()
    assert await reads.who() == PRIMARY


async def test_a_replica_is_compared_first_after_a_crash(
    primary: Server, own_replica: Server, reads_of: ReadsOf
) -> None:
    """The same holds after a crash. A comparison over which its connections changed does not count."""
    reads = reads_of(own_replica, primary)
    await reads.compare_until_near()
    assert await reads.who() == REPLICA
    with (
        closing(psycopg2.connect(url_of(own_replica))) as victim,
        closing(psycopg2.connect(url_of(own_replica))) as other,
    ):
        os.kill(victim.info.backend_pid, signal.SIGKILL)
        await asyncio.to_thread(eventually, lambda: was_ended(other), "the replica ends all its sessions")
    await asyncio.to_thread(eventually, lambda: accepts_connections(own_replica), "it accepts connections again")
    assert reads.database.is_readable()
    await reads.compare(after_s=0)
    assert await reads.who() == PRIMARY
    await reads.compare_until_near()
    assert await reads.who() == REPLICA


async def test_a_replica_that_hangs(primary: Server, own_replica: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read waits as long as a statement may take, then the primary answers, and the next read does not wait."""
    monkeypatch.setattr("sql.database.CLIENT_GRACE_S", 0.2)
    pools = [connect(SecretStr(url_of(own_replica)), 2, 1000), connect(SecretStr(url_of(primary)))]
    reads = Reads(*pools)
    await reads.compare_until_near()
    assert await reads.who() == REPLICA
    backends = ask(own_replica, "SELECT pid FROM pg_stat_activity WHERE application_name = 'donationd test'")
    for pid in backends:
        os.kill(int(str(pid)), signal.SIGSTOP)
    try:
        assert await reads.who() == PRIMARY
        assert not reads.database.is_readable()
    finally:
        for pid in backends:
            os.kill(int(str(pid)), signal.SIGCONT)
        for pool in pools:
            await pool.close()


async def test_a_connection_to_another_replica(
    primary: Server, replica: Server, own_replica: Server, make_reads: MakeReads, tmp_path: Path
) -> None:
    """Where a new connection leads to another server, as through a balancer, that one is compared before it is read."""
    socket = tmp_path / ".s.PGSQL.5432"
    socket.symlink_to(replica.home / socket.name)
    reads = make_reads(f"postgresql://{ROLE}@/postgres?host={tmp_path}", url_of(primary))
    await reads.compare_until_near()
    assert await reads.who() == REPLICA
    socket.unlink()
    socket.symlink_to(own_replica.home / socket.name)
    busy = asyncio.create_task(reads.database.fetch("SELECT pg_sleep(0.2)"))
    await asyncio.sleep(0)
    assert await reads.who() == PRIMARY
    await busy
    assert await reads.who() == PRIMARY
    await reads.compare_until_near()
    assert await reads.who() == REPLICA


async def test_a_promoted_replica(primary: Server, own_replica: Server, reads_of: ReadsOf) -> None:
    """It is a primary of its own from then on, and is not read, whatever it contains."""
    reads = reads_of(own_replica, primary)
    await reads.compare_until_near()
    await asyncio.to_thread(own_replica.run, "pg_ctl", "-w", "promote")
    await reads.compare()
    assert (await reads.who(), reads.database.lag.problem) == (PRIMARY, NO_REPLICA)


async def test_a_replica_of_a_promoted_replica(primary: Server, own_replica: Server, reads_of: ReadsOf) -> None:
    """It contains what the primary lacks. It is not read, nor is it when the primary's positions are beyond its own."""
    await asyncio.to_thread(own_replica.run, "pg_ctl", "-w", "promote")
    await asyncio.to_thread(ask, own_replica, ENTRY)
    with streaming_replica(own_replica) as other:
        await asyncio.to_thread(catch_up, own_replica, other)
        reads = reads_of(other, primary)
        await reads.compare()
        assert (await reads.who(), reads.database.lag.problem) == (PRIMARY, OTHER_HISTORY)
        await asyncio.to_thread(ask, primary, "SELECT pg_switch_wal()")
        await asyncio.to_thread(ask, primary, ENTRY)
        await reads.compare()
        assert (await reads.who(), reads.database.lag.problem) == (PRIMARY, OTHER_HISTORY)


async def test_another_cluster_or_database(primary: Server, replica: Server, make_reads: MakeReads) -> None:
    """Neither a server with another system identifier is read, nor another database of the same servers."""
    postgres, other = (primary.url.format(name=name) for name in ("postgres", "other"))
    with running_server(FAST, in_memory=True) as stranger:
        await asyncio.to_thread(migrate.apply, stranger.url.format(name="postgres"))
        reads = make_reads(stranger.url.format(name="postgres"), postgres)
        await reads.compare()
        assert (await reads.who(), reads.database.lag.problem) == (PRIMARY, OTHER_DATABASE)
    await asyncio.to_thread(ask, primary, "CREATE DATABASE other")
    await asyncio.to_thread(migrate.apply, other)
    await asyncio.to_thread(catch_up, primary, replica)
    reads = make_reads(replica.url.format(name="other"), postgres)
    await reads.compare()
    assert (await reads.who(), reads.database.lag.problem) == (PRIMARY, OTHER_DATABASE)


async def test_database_url_leads_to_the_replica(replica: Server, reads_of: ReadsOf) -> None:
    """Nothing proves how old the replica is; reads use DATABASE_URL, as without READ_DATABASE_URL."""
    reads = reads_of(replica, replica)
    await reads.compare()
    assert (await reads.who(), reads.database.lag.problem) == (REPLICA, PRIMARY_IS_STANDBY)
    assert not reads.database.is_readable()


async def test_a_primary_that_does_not_answer(primary: Server, replica: Server, reads_of: ReadsOf) -> None:
    """The replica is read for five seconds after the last proof. Then the primary is asked, and fails."""
    reads = reads_of(replica, primary)
    await reads.compare_until_near()
    await reads.database._primary.close()
    await reads.compare(after_s=MAX_LAG_S - 0.1)
    assert "the primary does not answer" in reads.database.lag.problem
    assert await reads.who() == REPLICA
    reads.now_s += 0.1
    with pytest.raises(DatabaseUnavailable):
        await reads.who()


async def test_what_only_the_replica_rejects(primary: Server, replica: Server, reads_of: ReadsOf) -> None:
    """A table that has not arrived there yet is read on the primary, and the replica stays readable."""
    reads = reads_of(replica, primary)
    await reads.compare_until_near()
    await asyncio.to_thread(ask, replica, "SELECT pg_wal_replay_pause()")
    await asyncio.to_thread(ask, primary, f"CREATE TABLE new AS SELECT 1 AS one; GRANT SELECT ON new TO {ROLE}")
    assert await reads.database.fetch("SELECT one FROM new") == [(1,)]
    assert await reads.who() == REPLICA
