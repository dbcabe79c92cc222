"""The other parsers of what comes from outside this process: a page's cursor, readiness, history, configuration.

An input's first line names the parser, the rest is what it is given.
"""

import asyncio
import base64
import os
import random
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from daemon.api.config import Config as ApiConfig
from daemon.ledger.reader import Cursor
from daemon.runtime.config import ConfigError
from daemon.runtime.readiness import MAX_LINE_BYTES, Readiness, decode, encode
from health_sidecar.config import Config as SidecarConfig
from health_sidecar.history import History
from health_sidecar.publisher import ReadinessServer
from tests.fuzz import mutation
from tests.fuzz.mutation import CANARY
from tests.fuzz.target import Target


def cursor(text: bytes) -> None:
    """A place in the ledger, or ValueError; a place is one that the database can be asked for, and reads as itself."""
    try:
        place = Cursor.parse(text.decode("ascii"))
    except ValueError:
        return
    assert -1 <= place.paid < 10**12
    assert 0 <= place.created < 10**12
    assert place.id
    assert "\x00" not in place.id, "PostgreSQL takes no such text"
    assert Cursor.parse(f"{place.paid}:{place.created}:{place.id}") == place


def cursor_text(text: bytes) -> None:
    """As a client sends it."""
    try:
        decoded = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except ValueError:
        return
    cursor(decoded)


def readiness(line: bytes) -> None:
    """A state, or ValueError; a state can be shown, and comes back from its own line."""
    try:
        state = decode(line)
    except ValueError:
        return
    assert decode(encode(state)).to_json() == state.to_json()


def report(line: bytes) -> None:
    """Whatever an API process sends, the sidecar keeps the connection of the others."""
    asyncio.run(_received(line))


async def _received(said: bytes) -> None:
    """A connection that sends this: the server ends it without an error, and keeps one that sent nothing wrong."""
    publisher = ReadinessServer(Path("nowhere"), Readiness(ready=True), lambda: None)
    reader = asyncio.StreamReader(MAX_LINE_BYTES)
    reader.feed_data(said)
    reader.feed_eof()
    await publisher._serve(reader, _Nowhere())  # type: ignore[arg-type]


class _Nowhere:
    """A writer and its transport that go nowhere."""

    def __init__(self) -> None:
        self.transport = self

    def write(self, _data: bytes) -> None: ...

    def abort(self) -> None: ...

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


def history(content: bytes) -> None:
    """A file of rows that an earlier process left: what can be read is there, the rest is left out."""
    path = _scratch() / f"history-{os.getpid()}"
    path.write_bytes(content)
    for run in History(path, _never).recent:
        assert msgspec.json.decode(msgspec.json.encode(run), type=type(run)) == run


async def _never(*_args: object) -> list[tuple[Any, ...]]:
    raise AssertionError("asked the database")


@cache
def _scratch() -> Path:
    return Path(tempfile.mkdtemp(prefix="donationd-fuzz-"))


def configuration(lines: bytes) -> None:
    """An environment: a configuration whose every part can be used, or all mistakes in sentences without a value."""
    pairs = (line.partition(b"=") for line in lines.replace(b"\0", b"").split(b"\n"))
    environ = {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs if name}
    for kind in (ApiConfig, SidecarConfig):
        try:
            config = kind.from_environ(environ)
        except ConfigError as error:
            assert error.problems
            assert not any(CANARY in problem for problem in error.problems), "a value in a sentence"
            assert not any("\n" in problem for problem in error.problems), "a sentence of several lines"
        else:
            assert CANARY not in repr(config).replace("READINESS_SOCKET", "") or _only_open_settings(config)
            if isinstance(config, ApiConfig):
                assert config.signing_secrets
                assert all(secret.encode() for secret in config.signing_secrets)
                assert config.hash_key is None or config.hash_key
            assert config.database_url.get_secret_value().encode()


def _only_open_settings(config: ApiConfig | SidecarConfig) -> bool:
    """Paths, hosts and the names of tokens are no secrets; everything else hides what it holds."""
    named = {"readiness_socket", "metrics_host", "metrics_dir", "host", "operator_tokens"}
    return CANARY not in repr({name: value for name, value in config if name not in named})


PARSERS: dict[bytes, Callable[[bytes], None]] = {
    b"cursor": cursor,
    b"cursor text": cursor_text,
    b"readiness": readiness,
    b"report": report,
    b"history": history,
    b"configuration": configuration,
}
STATE = Readiness(ready=True)
RUN = b'{"kind":"gate","ok":true,"state":"PASSED","detail":"","at":"2026-11-01T10:00:00Z"}\n'
ENVIRONMENT = f"""DATABASE_URL=postgresql://{CANARY}@127.0.0.1/x
STRIPE_WEBHOOK_SECRET=whsec_{"one0" * 8},whsec_{"two0" * 8}
DONOR_EMAIL_HASH_KEY={CANARY}
STRIPE_LIVEMODE=false
PORT=3003
METRICS_PORT=0
DEFAULT_CURRENCY=USD
READINESS_SOCKET=run/x.sock
LOG_FORMAT=json
LOG_LEVEL=debug
API_PROCESSES=2
GATE_ATTEMPTS=3
DB_PING_TIMEOUT_MS=5000
""".encode()
SEEDS = (
    b"cursor\n1760000000:1760000000:pi_1",
    b"cursor\n-1:0:cs_x",
    b"cursor text\nMTc2MDAwMDAwMDoxNzYwMDAwMDAwOnBpXzE",
    b"readiness\n" + encode(STATE),
    b'readiness\n{"ready":false,"lastPingAt":"2026-11-01T10:00:00.123+14:00","lastError":"timeout","failureCount":2}\n',
    b'report\n{"queryFailed":true}\n{"queryFailed":false}\n{}\n',
    b"history\n" + RUN * 2,
    b"configuration\n" + ENVIRONMENT,
)
TOKENS = (
    *(b":", b"-1", b"+1", b"1_0", b" 1", b"\x00", b"\n", b"pi_1", "١".encode(), b"\xff", b"=", b"9" * 13, b"9" * 5000),
    *(b"0001-01-01T00:00:00+14:00", b"9999-12-31T23:59:60Z", b"1e400", b"null", b"true", b"[" * 1500, b'{"a":' * 700),
    *(b'"ready":', b'"lastPingAt":', b'"failureCount":', b"AAAA", b"____", b"PORT=", b"HOST=", b"\xed\xa0\x80"),
    *(
        b"DATABASE_URL=",
        b"STRIPE_WEBHOOK_SECRET=,",
        b"whsec_",
        b"sk_",
        b"DONOR_EMAIL_HASH_KEY=",
        b"READINESS_SOCKET=",
        b"PORT=\xff",
    ),
)


def check(data: bytes) -> None:
    """Gives the rest of an input to the parser that its first line names."""
    name, _, rest = data.partition(b"\n")
    if name in PARSERS:
        PARSERS[name](rest)


def _change(data: bytes, rng: random.Random) -> bytes:
    name, _, rest = data.partition(b"\n")
    if name in (b"readiness", b"report") and rng.random() < 0.5:
        changed = mutation.event(rest.rstrip(b"\n"), rng) + b"\n"
    else:
        changed = mutation.splice(rest, rng, TOKENS)
    return name + b"\n" + changed


TARGET = Target(check, lambda _seed: SEEDS, _change, longest=8 * 1024)
