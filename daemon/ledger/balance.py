"""Stripe's balance transactions and payouts, as the ledger keeps them (SPEC 11, fees and payouts).

Objects: https://docs.stripe.com/api/balance_transactions/object and https://docs.stripe.com/api/payouts/object. Of an
object only the fields below are read, so no donor's data can reach the database. A transaction belongs to the donation
of its source: the charge, the refund or the dispute.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from daemon.ledger.balance_verification import WrongSum, wrong_sums
from daemon.ledger.facts import Facts, Family, merge, owners
from sql import load
from sql.database import Database

TIED = 500  # transactions that are tied to their donations by one statement


class Group(StrEnum):
    """What the categories of transactions are added up by."""

    PAYMENTS = "payments"
    REFUNDS = "refunds"
    DISPUTES = "disputes"
    FEES = "fees"
    RESERVES = "reserves"
    OTHER = "other"


# https://docs.stripe.com/reports/reporting-categories
GROUPS = {
    **dict.fromkeys(("charge", "charge_failure", "partial_capture_reversal"), Group.PAYMENTS),
    **dict.fromkeys(("refund", "refund_failure"), Group.REFUNDS),
    **dict.fromkeys(("dispute", "dispute_reversal"), Group.DISPUTES),
    **dict.fromkeys(("fee", "network_cost"), Group.FEES),
    **dict.fromkeys(("risk_reserved_funds", "connect_reserved_funds"), Group.RESERVES),
}


def group_of(category: str) -> Group:
    """The group of a reporting category; one that is not known here is of OTHER, so that nothing is left out."""
    return GROUPS.get(category, Group.OTHER)


class Source(Struct, frozen=True):
    """What a transaction is for, and the payment that this belongs to: of a charge, refund or dispute."""

    id: str
    payment_intent: str | None = None
    charge: str | None = None


class BalanceTransaction(Struct, frozen=True):
    """A change of the account's balance; amounts are in minor units of `currency`, times in Unix seconds."""

    id: str
    created: int
    available_on: int
    type: str
    amount: int
    fee: int
    net: int
    currency: str
    exchange_rate: Decimal | None = None
    reporting_category: str | None = None
    source: Source | str | None = None

    @property
    def objects(self) -> tuple[str | None, str | None]:
        """The ids of its source, and of the payment that this belongs to, where Stripe states them."""
        if isinstance(self.source, Source):
            return self.source.id, self.source.payment_intent or self.source.charge
        return self.source, None

    def row(self, donation: str | None, payout: str | None) -> dict[str, object]:
        """A row of record_balance_transactions.sql."""
        source, payment = self.objects
        return {
            **{name: getattr(self, name) for name in ("id", "created", "available_on", "type")},
            **{name: getattr(self, name) for name in ("amount", "fee", "net")},
            "source": source,
            "payment": payment,
            "category": self.reporting_category or self.type,
            "currency": self.currency.upper(),
            "exchange_rate": None if self.exchange_rate is None else str(self.exchange_rate),
            "donation": donation,
            "payout": payout,
        }


class Payout(Struct, frozen=True):
    """Money that is sent to the bank; `arrival_date` is the beginning of a day in UTC."""

    id: str
    created: int
    arrival_date: int
    amount: int
    currency: str
    status: str
    automatic: bool
    method: str = ""
    reconciliation_status: str | None = None

    @property
    def reconciliation(self) -> str:
        """Whether Stripe states what the payout consists of: `not_applicable` for manual and instant payouts
        (https://docs.stripe.com/payouts/reconciliation)."""
        return self.reconciliation_status or ("completed" if self.automatic else "not_applicable")

    @property
    def is_attributed(self) -> bool:
        """Whether Stripe lists its transactions."""
        return self.reconciliation != "not_applicable"

    def row(self) -> dict[str, object]:
        """A row of record_payouts.sql."""
        return {
            **{name: getattr(self, name) for name in ("id", "created", "amount", "status", "method", "reconciliation")},
            "arrival": self.arrival_date,
            "currency": self.currency.upper(),
        }


