"""What `donationd tickets` and `ledger` do: a ticket's donations as the original design's section 9.2 shows them."""

import click
import msgspec

from daemon.api.config import CommandConfig
from daemon.cli.arguments import Failure
from daemon.cli.database import ask
from daemon.cli.settings import settings
from daemon.ledger import money
from daemon.ledger.donation import ShownDonation, minute
from daemon.ledger.reader import (
    Cursor,
    Figures,
    Ledger,
    Moment,
    PageQuery,
    PastDonation,
    PastTotalsRow,
    TicketFigures,
)
from daemon.ledger.tickets import ChangedMeanwhile, ImpossibleGoal, State, Ticket, TicketChange, put, tickets
from daemon.reports.entry_sums import JournalMoment, MomentInFuture, find_moment
from sql.database import Database

PAGE = 1000
NO_TICKETS = 'there are no tickets yet; add one: donationd tickets add story-1 --title "A new roof"'


def add(ticket: str, change: TicketChange, actor: str) -> None:
    """Adds a ticket, or changes one that exists."""
    currency = settings(CommandConfig).default_currency
    try:
        _, is_new = ask(lambda database: put(database, ticket, change, actor=actor, default_currency=currency))
    except ImpossibleGoal as error:
        raise Failure(f"--goal: {error}") from None
    except ChangedMeanwhile:
        raise Failure("other processes change this ticket at this moment: try again") from None
    click.echo(f"{'added' if is_new else 'changed'} {ticket}")


def print_all(*, as_json: bool) -> None:
    """Prints every ticket."""
    found = ask(tickets)
    default_currency = settings(CommandConfig).default_currency
    if as_json:
        click.echo(msgspec.json.encode([_ticket_json(ticket, default_currency) for ticket in found]))
        return
    for ticket in found:
        state = "" if ticket.state is State.OPEN else f" [{ticket.state}]"
        line = f"{ticket.id:<24} {ticket.currency or '-':<4} {ticket.created_at:%Y-%m-%d}  {ticket.title}{state}"
        click.echo(line.rstrip())
    if not found:
        click.echo(NO_TICKETS, err=True)


def _ticket_json(ticket: Ticket, default_currency: str) -> dict[str, object]:
    goal = ticket.goal(default_currency)
    return {
        "id": ticket.id,
        "title": ticket.title,
        "currency": ticket.currency,
        "goal": msgspec.Raw(goal.encode()) if goal else None,
        "state": ticket.state,
        "createdAt": ticket.created_at.isoformat(),
    }


def print_ledger(ticket: str, *, with_ids: bool, as_json: bool) -> None:
    """Prints a ticket's donations and its total."""
    default_currency = settings(CommandConfig).default_currency
    donations, totals = ask(lambda database: _read_ledger(Ledger(database), ticket, default_currency))
    if as_json:
        for donation in donations:
            click.echo(donation.json())
        return
    click.echo(f"Ticket: {ticket}\n\nDonations:")
    for donation in donations:
        click.echo(_ledger_line(donation, with_id=with_ids))
    for line in _total_lines(totals, default_currency):
        click.echo(line)


def print_ledger_as_of(ticket: str, moment: Moment, *, as_json: bool) -> None:
    """Prints what the journal's entries up to a moment add up to: each donation, and the totals."""
    try:
        found, totals, donations = ask(lambda database: _read_ledger_as_of(database, ticket, moment))
    except MomentInFuture as problem:
        raise Failure(str(problem)) from None
    if as_json:
        for donation in donations:
            click.echo(msgspec.json.encode(_as_json(donation)))
        return
    time = f", recorded {found.recorded_at.isoformat()}" if found.recorded_at else ""
    click.echo(f"Ticket: {ticket}\nEntry: {found.seq}{time}\n\nDonations:")
    for donation in donations:
        paid_at = f"[{minute(donation.paid_at)}] " if donation.paid_at else ""
        click.echo(f"{paid_at}{_amounts(donation, donation.currency)} - {donation.donation_id}")
    click.echo()
    for total in totals:
        if total.currency:
            shown = money.display(total.figures.net_minor, total.currency)
            click.echo(f"Total: {shown} ({_amounts(total, total.currency)})")


async def _read_ledger_as_of(
    database: Database, ticket: str, moment: Moment
) -> tuple[JournalMoment, list[PastTotalsRow], list[PastDonation]]:
    ledger, found = Ledger(database), await find_moment(database, moment)
    totals = await ledger.totals_as_of(ticket, found.seq)
    if not totals:
        raise Failure(f"there is no ticket {ticket}; add it: donationd tickets add {ticket}")
    return found, totals, await ledger.donations_as_of(ticket, found.seq)


def _amounts(row: PastTotalsRow | PastDonation, currency: str) -> str:
    """`$50.00 paid, $10.00 refunded`, without what is nothing."""
    amounts = ((row.paid_minor, "paid"), (row.refunded_minor, "refunded"), (row.disputed_minor, "disputed"))
    return ", ".join(f"{money.display(amount, currency)} {name}" for amount, name in amounts if amount)


def _as_json(row: PastDonation) -> dict[str, object]:
    amounts = (("paid", row.paid_minor), ("refunded", row.refunded_minor), ("disputed", row.disputed_minor))
    numbers = {name: msgspec.Raw(money.major(amount, row.currency).encode()) for name, amount in amounts}
    return {"id": row.donation_id, "currency": row.currency or None, "paidAt": row.paid_at, **numbers}


async def _read_ledger(ledger: Ledger, ticket: str, default_currency: str) -> tuple[list[ShownDonation], TicketFigures]:
    """All of a ticket's donations, and its figures."""
    totals = await ledger.totals(ticket)
    donations: list[ShownDonation] = []
    after: Cursor | None = None
    while totals and (page := await ledger.page(PageQuery(ticket, PAGE, default_currency, after=after))):
        donations += page.donations
        if page.next is None:
            return donations, totals.ticket
        after = page.next
    raise Failure(f"there is no ticket {ticket}; add it: donationd tickets add {ticket}")


def _ledger_line(donation: ShownDonation, *, with_id: bool = False) -> str:
    return f"{donation.text()} - {donation.id}" if with_id else donation.text()


def _total_lines(ticket: TicketFigures, default_currency: str) -> list[str]:
    """An empty line, then one per currency, the ticket's own first as in the API's reply."""
    own = ticket.currency or default_currency
    figures = {own: Figures()} | dict(ticket.by_currency)
    return ["", *(_total_line(currency, of_currency) for currency, of_currency in figures.items())]


def _total_line(currency: str, figures: Figures) -> str:
    """Every donation with a paidAt counts as paid. Figures that are not in the original design are shown if not 0."""
    counts = [f"{figures.donations} paid", f"{figures.refunded} refunded"]
    others = ((figures.partially_refunded, "partially refunded"), (figures.disputed, "disputed"))
    counts += [f"{n} {name}" for n, name in others if n]
    return f"Total: {money.display(figures.net_minor, currency)} ({', '.join(counts)})"
