"""The random choices of a walk, and the payments that they change."""

import random
from collections.abc import Sequence
from dataclasses import replace

from daemon.simulator import monthly_payment
from daemon.simulator.api_versions import APIS, Api
from daemon.simulator.scenarios import DONORS
from daemon.simulator.state import Endpoint, Inputs
from daemon.simulator.stripe_invoices import Subscription
from daemon.simulator.stripe_objects import NO_DONOR, Donor, Metadata
from tests.simulator.oracle import (
    INVOICE_PAYMENTS,
    INVOICES,
    REFUNDS,
    SUBSCRIPTIONS,
    ObservedPayment,
)

# In every list what is plain comes first: Hypothesis shrinks towards it.
OPENINGS = (
    *(*["checkout"] * 8, *["form"] * 8, *["terminal"] * 4, *["direct"] * 3, *["subscription"] * 5),
    *("invoice", "free", "setup"),
)
CURRENCIES = ("usd", "eur", "jpy", "kwd", "isk", "ugx")
SMALLEST = {"kwd": 10, "isk": 100, "ugx": 100}  # Stripe takes no finer amounts
AMOUNTS = (100, 5000, 7500, 123_400, 999_999_999_900)
LARGEST = 10**12
NOT_TICKETS = (
    "",
    "for my aunt's roof",
    "x" * 65,
    "donate.example.org",
    "203.0.113.9",
    "+12025550143",
    "491511234",
    "ann@example.org",
)
_CHECKOUT = frozenset(
    f"checkout.session.{name}" for name in ("completed", "async_payment_succeeded", "async_payment_failed", "expired")
)
_INTENT = frozenset(
    f"payment_intent.{name}" for name in ("succeeded", "payment_failed", "canceled", "processing", "created")
)
_CHARGE = frozenset(f"charge.{name}" for name in ("succeeded", "updated", "captured", "failed", "refunded"))
_DISPUTE = frozenset(
    f"charge.dispute.{name}" for name in ("created", "updated", "closed", "funds_withdrawn", "funds_reinstated")
)


# What endpoints may not be subscribed to, so that each source of a fact is needed at least once. An endpoint that
# receives invoices receives something of the payment itself: an invoice by itself contains nothing of the money.
UNSUBSCRIBED: dict[str, frozenset[str]] = {
    "all": frozenset(),
    "no sessions": _CHECKOUT,
    "no PaymentIntents": _INTENT,
    "no charges": _CHARGE,
    "no captures": frozenset({"charge.captured", "charge.updated"}),
    "no invoices": INVOICES,
    "no invoice payments": INVOICE_PAYMENTS,
    "no subscriptions": SUBSCRIPTIONS,
    "afterwards": _INTENT | _DISPUTE | INVOICES | {"charge.succeeded", "charge.captured"},
    "sessions": _INTENT | _CHARGE | _DISPUTE | REFUNDS | INVOICES | SUBSCRIPTIONS,
}
UNKNOWN_TICKET = "unknown-ticket"
ACCOUNT = "acct_1Connected"
ALL_DONORS = (
    *DONORS,
    Donor("Ann Blank", "Blank", None, "   ", None, None, None, None),
    Donor("   ", None, "BE", "BLANK@EXAMPLE.BE", None, None, None, None),
    Donor("Agent 007", "Agent", "GB", None, None, None, None, None),
    Donor("Q " + "y" * 80, "y" * 64, None, None, None, None, None, None),
    Donor("Dr. Ann O'Hara, PhD", "O'Hara", "IE", "Ann@Example.ie", None, None, None, None),
    Donor("Lopez, Maria", "Lopez", "MX", None, None, None, None, None),
    Donor("John Smith Jr. (Troy)", "Smith", "US", None, None, None, None, None),
    Donor("김민수", "김", "KR", "minsu@example.kr", None, None, None, None),
    Donor("(+)", None, None, None, None, None, None, None),
)


