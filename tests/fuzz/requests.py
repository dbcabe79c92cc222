"""Pure: dice -> requests: the API's own, with anything odd in their places; signed events; and what is no HTTP."""

import base64
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import quote, urlencode

from daemon.ledger.stripe_events import CannotApply, NotAnEvent, read
from daemon.pages.console import PATH
from daemon.pages.console_pages import ACTIONS, PAGES
from daemon.simulator.sender import sign
from tests.fuzz import mutation
from tests.fuzz.seeds import TICKETS
from tests.fuzz.site import SECRET, operator_session

IDS = (
    *TICKETS,
    *TICKETS,
    "unknown",
    "",
    ".",
    "..",
    "a" * 64,
    "a" * 65,
    "a b",
    "a/b",
    "\x00",
    "\ud7ff",
    "é",
    "%00",
    "*",
)
PLACES = ("1760000000:1760000000:pi_1", "-1:0:cs_1", "-1:1760000000:\x00", "1:2", ":::", "9999999999999:1:a", "1:1:é")
VALUES: dict[str, tuple[str, ...]] = {
    "limit": ("1", "2", "100", "1000", "0", "1001", "-1", "+5", "05", "1e2", "٣", "²", "", "9" * 2000, "1_0", " 1"),
    "status": ("PAID", "REFUNDED", "DISPUTED", "EXPIRED", "FAILED", "CREATED", "paid", "", "PAID\x00", "'; --"),
    "currency": ("usd", "USD", "jpy", "kwd", "XXX", "us", "ßa", "ſſſ", "us\x00", "ﬀa", ""),
    "cursor": ("", "=", "====", "a", "%%", "é", "\x00", "A" * 2000, "MTo=", "-_-_"),
}
LONGEST = 1500  # bytes of a value; beyond a few kB a line is no HTTP for this server
ETAGS = ('"x"', "*", 'W/"x"', '"', "", '"a", "b"', '"' + "a" * 7000 + '"', ",,,", 'W/"')
METHODS = ("GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND")
OTHER_PATHS = (
    "/",
    "//",
    "/health",
    "/health/live",
    "/health/db",
    "/health/nothing",
    "/api",
    "/%",
    "/%zz",
    "/%00",
    "/..",
)
WEBHOOK = "/webhooks/stripe"
SESSION, FORM_TOKEN = operator_session()
OTHER_CONSOLE_PATHS = (
    *("/operator/", "/operator/sign-in", "/operator/sign-in/check", "/operator/chart.svg", "/operator/x"),
    "/operator/export.csv/manifest",
)
CONSOLE_PARAMETERS = (
    *("find", "status", "currency", "from", "to", "limit", "cursor", "all", "state", "by", "ticket", "period", "kind"),
    *("scheme", "next", "done", "tz", "x"),
)
FIELDS = (
    *(
        "story-1",
        "USD",
        "5",
        "99.50",
        "open",
        "true",
        "day",
        "2026",
        "2026-Q4",
        "9999-12-31",
        "0001-01-01",
        "2026-02-30",
    ),
    *(
        "",
        " ",
        "\x00",
        "\ud800",
        "\u202e",
        "'; --",
        "<script>",
        "{{ 7 * 7 }}",
        "1e999",
        "NaN",
        "-0",
        "9" * 30,
        "x" * 4000,
    ),
    *("/operator/tickets", "/operator/donations?limit=x", "/operator/donations/pi_1", "//x", "/operator?%ff", "a" * 64),
    *("issfr_1", "evt_1", "pi_1", "Mars/Phobos", "../../etc/passwd"),
)
ODD_HEADERS = (
    *(
        "Expect: 100-continue",
        "Expect: anything",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Connection: keep-alive",
    ),
    *("Content-Encoding: gzip", "Content-Encoding: deflate", "Content-Encoding: br", "Content-Encoding: zstd"),
    *(
        "Content-Type: text/plain; charset=nothing",
        "Content-Type: multipart/form-data",
        "Range: bytes=0-",
        "Cookie: ;;",
    ),
    *("Accept-Encoding: gzip", "If-None-Match: *", "Host:", "Host: [", "X-é: é", "Transfer-Encoding: chunked"),
    *(
        "Content-Length: 0",
        "Content-Length: 5",
        "Content-Length: 99999999999",
        "Content-Length: -1",
        "X: " + "x" * 9000,
    ),
    *("Sec-WebSocket-Key: x", "HTTP2-Settings: AAAA", "Stripe-Signature: t=1,v1=", "Transfer-Encoding: gzip, chunked"),
)
SPLICES = (
    *(
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\x00",
        b"\xff",
        b" ",
        b":",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"HTTP/2",
        b"GET / ",
        b"%00",
    ),
    *(header.encode() + b"\r\n" for header in ODD_HEADERS),
    *(b"0\r\n\r\n", b"5\r\nhello\r\n", b"ffffffffffffffff\r\n", b"5;a=b\r\nhello\r\n", b"-5\r\n", b"A" * 9000),
    *(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET http://[ HTTP/1.1\r\n",
    ),
)


