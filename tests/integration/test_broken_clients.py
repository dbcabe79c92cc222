"""Slow, broken and hostile clients against real processes: an API process, its sidecar and PostgreSQL.

Each gets a correct status or a closed connection in bounded time; no other client's request suffers, and no memory
stays in use.
"""

import json
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress

import psycopg2
import pytest

from daemon.runtime.config import ConfigError
from daemon.runtime.http.errors import error_body
from daemon.runtime.http.limits import QUEUE_WAIT_S, reserve_descriptors
from health_sidecar.__main__ import LIMITS as SIDECAR
from tests.bench import fill
from tests.bench.machine import API, query, site, stored
from tests.bench.stream import Pool, Stream
from tests.support.instance import eventually
from tests.support.postgres import Server
from tests.support.raw_requests import (
    CHUNKED,
    GET,
    KEEP,
    TICKET,
    RunningApi,
    ask,
    ask_each,
    connect,
    deliver,
    dripping,
    event,
    is_open,
    rest,
    sidecar_port,
    signed,
    status,
)
from tests.support.strange_requests import BODIES, HEADERS, METHODS, NO_HTTP, PATHS, REPLIES

CONNECTIONS = 250
PLACES = 20
MEMORY_BYTES = 4 * 1024 * 1024
HEADER_S, BODY_S = 1.0, 2.0
WRITE_S = IDLE_S = 2.0
SLACK_S = 15.0  # a busy machine
SETTINGS = {
    "MAX_CONNECTIONS": str(CONNECTIONS),
    "WEBHOOK_PLACES": str(PLACES),
    "BODY_MEMORY_LIMIT": str(MEMORY_BYTES),
    "HEADER_TIMEOUT_MS": "1000",
    "BODY_TIMEOUT_MS": "2000",
    "WRITE_TIMEOUT_MS": "2000",
    "IDLE_TIMEOUT_MS": "2000",
    # No statement and no request is to take too long, however busy the machine is.
    "DB_STATEMENT_TIMEOUT_MS": "30000",
    "REQUEST_DEADLINE_MS": "40000",
}
GROWTH_MB = 8  # of a process: caches and the allocator's leftovers, not a hostile client's megabytes


# The lines that the log may have: what was refused, counted; and what became of an event that was signed.
EXPECTED = (
    *(
        "Rejected requests that are not HTTP",
        "Rejected requests that are not events",
        "More requests at the same time",
        "Connections were closed",
    ),
    *("Attribution updated", "already processed", "can't be applied", "more events"),
)


