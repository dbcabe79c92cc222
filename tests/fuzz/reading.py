"""Any bytes -> `stripe_events.read`: an event, or one of two refusals, and of a person only what may be kept."""

import hashlib
import hmac
import json
import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import msgspec

from daemon.ledger import privacy, stripe_events
from daemon.ledger.events.payments import CHARGE_STATUSES
from daemon.ledger.facts import FIRST, NEWEST, RULES, SHARED, FactName, Facts, Family, PerKey, Rule
from daemon.ledger.stripe_events import CannotApply, NotAnEvent, StripeEvent
from tests.fuzz import mutation, seeds
from tests.fuzz.mutation import CANARY
from tests.fuzz.target import Target

KEY = b"fuzz"
REASONS = {
    None,
    "a thin event changes nothing",
    "this type changes nothing",
    "this is an event of the other mode",
    "a session of this mode is no donation",
    "this charge is the connected account's side of a destination charge",
    "this session of a subscription names no ticket and no consent",
    "this subscription names no ticket",
    "this payment of an invoice names no PaymentIntent and no charge",
    "this refund names neither a charge nor a PaymentIntent: it came from a customer's cash balance",
    "this dispute names neither a charge nor a PaymentIntent",
}
# All that a refusal may say: types and places. Whatever else stands in it would be a value of the body.
PLACE = r"( - at `\$[\w.\[\]…]*`)?"
REFUSALS = re.compile(
    r"(Expected `[\w| ]+`(, got `\w+`| [<>]= -?\d+| matching regex '[^']*')?"
    r"|Object (missing required field `\w+`|contains unknown field)"
    r"|JSON is malformed: [a-zA-Z ,'\":{}\[\]]+ \(byte \d+\)"
    r"|Integer value out of range|Number out of range|Input data was truncated|Invalid escape character in string"
    r"|maximum recursion depth exceeded while deserializing an object"
    r"|a text is not UTF-8"
    r"|one id names two objects|an id is of another kind of object)" + PLACE
)
NOT_EVENTS = {"the body is not a Stripe event", "the object is not an event"}


def _is(pattern: str) -> Callable[[Any], bool]:
    compiled = re.compile(pattern)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def _between(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and least <= value <= most


ID, TICKET, MONEY = _is(r"[A-Za-z0-9_]{1,255}"), _is(r"(?![0-9]{9,}\Z)[A-Za-z0-9_-]{1,64}"), _between(1, 10**15)
SUBSCRIPTION = _is(r"sub(_[A-Za-z0-9_]*)?")
DISPUTE_STATUS = _is("[a-z0-9_]{1,64}")
# What a newest fact may be, by its name.
FORMS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("payment_intent", "charge", "account", "invoice"), ID),
    "subscription": SUBSCRIPTION,
    **dict.fromkeys(("ticket", "reference", "session_ticket", "session_reference"), TICKET),
    **dict.fromkeys(("amount", "taken", "received"), MONEY),
    "returned": _between(0, 10**15),
    "created": _between(0, 253_402_300_799),
    "currency": _is("[A-Z]{3}"),
    "country": _is("[A-Z]{2}"),
    "email_hash": _is("[0-9a-f]{64}"),
    "last_name": _is(r"[^\s@/0-9\x00-\x1f]{1,64}"),
    "flag": lambda value: type(value) is bool,
    "status": lambda value: value in CHARGE_STATUSES,
    "stage": lambda value: _between(0, 11)(value[0]) and _between(0, 10**15)(value[1]) and DISPUTE_STATUS(value[2]),
    **dict.fromkeys(("paid_last", "received_last"), _between(1, 1)),
    **dict.fromkeys(("show_name", "session_show_name"), _between(0, 1)),
}
# From which key of the body each word of a person, or of a site, must have come.
SAID_UNDER: dict[FactName, tuple[str, ...]] = {
    FactName.LAST_NAME: ("name", "customer_name"),
    FactName.COUNTRY: ("country",),
    FactName.EMAIL_HASH: ("email", "receipt_email", "customer_email"),
    **dict.fromkeys((FactName.TICKET, FactName.SESSION_TICKET), ("ticketId",)),
    **dict.fromkeys((FactName.REFERENCE, FactName.SESSION_REFERENCE), ("client_reference_id",)),
}


