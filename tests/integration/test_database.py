"""The driver's traps, each closed: where it is cheap, a test shows stock aiopg caught in the trap first."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from functools import partial

import aiopg
import psycopg2
import pytest
import structlog

from sql import connection
from sql.database import CLIENT_GRACE_S
from tests.chaos.proxy import HOST, Proxy, silent_port
from tests.support.database_servers import (
    SOON_S,
    Instance,
    Open,
    at,
    busy,
    hangs,
    kind,
    many_open_files,
    opened_databases,
    own_server,
    standby_of,
    until,
)
from tests.support.instance import free_ports
from tests.support.postgres import USER

SLEEP = "SELECT pg_sleep(30)"
ROLE = "SELECT pg_is_in_recovery()"
PID = "SELECT pg_backend_pid()"


@pytest.fixture(scope="module")
def own() -> Iterator[Instance]:
    """A server that tests may restart and stop."""
    with own_server() as instance:
        yield instance


@pytest.fixture(scope="module")
def standby(own: Instance) -> Iterator[Instance]:
    """A streaming standby of the server, until a test promotes it."""
    with standby_of(own) as instance:
        yield instance


@pytest.fixture
async def open_database(own: Instance) -> AsyncIterator[Open]:
    """Opens databases with short limits; after the test they are closed and nothing of it runs on the server."""
    async with opened_databases(own) as open_:
        yield open_


@pytest.fixture
async def proxy(own: Instance) -> AsyncIterator[Proxy]:
    """TCP to the server."""
    async with Proxy(own.socket) as proxy:
        yield proxy


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> structlog.testing.LogCapture:
    """What the module logs."""
    capture = structlog.testing.LogCapture()
    monkeypatch.setattr(connection, "log", structlog.wrap_logger(None, processors=[capture]))
    return capture


@pytest.fixture
def closed_port() -> int:
    """A port that refuses, and that no other program is given."""
    [port] = free_ports(1)
    return port


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port that never answers."""
    port, sockets = silent_port()
    yield port
    for each in sockets:
        each.close()


# --- time limits


async def test_a_statement_over_the_servers_limit_is_an_outage(own: Instance, open_database: Open) -> None:
    """Stock: the server's statement_timeout arrives as CancelledError, in a task that was not cancelled."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the stock driver also reports it there
    async with aiopg.connect(at(own)) as stock, stock.cursor() as cursor:
        await cursor.execute("SET statement_timeout = 20")
        with pytest.raises(asyncio.CancelledError):
            await cursor.execute(SLEEP)
    database = open_database(at(own), statement_timeout_s=1)
    [(pid,)] = await database.fetch(PID)
    assert await kind(database.fetch(SLEEP)) == "timeout"
    assert await database.fetch(PID) == [(pid,)]  # the connection is as good as before


async def test_a_cancelled_caller_is_cancelled(own: Instance, open_database: Open) -> None:
    """A real cancellation stays one, and leaves a pool that works."""
    database = open_database(at(own), pool_size=1)
    task = asyncio.create_task(database.fetch(SLEEP))
    await until(lambda: own.running("ours"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert database.stats() == {"used": 0, "idle": 0, "max": 1}
    assert await database.fetch("SELECT 1") == [(1,)]


async def test_what_a_caller_gave_up_ends_in_the_server(own: Instance, open_database: Open) -> None:
    """Stock: the statement goes on in the server after its client has left. Here it ends within about a second."""
    database = open_database(at(own))
    stock = await aiopg.connect(at(own), application_name="stock")
    tasks = [asyncio.create_task(database.fetch(SLEEP)), asyncio.create_task((await stock.cursor()).execute(SLEEP))]
    await until(lambda: own.running("ours") and own.running("stock"))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await until(lambda: not own.running("ours"))
    assert own.ask("SELECT pg_terminate_backend(%s)", *own.running("stock")) == [True]


@pytest.mark.parametrize("silent", ["no answer to SYN", "accepts and says nothing"])
async def test_a_server_that_says_nothing_is_given_up_in_time(
    silent: str, black_hole: int, proxy: Proxy, open_database: Open
) -> None:
    """Stock: a minute for everything, and libpq's connect_timeout is ignored."""
    proxy.black_hole()
    url = at(black_hole if silent == "no answer to SYN" else proxy.port, connect_timeout="2")
    assert aiopg.connection.TIMEOUT == 60
    assert await hangs(aiopg.connect(url))
    async with asyncio.timeout(SOON_S):
        assert await kind(open_database(url, connect_timeout_s=0.2).fetch("SELECT 1")) == "timeout"


