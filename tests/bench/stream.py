"""An endless stream of new Stripe events, in the order and density of Stripe's record minute.

A few thousand payments of the simulator are rendered once, with their random ids and their ticket as gaps; each pass
over them fills the gaps with ids that are as random and were never used before. So an event costs microseconds,
and no event is ever sent twice.
"""

import hashlib
import itertools
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from daemon.simulator import scenarios, sender
from daemon.simulator.stripe_objects import Json

# Stripe's record minute: 2,283 transactions a second.
PAYMENTS_PER_S = 2283
# Payments go on for days; here what takes longer than this takes this long, so that the stream soon holds every kind of
# event. It is still thousands of other events, more than any batch.
LONGEST_WAIT_S = 1.0
# Events of one payment in the same second are sent one after the other.
SAME_SECOND_S = 0.01

_TICKET = "ticket_bench"
_PREFIXES = (b"evt_1", b"pi_3", b"ch_3", b"re_3", b"txn_3", b"du_1", b"in_1", b"sub_1", b"cs_test_a1")
_TOKEN = re.compile(rb"(?:" + b"|".join(b"(?<=%s)" % prefix for prefix in _PREFIXES) + rb")[A-Za-z0-9]{23,56}")
_LETTERS = bytes(scenarios.ALPHABET[byte % len(scenarios.ALPHABET)].encode()[0] for byte in range(256))


@dataclass(frozen=True)
class _Gapped:
    """An event's body: `parts` with a gap between each two, `gaps` the tokens that stood there.

    It belongs to the payment of that number in the pool which began `passes_late` passes ago.
    """

    parts: tuple[bytes, ...]
    gaps: tuple[bytes, ...]
    payment: int
    passes_late: int


class Pool:
    """The payments that every stream repeats under new ids.

    Args:
        payments: their number.
        seed: of the simulator.
    """

    def __init__(self, payments: int = 1000, seed: int = 1) -> None:
        length_s = payments / PAYMENTS_PER_S
        arrivals = [
            (number / PAYMENTS_PER_S + wait_s, number, event)
            for number, payment in enumerate(scenarios.generate(seed, payments, [_TICKET], now=int(time.time())))
            for wait_s, event in _waits(payment.events)
        ]
        arrivals.sort(key=lambda arrival: arrival[0] % length_s)
        self.payments = payments
        self.events = [_gapped(sender.encode(event), number, int(at_s // length_s)) for at_s, number, event in arrivals]


def _waits(events: Sequence[Json]) -> Iterator[tuple[float, Json]]:
    """Seconds after the payment's first event at which each one is sent."""
    at_s, before = 0.0, events[0]["created"]
    for event in events:
        at_s += min(event["created"] - before, LONGEST_WAIT_S) or SAME_SECOND_S
        before = event["created"]
        yield at_s, event


def _gapped(body: bytes, payment: int, passes_late: int) -> _Gapped:
    tokens = {*_TOKEN.findall(body), _TICKET.encode()}
    pieces = re.split(b"(" + b"|".join(sorted(tokens)) + b")", body)
    return _Gapped(tuple(pieces[0::2]), tuple(pieces[1::2]), payment, passes_late)


class Stream:
    """Bodies of events, each new.

    Args:
        pool: the payments.
        tickets: what the donations are for.
    """

    def __init__(self, pool: Pool, tickets: Sequence[str]) -> None:
        self._pool = pool
        self._tickets = [ticket.encode() for ticket in tickets]
        self._salt = secrets.token_bytes(16)
        self._ready: list[bytes] = []
        self._endless = self._bodies()

    def peek(self, count: int) -> list[bytes]:
        """The next `count` bodies; they stay the next ones until dropped."""
        self._ready += itertools.islice(self._endless, max(0, count - len(self._ready)))
        return self._ready[:count]

    def drop(self, count: int) -> None:
        """Marks the next `count` bodies as sent."""
        del self._ready[:count]

    def take(self, count: int) -> list[bytes]:
        """The next `count` bodies, as sent."""
        bodies = self.peek(count)
        self.drop(count)
        return bodies

    def _bodies(self) -> Iterator[bytes]:
        for number in itertools.count():
            for event in self._pool.events:
                yield self._filled(event, (number - event.passes_late) * self._pool.payments + event.payment)

    def _filled(self, event: _Gapped, payment: int) -> bytes:
        fresh = {token: self._fresh(token, payment) for token in set(event.gaps)}
        pieces = [b""] * (2 * len(event.gaps) + 1)
        pieces[0::2] = event.parts
        pieces[1::2] = [fresh[token] for token in event.gaps]
        return b"".join(pieces)

    def _fresh(self, token: bytes, payment: int) -> bytes:
        """What stands for a token in that payment of the stream: always the same there, and nowhere else."""
        if token == _TICKET.encode():
            return self._tickets[payment % len(self._tickets)]
        digest = hashlib.blake2b(b"%d %b" % (payment, token), digest_size=len(token), key=self._salt).digest()
        return digest.translate(_LETTERS)


def request(body: bytes, secret: str, timestamp: int) -> bytes:
    """The whole HTTP request that Stripe would send at that Unix second."""
    head = (
        "POST /webhooks/stripe HTTP/1.1\r\n"
        "Host: 127.0.0.1\r\n"
        "Content-Type: application/json; charset=utf-8\r\n"
        "User-Agent: Stripe/1.0 (+https://stripe.com/docs/webhooks)\r\n"
        f"Stripe-Signature: {sender.sign(body, secret, timestamp)}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