@dataclass(frozen=True)
class Request:
    """A request, the statuses its reply may have (None: any below 500), whether that has no body or is a page's."""

    data: bytes
    statuses: frozenset[int] | None = None
    no_body: bool = False
    page: bool = False


def get(method: str, target: str, *headers: str) -> Request:
    """A request without a body. Its target is escaped as far as HTTP needs it."""
    line = f"{method} {quote(target, safe='/?&=%:;,*+.-_~!$()@')} HTTP/1.1"
    text = "\r\n".join([line, "Host: 127.0.0.1", *headers, "", ""])
    data = text.encode("utf-8", "surrogateescape")
    return Request(data, no_body=method == "HEAD", page=target.startswith(("/tickets/", PATH)))


def query(rng: random.Random) -> Request:
    """One of the API's own questions, mostly, with anything in its parameters and its If-None-Match."""
    path = rng.choice(OTHER_PATHS) if rng.random() < 0.1 else _ticket_path(rng)
    names = rng.sample([*VALUES, "unknown", "limit"], rng.choice((0, 0, 1, 1, 2, 3)))
    words = [f"{quote(name)}={quote(_value(name, rng), safe=rng.choice(('', '%=+&')))}" for name in names]
    headers = [f"If-None-Match: {rng.choice(ETAGS)}"] if rng.random() < 0.2 else []
    return get(rng.choice(METHODS), path + ("?" + "&".join(words) if words else ""), *headers)


def _ticket_path(rng: random.Random) -> str:
    id_ = quote(rng.choice(IDS), safe=rng.choice(("", "/%")))
    if rng.random() < 0.3:
        return f"/tickets/{id_}" + rng.choice(("", "", "/embed", "/badge.svg", "/share", "/give", "/", "/x"))
    return f"/api/tickets/{id_}/donations" + rng.choice(("", "", "/total", "/", "/total/x"))


def _value(name: str, rng: random.Random) -> str:
    if name == "cursor" and rng.random() < 0.7:
        place = rng.choice(PLACES).encode()
        for _ in range(rng.choice((0, 0, 1, 2))):
            place = mutation.splice(place, rng, (b"\x00", b":", b"-", b"9" * 13, b"pi_1", b"\xff", b"_", b" ", b"+"))
        return base64.urlsafe_b64encode(place[:LONGEST]).decode().rstrip("=")
    return rng.choice(VALUES.get(name, ("", "1")))


