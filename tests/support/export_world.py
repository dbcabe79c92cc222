"""A ledger that is difficult to export, and its totals: what every export of it must add up to."""

import json
import random
from collections import Counter
from pathlib import Path

from daemon.simulator import scenarios
from daemon.simulator.stripe_objects import Json
from sql.connection import Row
from tests.simulator.random_payments import random_scenario
from tests.support.ledger import NOW, ask, record, rows

NAMES = Path(__file__).parents[1] / "cases" / "names_of_the_world.json"
# Tickets whose ids or titles are awkward in some format, with their titles.
TICKETS = {
    "story-1": 'Roof, "walls"; and\nfloor',
    "Story-1": '=HYPERLINK("http://example.org","Click")',
    "-story_2": "ילדים, עזרה",
    "2-3": "-1+1",
    "story_3": "@SUM(A1:A9)\r\nيلا",
    "a": "\t=1",
    "b": "+31 20",
}
BATCH = 100
ADD_TICKETS = "INSERT INTO recording_tickets (id, title) SELECT * FROM unnest(%(ids)s, %(titles)s)"

Totals = Counter[tuple[str, str, str]]  # minor units by ticket, currency and figure: paid, refunded, disputed


def build(url: str, seed: int = 1, *, tickets: bool = True) -> None:
    """Records payments of every kind in random order; other ones with another seed. Adds the tickets."""
    rng = random.Random(seed)
    several = [each for scenario in scenarios.generate(seed, 60, list(TICKETS), now=NOW) for each in scenario.events]
    for number in range(60):
        several += random_scenario(rng, list(TICKETS), key=f"{seed}x{number}", start=NOW - 86_400 * number).events
    several += json.loads(NAMES.read_text(encoding="utf-8"))
    add(url, rng.sample(several, len(several)))
    if not tickets:
        return
    values = {"ids": list(TICKETS), "titles": list(TICKETS.values())}
    ask(url, lambda database: database.fetch(ADD_TICKETS, values))


def add(url: str, events: list[Json]) -> None:
    """Records events in small batches, so that many entries are booked more than once."""
    for begin in range(0, len(events), BATCH):
        record(url, events[begin : begin + BATCH])


def totals(url: str) -> Totals:
    """What the ledger's own totals are; '' is no ticket, or no known currency."""
    return nonzero(
        rows(url, "SELECT ticket_id, currency, 'paid', paid_minor FROM ticket_totals")
        + rows(url, "SELECT ticket_id, currency, 'refunded', refunded_minor FROM ticket_totals")
        + rows(url, "SELECT ticket_id, currency, 'disputed', disputed_minor FROM ticket_totals")
    )


def nonzero(figures: list[Row]) -> Totals:
    """The sums of rows of ticket, currency, figure and minor units, without those that are zero."""
    sums: Totals = Counter()
    for ticket, currency, figure, amount in figures:
        sums[ticket, currency, figure] += amount
    return Counter({key: amount for key, amount in sums.items() if amount})
