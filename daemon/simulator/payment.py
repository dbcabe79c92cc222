"""The steps of one payment: each changes Stripe's state and sends the events that Stripe would send.

The order of steps, the waits between them and every choice are the caller's (`scenarios`). `monthly_payment` has the
steps of a subscription.
"""

from dataclasses import replace

from daemon.simulator.dispute_statuses import CLOSED, STAGES
from daemon.simulator.early_warnings import end_warnings
from daemon.simulator.state import Endpoint, Inputs, Rendered, Reported, State
from daemon.simulator.stripe_invoices import Invoice
from daemon.simulator.stripe_objects import (
    NO_DONOR,
    Charge,
    Dispute,
    Donor,
    Json,
    Metadata,
    PaymentIntent,
    Refund,
    Report,
)
from daemon.simulator.stripe_sessions import Session


class Payment:
    """One donor's way through Stripe: the endpoint that receives its events, and the state so far."""

    def __init__(self, endpoint: Endpoint, inputs: Inputs, *, amount: int, currency: str) -> None:
        self.endpoint, self.inputs = endpoint, inputs
        self.amount, self.currency = amount, currency
        self.state = State(endpoint)

    @property
    def at(self) -> int:
        """The present second."""
        return self.endpoint.at

    @at.setter
    def at(self, second: int) -> None:
        self.endpoint.at = second

    # Checkout

    def open_session(self, mode: str = "payment") -> Session:
        """The donor is sent to Checkout; Stripe sends nothing yet."""
        inputs, intent = self.inputs, self.state.intent
        session = Session(
            self.endpoint.new_id("cs_live_a1" if self.endpoint.livemode else "cs_test_a1"),
            self.at,
            self.amount,
            self.currency,
            inputs.session_metadata,
            inputs.reference,
            self.endpoint.livemode,
            mode,
            payment_intent=intent.id if intent else None,
            asks_consent=inputs.asks_consent,
        )
        self.state.sessions.append(session)
        return session

    def complete_session(self, session: Session) -> None:
        """Checkout is done, whether or not the money has arrived. A subscription's first invoice is paid by then."""
        intent = self.state.intent
        session.status, session.donor = "complete", self.inputs.customer
        session.shows_name = self.inputs.shows_name if session.asks_consent else None
        if intent is not None:
            session.payment_status = "paid" if intent.status == "succeeded" else "unpaid"
        elif session.mode == "setup" or session.amount == 0:
            session.payment_status = "no_payment_required"
        else:
            session.payment_status = "paid"
        self.report_session("completed", session)

    def expire_session(self, session: Session) -> None:
        """The donor does not come back."""
        session.status = "expired"
        self.report_session("expired", session)

    # The PaymentIntent

    def create_intent(self, method: str = "card", *, manual: bool = False) -> PaymentIntent:
        """A PaymentIntent is created: when a session is submitted, by an invoice, or by a site's own form."""
        intent = PaymentIntent(
            self.endpoint.new_id("pi_3"),
            self.at,
            self.amount,
            self.currency,
            self.inputs.intent_metadata,
            method,
            self.inputs.receipt_email,
            self.endpoint.livemode,
            manual,
        )
        self.state.intent = intent
        if self.state.invoice is not None:
            intent.invoice, self.state.invoice.payment_intent = self.state.invoice.id, intent.id
        for session in self.state.sessions:
            session.payment_intent = intent.id
        self.report_intent("created", intent)
        return intent

    def reprice(self, amount: int, currency: str) -> None:
        """The donor chooses another amount or region before paying; no event reports it by itself."""
        intent = self._intent()
        self.at += 1
        self.amount = intent.amount = amount
        self.currency = intent.currency = currency

    def cancel_intent(self) -> None:
        """It will not be paid any more; an authorisation is released whole, and Stripe counts that as refunded."""
        intent = self._intent()
        held = intent.charges[-1] if intent.status == "requires_capture" else None
        intent.status = "canceled"
        if held is not None:
            self.release(held)
        self.report_intent("canceled", intent)

    # Attempts to pay. Without a PaymentIntent they make direct charges.

    def refuse(self) -> None:
        """The donor did not pass authentication: an attempt failed, and there is no charge."""
        intent = self._intent()
        intent.last_payment_error = {"code": "payment_intent_authentication_failure"}
        self.report_intent("payment_failed", intent)

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
        if self.state.intent is not None:
            self.state.intent.status = "requires_capture"
            self.mention("payment_intent.amount_capturable_updated", self.state.intent)
        self.report_charge("charge.succeeded", charge)
        return charge

    def raise_hold(self, charge: Charge, by: int) -> None:
        """Incremental authorisation: more is held on the same card."""
        before, intent = charge.amount, self._intent()
        charge.amount += by
        intent.amount += by
        self.mention("payment_intent.amount_capturable_updated", intent)
        self.report_charge("charge.updated", charge, {"amount": before})

    def capture_part(self, charge: Charge, amount: int) -> None:
        """A capture that is not the final one (multicapture): until then `captured` stays false."""
        before, intent = charge.amount_captured, self._intent()
        charge.amount_captured += amount
        charge.paid_at = self.at if charge.paid_at is None else charge.paid_at
        intent.amount_received = charge.amount_captured
        self.mention("payment_intent.amount_capturable_updated", intent)
        self.report_charge("charge.updated", charge, {"amount_captured": before})

    def capture(
        self, charge: Charge, amount: int, *, reported_twice: bool = False, counts_release: bool = True
    ) -> None:
        """The only or the final capture: all of an authorisation, a part, or more (a tip on a reader).

        The rest is released. Stripe mostly counts it as refunded (`reported_twice`: sends a `charge.refunded` for it).
        """
        before = charge.amount_captured
        charge.captured, charge.amount_captured = True, before + amount
        charge.released, charge.counts_release = max(0, charge.amount - charge.amount_captured), counts_release
        if before:
            self.report_charge("charge.updated", charge, {"amount_captured": before, "captured": False})
        self._took_money(charge, "charge.captured")
        if charge.released and counts_release and (reported_twice or not self.endpoint.api.has_amount_captured):
            self.report_charge("charge.refunded", charge, {"amount_refunded": 0})

    def release(self, charge: Charge) -> None:
        """An authorisation ends without capture."""
        charge.released = charge.amount
        self.mention("charge.expired", charge)
        self.report_charge("charge.refunded", charge, {"amount_refunded": 0})

    def start_debit(self) -> Charge:
        """A bank debit is under way; days pass before it clears or bounces."""
        charge = self._charge("pending", captured=True)
        self.mention("charge.pending", charge)
        if self.state.intent is not None:
            self.state.intent.status = "processing"
            self.report_intent("processing", self.state.intent)
        return charge

    def clear_debit(self, charge: Charge) -> None:
        """The bank debit arrives, and with it its sessions are paid."""
        charge.status = "succeeded"
        self._took_money(charge, "charge.succeeded")
        for session in self._waiting_sessions():
            session.payment_status = "paid"
            self.report_session("async_payment_succeeded", session)

    def bounce_debit(self, charge: Charge, *, keeps_capture: bool = False) -> None:
        """The bank debit fails; some charges keep the amount that they had captured."""
        self._fail_debit(charge, keeps_capture=keeps_capture)
        for session in self._waiting_sessions():
            self.report_session("async_payment_failed", session)

    def return_debit(self, charge: Charge, *, keeps_capture: bool = False) -> None:
        """A late failure: the donor's bank calls a debit back that had already succeeded. It can be tried again."""
        self._fail_debit(charge, keeps_capture=keeps_capture)

    def _fail_debit(self, charge: Charge, *, keeps_capture: bool) -> None:
        """At least a second after it was last reported: within one second no snapshot is the newest."""
        self.at += 1
        charge.status, charge.failure_code = "failed", "insufficient_funds"
        if not keeps_capture:
            charge.captured, charge.amount_captured = False, 0
        self._attempt_failed(charge)

    # Afterwards

    def settle(self, charge: Charge) -> None:
        """Capture is asynchronous: the balance transaction follows in a `charge.updated`."""
        charge.balance_transaction = self.endpoint.new_id("txn_3")
        self.report_charge("charge.updated", charge, {"balance_transaction": None})

    def retag(self, charge: Charge, metadata: Metadata) -> None:
        """A charge's metadata is edited, at least a second after it was last reported."""
        self.at += 1
        before, charge.metadata = charge.metadata, metadata
        self.report_charge("charge.updated", charge, {"metadata": before})

    def rename(self, charge: Charge, billing: Donor) -> None:
        """Billing details change, at least a second after they were last reported."""
        self.at += 1
        charge.billing = billing
        self.report_charge("charge.updated", charge, {"billing_details": {}})

    def refund(self, charge: Charge, amount: int, status: str = "succeeded") -> Refund:
        """Part or all of a charge is sent back; Stripe reports it as a refund and as the charge's new sum.

        Not in the second in which another one failed: the sums of that second cannot be distinguished.
        """
        if charge.refund_failed_at == self.at:
            self.at += 1
        refund = Refund(self.endpoint.new_id("re_3"), self.at, amount, charge.currency, charge, status)
        before = charge.amount_refunded
        charge.refunds.append(refund)
        if self.endpoint.api.sends_refunds:
            self.report("refund.created", refund)
        self.report_charge("charge.refunded", charge, {"amount_refunded": before})
        end_warnings(self.state, charge)
        return refund

    def change_refund(self, refund: Refund, status: str) -> None:
        """The refund arrives (`succeeded`), or comes back (`failed`, `canceled`: the charge has its money again).

        Where a part of the charge's sum is known from that sum only, a second passes before the charge is reported
        again: a sum of the second in which a refund failed may or may not contain it.
        """
        before = {"status": refund.status}
        refund.status = status
        failed = status == "failed"
        refund.failure_reason = "lost_or_stolen_card" if failed else None
        if self.endpoint.api.sends_refunds:
            if failed:
                self.report("refund.failed", refund)
            self.report("refund.updated", refund, before)
        self.report("charge.refund.updated", refund, before)
        charge = refund.charge
        if charge is not None and not refund.stands:
            charge.refund_failed_at = self.at
            released = charge.released and not self.endpoint.api.has_amount_captured
            self.at += 1 if released or not all(each.reports for each in charge.refunds) else 0

    def dispute(
        self, charge: Charge, amount: int, status: str = "needs_response", currency: str | None = None
    ) -> Dispute:
        """The donor's bank disputes a charge, or only asks (`warning_needs_response`)."""
        currency = currency or charge.currency
        dispute = Dispute(
            self.endpoint.new_id("du_1"), self.at, amount, currency, charge, self.endpoint.livemode, status
        )
        charge.disputes.append(dispute)
        self.report_dispute("created", dispute)
        if dispute.takes_money:
            self.report_dispute("funds_withdrawn", dispute)
        end_warnings(self.state, charge)
        return dispute

    def change_dispute(self, dispute: Dispute, status: str) -> None:
        """An inquiry escalates, evidence is sent, or the bank decides.

        A status that comes earlier in STAGES is reached at least a second later.
        """
        if STAGES.index(status) < STAGES.index(dispute.status):
            self.at += 1
        before, took_money = {"status": dispute.status}, dispute.takes_money
        dispute.status = status
        if status in CLOSED:
            self.report_dispute("closed", dispute)
        else:
            self.report_dispute("updated", dispute, before)
        if dispute.takes_money and not took_money:
            self.report_dispute("funds_withdrawn", dispute)
        elif took_money and status in {"won", "lost"}:  # a lost one may give a part back: its status decides
            self.report_dispute("funds_reinstated", dispute)

    def amend_dispute(self, dispute: Dispute, amount: int) -> None:
        """The bank asks for another amount; a smaller one comes at least a second later."""
        if amount < dispute.amount:
            self.at += 1
        before = {"amount": dispute.amount}
        dispute.amount = amount
        self.report_dispute("updated", dispute, before)

    # What changes nothing

    def mention(self, event_type: str, thing: Rendered) -> None:
        """An event of a type that changes nothing, whatever it carries."""
        self.endpoint.send(event_type, thing.render(self.endpoint.api))

    def refund_cash_balance(self, amount: int) -> None:
        """Money that a donor sent too much by bank transfer goes back: such a refund has no charge."""
        refund = Refund(self.endpoint.new_id("re_3"), self.at, amount, self.currency, None, "pending")
        self.report("refund.created", refund)
        refund.status = "succeeded"
        self.report("refund.updated", refund, {"status": "pending"})

    def report_connected_side(self, charge: Charge) -> None:
        """The connected account's side of a destination charge: the same money once more, under another id."""
        id_, transfer = self.endpoint.new_id("py_1"), self.endpoint.new_id("tr_3")
        mirrored = replace(charge, id=id_, payment_intent=None, source_transfer=transfer, reports=[])
        self.mention("payment.created", mirrored)
        self.report("charge.updated", mirrored)

    # Objects and events

    def _intent(self) -> PaymentIntent:
        intent = self.state.intent
        assert intent is not None  # noqa: S101 - the caller's mistake
        return intent

    def _waiting_sessions(self) -> list[Session]:
        """Those that are complete and not paid; once paid, a session stays so."""
        sessions = self.state.sessions
        return [session for session in sessions if (session.status, session.payment_status) == ("complete", "unpaid")]

    def _charge(self, status: str, *, captured: bool, failure_code: str | None = None) -> Charge:
        intent = self.state.intent
        charge = Charge(
            self.endpoint.new_id("ch_3"),
            self.at,
            self.amount,
            self.currency,
            intent.id if intent else None,
            self.inputs.charge_metadata,
            self.inputs.billing,
            intent.method if intent else "card",
            self.endpoint.livemode,
            status,
            captured,
            self.amount if captured else 0,
            failure_code,
            self.state.invoice.id if self.state.invoice else None,
        )
        self.state.charges.append(charge)
        if intent is not None:
            intent.charges.append(charge)
        return charge

    def _took_money(self, charge: Charge, event_type: str) -> None:
        charge.paid_at = self.at if charge.paid_at is None else charge.paid_at
        intent = self.state.intent
        if intent is not None:
            intent.status, intent.amount_received = "succeeded", charge.amount_captured
            intent.last_payment_error = None
        self.report_charge(event_type, charge)
        if intent is not None:
            self.report_intent("succeeded", intent)
        if self.state.invoice is not None:
            self._pay_invoice(self.state.invoice, charge)

    def _pay_invoice(self, invoice: Invoice, charge: Charge) -> None:
        """Newer versions report the payment of an invoice by itself as well."""
        if invoice.status == "paid":  # it stays so after a late failure
            return
        invoice.status, invoice.charge = "paid", charge.id
        if not self.endpoint.api.links_invoice and self.endpoint.receives("invoice_payment.paid"):
            shown = invoice.render_payment()
            invoice.payment_reports.append(Report(self.at, "invoice_payment.paid", shown))
            self.endpoint.send("invoice_payment.paid", shown)
        for event_type in ("invoice.paid", "invoice.payment_succeeded"):
            self.report(event_type, invoice, donor=invoice.customer)

    def _attempt_failed(self, charge: Charge) -> None:
        intent = self.state.intent
        if intent is not None:
            intent.status, intent.amount_received = "requires_payment_method", 0
            intent.last_payment_error = self._card_error(intent, charge)
        self.report_charge("charge.failed", charge)
        if intent is not None:
            self.report_intent("payment_failed", intent)

    def _card_error(self, intent: PaymentIntent, charge: Charge) -> Json:
        method = {
            "id": f"pm_{intent.id[3:]}",
            "object": "payment_method",
            "billing_details": charge.billing.details(),
            "created": charge.created,
            "livemode": self.endpoint.livemode,
            "type": intent.method,
        }
        code, message = charge.failure_code, "Your card was declined."
        return {"charge": charge.id, "code": code, "message": message, "payment_method": method, "type": "card_error"}

    def report_session(self, suffix: str, session: Session) -> None:
        donor = session.donor if self.endpoint.api.has_whole_session else NO_DONOR
        self.report(f"checkout.session.{suffix}", session, donor=donor)

    def report_intent(self, suffix: str, intent: PaymentIntent) -> None:
        event_type = f"payment_intent.{suffix}"
        if self.endpoint.receives(event_type):
            for charge in intent.carried(self.endpoint.api):
                shown = charge.render(self.endpoint.api)
                charge.reports.append(Report(self.at, event_type, shown, charge.billing))
        self.report(event_type, intent)

    def report_charge(self, event_type: str, charge: Charge, previous: Json | None = None) -> None:
        self.report(event_type, charge, previous, charge.billing)

    def report_dispute(self, suffix: str, dispute: Dispute, previous: Json | None = None) -> None:
        self.report(f"charge.dispute.{suffix}", dispute, previous)

    def report(self, event_type: str, thing: Reported, previous: Json | None = None, donor: Donor = NO_DONOR) -> None:
        """Sends the event if the endpoint is subscribed to its type, and keeps what it carried."""
        if self.endpoint.receives(event_type):
            shown = thing.render(self.endpoint.api)
            thing.reports.append(Report(self.at, event_type, shown, donor))
            self.endpoint.send(event_type, shown, previous)
