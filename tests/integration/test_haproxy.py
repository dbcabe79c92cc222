"""Debian's HAProxy with deploy/haproxy.cfg: what it passes on, what it refuses, and what never reaches the API."""

import http.client
import re
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from daemon.simulator import sender
from tests.bench import fill
from tests.bench.deliveries import watch
from tests.bench.flood import BODY_LIMIT, KINDS, Flood, flooding
from tests.bench.haproxy import CONFIGURATION, Proxy, haproxy
from tests.bench.machine import API, SECRET, Site, query, site, stored
from tests.bench.stream import Pool, Stream
from tests.support.debian import program
from tests.support.guard import base_environ
from tests.support.instance import eventually, get
from tests.support.postgres import Server
from tests.support.stand_in import (
    StandIn,
    answered,
    ask,
    check_refused,
    connection,
    opened,
    received,
    reply_to,
    stand_in,
)
from tests.support.tls import certificate

TICKET = "ticket_large"
PER_S, FLOOD_S = 80, 0.75  # at four times Stripe's rate a quarter of the time shows as much
CLIENTS, ADDRESSES = 150, 38  # more than there are places
# HAProxy's `timeout http-request` and `timeout client`.
TIMEOUT_S = 10.0
SLACK_S = 30.0  # a busy machine
PAGE, TOTAL = f"/api/tickets/{TICKET}/donations", f"/api/tickets/{TICKET}/donations/total"
DELIVERY = "/webhooks/stripe"


def figure(proxy: Proxy, name: str) -> dict[str, int]:
    """What HAProxy itself counts, by frontend or backend, without zeros."""
    with closing(http.client.HTTPConnection("127.0.0.1", proxy.metrics_port)) as client:
        figures = reply_to(client, "/metrics").body.decode()
    found = re.findall(rf'^haproxy_{name}{{proxy="(\w+)"}} (\d+)', figures, re.MULTILINE)
    return {proxy: int(count) for proxy, count in found if count != "0"}


# In front of a stand-in for the API, which shows what reaches it.


@pytest.fixture
def api() -> Iterator[StandIn]:
    with stand_in() as api:
        yield api


@pytest.fixture
def changes() -> dict[str, str]:
    """What is changed in the file for a test."""
    return {}


@pytest.fixture
def proxy(api: StandIn, tmp_path: Path, changes: dict[str, str]) -> Iterator[Proxy]:
    program("haproxy", "haproxy")
    with haproxy(api.port, tmp_path, changes) as proxy:
        yield proxy


def test_the_file_needs_a_certificate_and_nothing_else(tmp_path: Path) -> None:
    """With the defaults of the file HAProxy finds no fault and nothing to warn of."""
    command = [program("haproxy", "haproxy"), "-c", "-f", str(CONFIGURATION)]
    environ = base_environ() | {"PROXY_CERTIFICATE": str(certificate(tmp_path))}
    checked = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_each_kind_of_request_has_a_backend(proxy: Proxy) -> None:
    """A request counts for the backend of its kind, and so for its limit."""
    expected = Counter[str]()
    for method, path, backend in (
        ("POST", "/webhooks/stripe", "deliveries"),
        ("POST", "/webhooks/stripe/", "deliveries"),
        ("GET", "/webhooks/stripe", "others"),
        ("GET", "/health/db", "health"),
        ("GET", "/api/tickets/story-1/donations?limit=1000", "pages"),
        ("GET", "/api/tickets/story-1/donations/total", "totals"),
        ("POST", "/api/tickets/story-1/checkout", "checkouts"),
        ("GET", "/api/tickets/story-1/checkout", "others"),
        ("POST", "/tickets/story-1/give", "checkouts"),
        ("GET", "/tickets/story-1/badge.svg", "public_pages"),
        ("POST", "/consent/pi_1/signature", "others"),
        ("GET", "/nothing", "others"),
    ):
        assert ask(proxy.https_port, path, method=method).status == 200
        expected[backend] += 1
        await_backends(proxy, expected)


def test_a_body_that_is_not_complete_takes_no_place_of_others(proxy: Proxy) -> None:
    """A delivery larger than HAProxy's buffer, or without a length, has a backend of its own with few places."""
    expected = Counter[str]()
    for body, chunked, backend in (
        (b"a" * 20_000, False, "deliveries"),
        (b"a" * 100_000, False, "large_deliveries"),
        (b"a", True, "large_deliveries"),
    ):
        with closing(connection(proxy.https_port)) as client:
            client.request("POST", DELIVERY, iter([body]) if chunked else body)  # without a length: in chunks
            assert client.getresponse().status == 200
        expected[backend] += 1
        await_backends(proxy, expected)


def await_backends(proxy: Proxy, expected: Counter[str]) -> None:
    """Returns when each backend has counted so many requests."""
    eventually(lambda: figure(proxy, "backend_http_requests_total") == expected, "the backend has counted it")


