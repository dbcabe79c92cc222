"""Random payments: a random walk over the steps that are possible in the present state, in any API version.

For properties: after any events that Stripe can send, with any texts and within one second, the ledger must be right.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from daemon.simulator.scenarios import Scenario
from daemon.simulator.stripe_objects import Donor
from tests.simulator.oracle import (
    FAMILIES,
    LargestAmounts,
    dispensable,
    expect,
)
from tests.simulator.random_steps import take_step
from tests.simulator.random_walk import ALL_DONORS, OPENINGS, RandomWalk


@dataclass(frozen=True)
class RandomScenario(Scenario):
    """A random walk that has ended.

    Attributes:
        largest: by the id of a donation, the largest amounts that it ever had.
        dispensable: the families of events without any one of which the ledger must show the same.
        steps: the names of the steps that were taken.
    """

    largest: Mapping[str, LargestAmounts]
    dispensable: frozenset[frozenset[str]]
    steps: tuple[str, ...]

    @classmethod
    def of_walk(cls, kind: str, walk: "RandomWalk") -> "RandomScenario":
        """The payments of a walk."""
        payments, steps = walk.payments, tuple(walk.steps)
        largest = {end.donation: payment.largest for payment in payments if (end := expect(payment.state))}
        families = frozenset(FAMILIES).intersection(*map(dispensable, payments))
        states = tuple(payment.state for payment in payments)
        return cls(kind, tuple(walk.endpoint.events), states, largest, families, steps)

    def without(self, family: frozenset[str]) -> "RandomScenario | None":
        """The same scenario for an endpoint that does not receive these types of events; None where the ledger could
        not know the same.

        One family at a time: another one is dispensable only as long as the rest is received.
        """
        if family not in self.dispensable:
            return None
        events = tuple(event for event in self.events if event["type"] not in family)
        return replace(self, events=events, dispensable=frozenset())


def random_scenario(
    rng: random.Random,
    tickets: Sequence[str],
    *,
    key: str,
    start: int,
    livemode: bool = False,
    donors: Sequence[Donor] = ALL_DONORS,
    longest: int = 24,
) -> RandomScenario:
    """One random walk, begun at `start` (Unix seconds).

    Args:
        rng: all that is random; Hypothesis' own makes a walk shrink.
        tickets: ids that the ledger knows; others are named as well.
        key: letters and digits that no other walk in the same database has; all ids are made from it.
        start: the second of the first step.
        livemode: the mode whose events make donations; a few walks are of the other mode, which makes none.
        donors: the possible donors.
        longest: the largest number of steps.
    """
    opening = rng.choice(OPENINGS)
    other_mode = rng.random() > 0.96
    walk = RandomWalk(rng, tickets, donors, key)
    walk.begin(opening, start, livemode != other_mode)
    for _ in range(rng.randint(1, longest)):
        take_step(walk)
    if other_mode:
        return replace(RandomScenario.of_walk("other mode", walk), states=())
    return RandomScenario.of_walk(opening, walk)
