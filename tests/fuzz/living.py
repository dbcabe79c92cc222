"""Whole lives, received in any order with repetitions and in any batches, against the simulator's expectations."""

import hashlib
import random

import msgspec
from hypothesis import strategies as st

from daemon import fold
from daemon.facts import Facts, read
from daemon.fold import Donation
from daemon.simulator.expectations import Expected
from daemon.simulator.payment_lives import shuffled
from daemon.simulator.wild_lives import wild_life
from tests.fuzz import folding, seeds

WORLDS = st.tuples(st.randoms(use_true_random=False), st.integers(1, 3))


def check(world: tuple[random.Random, int]) -> None:
    """The donations are the model's, to the last field, and everything that holds of a fold holds."""
    rng, count = world
    lives = [wild_life(rng, seeds.TICKETS, key=f"{n}", start=seeds.START) for n in range(count)]
    events = shuffled(lives, rng.randint(0, 99), duplicates=0.3)
    told = [read(msgspec.json.encode(event), livemode=False, hash_key=None).facts for event in events]
    parts: list[Facts] = [facts for facts in told if facts]
    ends = sorted((end for life in lives for end in life.ends), key=lambda end: end.donation)
    facts = fold.merge({}, *parts)
    subscriptions = facts.pop("sub", {})
    shown = fold.donations(fold.forget(facts), subscriptions)
    assert [*map(_as_expected, shown)] == [*map(_hashed, ends)]
    if parts:
        folding.check_fold(parts, rng)


def _hashed(end: Expected) -> tuple[object, ...]:
    email = hashlib.sha256(end.email.encode()).hexdigest() if end.email else None
    money = (end.status, end.amount_minor, end.refunded_minor, end.disputed_minor)
    times = (end.created_at, end.paid_at, end.refunded_at)
    return (
        end.donation,
        end.ticket,
        end.currency,
        *money,
        *times,
        end.donor,
        end.country,
        email,
        end.session_id,
        end.account,
    )


def _as_expected(donation: Donation) -> tuple[object, ...]:
    of = donation
    money = (of.status, of.amount, of.refunded, of.disputed)
    times = (of.created_at, of.paid_at, of.refunded_at)
    return (
        of.id,
        of.ticket,
        of.currency,
        *money,
        *times,
        of.last_name,
        of.country,
        of.email_hash,
        of.session_id,
        of.account,
    )
