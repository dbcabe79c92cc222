"""The diagram of a donation's facts and status, drawn from the projection's own tables: `make diagram`."""

import re

from daemon.ledger.donation_objects import SOURCES
from daemon.ledger.projection import STATUSES
from tests.support.docs import EXPLANATION

PLACE = re.compile(r"(?<=<!-- drawn by make diagram -->\n).*?(?=<!-- end of the drawing -->)", re.DOTALL)

# What Stripe calls each source.
NAMES = {
    ("op", "assigned"): "operator's assignment",
    ("pi", "ticket"): "PaymentIntent metadata.ticketId",
    ("ch", "ticket"): "charge metadata.ticketId",
    ("in", "ticket"): "its invoice's copy of the subscription's metadata.ticketId",
    ("sub", "ticket"): "its subscription's metadata.ticketId",
    ("cs", "ticket"): "session metadata.ticketId",
    ("sub", "session_ticket"): "its subscription's session metadata.ticketId",
    ("sub", "session_reference"): "its subscription's session client_reference_id",
    ("cs", "reference"): "session client_reference_id",
    ("ch", "taken"): "charge amount_captured",
    ("pi", "received"): "PaymentIntent amount_received",
    ("cs", "amount"): "session amount_total",
    ("pi", "amount"): "PaymentIntent amount",
    ("ch", "amount"): "charge amount",
    ("ch", "currency"): "charge",
    ("pi", "currency"): "PaymentIntent",
    ("cs", "currency"): "session",
    ("re", "currency"): "refund",
    ("dp", "currency"): "dispute",
    ("ch", "last_name"): "charge billing_details.name",
    ("cs", "last_name"): "session customer_details.name",
    ("ch", "country"): "charge billing_details.address",
    ("cs", "country"): "session customer_details.address",
    ("ch", "email_hash"): "charge billing_details.email",
    ("pi", "email_hash"): "PaymentIntent receipt_email",
    ("cs", "email_hash"): "session customer_details.email",
    ("in", "last_name"): "invoice customer_name",
    ("in", "email_hash"): "invoice customer_email",
    ("cs", "show_name"): "session custom field showName",
    ("sub", "session_show_name"): "its subscription's session custom field showName",
}
TITLES = {
    "amount": "amount: of 1 and 2 the larger",
    "last_name": "last name",
    "email_hash": "e-mail hash",
    "currency": "currency, where the amount's has none",
    "consent": "consent, unless it was withdrawn or the donor was erased",
}


def render() -> str:
    """The diagram, as a Markdown block."""
    lines = ["```mermaid", "flowchart TB", '  subgraph facts["each fact: the first source that names one is used"]']
    for fact, sources in SOURCES.items():
        steps = [f"{n} {NAMES[source]}" for n, source in enumerate(sources, 1)]
        lines.append(f'    {fact}["{"<br/>".join([f"<b>{TITLES.get(fact, fact)}</b>", *steps])}"]')
    lines += ["  end", '  subgraph status["status: the first that applies"]', "    direction LR"]
    lines += [f'    {name}["<b>{name}</b><br/>{sentence}"]' for name, sentence, _rule in STATUSES]
    lines.append("    " + " -- else --> ".join(name for name, _sentence, _rule in STATUSES))
    return "\n".join([*lines, "  end", "  facts --> status", "```", ""])


if __name__ == "__main__":
    EXPLANATION.write_text(PLACE.sub(lambda _match: render(), EXPLANATION.read_text()))
