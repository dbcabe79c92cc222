"""Requests that are not HTTP, and bodies, headers and paths that no ordinary client sends."""

from collections.abc import Callable

from tests.support.raw_requests import CHUNKED, GET, TICKET, event, signed

NO_HTTP = {
    "a chunk without a size": signed(b"", CHUNKED, length=False) + b"\r\ncanary\r\n0\r\n\r\n",
    "a size that is no number": signed(b"", CHUNKED, length=False) + b"zz\r\ncanary\r\n0\r\n\r\n",
    "a size of thirty digits": signed(b"", CHUNKED, length=False) + b"f" * 30 + b"\r\ncanary\r\n",
    "a negative size": signed(b"", CHUNKED, length=False) + b"-6\r\ncanary\r\n0\r\n\r\n",
    "a chunk longer than its size": signed(b"", CHUNKED, length=False) + b"3\r\ncanary\r\n0\r\n\r\n",
    "two lengths": signed(b"", "Content-Length: 1", "Content-Length: 2", length=False) + b"canary",
    "two lengths in one": signed(b"", "Content-Length: 1, 2", length=False) + b"canary",
    "a length and chunks": signed(b"canary", CHUNKED) + b"6\r\ncanary\r\n0\r\n\r\n",
    "a negative length": signed(b"", "Content-Length: -1", length=False) + b"canary",
    "a length with a plus": signed(b"", "Content-Length: +6", length=False) + b"canary",
    "a length of thirty digits": signed(b"", f"Content-Length: {'9' * 30}", length=False) + b"canary",
    "an unknown transfer coding": signed(b"", "Transfer-Encoding: canary", length=False) + b"canary",
    "a long line": b"GET /" + b"canary" * 2000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "a long header": signed(b"", "X: " + "canary" * 2000),
    "a thousand headers": signed(b"", *(f"X-{number}: canary" for number in range(1000))),
    "NUL in a header": signed(b"", "X: can\0ary"),
    "a folded header": signed(b"", "X: a\r\n canary"),
    "a space before the colon": signed(b"", "X : canary"),
    "an unknown version": b"GET /health/live HTTP/9.9\r\nHost: a\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03canary\r\n\r\n",
}


def nested(depth: int) -> bytes:
    return event()[:-1] + b', "deep": ' + b"[" * depth + b"]" * depth + b"}"


def doubled() -> bytes:
    return event()[:-1] + b', "type": "customer.updated", "id": "evt_doubled"}'


