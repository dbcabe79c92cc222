"""Pure: the names of the accounts in journals for hledger and beancount, which the user can change in a file.

The file is TOML. The default of each program is a file too (`hledger.toml`, `beancount.toml`), so that it can be
printed, changed and given back.
"""

import re
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from importlib import resources
from typing import Any

PLACEHOLDER = re.compile(r"\{(.*?)\}")
NO_CURRENCY = "XXX"  # ISO 4217: no currency


class Program(StrEnum):
    """A program that reads a journal."""

    HLEDGER = "hledger"
    BEANCOUNT = "beancount"


# hledger: https://hledger.org/hledger.html#account-names. A semicolon begins a comment, two spaces end the name, and
# brackets around all of it, a bar or a mark at its beginning have meanings of their own.
_HLEDGER = re.compile(r"(?![(\[*!|])[^;\s\x00-\x1f\x7f]+( [^;\s\x00-\x1f\x7f]+)*")
# beancount: https://beancount.github.io/docs/beancount_language_syntax.html#accounts
_BEANCOUNT = re.compile(r"(Assets|Liabilities|Equity|Income|Expenses)(:[A-Z0-9][A-Za-z0-9-]*)+")
VALID = {Program.HLEDGER: _HLEDGER, Program.BEANCOUNT: _BEANCOUNT}
RULES = {
    Program.HLEDGER: "a name has no semicolon and no two spaces in a row, and begins with a letter",
    Program.BEANCOUNT: (
        "a name is Assets, Liabilities, Equity, Income or Expenses, and then parts such as :Stripe, each of which "
        "begins with a capital letter or a digit and has only letters, digits and dashes"
    ),
}
KINDS = ("payment", "refund", "dispute", "fee")  # of a journal's transactions
FEE = "fee"
MONEY, NO_TICKET, TICKETS = "money", "no_ticket", "tickets"


class AccountsError(ValueError):
    """A file of account names cannot be used; the text says why."""


def default_file(program: Program) -> str:
    """The file of a program's default names."""
    return (resources.files(__package__) / f"{program}.toml").read_text(encoding="utf-8")


class Accounts:
    """The two accounts that an entry moves money between.

    Args:
        text: a file of account names.

    Raises:
        AccountsError: it is not such a file.
    """

    def __init__(self, program: Program, text: str) -> None:
        self._program = program
        names = _read(text)
        names.setdefault(FEE, _read(default_file(program))[FEE])  # a file of before there were fees
        tickets = names.pop(TICKETS, {})
        self._names = _checked(program, names, "")
        missing = [name for name in (MONEY, *KINDS, NO_TICKET) if name not in self._names]
        if missing:
            raise AccountsError(f"it does not set {', '.join(missing)}")
        if not isinstance(tickets, dict) or not all(isinstance(own, dict) for own in tickets.values()):
            raise AccountsError("the accounts of a ticket are a table of their own: [tickets.story-1]")
        self._tickets = {ticket: _checked(program, own, f"tickets.{ticket}.") for ticket, own in tickets.items()}

    def names(self, kind: str, ticket: str | None, currency: str | None) -> tuple[str, str]:
        """The account of the money, and the account that an entry of this kind is for."""
        names = self._names | self._tickets.get(ticket or "", {})
        values = {
            "ticket": self._names[NO_TICKET] if ticket is None else self._part(ticket),
            "currency": currency or NO_CURRENCY,
        }
        money, other = (PLACEHOLDER.sub(lambda found: values[found[1]], names[name]) for name in (MONEY, kind))
        return money, other

    def _part(self, ticket: str) -> str:
        """A ticket as a part of a name: beancount's have no underscores, and begin with a capital letter or a digit."""
        if self._program is Program.HLEDGER:
            return ticket
        part = ticket.replace("_", "-").lstrip("-") or "Ticket"
        return part[0].upper() + part[1:]


def _read(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise AccountsError(f"it is not TOML: {error}") from None


def _checked(program: Program, names: Mapping[str, Any], where: str) -> dict[str, str]:
    """The same names. Raises AccountsError for one that is not known, or not valid."""
    for name, value in names.items():
        if name not in (MONEY, *KINDS, NO_TICKET) or (where and name in (NO_TICKET, FEE)):
            raise AccountsError(f"{where}{name} is not known; known are {', '.join((MONEY, *KINDS))}")
        if not isinstance(value, str):
            raise AccountsError(f"{where}{name} is not a text")
        placeholders = PLACEHOLDER.findall(value)
        if name == FEE and "ticket" in placeholders:
            raise AccountsError(f"{where}{name} contains {{ticket}}; some fees are of no ticket")
        if unknown := [each for each in placeholders if each not in ("ticket", "currency")]:
            raise AccountsError(
                f"{where}{name} contains {{{unknown[0]}}}; only {{ticket}} and {{currency}} are replaced"
            )
        shown = f"Assets:{value}" if name == NO_TICKET else value
        if not VALID[program].fullmatch(PLACEHOLDER.sub("A", shown)):
            raise AccountsError(f"{where}{name} is not valid: {RULES[program]}")
    return dict(names)
