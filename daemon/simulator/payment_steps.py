"""The steps of one payment: each changes Stripe's books and emits the events that Stripe would send.

The order of steps, the waits between them and every choice are the caller's (`payment_lives`, `wild_lives`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from daemon.simulator.expectations import Most
from daemon.simulator.stripe_model import (
    NOBODY,
    TODAY,
    Api,
    Books,
    Charge,
    Dispute,
    Donor,
    Json,
    Metadata,
    PaymentIntent,
    Refund,
    Session,
)

# A dispute's stages in SPEC's order: among states of one second the later one counts.
STAGES = (
    "warning_needs_response",
    "warning_under_review",
    "warning_closed",
    "needs_response",
    "under_review",
    "charge_refunded",
    "prevented",
    "lost",
    "won",
)
CLOSED = frozenset({"warning_closed", "charge_refunded", "prevented", "lost", "won"})

NewId = Callable[[str], str]


class _Rendered(Protocol):
    def render(self, api: Api) -> Json: ...


@dataclass
class Words:
    """What the donor and the site write down; objects copy it when they come to be."""

    customer: Donor = NOBODY  # into a completed session
    billing: Donor = NOBODY  # into each charge
    receipt_email: str | None = None  # into the PaymentIntent
    session_metadata: Metadata = field(default_factory=dict)
    reference: str | None = None  # the session's client_reference_id
    intent_metadata: Metadata = field(default_factory=dict)
    charge_metadata: Metadata = field(default_factory=dict)


class Payment:
    """One donor's way through Stripe: a clock that the life moves on, the books so far, the events so far.

    `new_id` makes an id from its prefix; `unheard` are types of events that the endpoint is not subscribed to.
    """

    def __init__(
        self,
        new_id: NewId,
        words: Words,
        *,
        at: int,
        amount: int,
        currency: str,
        api: Api = TODAY,
        account: str | None = None,
        livemode: bool = False,
        unheard: frozenset[str] = frozenset(),
    ) -> None:
        self.new_id, self.words, self.at = new_id, words, at
        self.amount, self.currency, self.livemode = amount, currency, livemode
        self.books = Books(api, account, unheard)
        self.most = Most()
        self.events: list[Json] = []

    # Checkout

    def open_session(self, mode: str = "payment") -> Session:
        """The donor is sent to Checkout; Stripe sends nothing yet."""
        words, intent = self.words, self.books.intent
        session = Session(
            self.new_id("cs_live_a1" if self.livemode else "cs_test_a1"),
            self.at,
            self.amount,
            self.currency,
            words.session_metadata,
            words.reference,
            self.livemode,
            mode,
            payment_intent=intent.id if intent else None,
        )
        self.books.sessions.append(session)
        return session

    def complete_session(self, session: Session) -> None:
        """Checkout is done, whether or not the money has arrived."""
        intent = self.books.intent
        session.status, session.donor = "complete", self.words.customer
        if intent is not None:
            session.payment_status = "paid" if intent.status == "succeeded" else "unpaid"
        elif session.mode == "setup" or session.amount == 0:
            session.payment_status = "no_payment_required"
        else:
            session.payment_status = "paid"  # a subscription's first invoice
        self._tell_session("completed", session)

    def expire_session(self, session: Session) -> None:
        """The donor never came back."""
        session.status = "expired"
        self._tell_session("expired", session)

    # The PaymentIntent

    def create_intent(self, method: str = "card", *, manual: bool = False) -> PaymentIntent:
        """A PaymentIntent comes to be: when a session is submitted, or straight from a site's own form."""
        intent = PaymentIntent(
            self.new_id("pi_3"),
            self.at,
            self.amount,
            self.currency,
            self.words.intent_metadata,
            method,
            self.words.receipt_email,
            self.livemode,
            manual,
        )
        self.books.intent = intent
        for session in self.books.sessions:
            session.payment_intent = intent.id
        self._tell_intent("created", intent)
        return intent

    def cancel_intent(self) -> None:
        """Nobody will pay it any more; a hold is released whole, and Stripe counts that as refunded."""
        intent = self._intent()
        held = intent.charges[-1] if intent.status == "requires_capture" else None
        intent.status = "canceled"
        if held is not None:
            self.release(held)
        self._tell_intent("canceled", intent)

    # Attempts to pay. Without a PaymentIntent they make direct charges.

    def refuse(self) -> None:
        """The donor did not pass authentication: an attempt failed, and there is no charge."""
        intent = self._intent()
        intent.was_declined, intent.last_payment_error = True, {"code": "payment_intent_authentication_failure"}
        self._tell_intent("payment_failed", intent)

    def decline(self) -> Charge:
        """The bank refuses; a PaymentIntent can be tried again."""
        charge = self._charge("failed", captured=False, failure_code="card_declined")
        self._attempt_failed(charge)
        return charge

    def succeed(self) -> Charge:
        """The card is charged."""
        charge = self._charge("succeeded", captured=True)
        self._took_money(charge, "charge.succeeded")
        return charge

    def hold(self) -> Charge:
        """The card is authorised; capturing it is another step."""
        charge = self._charge("succeeded", captured=False)
        if self.books.intent is not None:
            self.books.intent.status = "requires_capture"
            self.mention("payment_intent.amount_capturable_updated", self.books.intent)
        self._tell_charge("charge.succeeded", charge)
        return charge

    def capture(self, charge: Charge, amount: int, *, told_twice: bool = False) -> None:
        """All or part of a hold is taken; Stripe counts the rest as refunded (`told_twice`: says so once more)."""
        charge.captured, charge.amount_captured, charge.released = True, amount, charge.amount - amount
        self._took_money(charge, "charge.captured")
        if charge.released and (told_twice or not self.books.api.says_captured):
            self._tell_charge("charge.refunded", charge, {"amount_refunded": 0})

    def release(self, charge: Charge) -> None:
        """A hold ends without capture."""
        charge.released = charge.amount
        self.mention("charge.expired", charge)
        self._tell_charge("charge.refunded", charge, {"amount_refunded": 0})

    def start_debit(self) -> Charge:
        """A bank debit is under way; days pass before it clears or bounces."""
        charge = self._charge("pending", captured=True)
        self.mention("charge.pending", charge)
        if self.books.intent is not None:
            self.books.intent.status = "processing"
            self._tell_intent("processing", self.books.intent)
        return charge

    def clear_debit(self, charge: Charge) -> None:
        """The bank debit arrives, and with it its sessions are paid."""
        charge.status = "succeeded"
        self._took_money(charge, "charge.succeeded")
        for session in self._completed_sessions():
            session.payment_status = "paid"
            self._tell_session("async_payment_succeeded", session)

    def bounce_debit(self, charge: Charge) -> None:
        """The bank debit fails."""
        charge.status, charge.failure_code = "failed", "insufficient_funds"
        charge.captured, charge.amount_captured = False, 0
        self._attempt_failed(charge)
        for session in self._completed_sessions():
            session.was_declined = True
            self._tell_session("async_payment_failed", session)

    # Afterwards

    def settle(self, charge: Charge) -> None:
        """Capture is asynchronous: the balance transaction follows in a `charge.updated`."""
        charge.balance_transaction = self.new_id("txn_3")
        self._tell_charge("charge.updated", charge, {"balance_transaction": None})

    def retag(self, charge: Charge, metadata: Metadata) -> None:
        """Somebody edits a charge's metadata, at least a second after it was last told."""
        self.at += 1
        before = dict(charge.metadata)
        charge.retag(metadata)
        self._tell_charge("charge.updated", charge, {"metadata": before})

    def rename(self, charge: Charge, billing: Donor) -> None:
        """Billing details change, at least a second after they were last told."""
        self.at += 1
        charge.rename(billing)
        self._tell_charge("charge.updated", charge, {"billing_details": {}})

    def refund(self, charge: Charge, amount: int, status: str = "succeeded") -> Refund:
        """Part or all of a charge is sent back; Stripe tells it as a refund and as the charge's new sum."""
        refund = Refund(self.new_id("re_3"), self.at, amount, charge.currency, charge, status)
        refund.hidden = charge.released > 0 and charge.told_at == self.at
        before = charge.amount_refunded
        charge.refunds.append(refund)
        if self.books.api.tells_refunds:
            self._tell_refund("refund.created", refund)
        self._tell_charge("charge.refunded", charge, {"amount_refunded": before})
        return refund

    def change_refund(self, refund: Refund, status: str) -> None:
        """The refund arrives (`succeeded`), or comes back (`failed`, `canceled`: the charge has its money again).

        Then a second passes: what the charge says in the very second in which its sum fell can't be dated.
        """
        before = {"status": refund.status}
        refund.status = status
        failed = status == "failed"
        refund.failure_reason = "lost_or_stolen_card" if failed else None
        if self.books.api.tells_refunds:
            if failed:
                self._tell_refund("refund.failed", refund)
            self._tell_refund("refund.updated", refund, before)
        self._tell_refund("charge.refund.updated", refund, before)
        if not refund.stands:
            self.at += 1

    def dispute(
        self, charge: Charge, amount: int, status: str = "needs_response", currency: str | None = None
    ) -> Dispute:
        """The donor's bank disputes a charge, or only asks (`warning_needs_response`)."""
        currency = currency or charge.currency
        dispute = Dispute(self.new_id("du_1"), self.at, amount, currency, charge, self.livemode, status)
        charge.disputes.append(dispute)
        self._tell_dispute("created", dispute)
        if dispute.takes_money:
            self._tell_dispute("funds_withdrawn", dispute)
        return dispute

    def change_dispute(self, dispute: Dispute, status: str) -> None:
        """An inquiry escalates, evidence is sent, or the bank decides.

        A stage that falls in SPEC's order comes at least a second later.
        """
        if STAGES.index(status) < STAGES.index(dispute.status):
            self.at += 1
        before, took_money = {"status": dispute.status}, dispute.takes_money
        dispute.status = status
        if status in CLOSED:
            self._tell_dispute("closed", dispute)
        else:
            self._tell_dispute("updated", dispute, before)
        if dispute.takes_money and not took_money:
            self._tell_dispute("funds_withdrawn", dispute)
        elif took_money and status in {"won", "lost"}:  # a lost one may give a part back: its status decides
            self._tell_dispute("funds_reinstated", dispute)

    def amend_dispute(self, dispute: Dispute, amount: int) -> None:
        """The bank asks for another amount; a smaller one comes at least a second later."""
        if amount < dispute.amount:
            self.at += 1
        before = {"amount": dispute.amount}
        dispute.amount = amount
        self._tell_dispute("updated", dispute, before)

    def mention(self, event_type: str, thing: "_Rendered") -> None:
        """An event of a type that changes nothing, whatever it carries."""
        self._emit(event_type, thing.render(self.books.api))

    # Objects and events

    def _intent(self) -> PaymentIntent:
        intent = self.books.intent
        assert intent is not None  # noqa: S101 - the caller's mistake
        return intent

    def _completed_sessions(self) -> list[Session]:
        return [session for session in self.books.sessions if session.status == "complete"]

    def _charge(self, status: str, *, captured: bool, failure_code: str | None = None) -> Charge:
        intent = self.books.intent
        charge = Charge(
            self.new_id("ch_3"),
            self.at,
            self.amount,
            self.currency,
            intent.id if intent else None,
            self.words.charge_metadata,
            self.words.billing,
            intent.method if intent else "card",
            self.livemode,
            status,
            captured,
            self.amount if captured else 0,
            failure_code,
        )
        self.books.charges.append(charge)
        if intent is not None:
            intent.charges.append(charge)
        return charge

    def _took_money(self, charge: Charge, event_type: str) -> None:
        charge.paid_at = self.at
        intent = self.books.intent
        if intent is not None:
            intent.status, intent.amount_received = "succeeded", charge.amount_captured
            intent.last_payment_error = None
        says_so = {event_type, "payment_intent.succeeded"} if intent is not None else {event_type}
        if says_so - self.books.unheard:
            self.books.paid_told_at = self.at
        self._tell_charge(event_type, charge)
        if intent is not None:
            self._tell_intent("succeeded", intent)

    def _attempt_failed(self, charge: Charge) -> None:
        intent = self.books.intent
        if intent is not None:
            intent.status, intent.was_declined = "requires_payment_method", True
            intent.last_payment_error = self._card_error(intent, charge)
        self._tell_charge("charge.failed", charge)
        if intent is not None:
            self._tell_intent("payment_failed", intent)

    def _card_error(self, intent: PaymentIntent, charge: Charge) -> Json:
        method = {
            "id": f"pm_{intent.id[3:]}",
            "object": "payment_method",
            "billing_details": charge.billing.details(),
            "created": charge.created,
            "livemode": self.livemode,
            "type": intent.method,
        }
        code, message = charge.failure_code, "Your card was declined."
        return {"charge": charge.id, "code": code, "message": message, "payment_method": method, "type": "card_error"}

    def _hears(self, event_type: str) -> bool:
        return event_type not in self.books.unheard

    def _tell_session(self, suffix: str, session: Session) -> None:
        if self._hears(f"checkout.session.{suffix}"):
            session.told_at = self.at if session.told_at is None else session.told_at
            if session.payment_status == "paid" and session.paid_told_at is None:
                session.paid_told_at = self.at
        self._tell(f"checkout.session.{suffix}", session)

    def _tell_intent(self, suffix: str, intent: PaymentIntent) -> None:
        if self._hears(f"payment_intent.{suffix}"):
            intent.told = True
            shapes = {"listed": intent.charges, "expanded": intent.charges[-1:], "named": []}
            for charge in shapes[self.books.api.charges]:
                self._carry(charge)
        self._tell(f"payment_intent.{suffix}", intent)

    def _tell_charge(self, event_type: str, charge: Charge, previous: Json | None = None) -> None:
        if self._hears(event_type):
            self._carry(charge)
        self._tell(event_type, charge, previous)

    def _carry(self, charge: Charge) -> None:
        charge.told_at, charge.told_refunded = self.at, charge.amount_refunded

    def _tell_refund(self, event_type: str, refund: Refund, previous: Json | None = None) -> None:
        refund.told = refund.told or self._hears(event_type)
        self._tell(event_type, refund, previous)

    def _tell_dispute(self, suffix: str, dispute: Dispute, previous: Json | None = None) -> None:
        dispute.told = dispute.told or self._hears(f"charge.dispute.{suffix}")
        self._tell(f"charge.dispute.{suffix}", dispute, previous)

    def _tell(self, event_type: str, thing: _Rendered, previous: Json | None = None) -> None:
        if self._hears(event_type):
            self._emit(event_type, thing.render(self.books.api), previous)
            self.most.look(self.books)

    def _emit(self, event_type: str, rendered: Json, previous: Mapping[str, object] | None = None) -> None:
        data: Json = {"object": rendered}
        if previous is not None:
            data["previous_attributes"] = dict(previous)
        account = {"account": self.books.account} if self.books.account else {}
        self.events.append(
            {
                "id": self.new_id("evt_1"),
                "object": "event",
                "api_version": self.books.api.version,
                "created": self.at,
                "data": data,
                "livemode": self.livemode,
                "pending_webhooks": 1,
                "request": {"id": None, "idempotency_key": None},
                "type": event_type,
            }
            | account
        )
