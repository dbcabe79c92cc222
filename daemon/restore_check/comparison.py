"""Compares the rows of two ledgers byte for byte, by kind of row, without keeping them in memory."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from sql.snapshot import snapshot

QUERIES = {"facts": "comparable_facts", "rows": "comparable_rows"}
SHOWN = 3  # differing rows of a kind


class Compared(NamedTuple):
    """The rows of one kind: how many the lost ledger had, how many differ, and some of these."""

    kind: str
    rows: int
    differing: int
    examples: list[str]


def keep(url: str, of: str, folder: Path) -> None:
    """Writes the rows of a ledger into files of the folder, one for each kind, sorted.

    Args:
        of: `facts` or `rows`.

    Raises:
        DatabaseUnavailable, StatementRejected: they cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with snapshot(url, "donationd restore-check") as moment:
        for kind, rows in groupby(moment.stream(QUERIES[of]), itemgetter(0)):
            with (folder / kind).open("w", encoding="utf-8") as file:
                file.writelines(f"{row}\n" for _, row in rows)


def compare(lost: Path, restored: Path) -> list[Compared]:
    """Compares what `keep` has written of two ledgers, by kind."""
    kinds = sorted({path.name for folder in (lost, restored) for path in folder.iterdir()})
    return [_compare_kind(kind, lost / kind, restored / kind) for kind in kinds]


def _compare_kind(kind: str, lost: Path, restored: Path) -> Compared:
    rows, differing, examples = 0, 0, []
    for line, is_lost, is_restored in _merged(_lines(lost), _lines(restored)):
        rows += is_lost
        if is_lost != is_restored:
            differing += 1
            if differing <= SHOWN:
                examples.append(f"only in the {'lost' if is_lost else 'restored'} ledger: {line.strip()}")
    return Compared(kind, rows, differing, examples)


def _lines(path: Path) -> Iterator[str]:
    if path.exists():
        with path.open(encoding="utf-8") as file:
            yield from file


def _merged(one: Iterable[str], other: Iterable[str]) -> Iterator[tuple[str, bool, bool]]:
    """The lines of two sorted files, each with whether the first and the second file have it."""
    left, right = iter(one), iter(other)
    first, second = next(left, None), next(right, None)
    while first is not None or second is not None:
        is_left = second is None or (first is not None and first <= second)
        is_right = first is None or (second is not None and second <= first)
        yield (first if is_left else second) or "", is_left, is_right
        if is_left:
            first = next(left, None)
        if is_right:
            second = next(right, None)


def lines_with(folder: Path, texts: Iterable[str]) -> int:
    """How many rows that `keep` has written contain one of these texts."""
    wanted = list(texts)
    return sum(any(text in line for text in wanted) for path in folder.iterdir() for line in _lines(path))
