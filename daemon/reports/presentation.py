"""The three forms of a report: text for people, JSON and CSV. They differ in form only.

A report is a head and tables. Its rows are read while it is written, so that a long one needs little memory.
"""

import csv
import io
import itertools
import re
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import NamedTuple

import msgspec

from daemon.ledger import money
from daemon.reports.formats import FORMULA

ROWS = 500  # of one part of a report: some ten kilobytes
GAP = "  "  # between two columns of a text


class Amount(NamedTuple):
    """An exact amount of money."""

    minor: int
    currency: str

    def __str__(self) -> str:
        return money.major(self.minor, self.currency)


Cell = str | int | bool | Amount | Fraction | datetime | None
Row = Sequence[Cell]


@dataclass(frozen=True)
class Table:
    """Rows of the same columns. `name` and `columns` are the keys of the JSON."""

    name: str
    columns: tuple[str, ...]
    rows: AsyncIterable[Row]


@dataclass(frozen=True)
class Report:
    """A head, which states what the report was made from, and tables. No column of a table is named as a value of the
    head, because a row of CSV has both."""

    head: Mapping[str, Cell]
    tables: Sequence[Table]

    @property
    def columns(self) -> list[str]:
        """Each column of any of the tables, once."""
        return list(dict.fromkeys(itertools.chain.from_iterable(table.columns for table in self.tables)))


Form = Callable[[Report], AsyncIterator[str]]


async def each(rows: Iterable[Row]) -> AsyncIterator[Row]:
    """Rows that are known already, as a table takes them."""
    for row in rows:
        yield row


# --- JSON: one object, in one line -----------------------------------------------------------------------------------


async def as_json(report: Report) -> AsyncIterator[str]:
    """The head's values, then one array of objects for each table."""
    yield _json_object(report.head)[:-1]
    for table in report.tables:
        yield f',"{table.name}":['
        before = ""
        async for rows in _parts(table):
            yield before + ",".join(_json_object(dict(zip(table.columns, row, strict=True))) for row in rows)
            before = ","
        yield "]"
    yield "}\n"


def _json_object(values: Mapping[str, Cell]) -> str:
    return msgspec.json.encode({name: _json_value(value) for name, value in values.items()}).decode()


def _json_value(value: Cell) -> object:
    match value:
        case Amount():
            return msgspec.Raw(str(value).encode())
        case datetime():
            return _time(value)
        case Fraction():
            return str(value)
    return value


# --- CSV (RFC 4180): one table ---------------------------------------------------------------------------------------


async def as_csv(report: Report) -> AsyncIterator[str]:
    """Every row repeats the head and names its table; a column that the table does not have is empty.

    A report without rows has one row with its head.
    """
    columns = report.columns
    head = list(map(_csv_value, report.head.values()))
    yield _csv_lines([[*report.head, "table", *columns]])
    is_empty = True
    for table in report.tables:
        async for rows in _parts(table):
            is_empty = False
            yield _csv_lines([*head, table.name, *_in_columns(table, row, columns)] for row in rows)
    if is_empty:
        yield _csv_lines([[*head, "", *("" for _ in columns)]])


def _in_columns(table: Table, row: Row, columns: Iterable[str]) -> list[str]:
    values = dict(zip(table.columns, map(_csv_value, row), strict=True))
    return [values.get(column, "") for column in columns]


def _csv_lines(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _csv_value(value: Cell) -> str:
    text = _plain(value)
    is_formula = isinstance(value, str) and text[:1] in FORMULA
    return f"'{text}" if is_formula else text


# --- text ------------------------------------------------------------------------------------------------------------


async def as_text(report: Report) -> AsyncIterator[str]:
    """A line for each value of the head, and an aligned table for each table that has rows.

    Exact fractions are left out: the rounded amount stands beside each.
    """
    width = max(map(len, report.head)) + 2
    yield "".join(f"{f'{_words(name)}:':<{width}} {_shown(value)}\n" for name, value in report.head.items())
    for table in report.tables:
        layout: _Layout | None = None
        async for rows in _parts(table):
            if layout is None:
                layout = _Layout(table, rows)
                yield layout.heading()
            yield "".join(map(layout.line, rows))
        if layout is None:
            yield f"\n{_words(table.name)}: none\n"


class _Layout:
    """The widths of a table's columns, taken from its first rows; numbers stand at the right."""

    def __init__(self, table: Table, rows: Sequence[Row]) -> None:
        self._name = _words(table.name)
        self._shown = [not isinstance(value, Fraction) for value in rows[0]]
        self._columns = list(itertools.compress(map(_words, table.columns), self._shown))
        shown = list(map(self._texts, rows))
        self._widths = [max(map(len, column)) for column in zip(self._columns, *shown, strict=True)]
        values = itertools.compress(zip(*rows, strict=True), self._shown)
        self._right = [not any(isinstance(value, str | datetime) for value in column) for column in values]

    def heading(self) -> str:
        """The table's name and its columns' names, after an empty line."""
        return f"\n{self._name}\n{self._aligned(self._columns)}"

    def line(self, row: Row) -> str:
        """A row."""
        return self._aligned(self._texts(row))

    def _texts(self, row: Row) -> list[str]:
        return list(map(_shown, itertools.compress(row, self._shown)))

    def _aligned(self, texts: Iterable[str]) -> str:
        columns = zip(texts, self._widths, self._right, strict=True)
        return (
            GAP.join(f"{text:>{width}}" if right else f"{text:<{width}}" for text, width, right in columns).rstrip()
            + "\n"
        )


def _words(name: str) -> str:
    """`effectiveAt` as `effective at`."""
    return re.sub(r"(?=[A-Z])", " ", name).lower()


def _shown(value: Cell) -> str:
    return "-" if value in (None, "") else _plain(value)


# --- common ----------------------------------------------------------------------------------------------------------


async def _parts(table: Table) -> AsyncIterator[list[Row]]:
    """A table's rows, ROWS at a time."""
    rows: list[Row] = []
    async for row in table.rows:
        rows.append(row)
        if len(rows) == ROWS:
            yield rows
            rows = []
    if rows:
        yield rows


def _plain(value: Cell) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case datetime():
            return _time(value)
    return str(value)


def _time(moment: datetime) -> str:
    """RFC 3339 in UTC; fractions of a second only where there are any."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
