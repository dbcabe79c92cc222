"""The account's balance: what each payment, refund and dispute changed it by, and the payouts to the bank.

There are no events of payouts: SPEC 3 handles none, and donationd reads payouts from their list (SPEC 11).

All of it is derived from the objects of a world: the same objects give the same transactions and payouts.
Sources: https://docs.stripe.com/api/balance_transactions/object, https://docs.stripe.com/reports/balance-transaction-types
and https://docs.stripe.com/payouts/reconciliation
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from itertools import groupby
from operator import itemgetter

from daemon.simulator.api_versions import Api
from daemon.simulator.collection import Collection
from daemon.simulator.copies import Copy
from daemon.simulator.stripe_objects import DAY_S, Charge, Dispute, Json, Refund

DOLLARS = "usd"
RATES = {  # of one unit of each currency, in dollars
    DOLLARS: "1",
    **{"eur": "1.0832", "cad": "0.7312", "gbp": "1.2745", "jpy": "0.006713", "kwd": "3.2512"},
    **{"isk": "0.007241", "ugx": "0.000272"},
}
WITHOUT_DECIMALS = frozenset("bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf".split())
THREE_DECIMALS = frozenset("bhd jod kwd omr tnd".split())
RATE_STEP = Decimal("0.000001")  # of rates between two other currencies
CATEGORIES = {
    **{"charge": "charge", "payment": "charge", "payment_failure_refund": "charge_failure"},
    **{"refund": "refund", "payment_refund": "refund", "refund_failure": "refund_failure"},
}
CARD_FEE, DEBIT_FEE = Decimal("0.029"), Decimal("0.008")  # of the amount
CARD_FEE_MINOR, LARGEST_DEBIT_FEE_MINOR, DISPUTE_FEE_MINOR = 30, 500, 1500
AVAILABLE_AFTER_S = 2 * DAY_S
ARRIVES_AFTER_S = 2 * DAY_S
WEEK_S = 7 * DAY_S
WEEKLY_FEE_MINOR, RESERVE_MINOR, CREDIT_MINOR = 2, 1000, 250


@dataclass(frozen=True)
class BalanceTransaction:
    """One change of the balance, in minor units of the account's currency.

    Attributes:
        source: the id of what it is for: a charge, refund, dispute or payout; None for the account's own.
        exchange_rate: what one unit of the source's currency was converted with; None without conversion.
        currency: the account's, in which Stripe settles.
    """

    id: str
    created: int
    type: str
    reporting_category: str
    amount: int
    fee: int = 0
    source: str | None = None
    exchange_rate: Decimal | None = None
    description: str | None = None
    currency: str = DOLLARS

    @property
    def net(self) -> int:
        """What the balance changes by."""
        return self.amount - self.fee

    @property
    def available_on(self) -> int:
        """When the money can be paid out: at midnight UTC. A payout takes what is available."""
        after_s = 0 if self.type == "payout" else AVAILABLE_AFTER_S
        return (self.created + after_s) // DAY_S * DAY_S

    def render(self, _api: Api) -> Json:
        """The object as the API gives it; no event carries one."""
        fee = {
            "amount": self.fee,
            "application": None,
            "currency": self.currency,
            "description": "Dispute fee" if self.reporting_category == "dispute" else "Stripe processing fees",
            "type": "stripe_fee",
        }
        return {
            "id": self.id,
            "object": "balance_transaction",
            "amount": self.amount,
            "available_on": self.available_on,
            "balance_type": "risk_reserved" if self.type.startswith("reserve_") else "payments",
            "created": self.created,
            "currency": self.currency,
            "description": self.description,
            "exchange_rate": None if self.exchange_rate is None else float(self.exchange_rate),
            "fee": self.fee,
            "fee_details": [fee] if self.fee else [],
            "net": self.net,
            "reporting_category": self.reporting_category,
            "source": self.source,
            "status": "available",
            "type": self.type,
        }


@dataclass
class Payout:
    """What was sent to the bank account on one day."""

    id: str
    created: int
    amount: int
    automatic: bool
    livemode: bool
    balance_transaction: str
    currency: str
    status: str = "in_transit"

    def render(self, _api: Api) -> Json:
        """The object as the API gives it."""
        return {
            "id": self.id,
            "object": "payout",
            "amount": self.amount,
            "application_fee": None,
            "application_fee_amount": None,
            "arrival_date": self.created + ARRIVES_AFTER_S,
            "automatic": self.automatic,
            "balance_transaction": self.balance_transaction,
            "created": self.created,
            "currency": self.currency,
            "description": "STRIPE PAYOUT",
            "destination": "ba_1DonationsBankAccount0001",
            "failure_balance_transaction": None,
            "failure_code": None,
            "failure_message": None,
            "livemode": self.livemode,
            "metadata": {},
            "method": "standard",
            "original_payout": None,
            "payout_method": None,
            "reconciliation_status": "completed" if self.automatic else "not_applicable",
            "reversed_by": None,
            "source_type": "card",
            "statement_descriptor": None,
            "status": self.status,
            "trace_id": {"status": "pending", "value": None},
            "type": "bank_account",
        }


def _changes(charges: Iterable[Charge | Copy], currency: str) -> list[BalanceTransaction]:
    """Every change of the balance: of all payments, and the account's own of each week."""
    found = [each for charge in charges for each in _of_stored(charge, currency)]
    return [*found, *(replace(each, currency=currency) for each in _of_weeks(found))]


