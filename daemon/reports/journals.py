"""Pure: the journal's entries, and Stripe's fees, as transactions for hledger and beancount.

Each entry, and each change of a fee, is a transaction of two postings in one currency, on the day when the money moved.
Accounts and commodities are declared where they are first used.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple
from zoneinfo import ZoneInfo

from daemon.ledger.money import exponent, major
from daemon.reports.accounts import NO_CURRENCY, Accounts, Program
from daemon.reports.formats import Row, local_date


class EntryRow(NamedTuple):
    """A row of export_entries.sql, or of export_fees.sql, which has the last two values too."""

    seq: int
    recorded_us: int
    effective_at: int
    kind: str
    donation_id: str | None
    ticket_id: str | None
    ticket_title: str | None
    amount_minor: int
    currency: str | None
    object_id: str
    cause: str
    settled_minor: int | None = None
    exchange_rate: str | None = None

    @property
    def settled(self) -> str | None:
        """What the money of a fee's transaction was converted into, such as `46.00 EUR`."""
        if self.settled_minor is None or self.currency is None:
            return None
        return f"{major(self.settled_minor, self.currency)} {self.currency}"


class AccountUse(NamedTuple):
    """A row of export_declared.sql: what the names of two accounts depend on."""

    kind: str
    ticket_id: str | None
    currency: str | None


class Journal(ABC):
    """A file of transactions.

    Args:
        zone: where a day begins.
        declared: the accounts that an earlier file declares; None: declare nothing at all.
    """

    def __init__(self, accounts: Accounts, zone: ZoneInfo, declared: Iterable[AccountUse] | None) -> None:
        self._accounts = accounts
        self._zone = zone
        self._declares = declared is not None
        self._uses: dict[AccountUse, tuple[str, str]] = {}
        self._declared: set[str] = set()
        for use in declared or ():
            for _ in self._declarations(use):
                pass

    @abstractmethod
    def head(self) -> bytes:
        """What comes before the first transaction."""

    def batch(self, rows: Sequence[Row]) -> bytes:
        """A transaction for each row of export_entries.sql or export_fees.sql."""
        return "".join(self._parts(EntryRow(*row) for row in rows)).encode()

    def _parts(self, rows: Iterable[EntryRow]) -> Iterator[str]:
        for row in rows:
            use = AccountUse(row.kind, row.ticket_id, row.currency)
            if use not in self._uses:
                yield from self._declarations(use)
            money, other = self._uses[use]
            # What adds to the figure of payments is money that comes, what adds to the others is money that goes.
            received_minor = row.amount_minor if row.kind == "payment" else -row.amount_minor
            currency = row.currency or NO_CURRENCY
            yield self._transaction(row, local_date(row.effective_at, self._zone))
            yield f"    {money}  {major(received_minor, currency)} {currency}\n"
            yield f"    {other}  {major(-received_minor, currency)} {currency}\n\n"

    def _declarations(self, use: AccountUse) -> Iterator[str]:
        """What must be declared before an entry that uses these accounts."""
        names = self._uses[use] = self._accounts.names(*use)
        for text in (self._commodity(use.currency or NO_CURRENCY), *map(self._account, names)):
            if text and text not in self._declared:
                self._declared.add(text)
                if self._declares:
                    yield text

    @abstractmethod
    def _commodity(self, currency: str) -> str: ...

    @abstractmethod
    def _account(self, name: str) -> str: ...

    @abstractmethod
    def _transaction(self, row: EntryRow, date: str) -> str: ...


class HledgerJournal(Journal):
    """A journal for hledger: https://hledger.org/hledger.html#journal"""

    def head(self) -> bytes:
        """Which mark is before the decimals: hledger would guess it from the amounts."""
        return b"decimal-mark .\n\n" if self._declares else b""

    def _commodity(self, currency: str) -> str:
        return f"commodity 1000.{'0' * exponent(currency)} {currency}\n\n"

    def _account(self, name: str) -> str:
        return f"account {name}\n\n"

    def _transaction(self, row: EntryRow, date: str) -> str:
        if row.kind == "fee":
            donation = f", donation:{row.donation_id}" if row.donation_id else ""
            settled = f", settled:{row.settled}, exchange-rate:{row.exchange_rate}" if row.settled else ""
            return (
                f"{date} * fee | {row.donation_id or row.object_id}\n"
                f"    ; fee:{row.seq}, object:{row.object_id}, category:{row.cause}{donation}{settled}\n"
            )
        ticket = f", ticket:{row.ticket_id}" if row.ticket_id else ""
        return (
            f"{date} * ({row.seq}) {row.kind} | {row.donation_id}\n"
            f"    ; donation:{row.donation_id}, object:{row.object_id}{ticket}, cause:{row.cause}\n"
        )


class BeancountJournal(Journal):
    """A journal for beancount: https://beancount.github.io/docs/beancount_language_syntax.html"""

    def head(self) -> bytes:
        """Nothing: options and plugins are the user's."""
        return b""

    def _commodity(self, currency: str) -> str:
        return ""

    def _account(self, name: str) -> str:
        # Entries are not in the order of their days, so none is known to be the first.
        return f"1970-01-01 open {name}\n\n"

    def _transaction(self, row: EntryRow, date: str) -> str:
        if row.kind == "fee":
            link = f" ^{row.donation_id}" if row.donation_id else ""
            settled = f"  settled: {row.settled}\n  exchange-rate: {row.exchange_rate}\n" if row.settled else ""
            return (
                f'{date} * "fee" "{row.donation_id or row.object_id}"{link}\n'
                f'  fee: {row.seq}\n  object: "{row.object_id}"\n  category: "{row.cause}"\n{settled}'
            )
        tag = f" #{row.ticket_id}" if row.ticket_id else ""
        return (
            f'{date} * "{row.kind}" "{row.donation_id}"{tag} ^{row.donation_id}\n'
            f'  seq: {row.seq}\n  object: "{row.object_id}"\n  cause: "{row.cause}"\n'
        )


JOURNALS: dict[Program, type[Journal]] = {Program.HLEDGER: HledgerJournal, Program.BEANCOUNT: BeancountJournal}
