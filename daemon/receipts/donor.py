"""The donor of a payment, as Stripe knows it: fetched when a mail or receipt is made, and never stored or logged.

Name and address come from the charge's billing details, else from the Checkout Session's customer details, else from
the invoice: the order in which the ledger takes the last name (SPEC 3).
"""

import re
import unicodedata
from dataclasses import dataclass
from typing import Annotated, TypeVar

import msgspec
from msgspec import Struct

from daemon.ledger.privacy import JOINERS
from daemon.receipts.donation import PaidDonation
from daemon.stripe_api.client import StripeApi, StripeRejected

LENGTH = 200  # of a line; Stripe's own limits are longer, and no receipt needs more
# Pictures that some people write into their name: few fonts have them, and a receipt needs none.
PICTURES = re.compile("[\u2600-\u27bf\ufe0f\U0001f000-\U0001faff]\u200d?")

T = TypeVar("T")


class DonorUnreadable(Exception):
    """Stripe's reply cannot be read; nothing of it is kept, because it may repeat the donor's data."""

    def __init__(self) -> None:
        super().__init__("Stripe's reply about the donor cannot be read")


@dataclass(frozen=True, repr=False)
class Donor:
    """A donor, as a mail and a receipt need it; None and empty where Stripe does not know it.

    Attributes:
        lines: of the postal address, without the country.
        country: two letters.
        language: as Stripe names it, such as `de` or `pt-BR`.
    """

    name: str | None = None
    email: str | None = None
    lines: tuple[str, ...] = ()
    country: str | None = None
    language: str | None = None

    def completed(self, other: "Donor") -> "Donor":
        """This donor, with what only `other` knows; an address is taken as a whole."""
        has_address = bool(self.lines or self.country)
        return Donor(
            self.name or other.name,
            self.email or other.email,
            self.lines if has_address else other.lines,
            self.country if has_address else other.country,
            self.language or other.language,
        )


class _Address(Struct):
    line1: str | None = None
    line2: str | None = None
    postal_code: str | None = None
    city: str | None = None
    state: str | None = None
    country: str | None = None


class _Details(Struct):
    name: str | None = None
    email: str | None = None
    address: _Address | None = None


class _Charge(Struct):
    billing_details: _Details | None = None


class _PaymentIntent(Struct):
    latest_charge: _Charge | str | None = None
    receipt_email: str | None = None
    customer: Annotated[str, msgspec.Meta(pattern="^cus_[A-Za-z0-9_]{1,250}$")] | None = None


class _Session(Struct):
    customer_details: _Details | None = None
    locale: str | None = None


class _Invoice(Struct):
    customer_name: str | None = None
    customer_email: str | None = None
    customer_address: _Address | None = None


class _Customer(Struct):
    preferred_locales: list[str] | None = None


async def fetch_donor(stripe: StripeApi, donation: PaidDonation) -> Donor:
    """The donor of a donation.

    Raises:
        StripeUnavailable, StripeRejected: as the client.
        DonorUnreadable: an object does not have the form that Stripe documents.
    """
    account = donation.account
    donor, customer = await _of_payment(stripe, donation.id, account)
    if donation.session_id and donation.session_id != donation.id:
        donor = donor.completed(await _of_session(stripe, donation.session_id, account))
    if donation.invoice and not (donor.name and donor.email):
        donor = donor.completed(await _of_invoice(stripe, donation.invoice, account))
    if customer and not donor.language:
        donor = donor.completed(await _of_customer(stripe, customer, account))
    return donor


async def _of_payment(stripe: StripeApi, id_: str, account: str | None) -> tuple[Donor, str | None]:
    """What the donation's own object says: a PaymentIntent, a Checkout Session or a charge; and the customer's id."""
    if id_.startswith("cs_"):
        return await _of_session(stripe, id_, account), None
    if not id_.startswith("pi_"):
        reply = await stripe.get(f"/v1/charges/{id_}", account=account)
        return _donor(_decode(reply.body, _Charge).billing_details), None
    reply = await stripe.get(f"/v1/payment_intents/{id_}", {"expand": ["latest_charge"]}, account=account)
    intent = _decode(reply.body, _PaymentIntent)
    details = intent.latest_charge.billing_details if isinstance(intent.latest_charge, _Charge) else None
    return _donor(details).completed(Donor(email=_clean(intent.receipt_email))), intent.customer


async def _of_session(stripe: StripeApi, id_: str, account: str | None) -> Donor:
    session = _decode((await stripe.get(f"/v1/checkout/sessions/{id_}", account=account)).body, _Session)
    language = session.locale if session.locale != "auto" else None
    return _donor(session.customer_details).completed(Donor(language=language))


async def _of_invoice(stripe: StripeApi, id_: str, account: str | None) -> Donor:
    invoice = _decode((await stripe.get(f"/v1/invoices/{id_}", account=account)).body, _Invoice)
    return _donor(_Details(invoice.customer_name, invoice.customer_email, invoice.customer_address))


async def _of_customer(stripe: StripeApi, id_: str, account: str | None) -> Donor:
    """The language that a customer prefers; unknown if the key may not read customers."""
    try:
        customer = _decode((await stripe.get(f"/v1/customers/{id_}", account=account)).body, _Customer)
    except StripeRejected:
        return Donor()
    return Donor(language=next(iter(customer.preferred_locales or []), None))


def _donor(details: _Details | None) -> Donor:
    """The donor that an object's details name."""
    if details is None:
        return Donor()
    address = details.address or _Address()
    town = " ".join(filter(None, (_clean(address.postal_code), _clean(address.city))))
    lines = (_clean(address.line1), _clean(address.line2), town, _clean(address.state))
    country = address.country if address.country and len(address.country) == 2 else None
    return Donor(_clean(details.name), _clean(details.email), tuple(line for line in lines if line), country)


def _clean(text: str | None) -> str | None:
    """A text as one line: pictures, control and invisible characters count as spaces, as in the last name (SPEC 7)."""
    letters = PICTURES.sub(" ", text or "")
    visible = (c if c in JOINERS or not unicodedata.category(c).startswith("C") else " " for c in letters)
    return " ".join("".join(visible).split())[:LENGTH] or None


def _decode(body: bytes, kind: type[T]) -> T:
    """An object of Stripe's. Raises DonorUnreadable."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeError):
        pass
    raise DonorUnreadable
