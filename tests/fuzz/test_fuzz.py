"""The fuzzing finds what it is for: faults planted in the code, and replies that must not be."""

import json
import random
import re
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.api import signature
from daemon.ledger import facts, kept_facts, privacy, projection, reader, stripe_events
from daemon.ledger.events import fields
from daemon.ledger.stripe_events import read
from tests.fuzz import drawn, requests, seeds
from tests.fuzz.outcome import Outcome
from tests.fuzz.replies import Reply, wrong_with
from tests.fuzz.surface import split
from tests.fuzz.target import TARGETS, load

CASES = 6000
BODIES = seeds.bodies(1, 3)


def redact_nothing(all_facts: facts.Facts) -> facts.Facts:
    return all_facts


def last_statement_stands(_family: str, mine: dict[str, Any], more: dict[str, Any]) -> bool:
    is_new = any(mine.get(name) != fact for name, fact in more.items())
    mine.update(more)
    return is_new


def all_of_it(_of: object, amount: int | None, *_rest: object) -> int:
    return amount or 0


ANY_POSITION = re.compile(r"(?P<paid>-1|\d+):(?P<created>\d+):(?P<id>.+)", re.DOTALL)
# The target that must find it; where the fault is put, and what; words of the finding. What Hypothesis draws depends on
# the modules that are loaded, too: any of the rules that a fault breaks may be the first one.
FAULTS: dict[str, tuple[str, object, str, object, str]] = {
    "a whole name is kept": (
        "reading",
        privacy,
        "last_name",
        lambda name: name,
        "a canary came out|a last_name of another form",
    ),
    "free text is a ticket": ("reading", fields, "_ticket", msgspec.json.Decoder(str), "came out|another form"),
    "e-mails are hashed as they are": (
        "reading",
        privacy,
        "email_hash",
        lambda e, _: e and "0" * 64,
        "the event does not state",
    ),
    "the last statement stands": ("folding", facts, "merge_object", last_statement_stands, "order|repetition"),
    "all is disputed": (
        "folding",
        projection,
        "_disputed",
        all_of_it,
        "more went back than came|entries that are not the figures",
    ),
    "nothing is forgotten": ("folding", kept_facts, "redact", redact_nothing, "an erased donor came back"),
    "old signatures are good": ("signing", signature, "TOLERANCE_S", 302, "a forgery taken"),
    "any position is a cursor": ("parsing", reader, "POSITION", ANY_POSITION, "PostgreSQL takes no such text|assert"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Within some thousand cases, without any coverage to guide them; and the finding says what broke."""
    target, module, name, broken, words = FAULTS[fault]
    monkeypatch.setattr(module, name, broken)
    outcome = Outcome(target, "Hypothesis", CASES)
    drawn.run_target(outcome, 1, lambda _line: None)
    [found] = outcome.findings
    assert re.search(words, found), found


@pytest.mark.parametrize("name", TARGETS)
def test_what_mutations_begin_with_is_sound(name: str) -> None:
    """Every seed holds, and so does a little of everything made from them."""
    target = load(name)
    for seed in target.seeds(1):
        target.check(seed)
    outcome = Outcome(name, "Hypothesis", 200)
    drawn.run_target(outcome, 2, lambda _line: None)
    assert (outcome.cases, outcome.findings) == (200, [])


def test_most_of_what_is_changed_still_means_something() -> None:
    """Half of the changed events are still applied: one that is rejected at once tests nothing of what follows."""
    target, rng = load("reading"), random.Random(1)
    bodies = [body for body in target.seeds(1) if read(body, livemode=False, hash_key=None).facts]
    applied = 0
    for body in bodies * 10:
        with suppress(stripe_events.NotAnEvent, stripe_events.CannotApply):
            applied += read(target.change(body, rng), livemode=False, hash_key=None).facts is not None
    assert applied > len(bodies) * 5


def reply(status: int, content: object) -> Reply:
    return Reply(status, {}, json.dumps(content).encode())


@pytest.mark.parametrize(
    "wrong",
    [
        reply(500, {"success": False, "error": "Internal Server Error", "message": ""}),
        Reply(400, {}, b"<h1>Bad Request</h1>"),
        reply(404, {"error": "Not Found"}),
        reply(200, {"received": True, "secret": 1}),
        reply(200, {"success": True, "count": 2, "ticketId": "a", "donations": [], "nextCursor": None}),
        reply(200, []),
        Reply(304, {}, b"{}"),
    ],
)
def test_a_reply_that_must_not_be_is_found(wrong: Reply) -> None:
    """Another status, another form, other keys."""
    assert wrong_with(wrong) is not None


@pytest.mark.parametrize(
    ("content_type", "whole"),
    [("text/html; charset=utf-8", b"<!doctype html>\n<html></html>\n"), ("image/svg+xml", b"<svg></svg>")],
)
def test_only_a_page_may_be_html_or_an_image_and_must_be_whole(content_type: str, whole: bytes) -> None:
    """The same bytes are wrong as a reply of the API, and wrong when their end is missing."""
    headers = {"content-type": content_type}
    assert wrong_with(Reply(404, headers, whole), page=True) is None
    assert wrong_with(Reply(404, headers, whole)) is not None
    assert wrong_with(Reply(404, headers, whole[:-3]), page=True) is not None


def test_replies_are_distinguished() -> None:
    """Several replies in what one connection said, one of them to HEAD; half of one is none."""
    said = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.0 400 Bad\r\nContent-Length: 2\r\n\r\nno"
    assert [(each.status, each.body) for each in split(said)] == [(200, b""), (400, b"no")]
    with pytest.raises(ValueError, match="cut off"):
        list(split(b"HTTP/1.1 200 OK\r\nContent"))


@given(st.integers())
def test_requests_can_be_made_of_any_dice(seed: int) -> None:
    """Every request is one, and noise is never empty."""
    rng = random.Random(seed)
    for request in (requests.query(rng), requests.console(rng), requests.delivery(BODIES, "1", rng)):
        head, found, _ = request.data.partition(b"\r\n\r\n")
        assert found
        assert b" HTTP/1.1\r\nHost: 127.0.0.1" in head
    assert requests.noise(BODIES, rng)