HANDLED = {"type": "charge.succeeded"}
BODIES: dict[str, tuple[Callable[[], bytes], set[int]]] = {
    "empty": (lambda: b"", {400}),
    "not JSON": (lambda: b"canary", {400}),
    "half of it": (lambda: event()[:-9], {400}),
    "two of them": (lambda: event() + event(), {400}),
    "a list": (lambda: b"[%b]" % event(), {400}),
    "null": (lambda: b"null", {400}),
    "invalid UTF-8": (lambda: event(canary="é").replace(b"\\u00e9", b"\xff"), {200, 400}),
    "invalid UTF-8 in what counts": (lambda: event(id="é").replace(b"\\u00e9", b"\xff"), {400}),
    "half a surrogate in the id": (lambda: event(id="evt_\ud800"), {400}),
    "NUL in the id": (lambda: event(id="evt_\0canary"), {400, 422}),
    "NUL in the type": (lambda: event(type="a\0canary"), {200, 400, 422}),
    "raw NUL": (lambda: event().replace(b"evt_", b"evt\0"), {400}),
    "a byte order mark": (lambda: b"\xef\xbb\xbf" + event(), {200, 400}),
    "UTF-16": (lambda: event().decode().encode("utf-16"), {400}),
    "a hundred levels": (lambda: nested(100), {200}),
    "a hundred thousand levels": (lambda: nested(100_000), {200, 400}),
    "a second of a thousand digits": (lambda: event(created=int("9" * 1000)), {400}),
    "a second beyond time": (lambda: event(created=10**18), {200, 400, 422}),
    "a negative second": (lambda: event(created=-(10**18)), {200, 400, 422}),
    "a fraction of a thousand digits": (lambda: event().replace(b"1760000000", b"0." + b"1" * 1000), {400}),
    "1e999": (lambda: event().replace(b"1760000000", b"1e999"), {400}),
    "NaN": (lambda: event(created=float("nan")), {400}),
    "a long id": (lambda: event(id="evt_" + "a" * 900_000), {200, 400, 422}),
    "duplicate keys": (doubled, {200, 400}),
    "an object of nothing": (lambda: event(**HANDLED), {200, 422}),
    "an amount of a thousand digits": (
        lambda: event(**HANDLED, data={"object": {"id": "ch_3", "object": "charge", "amount": int("9" * 1000)}}),
        {422},
    ),
    "an amount beyond the database's": (
        lambda: event(**HANDLED, data={"object": {"id": "ch_3", "object": "charge", "amount": 2**70}}),
        {422},
    ),
    "NUL in a charge's id": (
        lambda: event(**HANDLED, data={"object": {"id": "ch_\0canary", "object": "charge", "amount": 1}}),
        {422},
    ),
    "half a surrogate in a name": (
        lambda: event(
            **HANDLED, data={"object": {"id": "ch_3", "object": "charge", "billing_details": {"name": "canary \udc00"}}}
        ),
        {200, 400, 422},
    ),
}

# Of a delivery that is not as Stripe's; the last one asks for another protocol.
HEADERS = [
    "Content-Type: application/json; charset=utf-8",
    "Content-Type: text/plain",
    "Content-Type: multipart/form-data; boundary=canary",
    "Content-Type: application/json; charset=canary",
    "Content-Type: canary",
    "Content-Encoding: identity",
    "Content-Encoding: canary",
    "Content-Encoding: gzip",
    "Content-Encoding: br",
    "Content-Encoding: zstd",
    "Accept: canary",
    "Accept-Encoding: canary",
    "Upgrade: websocket\r\nConnection: Upgrade",
]

# Each is answered with 400 or 404.
PATHS = [
    f"/api/tickets/{TICKET}/donations?limit={'9' * 5000}",
    f"/api/tickets/{TICKET}/donations?cursor=canary",
    f"/api/tickets/{TICKET}/donations?cursor=%00%ff",
    f"/api/tickets/{TICKET}/donations?status=canary",
    f"/api/tickets/{TICKET}/donations/total?currency=%00%00%00",
    "/api/tickets/%00/donations",
    "/api/tickets/%ff%fe/donations/total",
    f"/api/tickets/{'a' * 5000}/donations",
    "/api/tickets/..%2f..%2fcanary/donations",
    "/canary%00",
    "//canary",
    "/%ff",
]
METHODS = (b"HEAD", b"PUT", b"TRACE", b"CONNECT", b"canary")
REPLIES = [
    (GET % b"/health/live", 200),
    (GET % b"/nowhere", 404),
    (GET.replace(b"GET", b"PUT") % b"/health/live", 405),
    (GET.replace(b"GET", b"G\xc3\xa9T") % b"/health/live", 400),
    (b"canary / HTTP/1.1\r\n\r\n", 400),
    (GET.replace(b"1.1", b"9.9") % b"/health/live", 400),
    (GET.replace(b"Host", b"H ost") % b"/health/live", 400),
    (GET.replace(b"\r\n\r\n", b"\r\nExpect: canary\r\n\r\n") % b"/health/live", 417),
    (GET.replace(b"\r\n\r\n", b"\r\nExpect: \xff\r\n\r\n") % b"/health/live", 417),
    (GET % b"/health/live".ljust(9000, b"a"), 400),
    (GET.replace(b"Host: a", b"X: " + b"a" * 9000) % b"/health/live", 400),
]
