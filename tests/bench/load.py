"""One measurement by wrk: a site, a number of connections, some seconds."""

import os
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from tests.bench.conditions import Conditions, Watch
from tests.bench.machine import SECRET, Broken, Site
from tests.bench.stream import Stream, request

SCRIPT = Path(__file__).with_name("measure.lua")
# More than an API process can take; what is left over is sent the next time.
CEILING_PER_S = 16_000
# The empty handler does not care about events it has seen: it gets these again and again.
REPEATED = 5000


class Measured(msgspec.Struct, frozen=True):
    """What wrk saw. `answered` counts replies of any kind, `refused` those of 400 and more, `lost` those missing.

    `conditions` are those of the time in which wrk ran, without the time in which the requests were prepared.
    """

    sent: int
    answered: int
    duration_us: int
    p50_us: int
    p99_us: int
    refused: int
    lost: int
    conditions: Conditions = Conditions(0.0, 0.0)

    @property
    def accepted(self) -> int:
        """Good answers."""
        return self.answered - self.refused

    @property
    def per_s(self) -> float:
        """Good answers a second."""
        return self.accepted / self.duration_us * 1e6


def post_new(site: Site, stream: Stream, *, connections: int, seconds: int) -> Measured:
    """Posts new events for that long.

    Raises:
        Broken: wrk failed, not one event was accepted, or more were than were prepared.
    """
    bodies = stream.peek(CEILING_PER_S * seconds)
    measured = _post(site, bodies, connections, seconds, {})
    if measured.sent == len(bodies):
        raise Broken(f"more than {CEILING_PER_S} events a second: raise CEILING_PER_S")
    stream.drop(measured.sent)
    return measured


def post_again(site: Site, stream: Stream, *, connections: int, seconds: int) -> Measured:
    """Posts the stream's next events again and again; they stay the next ones. Raises Broken as `post_new`."""
    return _post(site, stream.peek(REPEATED), connections, seconds, {"AGAIN": "yes"})


def get(site: Site, path: str, *, seconds: int, connections: int = 1, tag: str = "") -> Measured:
    """Asks for one page for that long; with a tag, as a client that has this version of it. Raises Broken as
    `post_new`."""
    return _wrk(site.url + path, connections, seconds, {}, f"If-None-Match: {tag}" if tag else "")


def tag_of(site: Site, path: str) -> str:
    """The ETag of a page."""
    with urllib.request.urlopen(site.url + path) as reply:  # noqa: S310
        return str(reply.headers["ETag"])


def _post(site: Site, bodies: Iterable[bytes], connections: int, seconds: int, environ: Mapping[str, str]) -> Measured:
    now = int(time.time())
    with tempfile.NamedTemporaryFile(prefix="donationd-bench-", buffering=1 << 20) as file:
        for body in bodies:
            signed = request(body, SECRET, now)
            file.write(b"%08d" % len(signed) + signed)
        file.flush()
        return _wrk(site.url, connections, seconds, {"REQUESTS": file.name, **environ})


def _wrk(url: str, connections: int, seconds: int, environ: Mapping[str, str], header: str = "") -> Measured:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "-s", str(SCRIPT), url]
    command += ["-H", header] if header else []
    watch = Watch()
    try:
        run = subprocess.run(command, env={"PATH": os.environ["PATH"], **environ}, capture_output=True, check=False)
    except FileNotFoundError:
        raise Broken("wrk is missing: apt-get install wrk") from None
    conditions = watch.conditions()
    try:
        measured = msgspec.json.decode(run.stdout.splitlines()[-1], type=Measured)
    except (IndexError, msgspec.MsgspecError):
        raise Broken(f"wrk failed: {(run.stdout + run.stderr).decode(errors='replace')}") from None
    if not measured.accepted:
        raise Broken(f"nothing was answered well at {url}: {measured}")
    return msgspec.structs.replace(measured, conditions=conditions)
