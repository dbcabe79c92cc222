"""Reads exported files as other programs do, and adds them up."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from beancount import loader
from beancount.core.data import Open, Transaction

from daemon.ledger.money import exponent
from tests.support.export_world import Totals, nonzero

FIGURES = {"amount": "paid", "refundedAmount": "refunded", "disputedAmount": "disputed"}
FIGURE_OF = {"payment": "paid", "refund": "refunded", "dispute": "disputed"}


def minor(amount: str | Decimal, currency: str) -> int:
    """An amount in major units, which has exactly the decimals of its currency, in minor units."""
    value = Decimal(amount)
    assert -value.as_tuple().exponent == exponent(currency), (amount, currency)  # type: ignore[operator]
    return int(value.scaleb(exponent(currency)))


def figures(rows: Iterable[Mapping[str, Any]]) -> Totals:
    """What the rows of donations add up to; only those that were paid count."""
    return nonzero(
        [
            (row["ticketId"] or "", row["currency"] or "", figure, minor(row[name], row["currency"] or ""))
            for row in rows
            if row["paidAt"]
            for name, figure in FIGURES.items()
        ]
    )


def movements(rows: Iterable[Mapping[str, Any]]) -> Totals:
    """What the rows of entries add up to."""
    return nonzero(
        [
            (
                row["ticketId"] or "",
                row["currency"] or "",
                FIGURE_OF[row["kind"]],
                minor(row["amount"], row["currency"]),
            )
            for row in rows
        ]
    )


def parsed(content: bytes, delimiter: str = ",") -> list[dict[str, str]]:
    """A CSV file's rows, with the apostrophes that protect from formulas taken away again."""
    lines = csv.DictReader(io.StringIO(content.decode(), newline=""), delimiter=delimiter, strict=True)
    return [{name: cell[1:] if cell[:1] == "'" else cell for name, cell in row.items()} for row in lines]


def json_rows(content: bytes) -> list[dict[str, Any]]:
    """JSON lines, with numbers as they are written."""
    return [json.loads(line, parse_float=Decimal, parse_int=Decimal) for line in content.decode().split("\n")[:-1]]


def movements_in_beancount(journal: Path) -> Totals:
    """What the transactions add up to. The file has no errors."""
    directives, errors, _ = loader.load_file(str(journal))
    assert errors == []
    found = []
    for each in directives:
        assert isinstance(each, Open | Transaction)
        if isinstance(each, Transaction):
            money, other = each.postings
            assert money.account.startswith("Assets:Stripe:")
            assert money.units is not None and other.units is not None and isinstance(other.units.number, Decimal)
            currency = other.units.currency
            assert (money.units.number, money.units.currency) == (-other.units.number, currency)
            [ticket] = each.tags or [""]
            kind = str(each.payee)
            sign = -1 if kind == "payment" else 1
            units = minor(other.units.number, currency)
            found.append((ticket, "" if currency == "XXX" else currency, FIGURE_OF[kind], sign * units))
    return nonzero(found)
