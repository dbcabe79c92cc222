"""The HTTP surface: raw bytes, questions and signed events on real sockets, by several clients at once.

What is HTTP is asked on connections that stay open, several requests at a time; each must have its reply, with the keys
that the reference names. What is none is sent on a connection of its own, and must be answered or hung up on.
"""

import asyncio
import contextlib
import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from tests.fuzz import requests, seeds
from tests.fuzz.outcome import Outcome, Say, error_line, finding
from tests.fuzz.replies import Reply, wrong_with
from tests.fuzz.requests import Request
from tests.fuzz.site import Site

CLIENTS = 16
AT_ONCE = (1, 1, 2, 8, 16)  # requests written before the first reply is read
ANSWER_S = 10.0
QUIET_S = 0.2  # a server that says nothing for so long waits for more
MOST_BYTES = 64 * 1024 * 1024
PROGRESS_S = 10.0
NOISE_SHARE = 0.25
SIDECAR_SHARE = 0.1  # of the noise
DELIVERIES_SHARE = 0.5  # of the rest
CONSOLE_SHARE = 0.3  # of what is left then


def run(outcome: Outcome, site: Site, seed: int, say: Say) -> None:
    """Sends as many as are wanted, or fewer if something is found; the last groups are sent to their end."""
    fuzz = _Fuzz(site, outcome, seed)
    began_s = time.monotonic()
    try:
        asyncio.run(fuzz.run(say))
    finally:
        outcome.seconds = time.monotonic() - began_s
        outcome.detail = ", ".join(f"{count:,} {what}" for what, count in fuzz.replies.most_common())


class _Fuzz:
    """The clients and the replies that they received."""

    def __init__(self, site: Site, outcome: Outcome, seed: int) -> None:
        self.site, self.outcome, self.seed = site, outcome, seed
        self.bodies = seeds.bodies(seed, 200)
        self.replies = Counter[str]()
        self.begun = self.noises = 0  # cases

    async def run(self, say: Say) -> None:
        speaking = asyncio.create_task(self._speak(say))
        try:
            async with asyncio.TaskGroup() as clients:
                for number in range(CLIENTS):
                    clients.create_task(self._client(number))
        finally:
            speaking.cancel()

    async def _speak(self, say: Say) -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            say(f"surface: {self.outcome.cases:,} of {self.outcome.wanted:,}, replies: {dict(self.replies)}")

    async def _client(self, number: int) -> None:
        rng = random.Random(f"{self.seed} client {number}")
        while self.begun < self.outcome.wanted and not self.outcome.findings:
            try:
                if self.noises < self.begun * NOISE_SHARE:
                    await self._make_noise(rng)
                else:
                    await self._ask(rng)
            except OSError as error:
                self._found(f"no process listens any more: {error_line(error)}")

    async def _ask(self, rng: random.Random) -> None:
        """A connection with some groups of requests, all of them HTTP."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.site.ports[0])
        try:
            for _ in range(rng.choice((1, 5, 20))):
                group = [self._request(rng) for _ in range(rng.choice(AT_ONCE))]
                if not await self._exchange(reader, writer, group):
                    return
        finally:
            writer.transport.abort()

    def _request(self, rng: random.Random) -> Request:
        self.begun += 1
        if rng.random() < DELIVERIES_SHARE:
            return requests.delivery(self.bodies, f"evt_{self.seed}_{self.begun}", rng)
        return requests.console(rng) if rng.random() < CONSOLE_SHARE else requests.query(rng)

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, group: Sequence[Request]
    ) -> bool:
        """Sends requests and reads a reply to each. Returns whether the connection can go on."""
        writer.write(b"".join(request.data for request in group))
        for request in group:
            try:
                async with asyncio.timeout(ANSWER_S):
                    reply = await read_reply(reader, no_body=request.no_body)
            except (OSError, EOFError, ValueError, TimeoutError) as error:
                self._found(f"no reply: {error_line(error)}", *(each.data for each in group))
                return False
            self.outcome.cases += 1
            self.replies[str(reply.status)] += 1
            problem = wrong_with(reply, no_body=request.no_body, page=request.page)
            if request.statuses and reply.status not in request.statuses:
                problem = f"status {reply.status}, not {sorted(request.statuses)}: {reply.body[:200]!r}"
            if problem:
                self._found(problem, request.data)
                return False
            if reply.ends_connection:
                return False
        return True

    async def _make_noise(self, rng: random.Random) -> None:
        """A connection for one spoilt request; whatever comes back is HTTP, and the connection ends when ours does."""
        self.begun += 1
        self.noises += 1
        data = requests.noise(self.bodies, rng)
        port = self.site.ports[rng.random() < SIDECAR_SHARE]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(data)
            async with asyncio.timeout(ANSWER_S):
                answer = await _everything(reader, writer)
            if not answer:
                self.replies["hung up on noise"] += 1
            for reply in split(answer):
                self.replies[f"{reply.status} to noise"] += 1
                if reply.status >= 500 and reply.status not in {501, 503, 505}:
                    self._found(f"status {reply.status} to noise", data)
        except TimeoutError:
            self._found("neither an answer nor an end", data)
        except ConnectionError:
            self.replies["reset"] += 1
        except ValueError as error:
            self._found(f"an answer that is no HTTP: {error_line(error)}", data)
        finally:
            self.outcome.cases += 1
            writer.transport.abort()

    def _found(self, problem: str, *inputs: bytes) -> None:
        self.outcome.findings.append(finding("surface", problem, *inputs))


async def read_reply(reader: asyncio.StreamReader, *, no_body: bool) -> Reply:
    """One reply of a connection. Raises ValueError for what is no HTTP, EOFError for the end."""
    status, headers = _head(await reader.readuntil(b"\r\n\r\n"))
    size = 0 if no_body or status in {204, 304} else int(headers["content-length"])
    if size > MOST_BYTES:
        raise ValueError("too long")
    return Reply(status, headers, await reader.readexactly(size))


def _head(text: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = text.decode("latin-1").rstrip("\r\n").split("\r\n")
    version, status, *_ = first.split(" ", 2)
    if not re.fullmatch(r"HTTP/\d\.\d", version) or not all(":" in line for line in lines):
        raise ValueError(f"no head of a reply: {first[:50]!r}")
    return int(status), {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def _everything(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """All that comes until the end; ours is said once the server waits."""
    answer = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(QUIET_S):
            answer = await reader.read(MOST_BYTES)
    with contextlib.suppress(OSError):
        writer.write_eof()
    return answer + await reader.read(-1)


def split(answer: bytes) -> Iterator[Reply]:
    """The replies in what a connection said: a status line after each body. Raises ValueError for anything else."""
    while answer:
        head, found, answer = answer.partition(b"\r\n\r\n")
        if not found:
            raise ValueError(f"the head of a reply is cut off: {head[:50]!r}")
        status, headers = _head(head)
        size = int(headers.get("content-length", 0))
        has_body = not answer.startswith(b"HTTP/")  # it is not known any more whether the request was HEAD
        body, answer = (answer[:size], answer[size:]) if has_body else (b"", answer)
        yield Reply(status, headers, body)
