"""The benchmark's own logic: what is sent, and how the figures are judged."""

import pytest

from daemon.api.signature import verify
from daemon.ledger import stripe_events
from daemon.ledger.facts import object_ids
from tests.bench import hostile
from tests.bench.deliveries import Seen, Watched
from tests.bench.figures import FIGURES, Figure, table
from tests.bench.flood import KINDS, Flooded
from tests.bench.machine import Broken
from tests.bench.stream import Pool, Stream, request

SECRET = "whsec_bench"
AT = 1_760_000_000


def test_every_event_is_new_signed_and_can_be_applied() -> None:
    """Over several passes no id comes twice, and each request's signature and body are good."""
    pool = Pool(payments=20)
    bodies = Stream(pool, ["a", "b"]).take(3 * len(pool.events))
    ids = {stripe_events.read(body, livemode=False, hash_key=None).id for body in bodies}
    assert len(ids) == len(bodies)
    head, _, body = request(bodies[0], SECRET, AT).partition(b"\r\n\r\n")
    [signature] = [line.partition(": ")[2] for line in head.decode().splitlines() if line.startswith("Stripe-Sig")]
    assert verify(body, signature, [SECRET.encode()], AT) == AT


def test_the_events_of_a_life_belong_together() -> None:
    """The events of a payment name the same objects, so that most of a stream is about donations already begun."""
    pool = Pool(payments=300)
    seen: set[str] = set()
    known = 0
    bodies = Stream(pool, ["a", "b"]).take(12 * len(pool.events))
    for body in bodies:
        named = object_ids(stripe_events.read(body, livemode=False, hash_key=None).facts or {})
        known += not named.isdisjoint(seen)
        seen |= named
    assert known > len(bodies) / 2


def test_what_was_not_dropped_comes_again() -> None:
    """Events that were prepared and not sent are the next ones."""
    stream = Stream(Pool(payments=20), ["a"])
    first = stream.peek(10)
    stream.drop(4)
    assert stream.take(6) == first[4:]


def test_a_figure_is_judged_by_its_direction() -> None:
    """At least, or at most: on the better side of the aim, of the requirement, or of neither."""
    rising = Figure("", "a", None, 0.6, 0.8)
    falling = Figure("", "a", None, 1.0, 0.5, rising=False)
    assert [rising.verdict(value) for value in (0.8, 0.6, 0.59)] == ["aim", "ok", "MISSED"]
    assert [falling.verdict(value) for value in (0.5, 1.0, 1.01)] == ["aim", "ok", "MISSED"]


def test_the_table_has_a_row_per_figure() -> None:
    """Ratios are formed round by round; the row shows their median."""
    samples = {name: [2.0, 4.0, 9.0] for figure in FIGURES for name in (figure.over, figure.under) if name}
    lines = table(samples).splitlines()
    assert len(lines) == 2 + len(FIGURES)
    assert "| 1.00 | 1.00 – 1.00 |" in lines[2]


def test_a_row_shows_what_misses_its_requirement() -> None:
    """One delivery of 50 that is refused, or a slow health check, stands out; what holds does not."""
    deliveries, health = Seen(), Seen()
    for number in range(50):
        deliveries.note(200 if number else 503, 0.2)
        health.note(200, 0.01 if number else 0.15)
    flooded = Flooded({"404": 1200}, connections_failed=3, ended_without_reply=0, cpu_s=1.0)
    row = hostile.Row("unknown-paths", "direct", Watched(deliveries, health), flooded, peak_mb=61.7)
    assert str(row) == "| unknown-paths | direct | **0.980** | 200 | **150** | 62 | 404: 1,200, 3 not connected |"


def test_rows_are_chosen_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of both ways unless named; a name that does not exist is reported."""
    monkeypatch.delenv("KIND", raising=False)
    monkeypatch.delenv("THROUGH", raising=False)
    assert len(hostile.chosen()) == 2 * (len(KINDS) + 1)
    monkeypatch.setenv("KIND", "slow-heads,none")
    monkeypatch.setenv("THROUGH", "direct")
    assert hostile.chosen() == [("slow-heads", "direct"), ("none", "direct")]
    monkeypatch.setenv("KIND", "slow-feet")
    with pytest.raises(Broken, match="slow-feet is none of none, unknown-paths"):
        hostile.chosen()
