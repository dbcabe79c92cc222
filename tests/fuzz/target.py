"""What can be fuzzed by bytes alone: where they come from, how they change, and what must hold for each."""

import importlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

TARGETS = ("reading", "folding", "signing", "parsing")  # modules of this folder


@dataclass(frozen=True)
class Target:
    """A function under test.

    Args:
        check: is given any bytes at all; raises whatever it likes, best an AssertionError, if something is wrong.
        seeds: the inputs to begin with, by a seed.
        change: makes another input of one.
        longest: bytes that an input may have.
    """

    check: Callable[[bytes], None]
    seeds: Callable[[int], Sequence[bytes]]
    change: Callable[[bytes, random.Random], bytes]
    longest: int

    def changed(self, seed: bytes, changes: Sequence[int]) -> bytes:
        """A seed after several changes, each decided by a number."""
        data = seed
        for number in changes:
            data = self.change(data, random.Random(number))
        return data[: self.longest]


def load(name: str) -> Target:
    """One of TARGETS. Imported only now, so that who wants to can instrument it."""
    target: Target = importlib.import_module(f"tests.fuzz.{name}").TARGET
    return target
