"""`donationd tickets` and `ledger`: what donations are for, and the donations of one ticket."""

from typing import TYPE_CHECKING

import click

from daemon.cli.arguments import (
    by_option,
    check_amount,
    check_currency,
    check_moment,
    check_ticket,
    check_title,
    json_lines_option,
    ticket_argument,
)

if TYPE_CHECKING:
    from decimal import Decimal

    from daemon.ledger.reader import Moment


@click.group()
def tickets() -> None:
    """Add and list the tickets that donations are for.

    \b
    Examples:
      donationd tickets add story-1 --title "A new roof" --currency EUR
      donationd tickets list --json
    """


@tickets.command("add")
@click.argument("ticket", metavar="ID", callback=check_ticket)
@click.option("--title", callback=check_title, help="What people see; at most 200 characters.")
@click.option("--currency", callback=check_currency, help="The ticket's own currency; without it DEFAULT_CURRENCY.")
@click.option("--goal", callback=check_amount, help="What is to be collected, in the ticket's currency; 0 for none.")
@click.option(
    "--state",
    type=click.Choice(["open", "closed", "hidden"]),
    help="closed: nothing new is collected; hidden: the public sees nothing of it.",
)
@by_option
def _add(
    ticket: str, *, title: str | None, currency: str | None, goal: "Decimal | None", state: str | None, actor: str
) -> None:
    """Add a ticket, or change one that exists: what is not given stays as it is.

    Who did it and when is on record (`donationd audit`).

    \b
    Examples:
      donationd tickets add story-1 --title "A new roof" --currency EUR --goal 5000
      donationd tickets add story-1 --state hidden
    """
    from msgspec import UNSET

    from daemon.cli import tickets
    from daemon.ledger.tickets import State, TicketChange

    change = TicketChange(
        title=UNSET if title is None else title,
        currency=currency or UNSET,
        goal=UNSET if goal is None else goal or None,
        state=State(state) if state else UNSET,
    )
    tickets.add(ticket, change, actor)


@tickets.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array, for programs.")
def _list(as_json: bool) -> None:
    """List all tickets, oldest first.

    \b
    Examples:
      donationd tickets list
      donationd tickets list --json
    """
    from daemon.cli import tickets

    tickets.print_all(as_json=as_json)


@click.command()
@ticket_argument
@click.option(
    "--ids", is_flag=True, help="Also print each donation's id, for `donationd assign` and `donationd erase`."
)
@click.option(
    "--as-of",
    "moment",
    callback=check_moment,
    metavar="SEQ|TIME",
    help="As it was known after an entry of the journal, or at a time such as 2026-01-31T00:00:00Z.",
)
@json_lines_option
def ledger(ticket: str, ids: bool, moment: "Moment | None", as_json: bool) -> None:
    """Print a ticket's donations and their total.

    The donation paid last comes first. The total counts every donation that was ever paid as paid, as the API's
    `counts.total` does, also one that was refunded or disputed later.

    \b
    Examples:
      donationd ledger story-1
      donationd ledger story-1 --ids
      donationd ledger story-1 --json
      donationd ledger story-1 --as-of 2026-01-31T00:00:00Z
    """
    from daemon.cli import tickets

    if moment is not None:
        tickets.print_ledger_as_of(ticket, moment, as_json=as_json)
        return
    tickets.print_ledger(ticket, with_ids=ids, as_json=as_json)
