"""Pure: input -> input with one thing changed. JSON stays JSON, mostly, so that changes get past the parser."""

import json
import random
from collections.abc import Sequence
from typing import Any

from daemon.ledger.facts import DISPUTE_STAGES
from daemon.ledger.stripe_events import HANDLERS

TYPES = sorted(HANDLERS)
# No admissible output of ours holds an @: it marks what must not come out.
CANARY = "k@n7"
FEW_IDS = ("pi_1", "pi_2", "ch_1", "ch_2", "cs_1", "re_1", "dp_1")  # so that objects meet
NUMBERS = (0, 1, -1, 2, 100, 10**12, 10**15, 10**15 + 1, 2**53, 2**63 - 1, 2**63, 2**64, 253_402_300_799)
ODD: tuple[Any, ...] = (
    *(None, True, False, *NUMBERS, 0.5, 5.0, 1e308, -0.0),
    *("", " ", "0", "usd", "USD", "jpy", "us", CANARY, f"Ann {CANARY}", f"{CANARY} Ann", "Ann Lee"),
    *(
        "\x00",
        "Ann \x00",
        "\ud800",
        "\U0001f600",
        "１",
        "Ann\u2028Lee",
        "Lee\u202e",
        "ﬀ",
        "x" * 64,
        "x" * 65,
        "x" * 300,
    ),
    *("failed", "canceled", "succeeded", "expired", "paid", "payment", "setup", *DISPUTE_STAGES),
    *([], {}, [None], {"id": "pi_1"}, {"id": None}, {"data": []}, {"data": [{"id": "ch_1"}]}, {"ticketId": "story-1"}),
    *FEW_IDS,
)
KEYS = (
    *("id", "object", "type", "created", "livemode", "data", "account", "amount", "amount_captured", "amount_received"),
    *("amount_refunded", "amount_total", "captured", "paid", "status", "currency", "payment_intent", "charge", "mode"),
    *("latest_charge", "charges", "metadata", "ticketId", "billing_details", "customer_details", "name", "email"),
    *("address", "country", "receipt_email", "client_reference_id", "payment_status", "refunds"),
)
_DEEP = "deep-0f3a"
DEPTHS = (2, 50, 500, 990, 1010, 20_000)

Slot = tuple[Any, Any]  # a container, and the key or index of a value in it


def event(body: bytes, rng: random.Random) -> bytes:
    """A JSON document with one thing changed; bytes that are none, or too deep for Python, change as bytes."""
    if rng.random() > 0.1:
        try:
            return _changed_json(body, rng)
        except (ValueError, RecursionError):
            pass
    return splice(body, rng, (b'"id":"pi_1",', b"{", b"}", b"\xff", b'\\ud800"', b'\\u0000"'))


def _changed_json(body: bytes, rng: random.Random) -> bytes:
    document = json.loads(body)
    if slots := _slots(document):
        _change(slots, rng)
    if isinstance(document, dict) and rng.random() < 0.2:
        document["type"] = rng.choice(TYPES)
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5)
    if _DEEP in text:
        depth = rng.choice(DEPTHS)
        begin, end = rng.choice((("[", "]"), ('{"a":', "}")))
        text = text.replace(f'"{_DEEP}"', begin * depth + "0" + end * depth)
    return text.encode("utf-8", "surrogatepass")


def batch(lines: bytes, rng: random.Random) -> bytes:
    """Events, a line each, with one of them changed, repeated, left out or moved."""
    events = lines.split(b"\n")
    at = rng.randrange(len(events))
    match rng.randrange(8):
        case 0:
            events.insert(rng.randrange(len(events) + 1), events[at])
        case 1 if len(events) > 1:
            del events[at]
        case 2:
            rng.shuffle(events)
        case 3:  # a statement of the same second, or of the second beside it
            events.append(event(events[at], rng))
        case _:
            events[at] = event(events[at], rng)
    return b"\n".join(events)


def splice(data: bytes, rng: random.Random, tokens: Sequence[bytes]) -> bytes:
    """Bytes with a piece taken out, put in, doubled, or changed."""
    begin = rng.randrange(len(data) + 1)
    end = min(len(data), begin + rng.choice((1, 1, 2, 4, 16, 64)))
    match rng.randrange(6):
        case 0:
            piece = b""
        case 1:
            piece = data[begin:end] * rng.choice((2, 2, 3, 100))
        case 2 if tokens:
            piece = rng.choice(tokens)
        case 3 if tokens:
            piece, end = rng.choice(tokens), begin
        case 4:
            piece = bytes([rng.randrange(256)])
        case _:
            piece = str(rng.choice(NUMBERS)).encode()
    return data[:begin] + piece + data[end:]


def _slots(value: Any) -> list[Slot]:
    """Every place in a document that holds a value."""
    found: list[Slot] = []
    waiting = [value]
    while waiting:
        container = waiting.pop()
        if isinstance(container, dict):
            keys: Sequence[Any] = list(container)
        elif isinstance(container, list):
            keys = range(len(container))
        else:
            continue
        found += ((container, key) for key in keys)
        waiting += (container[key] for key in keys)
    return found


def _change(slots: list[Slot], rng: random.Random) -> None:
    container, key = rng.choice(slots)
    value = container[key]
    match rng.randrange(9):
        case 0:
            del container[key]
        case 1:
            other, name = rng.choice(slots)
            container[key] = json.loads(json.dumps(other[name]))  # a copy: a document must not hold itself
        case 2 if isinstance(container, dict):
            container[rng.choice(KEYS)] = rng.choice(ODD)
        case 3:
            container[key] = rng.choice(([value], {"id": value}, _DEEP))
        case 4 | 5 if isinstance(value, int):
            container[key] = rng.choice((value + 1, value - 1, -value, value * 10, str(value), *NUMBERS))
        case 4 | 5 if isinstance(value, str):
            odd = rng.choice(ODD)
            container[key] = rng.choice((value + str(odd), f"{odd} {value}", value[:-1], value.upper(), value * 2))
        case _:
            container[key] = rng.choice(ODD)
