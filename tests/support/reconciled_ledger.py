"""A ledger and what Stripe knows, for reconciliation."""

from collections.abc import Sequence

from daemon.ledger.verification import verify
from daemon.simulator.scenarios import Scenario
from sql.connection import Row
from sql.snapshot import snapshot
from tests.simulator.oracle import expected_donations
from tests.support.stripe_world import Noted, Site

DONATIONS = """
SELECT id, ticket_id, status, amount_minor, currency, refunded_minor, disputed_minor, donor_last_name, donor_country,
       extract(epoch FROM created_at)::bigint, extract(epoch FROM paid_at)::bigint,
       extract(epoch FROM refunded_at)::bigint, session_id, account
FROM stripe_attributions ORDER BY id
"""
TOTALS = "SELECT * FROM ticket_totals WHERE paid + refunded + disputed > 0 ORDER BY 1, 2"


# What is booked at each time, whatever it was booked for.
SUMS = """
SELECT donation_id, ticket_id, currency, kind, object_id, effective_at, sum(amount_minor) FROM ledger_entries
GROUP BY 1, 2, 3, 4, 5, 6 HAVING sum(amount_minor) <> 0 ORDER BY 1, 2, 3, 4, 5, 6
"""


def expected_rows(scenarios: Sequence[Scenario]) -> list[tuple[object, ...]]:
    """What the simulator expects of each donation, as the rows of DONATIONS."""
    return sorted(
        (
            *(each.donation, each.ticket, each.status, each.amount_minor, each.currency, each.refunded_minor),
            *(each.disputed_minor, each.donor, each.country, each.created_at, each.paid_at, each.refunded_at),
            *(each.session_id, each.account),
        )
        for scenario in scenarios
        for each in expected_donations(scenario)
    )


async def shown(site: Site) -> list[tuple[object, ...]]:
    return sorted(map(tuple, await site.database.fetch(DONATIONS)))


async def ledger(site: Site) -> tuple[list[Row], list[Row], list[Row]]:
    """All donations, totals and sums of the journal."""
    return await site.database.fetch(DONATIONS), await site.database.fetch(TOTALS), await site.database.fetch(SUMS)


def verified(url: str) -> list[str]:
    """What `donationd verify` reports."""
    with snapshot(url, "donationd test") as moment:
        return list(verify(moment, lambda _done: None))


def listed(noted: Noted) -> list[str]:
    """The lines that a run prints of differences; the order of the donations of one page is not fixed."""
    return sorted(each.text() for each in noted.differences)
