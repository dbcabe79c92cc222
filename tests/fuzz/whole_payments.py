"""Whole random payments, in any order, with repetitions and in any batches, against the simulator's oracle."""

import random

import msgspec
from hypothesis import strategies as st

from daemon.ledger.stripe_events import read
from daemon.simulator.scenarios import shuffled
from tests.fuzz import folding, seeds
from tests.simulator.oracle import expected_donations
from tests.simulator.random_payments import random_scenario
from tests.support.model_ledger import as_row, derived

WORLDS = st.tuples(st.randoms(use_true_random=False), st.integers(1, 3))


def check(world: tuple[random.Random, int]) -> None:
    """The donations are the model's, to the last field, and everything that holds of a fold holds."""
    rng, count = world
    scenarios = [random_scenario(rng, seeds.TICKETS, key=f"{n}", start=seeds.START) for n in range(count)]
    events = shuffled(scenarios, rng.randint(0, 99), duplicates=0.3)
    assert derived(events) == sorted(as_row(end) for scenario in scenarios for end in expected_donations(scenario))
    read_facts = [read(msgspec.json.encode(event), livemode=False, hash_key=None).facts for event in events]
    if parts := [facts for facts in read_facts if facts]:
        folding.check_fold(parts, rng)
