"""Debian's nginx with deploy/nginx.conf, on ports of 127.0.0.1 in front of a stand-in for the API."""

import http.client
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.support.debian import program
from tests.support.instance import eventually, free_ports
from tests.support.process import ROOT, Process
from tests.support.stand_in import StandIn, answered, ask, check_refused, connection, opened, reply_to, stand_in
from tests.support.tls import certificate

CONFIGURATION = ROOT / "deploy" / "nginx.conf"
PAGE, TOTAL, DELIVERY = "/api/tickets/story-1/donations", "/api/tickets/story-1/donations/total", "/webhooks/stripe"
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@dataclass(frozen=True)
class Nginx:
    """The file for a test, and where it listens."""

    file: Path
    https_port: int
    http_port: int

    def command(self, *words: str) -> list[str]:
        """nginx with this file."""
        return [program("nginx", "nginx"), "-e", "stderr", "-c", str(self.file), *words]


@pytest.fixture
def api() -> Iterator[StandIn]:
    with stand_in() as api:
        yield api


@pytest.fixture
def nginx(api: StandIn, tmp_path: Path) -> Nginx:
    """The file as a site would change it: addresses, certificate, and folders that the test's user can write."""
    program("nginx", "nginx")
    https_port, http_port = free_ports(2)
    both = certificate(tmp_path)
    folders = "".join(f"    {name}_temp_path {tmp_path}/{name};\n" for name in TEMPORARY)
    changes = {
        "listen 443 ssl": f"listen 127.0.0.1:{https_port} ssl",
        "listen 80": f"listen 127.0.0.1:{http_port}",
        "127.0.0.1:3003": f"127.0.0.1:{api.port}",
        "/etc/nginx/donationd/fullchain.pem": str(both),
        "/etc/nginx/donationd/privkey.pem": str(both),
        "/run/nginx.pid": f"{tmp_path}/nginx.pid",
        "http {\n": "http {\n" + folders,
        # Only root can change to another user.
        "user www-data;\n": "user www-data;\n" if os.geteuid() == 0 else "",
    }
    text = CONFIGURATION.read_text()
    for shipped, ours in changes.items():
        assert shipped in text
        text = text.replace(shipped, ours)
    file = tmp_path / "nginx.conf"
    file.write_text(text)
    return Nginx(file, https_port, http_port)


@pytest.fixture
def proxy(nginx: Nginx, tmp_path: Path) -> Iterator[Nginx]:
    """nginx, serving."""
    log = tmp_path / "nginx.log"
    with Process(nginx.command("-g", "daemon off;"), log):
        eventually(lambda: serves(nginx), "nginx serves")
        yield nginx


def serves(nginx: Nginx) -> bool:
    try:
        return ask(nginx.https_port, "/health/live", address="127.0.0.99").status == 200
    except OSError:
        return False


def test_nginx_accepts_the_file(nginx: Nginx) -> None:
    """`nginx -t` finds no fault and nothing to warn of."""
    tested = subprocess.run(nginx.command("-t"), capture_output=True, text=True, check=False)
    assert (tested.returncode, re.findall(r"\[\w+\].*", tested.stderr)) == (0, [])


def test_requests_arrive_with_the_address_that_nginx_saw(proxy: Nginx) -> None:
    """Deliveries and reads pass; what a client states about its address does not."""
    forged = {"X-Forwarded-For": "203.0.113.9", "X-Real-IP": "203.0.113.9", "Forwarded": "for=203.0.113.9"}
    for method, path in (
        ("POST", DELIVERY),
        ("POST", f"{DELIVERY}/"),
        ("GET", PAGE),
        ("GET", TOTAL),
        ("GET", "/nothing"),
    ):
        got = ask(proxy.https_port, path, method=method, address="127.0.0.7", headers=forged).json
        assert (got["x-forwarded-for"], got["x-forwarded-proto"]) == ("127.0.0.7", "https")
        assert "203.0.113.9" not in str(got)


def test_http_leads_to_https(proxy: Nginx) -> None:
    """Without TLS a request is redirected."""
    with closing(http.client.HTTPConnection("127.0.0.1", proxy.http_port, timeout=10)) as client:
        reply = reply_to(client, "/health")
    assert reply.status == 301
    assert reply.headers["location"].startswith("https://")


def test_a_body_over_1_mib(proxy: Nginx) -> None:
    """It is 413; one of 1 MiB passes."""
    assert ask(proxy.https_port, DELIVERY, method="POST", body=b" " * (1024 * 1024)).status == 200
    refused = ask(proxy.https_port, DELIVERY, method="POST", body=b" " * (1024 * 1024 + 1))
    assert (refused.status, refused.json["message"]) == (413, "a body may have 1 MiB")


def test_incomplete_requests_do_not_reach_the_api(proxy: Nginx, api: StandIn) -> None:
    """The API receives nothing of half a head and half a body, but the requests that come after them."""
    head = b"POST /webhooks/stripe HTTP/1.1\r\nHost: a\r\nContent-Length: 3000\r\n"
    api.requests.clear()
    with (
        closing(opened(proxy.https_port, head)),
        closing(opened(proxy.https_port, head + b"\r\n" + b" " * 2000)),
    ):
        assert ask(proxy.https_port, TOTAL).status == 200
        assert [path for _method, path, _headers in api.requests] == [TOTAL]


def test_a_kind_that_has_no_free_place_delays_no_other(proxy: Nginx, api: StandIn) -> None:
    """When all places of pages are taken, one more is refused at once as the API refuses; others are served."""
    release = threading.Event()

    def held(handler: BaseHTTPRequestHandler) -> None:
        release.wait()
        answered(handler)

    api.answers[PAGE] = held
    api.requests.clear()
    addresses = [f"127.0.0.{10 + number // 4}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        pages = [pool.submit(ask, proxy.https_port, PAGE, address=address) for address in addresses]
        try:
            eventually(lambda: len(api.requests) == 8, "each place is taken")
            refused = ask(proxy.https_port, PAGE)
            served = [ask(proxy.https_port, path) for path in (DELIVERY, TOTAL, "/health/db")]
        finally:
            release.set()
        assert [page.result().status for page in pages] == [200] * 8
    assert [reply.status for reply in served] == [200] * 3
    check_refused(refused, 503)


@pytest.mark.parametrize(("path", "burst"), [(TOTAL, 200), ("/health/db", 30)])
def test_requests_of_one_address_are_limited(proxy: Nginx, path: str, burst: int) -> None:
    """Beyond the burst an address is answered 429; its deliveries, and other addresses, are served."""
    with closing(connection(proxy.https_port)) as client:
        replies = [reply_to(client, path) for _ in range(burst)]
        refused = next(reply for _ in range(2000) if (reply := reply_to(client, path)).status != 200)
    assert {reply.status for reply in replies} == {200}
    check_refused(refused, 429)
    assert ask(proxy.https_port, DELIVERY, method="POST").status == 200
    assert ask(proxy.https_port, path, address="127.0.0.2").status == 200
