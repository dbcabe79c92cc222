"""What the ledger's tables must hold by the model of Stripe, as rows that can be compared."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from itertools import accumulate

from daemon.ledger.donation import Donation
from daemon.ledger.facts import Facts, Family, merge
from daemon.ledger.kept_facts import redact
from daemon.ledger.projection import donations
from daemon.ledger.stripe_events import read
from daemon.simulator.sender import encode
from daemon.simulator.stripe_objects import Json
from sql.connection import Row
from tests.simulator.oracle import Expected

SHOWN = """
SELECT id, coalesce(ticket_id, ''), coalesce(currency, ''), status, amount_minor, refunded_minor, disputed_minor,
       extract(epoch FROM created_at)::bigint, extract(epoch FROM paid_at)::bigint,
       extract(epoch FROM refunded_at)::bigint, donor_last_name, donor_country, donor_email_hash, session_id, account,
       consent
FROM stripe_attributions ORDER BY id
"""
TOTALS = """
SELECT ticket_id, currency, paid_minor, refunded_minor, disputed_minor, paid, refunded, disputed, partially_refunded
FROM ticket_totals WHERE paid + refunded + disputed > 0 ORDER BY 1, 2
"""


def derived(events: Iterable[Json]) -> list[Row]:
    """The rows of these events' donations, by the ledger's pure part."""
    return _rows(reduce(merge, map(_facts, events), {}))


def derived_after_each(events: Iterable[Json]) -> Iterator[list[Row]]:
    """The same after each event of those so far."""
    return map(_rows, accumulate(map(_facts, events), merge))


def _facts(event: Json) -> Facts:
    return read(encode(event), livemode=False, hash_key=None).facts or {}


def _rows(facts: Facts) -> list[Row]:
    others: Facts = {family: objects for family, objects in facts.items() if family != Family.SUBSCRIPTION}
    return [_row_of(donation) for donation in donations(redact(others), facts.get(Family.SUBSCRIPTION, {}))]


def _row_of(of: Donation) -> Row:
    money = (of.status, of.amount, of.refunded, of.disputed)
    times = (of.created_at, of.paid_at, of.refunded_at)
    donor = (of.last_name, of.country, of.email_hash)
    return (of.id, of.ticket or "", of.currency or "", *money, *times, *donor, of.session_id, of.account, of.consent)


def as_row(of: Expected) -> Row:
    email_hash = hashlib.sha256(of.email.encode()).hexdigest() if of.email else None
    money = (of.status, of.amount_minor, of.refunded_minor, of.disputed_minor)
    times = (of.created_at, of.paid_at, of.refunded_at)
    donor = (of.donor, of.country, email_hash)
    objects = (of.session_id, of.account, of.consent)
    return (of.donation, of.ticket or "", of.currency or "", *money, *times, *donor, *objects)


def totals_of(ends: Sequence[Expected]) -> list[Row]:
    """The totals, added up from what the model expects."""
    sums: dict[tuple[str, str], Counter[str]] = {}
    for end in ends:
        if end.paid_at is not None:
            counts = sums.setdefault((end.ticket or "", end.currency or ""), Counter())
            counts.update(paid=end.amount_minor or 0, refunded=end.refunded_minor, disputed=end.disputed_minor)
            counts.update([end.status, "PARTIAL"] if end.status == "PAID" and end.refunded_minor else [end.status])
    names = ("paid", "refunded", "disputed", "PAID", "REFUNDED", "DISPUTED", "PARTIAL")
    return [(*key, *(counts[name] for name in names)) for key, counts in sorted(sums.items())]