def _of_stored(charge: Charge | Copy, currency: str) -> Iterator[BalanceTransaction]:
    if not isinstance(charge, Copy):
        yield from of_charge(charge, currency)
    elif isinstance(charge.original, Charge):
        for each in of_charge(charge.original, currency):
            yield replace(each, id=charge.named(each.id), source=charge.named(each.source or ""))


def of_charge(charge: Charge, currency: str = DOLLARS) -> Iterator[BalanceTransaction]:
    """A charge that took money, its refunds, disputes and late failure, as an account in this currency has them."""
    if charge.paid_at is None or charge.source_transfer is not None:
        return
    is_debit = charge.method != "card"
    captured = charge.amount_captured or charge.amount  # a late failure can set it to 0
    kind = "payment" if is_debit else "charge"
    yield _converted(charge, balance_transaction_id(charge) or "", charge.paid_at, kind, captured, currency=currency)
    if charge.status == "failed":
        failed_at = _first_second(charge, {"failed"}, charge.paid_at)
        yield _converted(
            charge, f"txn_{charge.id[3:]}f", failed_at, "payment_failure_refund", -captured, currency=currency
        )
    for refund in charge.refunds:
        yield from _of_refund(refund, "payment_refund" if is_debit else "refund", currency)
    for dispute in charge.disputes:
        yield from of_dispute(dispute, currency)


def balance_transaction_id(charge: Charge) -> str | None:
    """The id of the transaction of a charge that took money, which its events may not name."""
    if charge.balance_transaction is not None or charge.paid_at is None:
        return charge.balance_transaction
    return f"txn_{charge.id[3:]}"


def failure_transaction_id(thing: Charge | Refund) -> str | None:
    """The id of the transaction by which a charge or a refund that had moved money was taken back; None without one."""
    failed = not thing.stands if isinstance(thing, Refund) else thing.status == "failed" and thing.paid_at is not None
    return f"txn_{thing.id[3:]}f" if failed else None


def _of_refund(refund: Refund, kind: str, currency: str) -> Iterator[BalanceTransaction]:
    yield _converted(refund, f"txn_{refund.id[3:]}", refund.created, kind, -refund.amount, currency=currency)
    if not refund.stands:
        failed_at = _first_second(refund, {"failed", "canceled"}, refund.created)
        yield _converted(refund, f"txn_{refund.id[3:]}f", failed_at, "refund_failure", refund.amount, currency=currency)


def of_dispute(dispute: Dispute, currency: str = DOLLARS) -> Iterator[BalanceTransaction]:
    """What a dispute took and gave back, each time; the first time with a fee, which Stripe keeps."""
    held, number = 0, 0
    for report in dispute.reports:
        wanted = report.shown["amount"] if report.shown["status"] not in _WITHOUT_MONEY else 0
        if wanted != held:
            id_, fee = f"txn_{dispute.id[3:]}{number}", 0 if number else DISPUTE_FEE_MINOR
            yield replace(_converted(dispute, id_, report.at, "adjustment", held - wanted, currency=currency), fee=fee)
            held, number = wanted, number + 1


_WITHOUT_MONEY = frozenset(
    "warning_needs_response warning_under_review warning_closed charge_refunded prevented won".split()
)


def _first_second(thing: Charge | Refund, statuses: set[str], default: int) -> int:
    """When an event first carried one of these statuses; the default if none did."""
    return next((report.at for report in thing.reports if report.shown["status"] in statuses), default)


def _converted(
    source: Charge | Refund | Dispute, id_: str, at: int, kind: str, amount: int, *, currency: str
) -> BalanceTransaction:
    """A transaction of this type for an amount in the currency of its source, in the currency of the account."""
    rate = _rate(source.currency, currency)
    settled = _whole(Decimal(amount).scaleb(_exponent(currency) - _exponent(source.currency)) * rate)
    fee = 0
    if kind == "charge":
        fee = _whole(settled * CARD_FEE) + CARD_FEE_MINOR
    elif kind == "payment":
        fee = min(_whole(settled * DEBIT_FEE), LARGEST_DEBIT_FEE_MINOR)
    category = CATEGORIES.get(kind) or ("dispute" if amount < 0 else "dispute_reversal")
    exchange_rate = None if source.currency == currency else rate
    return BalanceTransaction(id_, at, kind, category, settled, fee, source.id, exchange_rate, currency=currency)