def check(body: bytes) -> None:
    """Reads the body, with a key for e-mail hashes or without."""
    key = KEY if len(body) % 2 else None
    try:
        event = stripe_events.read(body, livemode=False, hash_key=key)
    except NotAnEvent as refusal:
        assert str(refusal) in NOT_EVENTS
        return
    except CannotApply as refusal:
        assert REFUSALS.fullmatch(refusal.reason), f"a reason that says more than a place: {refusal.reason}"
        _check_envelope(refusal.event)
        assert refusal.event.facts is None
        return
    _check_envelope(event)
    assert event.reason in REASONS
    assert (event.facts is None) is (event.reason is not None)
    if event.facts is not None:
        check_facts(event)
        _check_sources(event.facts, body, key)


def _check_envelope(event: StripeEvent) -> None:
    assert ID(event.id)
    assert re.fullmatch(r"[a-z0-9_.\[\]]{1,100}", event.type)
    assert _between(0, 253_402_300_799)(event.created)
    assert type(event.livemode) is bool


def check_facts(event: StripeEvent) -> None:
    """The facts are of the forms that the fold knows, come back from JSON as they were, and hold no canary."""
    assert event.facts
    encoded = msgspec.json.encode(event.facts)
    assert msgspec.json.decode(encoded) == event.facts, "facts do not survive JSON"
    assert CANARY.encode() not in encoded, "a canary came out"
    assert b"@" not in encoded, "an address came out"
    for family, objects in event.facts.items():
        assert family in RULES
        for id_, known in objects.items():
            assert (SUBSCRIPTION if family == Family.SUBSCRIPTION else ID)(id_)
            assert known.get(FactName.SEEN) == (None if family in SHARED else event.created)
            for name, fact in known.items():
                _check_fact(name, fact, RULES[family][name], event.created)


def _check_fact(name: FactName, fact: Any, rule: Rule | PerKey, created: int) -> None:
    """A fact has the form that its rule asks for, and its value the form of its name."""
    if rule is NEWEST:
        at, value = fact
        assert (type(at), at) == (int, created)
        assert FORMS[name](value), f"a {name} of another form"
    elif isinstance(rule, PerKey):
        _check_facts_by_key(name, fact, rule, created)
    elif name == FactName.RETURNED_LEAST:  # the least of amounts, not of times
        assert _between(0, 10**15)(fact)
    else:
        assert (type(fact), fact) == (int, created)


def _check_facts_by_key(name: FactName, fact: dict[str, Any], rule: PerKey, created: int) -> None:
    """Times by amount, refunded amounts by second, or the events of a dispute by status."""
    [(key, value)] = fact.items()
    if name == FactName.SNAPSHOTS:
        at, returned = value
        assert (key, at) == (str(created), created)
        assert MONEY(returned)
        return
    if rule.each is FIRST:
        assert MONEY(int(key))
        assert (type(value), value) == (int, created)
        return
    assert DISPUTE_STATUS(key)
    assert _between(0, 10**15)(value["last"][1])
    assert value == {"first": [-created, value["last"][1]], "last": [created, value["last"][1]]}


def _check_sources(found: Facts, body: bytes, key: bytes | None) -> None:
    """Each word of a person is the permitted part of something that the body says in the right place."""
    try:
        said = _said(body)
    except RecursionError:  # the other parser's own limit
        return
    for known in (known for objects in found.values() for known in objects.values()):
        for name, sources in SAID_UNDER.items():
            if isinstance(fact := known.get(name), list):
                admissible = {_kept(name, text, key) for source in sources for text in said[source]}
                assert fact[1] in admissible, f"a {name} that the event does not state"


def _said(body: bytes) -> dict[str, set[str]]:
    """By another parser: all texts of the body, by the key that they stand under."""
    found: defaultdict[str, set[str]] = defaultdict(set)

    def collect(pairs: list[tuple[str, Any]]) -> None:
        for key, value in pairs:
            if isinstance(value, str):
                found[key].add(value)

    json.loads(body.decode("utf-8", "replace"), object_pairs_hook=collect, parse_int=str, strict=False)
    return found


def _kept(name: str, text: str, key: bytes | None) -> str | None:
    if name == "last_name":
        return privacy.last_name(text)  # the rule itself is the subject of tests/unit/test_names.py
    if name == "email_hash":
        email = text.strip().lower().encode("utf-8", "replace")
        return hmac.new(key, email, "sha256").hexdigest() if key else hashlib.sha256(email).hexdigest()
    return text.upper() if name == "country" else text


TARGET = Target(check, lambda seed: seeds.bodies(seed, 200), mutation.event, longest=64 * 1024)