class StripeList(StrEnum):
    """The lists of Stripe's that are read."""

    TRANSACTIONS = "balance_transactions"
    PAYOUTS = "payouts"


class Reading(NamedTuple):
    """A row of find_balance_reading.sql: how far a list has been read, in Unix seconds.

    Everything created until `complete_until` is recorded. While the list is read, newest first, `cursor` is the last
    object that was recorded, and `reading_until` what becomes `complete_until` at its end.
    """

    complete_until: int | None = None
    reading_until: int | None = None
    cursor: str | None = None


class BalanceStore:
    """Records what Stripe's lists contain. Recording the same again adds nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def reading(self, of: StripeList) -> Reading:
        """How far a list has been read."""
        rows = await self._database.fetch(load("find_balance_reading"), {"list": of})
        return Reading._make(rows[0]) if rows else Reading()

    async def store_reading(self, of: StripeList, reading: Reading) -> None:
        """Keeps how far a list has been read."""
        await self._database.fetch(load("store_balance_reading"), {"list": of, **reading._asdict()})

    async def record_transactions(self, found: Iterable[BalanceTransaction], payout: str | None = None) -> int:
        """Records transactions, each with its donation, and returns how many rows were added.

        Args:
            payout: the payout that they are parts of, if that is known.
        """
        by_id = {each.id: each for each in found}
        donations = await self._donations([id_ for each in by_id.values() for id_ in each.objects if id_])
        rows = []
        for each in by_id.values():
            known = (donations[id_] for id_ in each.objects if id_ in donations)
            rows.append(each.row(next(known, None), payout))
        return await self._record("record_balance_transactions", rows)

    async def record_payouts(self, found: Iterable[Payout]) -> int:
        """Records payouts whose transactions have been recorded, and returns how many rows were added."""
        return await self._record("record_payouts", [each.row() for each in {each.id: each for each in found}.values()])

    async def settled(self, found: Iterable[Payout]) -> set[str]:
        """The ids of those payouts whose transactions need not be read again."""
        rows = _json([{"id": each.id, "status": each.status} for each in found])
        return {id_ for (id_,) in await self._database.fetch(load("settled_payouts"), {"rows": rows})}

    async def tie(self) -> int:
        """Ties recorded transactions to donations that became known, or got another id, later; returns how many."""
        tied, after = 0, ""
        while rows := await self._database.fetch(load("untied_transactions"), {"after": after, "limit": TIED}):
            donations = await self._donations([object_id for _, object_id in rows])
            ties = [{"id": id_, "donation": donations[known]} for id_, known in rows if known in donations]
            tied += await self._record("record_balance_transactions", ties)
            after = rows[-1][0]
        return tied

    async def wrong_sums(self, since_s: int) -> list[WrongSum]:
        """The payouts that arrived since this Unix second and are not the sum of their transactions."""
        day = datetime.fromtimestamp(max(0, since_s), UTC).date()
        return wrong_sums(await self._database.fetch(load("verify_payouts"), {"since": day}))

    async def _donations(self, ids: Sequence[str]) -> dict[str, str]:
        """The donations that objects belong to, as far as they are known."""
        found: dict[str, str] = {}
        for id_, facts, failed_charge in await self._database.fetch(load("facts_of_sources"), {"ids": list(ids)}):
            whole: Facts = merge(facts, {Family.CHARGE: {id_: failed_charge}}) if failed_charge else facts
            if donation := owners(whole).get(id_):
                found[id_] = donation
        return found

    async def _record(self, query: str, rows: list[dict[str, object]]) -> int:
        if not rows:
            return 0
        sql = f"{load('lock_balance')};\n{load(query)}"
        return len(await self._database.fetch(sql, {"rows": _json(rows)}))


def _json(rows: Any) -> str:
    return msgspec.json.encode(rows).decode()
