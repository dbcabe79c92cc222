"""`make fraud-figures`: how many of the signals of fraud are right, and how many attacks they find.

DAYS and SEED choose the world (tests/simulator/fraud_world.py). A signal is right if what it names was attacked on that
day; an attack is found if a right signal names its ticket, one of its e-mail hashes or one of its countries, or the
account while cards were tested.
"""

import os
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from daemon.reports import fraud
from daemon.reports.attempts import Kind
from daemon.reports.fraud import Signal
from daemon.reports.fraud_thresholds import Thresholds
from tests.simulator.fraud_world import Attack, Day, days

DAYS, SEED = 300, 1
REQUIRED = 0.9
TESTING = ("fast", "slow")


@dataclass
class Figures:
    """What the signals of some days are worth."""

    right: Counter[str] = field(default_factory=Counter)  # signals, by name and by what they name
    wrong: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)  # attacks, by kind
    missed: Counter[str] = field(default_factory=Counter)

    def add(self, day: Day, limits: Thresholds) -> None:
        """Judges the signals of a day."""
        signals = signals_of(day, limits)
        for signal in signals:
            is_right = any(names(signal, attack) for attack in day.attacks)
            (self.right if is_right else self.wrong)[f"{signal.name}, by {signal.by}"] += 1
        for attack in day.attacks:
            (self.found if any(names(signal, attack) for signal in signals) else self.missed)[attack.kind] += 1

    @property
    def precision(self) -> float:
        """The share of the signals that are right."""
        return self.right.total() / (self.right.total() + self.wrong.total())

    @property
    def recall(self) -> float:
        """The share of the attacks that are found."""
        return self.found.total() / (self.found.total() + self.missed.total())

    def table(self) -> str:
        """Both figures, by signal and by attack, as Markdown."""
        return "\n".join(
            [
                "| signal | right | wrong | precision |",
                "| --- | ---: | ---: | ---: |",
                *_rows(self.right, self.wrong),
                "",
                "| attack | found | missed | recall |",
                "| --- | ---: | ---: | ---: |",
                *_rows(self.found, self.missed),
            ]
        )


def _rows(good: Counter[str], bad: Counter[str]) -> Iterable[str]:
    for name in sorted(good.keys() | bad.keys()):
        yield _row(name, good[name], bad[name])
    yield _row("all", good.total(), bad.total())


def _row(name: str, good: int, bad: int) -> str:
    return f"| {name} | {good} | {bad} | {good / (good + bad):.3f} |"


def signals_of(day: Day, limits: Thresholds) -> list[Signal]:
    """The signals that the rules give at the end of a day."""
    attempts = day.attempts(limits)
    failed_hashes = len({row.subject for row in attempts if row.kind is Kind.HASH and row.failures})
    return [
        *fraud.card_testing(attempts, failed_hashes, limits),
        *fraud.unusual_countries(attempts, limits),
        *fraud.bursts(day.bursts(), limits),
        *fraud.soon_refunds(day.soon_refunds(limits), limits),
    ]


def names(signal: Signal, attack: Attack) -> bool:
    """Whether what a signal names was attacked."""
    match signal.by:
        case Kind.TICKET:
            return signal.subject in attack.tickets
        case Kind.HASH:
            return signal.subject in attack.hashes
        case Kind.COUNTRY:
            return signal.subject in attack.countries
    return attack.kind in TESTING


def measure(seed: int, number: int) -> Figures:
    """The figures of so many days, with the thresholds as they are if none is set."""
    limits = Thresholds()
    figures = Figures()
    for day in days(seed, number):
        figures.add(day, limits)
    return figures


def main() -> int:
    """Prints both figures. Returns the exit status: 1 if one is below what is required, 2 for a wrong number."""
    wanted = [os.environ.get("DAYS") or str(DAYS), os.environ.get("SEED") or str(SEED)]
    if not all(text.isascii() and text.isdigit() for text in wanted) or wanted[0] == "0":
        print("DAYS and SEED: whole numbers, DAYS from 1", file=sys.stderr)
        return 2
    number, seed = map(int, wanted)
    figures = measure(seed, number)
    if not (figures.right or figures.wrong) or not (figures.found or figures.missed):
        print(f"There is nothing to judge in {number} days of seed {seed}: give more DAYS.", file=sys.stderr)
        return 1
    print(f"{figures.table()}\n\n{number} days, seed {seed}; at least {REQUIRED} of both is required")
    return int(min(figures.precision, figures.recall) < REQUIRED)


if __name__ == "__main__":
    sys.exit(main())