def console(rng: random.Random) -> Request:
    """A page or a form of the operator console, mostly in a session, with anything in its parameters and fields."""
    headers = [] if rng.random() < 0.1 else [f"Cookie: {SESSION if rng.random() < 0.9 else SESSION[:-1]}"]
    if rng.random() < 0.6:
        path = rng.choice([*(PATH + page.path for page in PAGES), *OTHER_CONSOLE_PATHS])
        return get(rng.choice(METHODS), f"{_with_id(path, rng)}?{_odd_values(rng)}", *headers)
    action = rng.choice(ACTIONS)
    fields = {name: rng.choice(FIELDS) for name in (*action.fields, "back", "form") if rng.random() < 0.8}
    if rng.random() < 0.9:
        fields["form_token"] = FORM_TOKEN
    body = urlencode(fields, errors="surrogatepass") + rng.choice(("", "", "", "&", "&a", "&id=%ff"))
    own_page = ["Origin: http://127.0.0.1", "Content-Type: application/x-www-form-urlencoded"]
    form = get("POST", _with_id(PATH + action.path, rng), *headers, *own_page, f"Content-Length: {len(body)}")
    return replace(form, data=form.data + body.encode())


def _with_id(path: str, rng: random.Random) -> str:
    return path.replace("{id}", quote(rng.choice((*IDS, *FIELDS)), safe="", errors="surrogatepass"))


def _odd_values(rng: random.Random) -> str:
    names = rng.sample(CONSOLE_PARAMETERS, rng.choice((0, 1, 1, 2, 3)))
    values = {name: rng.choice((*VALUES.get(name, ()), *FIELDS)) for name in names}
    return urlencode(values, errors="surrogatepass")


def delivery(bodies: Sequence[bytes], id_: str, rng: random.Random) -> Request:
    """A signed event, changed a few times; mostly under an id of its own, and still one that can be applied."""
    body = rng.choice(bodies)
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        body = mutation.event(body, rng)
    if rng.random() < 0.9:
        body = _renamed(body, id_)
    return Request(_posted(body, rng), _statuses_of(body))


def _renamed(body: bytes, id_: str) -> bytes:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(document, dict) or not isinstance(document.get("id"), str):
        return body
    try:
        return json.dumps({**document, "id": id_}).encode()
    except RecursionError:
        return body


def _posted(body: bytes, rng: random.Random) -> bytes:
    signature = sign(body, SECRET, int(time.time()))
    head = f"POST {WEBHOOK} HTTP/1.1\r\nHost: 127.0.0.1\r\nStripe-Signature: {signature}\r\n"
    if rng.random() < 0.1:
        cut = rng.randrange(len(body) + 1)
        chunks = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (body[:cut], body[cut:]) if piece]
        return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + b"".join(chunks) + b"0\r\n\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _statuses_of(body: bytes) -> frozenset[int]:
    """What the API must answer to this event, when it is signed."""
    try:
        read(body, livemode=False, hash_key=None)
    except NotAnEvent:
        return frozenset({400})
    except CannotApply:
        return frozenset({422, 200})  # 200: an event of this id was applied before
    return frozenset({200})


def noise(bodies: Sequence[bytes], rng: random.Random) -> bytes:
    """A request, or two, spoilt: bytes taken out, put in or doubled anywhere, its body's length a lie."""
    data = _sound(bodies, rng)
    if rng.random() < 0.2:
        data += _sound(bodies, rng)
    if rng.random() < 0.5:
        line_end = data.index(b"\r\n") + 2
        data = data[:line_end] + rng.choice(ODD_HEADERS).encode() + b"\r\n" + data[line_end:]
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        head = data.find(b"\r\n\r\n") + 4  # mostly in the head: a body is only bytes
        if rng.random() < 0.8:
            data = mutation.splice(data[:head], rng, SPLICES) + data[head:]
        else:
            data = mutation.splice(data, rng, SPLICES)
    return data if rng.random() < 0.99 else rng.randbytes(rng.choice((1, 10, 100, 10_000)))


def _sound(bodies: Sequence[bytes], rng: random.Random) -> bytes:
    return query(rng).data if rng.random() < 0.6 else _posted(rng.choice(bodies), rng)