async def test_a_stopped_server_is_given_up_in_time_and_used_again(own: Instance, open_database: Open) -> None:
    """SIGSTOP: a statement on an open connection and a new connection end as timeouts; SIGCONT heals.

    The first timeout empties the pool: the other connections would cost one each.
    """
    database = open_database(at(own), pool_size=2, statement_timeout_s=1, connect_timeout_s=2)
    await asyncio.gather(*(database.fetch("SELECT pg_sleep(0.02)") for _ in range(2)))
    assert database.deadline_s == 2 + 1 + CLIENT_GRACE_S
    pids = own.pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(database.deadline_s + SOON_S):
            assert await kind(database.fetch("SELECT 1")) == "timeout"
        assert database.stats() == {"used": 0, "idle": 0, "max": 2}
        async with asyncio.timeout(database.deadline_s + SOON_S):
            assert await kind(database.fetch("SELECT 1")) == "timeout"
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    await until(lambda: own.ask("SELECT 1"))
    assert await database.fetch("SELECT 1") == [(1,)]


# --- the pool


async def test_connections_that_break_wake_those_who_wait(own: Instance, open_database: Open) -> None:
    """Stock: when all used connections of a full pool break, no task that waits for one is woken."""
    async with aiopg.create_pool(at(own), minsize=0, maxsize=1, application_name="stock") as pool:
        used = await pool.acquire()
        waiter = asyncio.create_task(pool._acquire())
        task = asyncio.create_task((await used.cursor()).execute(SLEEP))
        await until(lambda: own.running("stock"))
        own.ask("SELECT pg_terminate_backend(%s)", *own.running("stock"))
        await asyncio.gather(task, return_exceptions=True)
        await pool.release(used)
        assert await hangs(waiter)

    database = open_database(at(own), pool_size=2)
    broken = [asyncio.create_task(kind(database.fetch(SLEEP))) for _ in range(2)]
    await until(lambda: len(own.running("ours")) == 2)
    waiting = [asyncio.create_task(database.fetch("SELECT 1")) for _ in range(3)]
    await asyncio.sleep(0)
    for pid in own.running("ours"):
        own.ask("SELECT pg_terminate_backend(%s)", pid)
    async with asyncio.timeout(SOON_S):
        assert list(await asyncio.gather(*broken)) == ["connection lost"] * 2
        assert list(await asyncio.gather(*waiting)) == [[(1,)]] * 3


async def test_a_full_pool_is_waited_for_no_longer_than_for_a_connection(own: Instance, open_database: Open) -> None:
    """Who waits in vain gets an outage, and takes nothing with it."""
    database = open_database(at(own), pool_size=1, connect_timeout_s=1)
    async with busy(own, database):
        assert await kind(database.fetch("SELECT 1")) == "pool exhausted"
        assert database.stats() == {"used": 1, "idle": 0, "max": 1}


async def test_a_slow_connection_delays_no_other(
    own: Instance, black_hole: int, proxy: Proxy, open_database: Open
) -> None:
    """Stock: the pool's lock is held while it connects, so that not even a connection given back can be had."""
    pool = await aiopg.create_pool(at(proxy.port), minsize=1, maxsize=2)
    used = await pool.acquire()
    proxy.target = (HOST, black_hole)
    connecting = asyncio.create_task(pool._acquire())
    await until(lambda: proxy.accepted == 2)
    given_back = pool.release(used)
    assert await hangs(pool._acquire())
    connecting.cancel()
    await asyncio.gather(connecting, given_back, return_exceptions=True)
    await pool.clear()

    proxy.target = own.socket
    database = open_database(at(proxy.port), connect_timeout_s=SOON_S)
    async with busy(own, database):
        proxy.target = (HOST, black_hole)
        slow = asyncio.create_task(database.fetch("SELECT 1"))
        await until(lambda: proxy.accepted == 4)
    assert await database.fetch("SELECT 1") == [(1,)]
    assert not slow.done()
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)


@pytest.fixture
def many_files() -> Iterator[None]:
    """As in a process with a thousand clients."""
    with many_open_files():
        yield