def test_what_a_client_says_of_its_address_does_not_arrive(proxy: Proxy) -> None:
    """The API gets the address and scheme that HAProxy saw, once, and nothing of the client's own."""
    forged = {
        "X-Forwarded-For": "203.0.113.9",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "forged.example",
        "X-Real-IP": "203.0.113.9",
        "Forwarded": "for=203.0.113.9",
    }
    got = ask(proxy.https_port, TOTAL, address="127.0.0.7", headers=forged).json
    assert (got["x-forwarded-for"], got["x-forwarded-proto"]) == ("127.0.0.7", "https")
    assert "203.0.113.9" not in str(got)
    assert "forged.example" not in str(got)


def test_http_leads_to_https(proxy: Proxy, api: StandIn) -> None:
    """Without TLS a GET is redirected, everything else is refused, and nothing reaches the API."""
    with closing(http.client.HTTPConnection("127.0.0.1", proxy.http_port, timeout=10)) as client:
        redirected = reply_to(client, "/health")
        refused = reply_to(client, DELIVERY, method="POST", body=b"{}")
    assert redirected.status == 301
    assert redirected.headers["location"].startswith("https://")
    assert (refused.status, refused.json["message"]) == (403, "use https")
    assert api.requests == []


@pytest.mark.parametrize("length", [BODY_LIMIT + 1, 10**15])
def test_a_body_that_is_announced_as_too_large(proxy: Proxy, api: StandIn, length: int) -> None:
    """It is refused with 413 and never reaches the API; a body of 1 MiB does."""
    head = f"POST {DELIVERY} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n".encode()
    with closing(opened(proxy.https_port, head + b" " * 40_000)) as client:
        assert b" 413 " in received(client).partition(b"\r\n")[0]
    assert api.requests == []
    assert ask(proxy.https_port, DELIVERY, method="POST", body=b" " * BODY_LIMIT).status == 200


