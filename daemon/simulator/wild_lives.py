"""A payment's life at random: a walk over all steps that are possible in its present state, in any API version.

For properties: whatever can happen at Stripe, in whatever words and within one second, the ledger must be right.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from daemon.simulator.expectations import REFUNDS
from daemon.simulator.payment_lives import DONORS, HOUR_S, MINUTE_S, Life
from daemon.simulator.payment_steps import Payment, Words
from daemon.simulator.stripe_model import (
    APIS,
    DAY_S,
    NOBODY,
    Api,
    Books,
    Charge,
    Dispute,
    Donor,
    Metadata,
    Refund,
    Session,
)

# In every list what is plain comes first: Hypothesis shrinks towards it.
OPENINGS = (*["checkout"] * 8, *["form"] * 8, *["direct"] * 3, "free", "setup", "subscription")
WAITS_S = (0, 0, 0, 1, 2, MINUTE_S, HOUR_S, 3 * DAY_S)
CURRENCIES = ("usd", "eur", "jpy", "kwd", "isk", "ugx")
SMALLEST = {"kwd": 10, "isk": 100, "ugx": 100}  # Stripe takes no finer amounts
AMOUNTS = (100, 5000, 7500, 123_400, 999_999_999_900)
NOT_TICKETS = ("", "for my aunt's roof", "x" * 65)

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
# What endpoints may not be subscribed to, so that each source of a fact has to speak for itself.
UNHEARD: dict[str, frozenset[str]] = {
    "all": frozenset(),
    "no sessions": _CHECKOUT,
    "no PaymentIntents": _INTENT,
    "no charges": _CHARGE,
    "afterwards": _INTENT | _DISPUTE | {"charge.succeeded", "charge.captured"},
    "sessions": _INTENT | _CHARGE | _DISPUTE | REFUNDS,
}

UNKNOWN_TICKET = "nobody-knows"
ACCOUNT = "acct_1Connected"

WILD_DONORS = (
    *DONORS,
    Donor("Ann Blank", "Blank", None, "   ", None, None, None, None),
    Donor("   ", None, "BE", "BLANK@EXAMPLE.BE", None, None, None, None),
    Donor("Agent 007", "Agent", "GB", None, None, None, None, None),
    Donor("Q " + "y" * 80, "y" * 64, None, None, None, None, None, None),
)


def wild_life(
    rng: random.Random,
    tickets: Sequence[str],
    *,
    key: str,
    start: int,
    livemode: bool = False,
    donors: Sequence[Donor] = WILD_DONORS,
    longest: int = 24,
) -> Life:
    """One life, begun at `start` (Unix seconds).

    Args:
        rng: all that is random; Hypothesis' own makes a life shrink.
        tickets: ids that the ledger knows; others are named as well.
        key: letters and digits that no other life in the same database has; all ids are made from it.
        start: the second of the first step.
        livemode: the mode whose events make donations; a few lives are of the other one and expect nothing.
        donors: who may give.
        longest: the largest number of steps.
    """
    walk = _Walk(rng, tickets, donors, key)
    opening = rng.choice(OPENINGS)
    other_mode = rng.random() > 0.96
    payment = walk.begin(opening, start, livemode != other_mode)
    for _ in range(rng.randint(1, longest)):
        walk.step()
    if other_mode:
        return replace(Life.of("other mode", payment, tuple(walk.steps)), expected=None)
    return Life.of(opening, payment, tuple(walk.steps))


class _Walk:
    """The dice, and the payment they drive."""

    payment: Payment

    def __init__(self, rng: random.Random, tickets: Sequence[str], donors: Sequence[Donor], key: str) -> None:
        self.rng, self.key = rng, key
        self.tickets = (*tickets, *tickets, UNKNOWN_TICKET, *NOT_TICKETS)
        self.donors = donors
        self.ids = 0
        self.steps: list[str] = []

    def begin(self, opening: str, at: int, livemode: bool) -> Payment:
        """The site's side of a payment."""
        rng = self.rng
        words = Words(
            customer=self.donor(),
            receipt_email=self.donor().email,
            session_metadata=self.metadata(),
            reference=self.ticket(),
            intent_metadata=self.metadata(),
        )
        api = rng.choice(APIS[::-1])
        self.payment = Payment(
            self.new_id,
            words,
            at=at,
            amount=0 if opening == "free" else rng.choice(AMOUNTS),
            currency=rng.choice(CURRENCIES),
            api=api,
            account=rng.choice((None, ACCOUNT)),
            livemode=livemode,
            unheard=self.subscription(opening, api),
        )
        if opening == "form":
            self.create_intent()
        elif opening != "direct":
            self.payment.open_session(opening if opening in {"setup", "subscription"} else "payment")
        return self.payment

    def subscription(self, opening: str, api: Api) -> frozenset[str]:
        """Mostly to everything. Where refunds are told by their charge only, charges have to be heard."""
        name = self.rng.choice((*["all"] * 10, *UNHEARD))
        if name == "no charges" and (opening == "direct" or not api.tells_refunds):
            name = "all"
        self.steps.append(f"hears {name}")
        return UNHEARD[name]

    def step(self) -> None:
        """Some time passes, and one of the things happens that can happen now."""
        possible = [(step, of) for step in STEPS if (of := step.candidates(self.payment.books))]
        if not possible:
            return
        self.payment.at += self.rng.choice(WAITS_S)
        step, candidates = self.rng.choices(possible, [step.weight for step, _ in possible])[0]
        self.steps.append(step.name)
        step.take(self, self.rng.choice(candidates))

    def new_id(self, prefix: str) -> str:
        """Unique by the key and a count; sessions and charges are also compared by id, so theirs are in no order."""
        self.ids += 1
        compared = prefix.startswith(("cs_", "ch_"))
        return f"{prefix}{self.key}_{self.rng.choice('mZa') if compared else ''}{self.ids}"

    def chance(self, of_ten: int) -> bool:
        """True in that many of ten cases."""
        return self.rng.randint(1, 10) > 10 - of_ten

    def donor(self) -> Donor:
        """Somebody, or only a part of what there is to know."""
        donor = self.rng.choice(self.donors)
        parts = (
            donor,
            NOBODY,
            replace(NOBODY, name=donor.name, last_name=donor.last_name),
            replace(NOBODY, email=donor.email),
            replace(NOBODY, country=donor.country),
        )
        return self.rng.choice(parts)

    def ticket(self) -> str | None:
        """A known ticket, an unknown one, what can't be one, or none."""
        return self.rng.choice((None, *self.tickets))

    def metadata(self) -> Metadata:
        """With or without a ticket."""
        ticket = self.ticket()
        return {"campaign": "spring"} if ticket is None else {"campaign": "spring", "ticketId": ticket}

    def part(self, amount: int) -> int:
        """Any amount up to this one, as fine as the currency has it."""
        smallest = SMALLEST.get(self.payment.currency, 1)
        return smallest * self.rng.randint(1, amount // smallest) if self.chance(5) else amount

    def create_intent(self) -> None:
        """The donor chose how to pay."""
        method = self.rng.choice(("card", "card", "us_bank_account"))
        self.payment.create_intent(method, manual=method == "card" and self.chance(4))

    def attempt(self) -> Payment:
        """The payment, with new billing details and metadata for its next charge."""
        self.payment.words.billing, self.payment.words.charge_metadata = self.donor(), self.metadata()
        return self.payment


# --- What each step needs: the objects that it can be taken with


def _open(books: Books) -> list[Session]:
    return [session for session in books.sessions if session.status == "open"]


def _submittable(books: Books) -> list[Session]:
    return [s for s in _open(books) if books.intent is None and s.mode == "payment" and s.amount > 0]


def _completable(books: Books) -> list[Session]:
    started = books.intent is not None and books.intent.status in {"succeeded", "processing", "requires_capture"}
    return [session for session in _open(books) if started or session.amount == 0 or session.mode != "payment"]


def _expirable(books: Books) -> list[Session]:
    idle = books.intent is None or books.intent.status in {"requires_payment_method", "canceled"}
    return _open(books) if idle or len(books.sessions) > 1 else []


def _reopenable(books: Books) -> list[Session]:
    return books.sessions if books.intent is not None and len(books.sessions) == 1 else []


def _payable(books: Books, method: str, *, manual: bool = False) -> list[Any]:
    """A PaymentIntent that waits for this method, or a direct charge that is still to be made."""
    intent = books.intent
    if intent is None:
        return [books] if not books.sessions and not books.charges else []
    fits = (intent.method, intent.manual) == (method, manual)
    return [intent] if fits and intent.status == "requires_payment_method" else []


def _unpaid_intent(books: Books) -> list[Any]:
    return [books.intent] if books.intent and books.intent.status == "requires_payment_method" else []


def _declinable(books: Books) -> list[Any]:
    return _unpaid_intent(books) or _payable(books, "card")


def _pending(books: Books) -> list[Charge]:
    return [charge for charge in books.charges if charge.status == "pending"]


def _held(books: Books) -> list[Charge]:
    return [c for c in books.charges if c.status == "succeeded" and not c.captured and not c.released]


def _paid(books: Books) -> list[Charge]:
    return [charge for charge in books.charges if charge.took_money]


def _told(books: Books) -> list[Charge]:
    """Those whose words can be changed so that it is heard."""
    changes = "charge.updated" not in books.unheard
    return [charge for charge in books.charges if changes and charge.told_at is not None]


def _refundable(books: Books) -> list[Charge]:
    """Stripe refunds no charge whose money a dispute holds."""
    free = [charge for charge in _paid(books) if not any(dispute.takes_money for dispute in charge.disputes)]
    return [charge for charge in free if charge.refundable > 0 and len(charge.refunds) < 5]


def _refunds(*statuses: str) -> Callable[[Books], list[Refund]]:
    return lambda books: [refund for refund in books.refunds if refund.status in statuses]


def _disputable(books: Books) -> list[Charge]:
    return [charge for charge in _paid(books) if len(charge.disputes) < 3]


def _movable(books: Books) -> list[Dispute]:
    return [dispute for dispute in books.disputes if dispute.status in NEXT_STAGES]


NEXT_STAGES = {
    "warning_needs_response": ("warning_under_review", "warning_closed", "needs_response"),
    "warning_under_review": ("warning_closed", "needs_response", "warning_needs_response"),
    "warning_closed": ("needs_response",),
    "needs_response": ("under_review", "won", "lost", "charge_refunded", "prevented"),
    "under_review": ("won", "lost", "needs_response"),
    "lost": ("won", "under_review"),
    "won": ("lost",),
}
FIRST_STAGES = ("needs_response", "needs_response", "warning_needs_response", "lost", "under_review", "prevented")


# --- What each step does


def _refund(walk: _Walk, charge: Charge) -> None:
    status = walk.rng.choice(("succeeded", "succeeded", "pending", "requires_action"))
    if "charge.refunded" in walk.payment.books.unheard and charge.told_at == walk.payment.at:
        walk.payment.at += 1  # or nothing would tell whether that second's snapshot holds the refund
    walk.payment.refund(charge, walk.part(charge.refundable), status)


def _dispute(walk: _Walk, charge: Charge) -> None:
    status = walk.rng.choice(FIRST_STAGES)
    if walk.chance(2):
        walk.payment.dispute(charge, walk.rng.choice(AMOUNTS), status, walk.rng.choice(CURRENCIES))
    else:
        walk.payment.dispute(charge, walk.part(charge.amount), status)


def _release(walk: _Walk, charge: Charge) -> None:
    if walk.payment.books.intent is None:
        walk.payment.release(charge)
    else:
        walk.payment.cancel_intent()


def _mention(walk: _Walk, session: Session) -> None:
    walk.payment.mention("checkout.session.created", session)


def _refund_to(status: str) -> "Callable[[_Walk, Refund], None]":
    return lambda walk, refund: walk.payment.change_refund(refund, status)


@dataclass(frozen=True)
class _Step:
    """One thing that can happen: with which objects, what it does, and how often it does."""

    name: str
    candidates: Callable[[Books], Sequence[Any]]
    take: Callable[[_Walk, Any], object]
    weight: int = 2


STEPS = (
    _Step("session completes", _completable, lambda walk, session: walk.payment.complete_session(session), 6),
    _Step("session is submitted", _submittable, lambda walk, _: walk.create_intent(), 6),
    _Step("session expires", _expirable, lambda walk, session: walk.payment.expire_session(session), 1),
    _Step("second session", _reopenable, lambda walk, _: walk.payment.open_session(), 1),
    _Step("not handled", lambda books: books.sessions, _mention, 1),
    _Step("pay", lambda books: _payable(books, "card"), lambda walk, _: walk.attempt().succeed(), 6),
    _Step("hold", lambda books: _payable(books, "card", manual=True), lambda walk, _: walk.attempt().hold(), 6),
    _Step("debit", lambda books: _payable(books, "us_bank_account"), lambda walk, _: walk.attempt().start_debit(), 6),
    _Step("decline", _declinable, lambda walk, _: walk.attempt().decline()),
    _Step("refuse", _unpaid_intent, lambda walk, _: walk.payment.refuse(), 1),
    _Step("cancel", _unpaid_intent, lambda walk, _: walk.payment.cancel_intent(), 1),
    _Step("debit clears", _pending, lambda walk, charge: walk.payment.clear_debit(charge), 4),
    _Step("debit bounces", _pending, lambda walk, charge: walk.payment.bounce_debit(charge)),
    _Step("capture", _held, lambda walk, c: walk.payment.capture(c, walk.part(c.amount), told_twice=walk.chance(5)), 4),
    _Step("release", _held, _release, 1),
    _Step("settle", _paid, lambda walk, charge: walk.payment.settle(charge), 4),
    _Step("retag", _told, lambda walk, charge: walk.payment.retag(charge, walk.metadata()), 1),
    _Step("rename", _told, lambda walk, charge: walk.payment.rename(charge, walk.donor()), 1),
    _Step("refund", _refundable, _refund, 6),
    _Step("refund succeeds", _refunds("pending", "requires_action"), _refund_to("succeeded")),
    _Step("refund waits", _refunds("pending"), _refund_to("requires_action"), 1),
    _Step("refund fails", _refunds("pending", "requires_action", "succeeded"), _refund_to("failed")),
    _Step("refund is canceled", _refunds("pending", "requires_action"), _refund_to("canceled")),
    _Step("dispute", _disputable, _dispute, 3),
    _Step(
        "dispute moves",
        _movable,
        lambda walk, dispute: walk.payment.change_dispute(dispute, walk.rng.choice(NEXT_STAGES[dispute.status])),
        8,
    ),
    _Step(
        "dispute's amount",
        lambda books: books.disputes,
        lambda walk, dispute: walk.payment.amend_dispute(dispute, walk.part(dispute.charge.amount)),
        1,
    ),
)