@pytest.fixture(scope="module")
def running(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    folder = tmp_path_factory.mktemp("clients")
    with ExitStack() as stack:
        database = stack.enter_context(stored(server, "clients", folder))
        query(database.url, "INSERT INTO recording_tickets (id, title) VALUES (%s, '')", [TICKET])
        fill.record(database, Stream(Pool(payments=100), [TICKET]).take(4000))
        started = stack.enter_context(site(API, database, folder, settings=SETTINGS))
        api = RunningApi(started, database, folder)
        for _ in range(20):
            assert status(deliver(api)) == 200
        eventually(lambda: "[Fraud]" in api.log, "the signals of the recorded events are logged")
        with ExitStack() as connections:  # so that what it needs at its limit is part of what it has before each test
            send(api, connections, CONNECTIONS, lambda: KEEP % b"/nowhere")
            assert status(ask(api, GET % b"/health/db")) == 200
        yield api


@pytest.fixture
def api(running: RunningApi) -> Iterator[RunningApi]:
    """The process before and after a test: as quick, as small and as quiet as ever."""
    before_mb, errors, logged = running.resident_mb, running.replies(500), len(running.log)
    descriptors = running.descriptors
    yield running
    assert status(ask(running, GET % b"/health/db")) == 200
    eventually(lambda: status(deliver(running)) == 200, "a delivery is taken")
    assert running.replies(500) == errors
    eventually(lambda: running.resident_mb < before_mb + GROWTH_MB, "the memory is free again")
    assert [line for line in running.log[logged:].splitlines() if not any(words in line for words in EXPECTED)] == []
    assert "canary" not in running.log[logged:]
    eventually(lambda: running.descriptors <= descriptors + 2, "every connection is closed")


def is_error(reply: bytes) -> bool:
    """Whether it has the form of an error (SPEC 5)."""
    content = json.loads(reply.partition(b"\r\n\r\n")[2])
    return bool(content == error_body(status(reply), content["message"]))


def test_slow_headers(api: RunningApi) -> None:
    """A head that drips in is ended with 408 after the header timeout."""
    began_s = time.monotonic()
    with closing(connect(api)) as client:
        head = b"GET /health/live HTTP/1.1\r\nX-Slow: " + b"a" * 100
        reply = dripping(client, head)
        assert HEADER_S <= time.monotonic() - began_s < HEADER_S + SLACK_S
        assert (status(reply), is_error(reply), b"\r\nConnection: close\r\n" in reply) == (408, True, True)


def test_a_connection_that_says_nothing(api: RunningApi) -> None:
    """It is closed after the header timeout."""
    with closing(connect(api)) as client:
        assert rest(client) == b""


def test_a_slow_body(api: RunningApi) -> None:
    """408 after the body timeout, and the connection ends."""
    body = event()
    with closing(connect(api)) as client:
        client.sendall(signed(body))
        began_s = time.monotonic()
        assert status(dripping(client, body)) == 408
        assert time.monotonic() - began_s < BODY_S + SLACK_S


def test_a_slow_chunked_body(api: RunningApi) -> None:
    """The same without a length."""
    with closing(connect(api)) as client:
        client.sendall(signed(event(), "Transfer-Encoding: chunked", length=False))
        assert status(dripping(client, b"1\r\na\r\n" * 100, 0.05)) == 408


def test_a_bad_chunk_after_good_ones(api: RunningApi) -> None:
    """aiohttp does not inform the handler that waits for the rest: it is rejected when the body's time is over."""
    with closing(connect(api)) as client:
        client.sendall(signed(b"", CHUNKED, length=False) + b"3\r\n{  \r\n")
        time.sleep(0.05)  # so that the head is being handled; no event reports when
        client.sendall(b"zz\r\ncanary\r\n")
        reply = rest(client)
        assert status(reply) in {400, 408}
        assert b"canary" not in reply


def test_a_client_that_leaves_within_its_body(api: RunningApi) -> None:
    """This is not a fault: no error is logged or counted."""
    body = event()
    for _ in range(10):
        with closing(connect(api)) as client:
            client.sendall(signed(body) + body[:10])
            time.sleep(0.02)  # so that the head is being handled; no event reports when
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset


def test_a_client_that_leaves_before_its_reply(api: RunningApi) -> None:
    """Its event is recorded all the same, once."""
    body = event()
    with closing(connect(api)) as client:
        client.sendall(signed(body) + body)
    eventually(lambda: b'"idempotent":true' in ask(api, signed(body) + body), "it is recorded")


def test_a_slow_reader(api: RunningApi) -> None:
    """A client that does not take the reply is cut off after the write timeout, whatever was asked in advance."""
    page = b"GET /api/tickets/%b/donations?limit=1000 HTTP/1.1\r\nHost: a\r\n\r\n" % TICKET.encode()
    with closing(connect(api, receive_bytes=4096)) as client:
        client.sendall(page * 30)
        eventually(lambda: is_open(api, client), "the connection is accepted")
        eventually(lambda: not is_open(api, client), "it is cut off", WRITE_S + SLACK_S)
        received = len(rest(client))
    whole = len(ask(api, page.replace(b"Host", b"Connection: close\r\nHost")))
    assert whole > 10_000
    assert received < 30 * whole


def test_an_idle_connection(api: RunningApi) -> None:
    """One that was served and says no more, as after a power cut at the other end, is closed in the end."""
    with closing(connect(api)) as client:
        began_s = time.monotonic()
        client.sendall(KEEP % b"/health/live")
        rest(client)
        assert IDLE_S <= time.monotonic() - began_s < IDLE_S + SLACK_S


IDLE = (b"", b"GET / HT", KEEP % b"/")  # what an idle connection has sent: nothing, a part, or a whole request


def test_too_many_idle_connections(api: RunningApi) -> None:
    """However many there are and whatever they began, an event and a health check are answered, and neither memory nor
    descriptors grow with them.
    """
    with ExitStack() as stack:
        for number in range(3 * CONNECTIONS):
            client = stack.enter_context(closing(connect(api)))
            client.sendall(IDLE[number % len(IDLE)])
            if number % CONNECTIONS == 0:
                assert status(ask(api, GET % b"/health/db")) == 200
        eventually(lambda: status(deliver(api)) == 200, "a delivery is taken")
        assert status(ask(api, GET % b"/health/db")) == 200
        eventually(lambda: api.descriptors < CONNECTIONS + 100, "the rest is closed")


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


def locked_ledger(api: RunningApi, stack: ExitStack) -> psycopg2.extensions.connection:
    """No event can be recorded until the connection's transaction ends."""
    lock = stack.enter_context(closing(psycopg2.connect(api.database.url)))
    lock.cursor().execute("LOCK TABLE stripe_events IN EXCLUSIVE MODE")
    return lock


def send(api: RunningApi, stack: ExitStack, count: int, request: Callable[[], bytes]) -> list[socket.socket]:
    """So many connections, each with a request."""
    clients = [stack.enter_context(closing(connect(api))) for _ in range(count)]
    for client in clients:
        client.sendall(request())
    return clients


def delivery() -> bytes:
    body = event()
    return signed(body) + body


def test_health_when_every_place_is_taken(api: RunningApi) -> None:
    """With as many deliveries in hand as there are places a further one is 503 after a moment, a health check is
    answered, and each event that was taken is acknowledged in the end.
    """
    with ExitStack() as stack:
        lock = locked_ledger(api, stack)
        clients = send(api, stack, PLACES, delivery)
        for path in (b"/health", b"/health/db", b"/health/live"):
            assert status(ask(api, GET % path)) == 200  # and by now all the events above are in hand
        began_s, refused = time.monotonic(), api.replies(503)
        reply = deliver(api)
        assert status(reply) == 503
        assert QUEUE_WAIT_S <= time.monotonic() - began_s < QUEUE_WAIT_S + SLACK_S
        assert b"Retry-After: 30" in reply
        assert status(ask(api, GET % b"/health")) == 200
        eventually(lambda: api.replies(503) > refused, "the refusal is counted")
        lock.rollback()
        assert {status(rest(client)) for client in clients} == {200}


def test_health_beside_waiting_deliveries_and_idle_monitors(api: RunningApi) -> None:
    """Neither deliveries that wait for a place nor monitors that keep their connections hold up a health check."""
    with ExitStack() as stack:
        lock = locked_ledger(api, stack)
        send(api, stack, PLACES, delivery)
        monitors = send(api, stack, PLACES, lambda: KEEP % b"/health/live")
        send(api, stack, 3 * PLACES, delivery)
        until_s = time.monotonic() + QUEUE_WAIT_S
        while time.monotonic() < until_s:
            assert status(ask(api, GET % b"/health/live")) == 200
            time.sleep(QUEUE_WAIT_S / 20)
        lock.rollback()
        assert {status(monitor.recv(65536)) for monitor in monitors} == {200}


def test_a_burst_of_deliveries(api: RunningApi) -> None:
    """Of more clients than there are places, each with one event, every one is taken: none waits for long."""
    with ExitStack() as stack:
        clients = send(api, stack, 3 * PLACES, delivery)
        assert {status(rest(client)) for client in clients} == {200}


def test_unsigned_bodies_take_no_place(api: RunningApi) -> None:
    """More slow bodies without a valid signature than there are places for deliveries hold up no signed one."""
    unsigned = b"POST /webhooks/stripe HTTP/1.1\r\nHost: a\r\nContent-Length: 3000\r\n\r\n{"
    with ExitStack() as stack:
        send(api, stack, 2 * PLACES, lambda: unsigned)
        assert status(deliver(api)) == 200  # without a place it would be 503


def test_more_bodies_than_memory(api: RunningApi) -> None:
    """The largest of the incomplete bodies make room with 503; the others keep their time, and a signed delivery is
    taken.
    """
    announced = 1024 * 1024
    count = MEMORY_BYTES // announced + 2
    with ExitStack() as stack:
        head = signed(b"", f"Content-Length: {announced}", length=False)
        clients = send(api, stack, count, lambda: head + b"x" * (announced - 1))
        assert status(deliver(api)) == 200
        replies = [rest(client) for client in clients]
        refused = [reply for reply in replies if status(reply) == 503]
        assert 2 <= len(refused) < count
        assert all(b"Retry-After: 30" in reply for reply in refused)
        assert {status(reply) for reply in replies} == {408, 503}


def test_bodies_sent_ahead(api: RunningApi) -> None:
    """A client that sends much more while its request is worked on gets that request's reply, and no further one."""
    body = event()
    ahead = signed(b"").replace(b"Content-Length: 0", b"Content-Length: 30000") + b"x" * 30000
    with ExitStack() as stack:
        lock = locked_ledger(api, stack)
        with closing(connect(api)) as client:
            client.sendall(signed(body).replace(b"close", b"keep-alive") + body)
            eventually(lambda: query(api.database.url, WAITING) == [(1,)], "it is being worked on")
            with suppress(ConnectionError):
                client.sendall(ahead * 10)
            lock.rollback()
            assert rest(client).count(b"HTTP/1.1 ") == 1


def test_pipelining(api: RunningApi) -> None:
    """Requests sent in advance are answered one after the other."""
    assert ask(api, KEEP % b"/health/live" * 200 + GET % b"/health/live").count(b"HTTP/1.1 200") == 201


def test_pipelined_deliveries(api: RunningApi) -> None:
    """Each is answered, in its order."""
    bodies = [event() for _ in range(20)]
    requests = [signed(body).replace(b"close", b"keep-alive") + body for body in bodies[:-1]]
    reply = ask(api, b"".join(requests) + signed(bodies[-1]) + bodies[-1])
    assert reply.count(b"HTTP/1.1 200") == 20


@pytest.mark.parametrize("chunked", [False, True])
def test_a_hundred_megabytes(api: RunningApi, chunked: bool) -> None:
    """413 after the first of them."""
    part = b"canary!!" * 8192
    head = signed(b"", "Transfer-Encoding: chunked" if chunked else "Content-Length: 104857600", length=False)
    frame = b"%x\r\n%b\r\n" % (len(part), part) if chunked else part
    before_mb = api.resident_mb
    with closing(connect(api)) as client:
        client.sendall(head)
        try:
            for _ in range(1600):
                client.sendall(frame)
        except ConnectionError:
            pass
        assert status(rest(client)) in {413, 0}
    eventually(lambda: api.resident_mb < before_mb + GROWTH_MB, "the memory is free again")
    with closing(connect(api)) as client:
        client.sendall(head + frame * 20)
        assert status(rest(client)) == 413


def test_what_is_no_http(api: RunningApi) -> None:
    """400 or the like, in the form of every error, and none of the client's words in it."""
    replies = ask_each(api, NO_HTTP.values())
    assert [what for what, reply in zip(NO_HTTP, replies, strict=True) if not is_error(reply)] == []
    found = {what: status(reply) for what, reply in zip(NO_HTTP, replies, strict=True)}
    assert {what: each for what, each in found.items() if not 400 <= each < 500} == {}
    assert not any(b"canary" in reply for reply in replies)


def test_expect_continue(api: RunningApi) -> None:
    """`100 Continue` comes before the body is sent, and then its reply."""
    body = event()
    with closing(connect(api)) as client:
        client.sendall(signed(body, "Expect: 100-continue"))
        assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        client.sendall(body)
        assert status(rest(client)) == 200


def test_an_unknown_expectation(api: RunningApi) -> None:
    """417, without the client's words."""
    reply = deliver(api, "Expect: canary")
    assert status(reply) == 417
    assert b"canary" not in reply


def test_strange_bodies(api: RunningApi) -> None:
    """Signed as they are, they are taken, refused or kept as failed, and their words are not repeated."""
    bodies = [make() for make, _statuses in BODIES.values()]
    replies = ask_each(api, [signed(body) + body for body in bodies])
    found = {what: status(reply) for what, reply in zip(BODIES, replies, strict=True)}
    assert {what: each for what, each in found.items() if each not in BODIES[what][1]} == {}
    assert not any(b"canary" in reply for reply in replies)


def test_a_wrong_type_or_encoding(api: RunningApi) -> None:
    """What counts is the signature over the bytes: they are never decoded by a header's word."""
    assert {header: status(deliver(api, header)) for header in HEADERS} == dict.fromkeys(HEADERS, 200)


def test_strange_questions(api: RunningApi) -> None:
    """400 or 404."""
    found = {path: status(ask(api, GET % path.encode())) for path in PATHS}
    assert {path: each for path, each in found.items() if each not in {400, 404}} == {}


def test_wrong_methods(api: RunningApi) -> None:
    """They are refused, and not repeated."""
    for method in METHODS:
        reply = ask(api, GET.replace(b"GET", method) % b"/webhooks/stripe")
        assert 400 <= status(reply) < 500, method
        assert b"canary" not in reply


def test_no_reply_names_a_version(api: RunningApi) -> None:
    """The `Server` header of API and sidecar names the program and not its version, also where aiohttp replies."""
    for port in (api.site.port, sidecar_port(api)):
        for request, expected in REPLIES:
            reply = ask(api, request, port)
            assert status(reply) == expected, request
            assert b"\r\nServer: donationd\r\n" in reply
            assert b"python" not in reply.lower()


def test_too_many_idle_connections_at_the_sidecar(running: RunningApi) -> None:
    """Its health checks are answered, too."""
    port = sidecar_port(running)
    with ExitStack() as stack:
        for number in range(3 * SIDECAR.connections):
            client = stack.enter_context(closing(connect(running, port=port)))
            client.sendall(IDLE[number % len(IDLE)])
            if number % SIDECAR.connections == 0:
                assert status(ask(running, GET % b"/health/live", port)) == 200
        for path in (b"/health", b"/health/db", b"/health/live"):
            assert status(ask(running, GET % path, port)) == 200


def test_too_many_connections_for_the_system() -> None:
    """It is said before anything starts, with the number that is needed."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        with pytest.raises(ConfigError, match=f"but {hard} are allowed"):
            reserve_descriptors(hard)


@pytest.fixture(autouse=True, scope="module")
def many_descriptors() -> Iterator[None]:
    """The clients' sockets are ours."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[1], 4096) if before[1] > 0 else 4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