def test_slow_clients_end_at_the_proxy(proxy: Proxy, api: StandIn) -> None:
    """A hundred heads and a hundred bodies that never become complete are answered 408 in time, a client that does not
    read its reply is disconnected, and only that client's request ever reaches the API.
    """
    api.answers["/long"] = lambda handler: answered(handler, body=b" " * 20_000_000)
    head = b"POST /webhooks/stripe HTTP/1.1\r\nHost: a\r\nContent-Length: 3000\r\n"
    with ExitStack() as stack, ThreadPoolExecutor(16) as pool:
        requests = [head] * 100 + [head + b"\r\n" + b" " * 1000] * 100
        clients = [
            stack.enter_context(closing(client)) for client in pool.map(lambda r: opened(proxy.https_port, r), requests)
        ]
        reader = stack.enter_context(closing(opened(proxy.https_port, b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n", 4096)))
        began_s = time.monotonic()
        replies = [received(client) for client in clients]
        took_s = time.monotonic() - began_s
        assert {reply.partition(b"\r\n")[0].split()[1] for reply in replies} == {b"408"}
        assert took_s < TIMEOUT_S + SLACK_S
        eventually(lambda: "https" not in figure(proxy, "frontend_current_sessions"), "all are disconnected")
        assert len(received(reader)) < 20_000_000
    assert [path for _method, path, _headers in api.requests] == ["/long"]


def test_a_kind_that_has_no_free_place_delays_no_other(proxy: Proxy, api: StandIn) -> None:
    """When all places of pages are taken, one more waits for a second and is refused as the API refuses; a delivery, a
    total and a health check are served meanwhile.
    """
    release = threading.Event()

    def held(handler: BaseHTTPRequestHandler) -> None:
        release.wait()
        answered(handler)

    api.answers[PAGE] = held
    addresses = [f"127.0.0.{10 + number // 4}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        pages = [pool.submit(ask, proxy.https_port, PAGE, address=address) for address in addresses]
        try:
            eventually(lambda: len(api.requests) == 8, "each place is taken")
            began_s = time.monotonic()
            refused = ask(proxy.https_port, PAGE)
            took_s = time.monotonic() - began_s
            served = [
                ask(proxy.https_port, DELIVERY, method="POST"),
                ask(proxy.https_port, TOTAL),
                ask(proxy.https_port, "/health/db"),
            ]
        finally:
            release.set()
        assert [page.result().status for page in pages] == [200] * 8
    assert [reply.status for reply in served] == [200] * 3
    check_refused(refused, 503)
    assert 0.9 < took_s < 1 + SLACK_S


def served_before_a_refusal(
    client: http.client.HTTPConnection, path: str, method: str = "GET", *, status: int = 200
) -> int:
    """How many requests are answered with this status, one after the other, before one is answered 429."""
    for served in range(1000):
        reply = reply_to(client, path, method=method)
        if reply.status != status:
            check_refused(reply, 429)
            return served
    raise AssertionError("no request is refused")


def test_requests_of_one_address_are_limited(proxy: Proxy) -> None:
    """Beyond 200 in ten seconds an address is answered 429; its deliveries, and other addresses, are served."""
    with closing(connection(proxy.https_port)) as client:
        assert served_before_a_refusal(client, TOTAL) >= 200
    assert ask(proxy.https_port, DELIVERY, method="POST").status == 200
    assert ask(proxy.https_port, TOTAL, address="127.0.0.2").status == 200


def test_health_checks_of_one_address_are_limited(proxy: Proxy) -> None:
    """Beyond 30 in ten seconds they are answered 429; those of other addresses are served."""
    with closing(connection(proxy.https_port)) as client:
        assert served_before_a_refusal(client, "/health/db") >= 30
    assert ask(proxy.https_port, "/health/db", address="127.0.0.2").status == 200


def test_unsigned_deliveries_of_one_address_are_limited(proxy: Proxy, api: StandIn) -> None:
    """An address whose deliveries were answered 400 some ten times in ten seconds is answered 429; another one's
    deliveries are served.
    """
    api.answers[DELIVERY] = lambda handler: answered(handler, 400)
    with closing(connection(proxy.https_port)) as client:
        assert served_before_a_refusal(client, DELIVERY, "POST", status=400) >= 10
    del api.answers[DELIVERY]
    assert ask(proxy.https_port, DELIVERY, method="POST", address="127.0.0.2").status == 200


@pytest.mark.parametrize("changes", [{"timeout queue 1s": "timeout queue 60s"}], ids=["a long queue"])
def test_senders_of_unsigned_deliveries_wait_behind_all_others(proxy: Proxy, api: StandIn) -> None:
    """When all places of deliveries are taken, the next free one is for an address that sent nothing unsigned, although
    another one waits for longer.
    """
    api.answers[DELIVERY] = lambda handler: answered(handler, 400)
    assert ask(proxy.https_port, DELIVERY, method="POST", address="127.0.0.66").status == 400
    places = threading.Semaphore(0)

    def held(handler: BaseHTTPRequestHandler) -> None:
        places.acquire()
        answered(handler)

    api.answers[DELIVERY] = held
    api.requests.clear()
    with ExitStack() as stack:
        stack.callback(places.release, 100)
        for address, count in (("127.0.0.1", 64), ("127.0.0.66", 5), ("127.0.0.2", 1)):
            for _ in range(count):
                client = stack.enter_context(closing(connection(proxy.https_port, address)))
                client.request("POST", DELIVERY)
            if count == 64:
                eventually(lambda: len(api.requests) == 64, "all places are taken")
        eventually(lambda: figure(proxy, "backend_current_queue") == {"deliveries": 6}, "six wait")
        places.release()
        eventually(lambda: len(api.requests) == 65, "one of them is served")
        assert api.requests[64][2]["x-forwarded-for"] == "127.0.0.2"


def test_deliveries_that_cannot_be_applied_are_not_limited(proxy: Proxy, api: StandIn) -> None:
    """422 is the answer to an event that Stripe signed: a hundred of them change nothing."""
    api.answers[DELIVERY] = lambda handler: answered(handler, 422)
    with closing(connection(proxy.https_port)) as client:
        assert {reply_to(client, DELIVERY, method="POST").status for _ in range(100)} == {422}


def test_wrong_operator_tokens_of_one_address_are_limited(proxy: Proxy, api: StandIn) -> None:
    """After six answers of 401 in a minute an address is answered 429, so that it cannot use up what the API allows the
    proxy's address; other addresses are served.
    """
    api.answers[PAGE] = lambda handler: answered(handler, 401)
    with closing(connection(proxy.https_port)) as client:
        assert 6 <= served_before_a_refusal(client, PAGE, status=401) < 10
    assert ask(proxy.https_port, PAGE, address="127.0.0.2").status == 401


def test_connections_of_one_address_are_limited(proxy: Proxy) -> None:
    """Beyond 300 at once they are closed before TLS; another address is served."""
    with ExitStack() as stack:
        for _ in range(310):
            stack.enter_context(closing(socket.create_connection(("127.0.0.1", proxy.https_port))))
        eventually(lambda: figure(proxy, "frontend_denied_connections_total") == {"https": 10}, "ten are refused")
        assert figure(proxy, "frontend_current_sessions")["https"] == 300
        with pytest.raises(OSError, match=r"reset|EOF|abort|closed"):
            ask(proxy.https_port, TOTAL)
        assert ask(proxy.https_port, TOTAL, address="127.0.0.2").status == 200


def test_a_delivery_is_tried_again_and_other_posts_are_not(proxy: Proxy, api: StandIn) -> None:
    """When the API ends a connection without a reply, a delivery is sent again, because its id is recognized; any other
    POST may have been done, and is answered 502.
    """
    ended = set[str]()

    def ends_once(handler: BaseHTTPRequestHandler) -> None:
        if handler.path in ended:
            answered(handler)
            return
        ended.add(handler.path)
        handler.close_connection = True

    api.answers |= {DELIVERY: ends_once, "/api/other": ends_once}
    assert ask(proxy.https_port, DELIVERY, method="POST", body=b"{}").status == 200
    other = ask(proxy.https_port, "/api/other", method="POST", body=b"{}")
    assert (other.status, other.json["retryAfter"]) == (502, 30)
    assert [path for _method, path, _headers in api.requests] == [DELIVERY, DELIVERY, "/api/other"]


def test_an_api_that_is_not_ready_gets_no_work(proxy: Proxy, api: StandIn) -> None:
    """While /health/db is 503 HAProxy answers 503 by itself, health checks reach the API, and work returns with 200."""
    unready = answered_503(api)
    eventually(lambda: ask(proxy.https_port, TOTAL).status == 503, "HAProxy knows")
    before = len(api.requests)
    check_refused(ask(proxy.https_port, DELIVERY, method="POST"), 503)
    assert len(api.requests) == before
    assert ask(proxy.https_port, "/health/live", address="127.0.0.2").status == 200
    api.answers.pop(unready)
    eventually(lambda: ask(proxy.https_port, DELIVERY, method="POST").status == 200, "HAProxy knows that it is ready")


def answered_503(api: StandIn) -> str:
    path = "/health/db"
    api.answers[path] = lambda handler: answered(handler, 503)
    return path


def test_no_api_at_all(tmp_path: Path) -> None:
    """A port that refuses is a 503 that says when to come again."""
    program("haproxy", "haproxy")
    with closing(socket.create_server(("127.0.0.1", 0))) as refusing:
        port = refusing.getsockname()[1]
    with haproxy(port, tmp_path) as proxy:
        check_refused(ask(proxy.https_port, DELIVERY, method="POST"), 503)


# In front of a real API process with its sidecar and PostgreSQL.


@dataclass
class ServedApi:
    """The API, and events that it has not had yet."""

    api: Site
    stream: Stream = field(default_factory=lambda: Stream(Pool(payments=200), [TICKET]))


@pytest.fixture(scope="module")
def served(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedApi]:
    folder = tmp_path_factory.mktemp("haproxy")
    with ExitStack() as stack:
        database = stack.enter_context(stored(server, "haproxy", folder))
        query(database.url, "INSERT INTO recording_tickets (id, currency) VALUES (%s, 'USD')", [TICKET])
        served = ServedApi(stack.enter_context(site(API, database, folder)))
        fill.record(database, served.stream.take(4000))
        yield served


@pytest.fixture
def front(served: ServedApi, tmp_path: Path) -> Iterator[Proxy]:
    """HAProxy in front of it, which has not seen any client yet."""
    program("haproxy", "haproxy")
    with haproxy(served.api.port, tmp_path) as proxy:
        yield proxy


def test_a_signed_delivery_is_taken_through_tls(served: ServedApi, front: Proxy) -> None:
    """It is 200, and a second time too, as a duplicate; one that is not signed is 400."""
    [body] = served.stream.take(1)
    signed = {"Stripe-Signature": sender.sign(body, SECRET, int(time.time()))}
    replies = [ask(front.https_port, DELIVERY, method="POST", body=body, headers=signed) for _ in range(2)]
    assert [(reply.status, reply.json["idempotent"]) for reply in replies] == [(200, False), (200, True)]
    assert ask(front.https_port, DELIVERY, method="POST", body=body).status == 400


@pytest.mark.parametrize("kind", KINDS)
def test_signed_deliveries_beside_a_flood(served: ServedApi, front: Proxy, kind: str) -> None:
    """Whatever 150 clients from 38 addresses do, 99 of 100 signed deliveries are answered 200, and so are
    health checks. Times are measured by `make overload`: here other tests may have the processors.
    """
    flood = Flood(kind, front.https_port, True, TICKET, clients=CLIENTS, addresses=ADDRESSES, seconds=FLOOD_S)
    with flooding(flood) as running:
        seen = watch(f"https://127.0.0.1:{front.https_port}", served.stream.take(int(PER_S * FLOOD_S)), per_s=PER_S)
        flooded = running.result()
    assert seen.deliveries.share_ok >= 0.99
    assert seen.health.share_ok >= 0.9  # of health checks there is a limit for all addresses together
    # Of the slow kinds, which the proxy ends later, no more is known than that all clients came.
    assert flooded.ended_without_reply or flooded.replies or kind.startswith("slow-")
    assert get(f"{served.api.url}/health/db")[0] == 200
