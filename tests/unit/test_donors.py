"""The donor of a payment, as Stripe's replies name it, and what of the replies is never kept."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.ledger.stripe_events import read
from daemon.receipts.donation import PaidDonation
from daemon.receipts.donor import LENGTH, Donor, DonorUnreadable, fetch_donor
from daemon.stripe_api.client import Reply, StripeApi, StripeRejected

ADDRESS = {"line1": "1 High Street", "line2": None, "postal_code": "222 22", "city": "Lund", "country": "SE"}
BILLING = {"name": "Ann Ångström", "email": "ann@example.com", "address": ADDRESS}
INTENT: dict[str, Any] = {"latest_charge": {"billing_details": BILLING}, "receipt_email": "receipt@example.com"}
SESSION: dict[str, Any] = {"customer_details": {"name": "Bo", "email": "bo@example.com"}, "locale": "de"}
INVOICE = {"customer_name": "Cy", "customer_email": "cy@example.com", "customer_address": ADDRESS}
PAID = PaidDonation("pi_1", frozenset({"pi_1"}), 5000, "USD", datetime(2026, 1, 1, tzinfo=UTC), None, None, None, None,
                    has_consent=False, is_erased=False)  # fmt: skip


class Stripe:
    """Stripe's API with these objects, by path."""

    def __init__(self, objects: Mapping[str, object]) -> None:
        self._objects = objects
        self.asked: list[tuple[str, str | None]] = []

    async def get(self, path: str, _params: object = None, *, account: str | None = None) -> Reply:
        self.asked.append((path, account))
        if path not in self._objects:
            raise StripeRejected(404, None, None, None)
        return Reply(json.dumps(self._objects[path]).encode(), 0)


def fetched(objects: Mapping[str, object], donation: PaidDonation = PAID) -> Donor:
    return asyncio.run(fetch_donor(cast(StripeApi, Stripe(objects)), donation))


def shown(donor: Donor) -> tuple[object, ...]:
    return donor.name, donor.email, donor.lines, donor.country, donor.language


def test_the_charge_is_first_then_the_session_then_the_invoice() -> None:
    """As in the ledger (SPEC 3); an address is taken as a whole, the language from the session."""
    everything = {
        "/v1/payment_intents/pi_1": INTENT,
        "/v1/checkout/sessions/cs_1": SESSION,
        "/v1/invoices/in_1": INVOICE,
    }
    lines = ("1 High Street", "222 22 Lund")
    donation = PAID._replace(session_id="cs_1", invoice="in_1")
    assert shown(fetched(everything, donation)) == ("Ann Ångström", "ann@example.com", lines, "SE", "de")
    without = {**everything, "/v1/payment_intents/pi_1": {**INTENT, "latest_charge": None, "receipt_email": None}}
    assert shown(fetched(without, donation)) == ("Bo", "bo@example.com", (), None, "de")
    only_invoice = without | {"/v1/checkout/sessions/cs_1": {"locale": "auto", "customer_details": None}}
    assert shown(fetched(only_invoice, donation)) == ("Cy", "cy@example.com", lines, "SE", None)


def test_a_donation_can_be_a_charge_or_a_session() -> None:
    """It is read by its own kind of object, from its own account."""
    stripe = Stripe({"/v1/charges/ch_1": {"billing_details": BILLING}, "/v1/checkout/sessions/cs_1": SESSION})
    charge = PAID._replace(id="ch_1", account="acct_1")
    assert asyncio.run(fetch_donor(cast(StripeApi, stripe), charge)).name == "Ann Ångström"
    session = PAID._replace(id="cs_1", session_id="cs_1")
    assert asyncio.run(fetch_donor(cast(StripeApi, stripe), session)).name == "Bo"
    assert stripe.asked == [("/v1/charges/ch_1", "acct_1"), ("/v1/checkout/sessions/cs_1", None)]


def test_the_language_of_a_monthly_donation_is_the_customers() -> None:
    """Unless the key may not read customers: then it is not known."""
    intent = {**INTENT, "customer": "cus_1"}
    known = {"/v1/payment_intents/pi_1": intent, "/v1/customers/cus_1": {"preferred_locales": ["fr-CA", "en"]}}
    assert fetched(known).language == "fr-CA"
    assert fetched({"/v1/payment_intents/pi_1": intent}).language is None


@given(st.text(max_size=300))
def test_a_text_becomes_one_line(text: str) -> None:
    """Without control characters, of limited length."""
    details = {"name": text, "address": {"line1": text}}
    donor = fetched({"/v1/payment_intents/pi_1": {"latest_charge": {"billing_details": details}}})
    for each in (donor.name or "", *donor.lines):
        assert len(each) <= LENGTH
        assert each == " ".join(each.split())
        assert each.isprintable() or "\u200c" in each or "\u200d" in each


@pytest.mark.parametrize(
    ("name", "shown"),
    [("Ann ❤️ ✨", "Ann"), ("😀👩‍👩‍👧", None), ("㈜ 김철수", "㈜ 김철수"), ("№ 7, 5 ℃ ™", "№ 7, 5 ℃ ™")],
)
def test_pictures_are_no_part_of_a_name(name: str, shown: str | None) -> None:
    """Few fonts have them, so that no receipt could be made; signs that addresses and firms are written with stay."""
    donor = fetched({"/v1/payment_intents/pi_1": {"latest_charge": {"billing_details": {"name": name}}}})
    assert donor.name == shown


@pytest.mark.parametrize("body", [[], "canary", {"latest_charge": {"billing_details": "canary"}}, {"receipt_email": 5}])
def test_an_object_that_cannot_be_read_is_not_repeated(body: object) -> None:
    """Nothing of it is in the error, or in an error that it is chained to."""
    with pytest.raises(DonorUnreadable) as caught:
        fetched({"/v1/payment_intents/pi_1": body})
    assert "canary" not in str(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


@pytest.mark.parametrize(("currency", "kept"), [({"currency": "usd"}, 5000), ({}, 0)])
def test_nothing_can_be_receipted_before_its_currency_is_known(currency: dict[str, str], kept: int) -> None:
    """The statement that issues a receipt would fail, and with it the pass, again and again, before other mails."""
    charge = {"id": "ch_1", "payment_intent": "pi_1", "amount": 5000, "amount_captured": 5000, "paid": True}
    shown = {**charge, "status": "succeeded", "created": 1, **currency}
    event = {"id": "evt_1", "type": "charge.succeeded", "created": 1, "livemode": False, "data": {"object": shown}}
    facts = read(json.dumps(event).encode(), livemode=False, hash_key=None).facts
    assert facts is not None
    donation = PaidDonation.of(facts, "pi_1")
    assert donation is not None and donation.kept_minor == kept


def test_a_donor_is_not_shown() -> None:
    """Where a donor gets into a message by mistake, the message has no name and no address."""
    assert "Canary" not in repr(Donor("Canary", "canary@example.com", ("Canary Street",)))
