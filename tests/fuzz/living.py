"""Whole lives, received in any order with repetitions and in any batches, against the simulator's expectations."""

import random

import msgspec
from hypothesis import strategies as st

from daemon.ledger.stripe_events import read
from daemon.simulator.random_payments import wild_life
from daemon.simulator.scenarios import shuffled
from tests.fuzz import folding, seeds
from tests.support.model_ledger import as_row, derived

WORLDS = st.tuples(st.randoms(use_true_random=False), st.integers(1, 3))


def check(world: tuple[random.Random, int]) -> None:
    """The donations are the model's, to the last field, and everything that holds of a fold holds."""
    rng, count = world
    lives = [wild_life(rng, seeds.TICKETS, key=f"{n}", start=seeds.START) for n in range(count)]
    events = shuffled(lives, rng.randint(0, 99), duplicates=0.3)
    assert derived(events) == sorted(as_row(end) for life in lives for end in life.ends)
    told = [read(msgspec.json.encode(event), livemode=False, hash_key=None).facts for event in events]
    if parts := [facts for facts in told if facts]:
        folding.check_fold(parts, rng)