def _rate(source: str, currency: str) -> Decimal:
    """What one unit of a currency is in that of an account."""
    rate = Decimal(RATES.get(source, "1"))
    return rate if currency == DOLLARS else (rate / Decimal(RATES[currency])).quantize(RATE_STEP, ROUND_HALF_UP)


def _exponent(currency: str) -> int:
    return 0 if currency in WITHOUT_DECIMALS else 3 if currency in THREE_DECIMALS else 2


def _whole(amount: Decimal) -> int:
    return int(amount.quantize(Decimal(1), ROUND_HALF_UP))


def _of_weeks(payments: Iterable[BalanceTransaction]) -> Iterator[BalanceTransaction]:
    """The account's own transactions, for each week with payments: Stripe's fee for other services, a reserve that is
    released after a week, and every fourth week an adjustment.
    """
    charges = sorted(each.created // WEEK_S for each in payments if each.reporting_category == "charge")
    for week, group in groupby(charges):
        fee, end, id_ = WEEKLY_FEE_MINOR * len(list(group)), (week + 1) * WEEK_S, f"txn_1Week{week}"
        yield BalanceTransaction(f"{id_}fee", end, "stripe_fee", "fee", -fee, description="Radar for Fraud Teams")
        yield BalanceTransaction(f"{id_}hold", end, "reserve_hold", "risk_reserved_funds", -RESERVE_MINOR)
        yield BalanceTransaction(f"{id_}release", end + WEEK_S, "reserve_release", "risk_reserved_funds", RESERVE_MINOR)
        if week % 4 == 0:
            yield BalanceTransaction(f"{id_}credit", end, "adjustment", "other_adjustment", CREDIT_MINOR)


class Balance:
    """The transactions and payouts of a world.

    What was paid out stays so: transactions that become known later wait for the next payout.

    Args:
        transactions, payouts: where both are added.
        currency: in which the account settles: everything is converted into it.

    Attributes:
        currency: as given; it can be changed before the first payment.
        automatic: whether Stripe makes the payouts: it then knows what each consists of.
        parts: the transactions of each automatic payout, its own included, by its id.
    """

    def __init__(
        self,
        transactions: Collection[BalanceTransaction],
        payouts: Collection[Payout],
        *,
        livemode: bool,
        currency: str = DOLLARS,
    ) -> None:
        self._transactions, self._payouts, self._livemode = transactions, payouts, livemode
        self.currency = currency
        self.automatic = True
        self.parts: dict[str, Collection[BalanceTransaction]] = {}
        self._waiting: list[BalanceTransaction] = []
        self._paid_until = 0  # the day of the last payout

    def update(self, charges: Iterable[Charge | Copy], now: int) -> None:
        """Adds what is new, and a payout for each day on which the available money is more than 0."""
        for each in _changes(charges, self.currency):
            if self._transactions.get(each.id) is None:
                self._transactions.add(each)
                self._waiting.append(each)
        available, self._waiting = sorted((self._day(each), each.id, each) for each in self._waiting), []
        for day, group in groupby(available, itemgetter(0)):
            self._waiting += [each for _, _, each in group]
            if day <= now and sum(each.net for each in self._waiting) > 0:
                self._pay_out(day)
        for payout in self._payouts:
            payout.status = "paid" if payout.created + ARRIVES_AFTER_S <= now else "in_transit"

    def _day(self, transaction: BalanceTransaction) -> int:
        """The first day on which a payout can contain it."""
        return max(transaction.available_on, self._paid_until + DAY_S)

    def _pay_out(self, day: int) -> None:
        amount = sum(each.net for each in self._waiting)
        id_ = f"{day // DAY_S}{'Live' if self._livemode else 'Test'}"
        transaction = BalanceTransaction(
            *(f"txn_1{id_}", day, "payout", "payout", -amount),
            source=f"po_1{id_}",
            description="STRIPE PAYOUT",
            currency=self.currency,
        )
        self._transactions.add(transaction)
        values = (day, amount, self.automatic, self._livemode, transaction.id, self.currency)
        self._payouts.add(Payout(f"po_1{id_}", *values))
        parts = Collection[BalanceTransaction]()
        self.parts[f"po_1{id_}"] = parts
        for each in (*(self._waiting if self.automatic else ()), transaction):
            parts.add(each)
        self._waiting, self._paid_until = [], day