@pytest.mark.usefixtures("many_files")
async def test_a_break_is_noticed_whatever_the_sockets_number(own: Instance, open_database: Open) -> None:
    """Stock: beyond 1023 open files, the statement on a connection that breaks waits for ever (aiopg calls select)."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # where the stock driver's error ends up
    database = open_database(at(own))
    stock = await aiopg.connect(at(own), application_name="stock")
    ours = asyncio.create_task(kind(database.fetch(SLEEP)))
    theirs = asyncio.create_task((await stock.cursor()).execute(SLEEP))
    await until(lambda: own.running("ours") and own.running("stock"))
    for pid in own.running("ours") + own.running("stock"):
        own.ask("SELECT pg_terminate_backend(%s)", pid)
    assert await ours == "connection lost"
    assert await hangs(theirs)
    await stock.close()


async def test_a_restart_while_idle_fails_no_statement(own: Instance, open_database: Open) -> None:
    """Stock: a restart of the server leaves dead sockets in the pool, and each fails a statement."""
    database = open_database(at(own), pool_size=3)
    await asyncio.gather(*(database.fetch("SELECT pg_sleep(0.02)") for _ in range(3)))
    assert database.stats()["idle"] == 3
    async with aiopg.create_pool(at(own), minsize=1) as pool:
        own.crash()
        own.start({"fsync": "off"})  # the event loop did not run: no end of file has been read yet
        async with pool.acquire() as stock, stock.cursor() as cursor:
            with pytest.raises(psycopg2.OperationalError):
                await cursor.execute("SELECT 1")
            stock.close()
    assert await asyncio.gather(*(database.fetch("SELECT 1") for _ in range(3))) == [[(1,)]] * 3


@pytest.mark.parametrize("fault", ["reset", "half_close"])
async def test_a_proxy_that_drops_idle_connections_fails_no_statement(
    fault: str, own: Instance, proxy: Proxy, open_database: Open
) -> None:
    """RST or FIN on an idle socket is seen before a statement is sent over it."""
    database = open_database(at(proxy.port))
    await database.fetch("SELECT 1")
    getattr(proxy, fault)()
    await until(lambda: not database._idle[0].is_alive())
    proxy.heal()
    assert await database.fetch("SELECT 1") == [(1,)]


async def test_each_new_connection_is_prepared_once(own: Instance, open_database: Open) -> None:
    """What `prepare` says is run on every connection that needs it, never twice."""
    database = open_database(at(own), pool_size=1)
    for _ in range(3):
        pids = {(await database.fetch("EXECUTE pid", prepare=f"PREPARE pid AS {PID}"))[0] for _ in range(3)}
        [(pid,)] = pids
        own.ask("SELECT pg_terminate_backend(%s)", pid)
        await until(lambda: not database._idle[0].is_alive())


@pytest.mark.parametrize("loss", ["DISCARD ALL", "ALTER TABLE shape ALTER COLUMN id TYPE text"])
async def test_what_was_prepared_and_is_lost_is_prepared_anew(loss: str, own: Instance, open_database: Open) -> None:
    """The caller does not notice that the statement is prepared again, on a connection that is new."""
    database = open_database(at(own), pool_size=1)
    await database.fetch("DROP TABLE IF EXISTS shape; CREATE TABLE shape (id int)")
    ask = partial(database.fetch, "EXECUTE ask", prepare="PREPARE ask AS SELECT * FROM shape")
    assert await ask() == []
    [(pid,)] = await database.fetch(PID)
    await database.fetch(loss)
    assert await ask() == []
    assert await database.fetch(PID) != [(pid,)]


async def test_a_preparation_that_never_lasts_is_reported_as_that(own: Instance, open_database: Open) -> None:
    """What a pooler in transaction mode does: a new connection does not help, and the caller is not to try again."""
    database = open_database(at(own))
    for prepare in ("SELECT 1", "PREPARE ask AS SELECT 1; PREPARE ask AS SELECT 1"):
        assert await kind(database.fetch("EXECUTE ask", prepare=prepare)) == "prepared statement lost"


async def test_closing_ends_what_is_running(own: Instance, open_database: Open) -> None:
    """A closed database has no connections, and opens none for those who still wait."""
    database = open_database(at(own), pool_size=1)
    running = asyncio.create_task(kind(database.fetch(SLEEP)))
    await until(lambda: own.running("ours"))
    waiting = asyncio.create_task(kind(database.fetch("SELECT 1")))
    await asyncio.sleep(0)
    await database.close()
    assert [await running, await waiting] == ["connection lost", "closed"]
    assert database.stats() == {"used": 0, "idle": 0, "max": 1}


# --- several servers


async def test_a_host_that_refuses_is_passed_over(closed_port: int, proxy: Proxy, open_database: Open) -> None:
    """Stock: when the first of several hosts refuses, libpq changes sockets and aiopg waits at the old one for ever."""
    url = at(closed_port, proxy.port)
    assert await hangs(aiopg.connect(url))
    assert await open_database(url).fetch("SELECT 1") == [(1,)]


async def test_a_black_holed_host_costs_its_share_once(black_hole: int, proxy: Proxy, open_database: Open) -> None:
    """Stock: a first host that never answers uses up the whole attempt. Here the last good one is tried first."""
    url = at(black_hole, proxy.port)
    assert await hangs(aiopg.connect(url))
    limit_s = 4.0  # of an attempt, so that a host's share is two seconds
    database = open_database(url, connect_timeout_s=limit_s)
    loop = asyncio.get_running_loop()
    begin = loop.time()
    await database.fetch("SELECT 1")
    assert limit_s / 2 <= loop.time() - begin < limit_s
    proxy.reset()
    await until(lambda: not database._idle[0].is_alive())
    begin = loop.time()
    await database.fetch("SELECT 1")
    assert loop.time() - begin < limit_s / 2


async def test_a_refused_password_is_tried_nowhere_else(proxy: Proxy, open_database: Open) -> None:
    """As libpq's manual has it: after failed authentication the remaining hosts are not tried."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        fields = b"SFATAL\0C28P01\0Mpassword authentication failed\0\0"
        writer.write(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)
        writer.close()

    async with await asyncio.start_server(refuse, HOST, 0) as server:
        url = at(server.sockets[0].getsockname()[1], proxy.port, sslmode="disable")
        assert await kind(open_database(url).fetch("SELECT 1")) == "authentication failed"
    assert proxy.accepted == 0