class RandomWalk:
    """The random choices, and the payments that they change: several only for a subscription."""

    endpoint: Endpoint
    payment: ObservedPayment  # the one that the present step is about

    def __init__(self, rng: random.Random, tickets: Sequence[str], donors: Sequence[Donor], key: str) -> None:
        self.rng, self.key = rng, key
        self.tickets = (*tickets, *tickets, *tickets, UNKNOWN_TICKET, *NOT_TICKETS)
        self.donors = donors
        self.ids = 0
        self.payments: list[ObservedPayment] = []
        self.steps: list[str] = []

    def begin(self, opening: str, at: int, livemode: bool) -> None:
        """The site's side of a payment."""
        rng = self.rng
        api, account = rng.choice(APIS[::-1]), rng.choice((None, ACCOUNT))
        self.endpoint = Endpoint(self.new_id, at, api, account, livemode, self.unsubscribed(opening, api))
        inputs = self.inputs(self.metadata())
        if opening == "invoice":
            self.bill(None, inputs)
            return
        amount = 0 if opening == "free" else rng.choice(AMOUNTS)
        self.payment = ObservedPayment(self.endpoint, inputs, amount=amount, currency=rng.choice(CURRENCIES))
        self.payments = [self.payment]
        if opening == "form":
            self.create_intent()
        elif opening == "terminal":
            self.payment.create_intent(manual=True)
            self.attempt().hold()
        elif opening != "direct":
            self.payment.open_session(opening if opening in {"setup", "subscription"} else "payment")

    def unsubscribed(self, opening: str, api: Api) -> frozenset[str]:
        """Mostly nothing. Where refunds are reported by their charge only, charges have to be received."""
        name = self.rng.choice((*["all"] * 12, *UNSUBSCRIBED))
        if name == "no charges" and (opening == "direct" or not api.sends_refunds):
            name = "all"
        self.steps.append(f"receives {name}")
        return UNSUBSCRIBED[name]

    def new_id(self, prefix: str) -> str:
        """Unique by the key and a count; sessions and charges are also compared by id, so theirs are in no order."""
        self.ids += 1
        compared = prefix.startswith(("cs_", "ch_"))
        return f"{prefix}{self.key}_{self.rng.choice('mZa') if compared else ''}{self.ids}"

    def chance(self, of_ten: int) -> bool:
        """True in that many of ten cases."""
        return self.rng.randint(1, 10) > 10 - of_ten

    def donor(self) -> Donor:
        """A donor, or only a part of what there is to know."""
        donor = self.rng.choice(self.donors)
        parts = (
            donor,
            NO_DONOR,
            replace(NO_DONOR, name=donor.name, last_name=donor.last_name),
            replace(NO_DONOR, email=donor.email),
            replace(NO_DONOR, country=donor.country),
        )
        return self.rng.choice(parts)

    def ticket(self) -> str | None:
        """A known ticket, an unknown one, what can't be one, or none."""
        return self.rng.choice((None, *self.tickets))

    def metadata(self) -> Metadata:
        """With or without a ticket."""
        ticket = self.ticket()
        return {"campaign": "spring"} if ticket is None else {"campaign": "spring", "ticketId": ticket}

    def inputs(self, intent_metadata: Metadata) -> Inputs:
        """Any donor and any tickets."""
        return Inputs(
            customer=self.donor(),
            receipt_email=self.donor().email,
            session_metadata=self.metadata(),
            reference=self.ticket(),
            intent_metadata=intent_metadata,
            asks_consent=self.chance(5),
            shows_name=self.rng.choice((None, True, True, False)),
        )

    def smallest(self) -> int:
        """The finest amount of the payment's currency."""
        return SMALLEST.get(self.payment.currency, 1)

    def part(self, amount: int) -> int:
        """Any amount up to this one, as fine as the currency has it."""
        smallest = self.smallest()
        return smallest * self.rng.randint(1, amount // smallest) if self.chance(5) else amount

    def create_intent(self) -> None:
        """The donor chose how to pay."""
        method = self.rng.choice(("card", "card", "us_bank_account"))
        self.payment.create_intent(method, manual=method == "card" and self.chance(4))

    def bill(self, subscription: Subscription | None, inputs: Inputs) -> None:
        """One more payment, by invoice."""
        amount, currency = self.rng.choice(AMOUNTS), self.rng.choice(CURRENCIES)
        self.payment = ObservedPayment(self.endpoint, inputs, amount=amount, currency=currency)
        monthly_payment.bill(
            self.payment,
            subscription,
            line_metadata=self.line_metadata() if subscription else None,
            method=self.rng.choice(("card", "card", "us_bank_account")),
        )
        self.payments.append(self.payment)

    def line_metadata(self) -> Metadata | None:
        """Lines can differ from the subscription; only where `subscription_details` has precedence is that tried."""
        differs = self.endpoint.api.invoices == "details" and self.chance(3)
        return self.metadata() if differs else None

    def attempt(self) -> ObservedPayment:
        """The payment, with new billing details and metadata for its next charge; those of invoices rarely have any."""
        by_invoice = self.payment.state.invoice is not None
        self.payment.inputs.billing = self.donor()
        self.payment.inputs.charge_metadata = {} if by_invoice and self.chance(8) else self.metadata()
        return self.payment
