"""Inputs drawn by Hypothesis, which makes what it finds as small as it can."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from tests.fuzz.outcome import Outcome, Say, error_line, finding
from tests.fuzz.target import load

ROUND = 2000  # cases; Hypothesis remembers all of a round's
CASE_TIMEOUT_S = 10.0
PROGRESS_S = 10.0

T = TypeVar("T")


def run_target(outcome: Outcome, seed: int, say: Say) -> None:
    """Draws inputs for the one of TARGETS that the outcome is named after: its seeds with changes, and any bytes."""
    target = load(outcome.name)
    changes = st.lists(st.integers(0, 2**32 - 1), max_size=6)
    seeds = target.seeds(seed)
    numbers = st.integers(0, len(seeds) - 1)  # instead of the seeds themselves, which Hypothesis would all print
    changed = st.builds(lambda number, how: target.changed(seeds[number], how), numbers, changes)
    inputs = st.binary(max_size=200) | changed
    run(outcome, inputs, target.check, seed, say)


def run(outcome: Outcome, inputs: st.SearchStrategy[T], check: Callable[[T], object], seed: int, say: Say) -> None:
    """Checks as many inputs as are wanted, or fewer if one of them is a finding."""
    began_s = spoken_s = time.monotonic()
    try:
        while not outcome.whole and not outcome.findings:
            _round(outcome, inputs, check, min(ROUND, outcome.wanted - outcome.cases), seed + outcome.cases)
            if time.monotonic() - spoken_s > PROGRESS_S:
                spoken_s = time.monotonic()
                say(f"{outcome.name}: {outcome.cases:,} of {outcome.wanted:,}")
    finally:
        outcome.seconds = time.monotonic() - began_s


def _round(outcome: Outcome, inputs: st.SearchStrategy[T], check: Callable[[T], object], cases: int, seed: int) -> None:
    last: list[T] = []

    @seeded(seed)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def each(drawn: T) -> None:
        last[:] = [drawn]
        outcome.cases += 1
        with _in_time():
            check(drawn)

    begun_with = outcome.cases
    try:
        each()
    except Exception as error:
        [smallest] = last
        shown = smallest if isinstance(smallest, bytes) else repr(smallest).encode()
        outcome.findings.append(finding(outcome.name, error_line(error), shown))
    else:
        outcome.cases = begun_with + cases  # Hypothesis leaves out what it has drawn before


class Hang(Exception):
    """A case took too long."""


@contextmanager
def _in_time() -> Iterator[None]:
    def stop(_signal: int, _frame: object) -> None:
        raise Hang(f"no end within {CASE_TIMEOUT_S:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, CASE_TIMEOUT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