async def test_all_addresses_of_a_name_are_tried(
    black_hole: int, proxy: Proxy, open_database: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stock: libpq looks names up while the event loop stands still. Here a dead name server costs no more than a host.

    `localhost` is the usual name with two addresses, of which the first refuses.
    """

    async def look_up(host: str, _port: None, **_options: object) -> list[tuple[object, ...]]:
        if host == "lost":
            await asyncio.Event().wait()
        if host == "unknown":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(0, 0, 0, "", ("::1", 0, 0, 0)), (0, 0, 0, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
    names = f"postgresql://{USER}@{{}}:{proxy.port}/postgres"
    assert await open_database(names.format("localhost")).fetch("SELECT 1") == [(1,)]
    assert await open_database(names.format("lost,localhost"), connect_timeout_s=3).fetch("SELECT 1") == [(1,)]
    assert await kind(open_database(names.format("unknown")).fetch("SELECT 1")) == "unknown host"
    assert await kind(open_database(names.format("lost"), connect_timeout_s=0.1).fetch("SELECT 1")) == "timeout"


async def test_roles_as_libpq_defines_them(own: Instance, standby: Instance, open_database: Open) -> None:
    """Each target_session_attrs finds the server it asks for, wherever that stands in the list."""
    for wanted, is_standby in {
        "any": None,
        "read-write": False,
        "primary": False,
        "read-only": True,
        "standby": True,
        "prefer-standby": True,
    }.items():
        for servers in ((own, standby), (standby, own)):
            expected = (servers[0] is standby) if is_standby is None else is_standby
            database = open_database(at(*servers, target_session_attrs=wanted))
            assert await database.fetch(ROLE) == [(expected,)], (wanted, servers[0] is standby)
    assert await open_database(at(own, target_session_attrs="prefer-standby")).fetch(ROLE) == [(False,)]
    assert await kind(open_database(at(standby, target_session_attrs="read-write")).fetch(ROLE)) == "read only"
    assert await kind(open_database(at(own, target_session_attrs="standby")).fetch(ROLE)) == "no standby"


async def test_a_failover_is_followed(own: Instance, standby: Instance, open_database: Open) -> None:
    """Stock: after a failover the pool never recovers. Here the next statement after the promotion is written."""
    database = open_database(at(own, standby, target_session_attrs="read-write"))
    await database.fetch("CREATE TABLE ledger (n int)")
    await until(lambda: standby.ask("SELECT to_regclass('ledger')") != [None])
    own.crash()
    try:
        assert await kind(database.fetch("INSERT INTO ledger VALUES (1)")) == "read only"
        standby.run("pg_ctl", "-w", "promote")
        await database.fetch("INSERT INTO ledger VALUES (2)")
    finally:
        own.start({"fsync": "off"})
    assert (own.ask("SELECT n FROM ledger"), standby.ask("SELECT n FROM ledger")) == ([], [2])


async def test_a_server_that_turned_read_only_is_left(own: Instance, proxy: Proxy, open_database: Open) -> None:
    """A write that meets a standby empties the pool: the connections, idle and used, are all to the wrong server."""
    database = open_database(at(proxy.port), pool_size=3)
    async with busy(own, database):
        await database.fetch("SET default_transaction_read_only = on")
        assert await kind(database.fetch("CREATE TABLE never (n int)")) == "read only"
    assert database.stats() == {"used": 0, "idle": 0, "max": 3}
    assert await database.fetch("SHOW transaction_read_only") == [("off",)]


async def test_the_log_has_the_drivers_words_once(
    closed_port: int, own: Instance, open_database: Open, lines: structlog.testing.LogCapture
) -> None:
    """A host's failure is a line when it begins, and one when it ends; no password is in it."""
    database = open_database(at(closed_port))
    for _ in range(3):
        assert await kind(database.fetch("SELECT 1")) == "connection refused"
    [line] = lines.entries
    assert line["port"] == str(closed_port)
    assert "Connection refused" in line["reason"]
    async with Proxy(own.socket, closed_port):
        await database.fetch("SELECT 1")
        assert [entry["event"] for entry in lines.entries] == ["[DB] No connection", "[DB] Server answers again"]
    assert "hunter2" not in str(lines.entries)
