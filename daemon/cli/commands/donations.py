"""`donationd unassigned`, `timeline`, `assign`, `withdraw-consent`, `erase` and `audit`: what operators see of
donations and do about them, and the record of it."""

import click

from daemon.cli.arguments import (
    by_option,
    check_donation,
    json_lines_option,
    json_option,
    limit_option,
    ticket_argument,
)


@click.command()
@limit_option
@json_lines_option
def unassigned(limit: int, as_json: bool) -> None:
    """List the paid donations without a ticket.

    They name no ticket, or one that does not exist. The one paid last comes first.

    \b
    Examples:
      donationd unassigned
      donationd unassigned --json --limit 10000
    """
    from daemon.cli import donations

    donations.print_unassigned(limit, as_json=as_json)


@click.command()
@click.argument("donation", callback=check_donation)
@json_lines_option
def timeline(donation: str, as_json: bool) -> None:
    """Print everything that happened to a donation, in order.

    Each fact with the object and the time of the event that stated it, each change of the status, and each entry of the
    journal. DONATION is the id of any of its objects: PaymentIntent, Checkout Session, charge, refund or dispute. A
    newer value of a fact replaces the older one, so a change that only an older value showed is not listed.

    \b
    Examples:
      donationd timeline pi_3PqXb2Lkd
      donationd timeline pi_3PqXb2Lkd --json
    """
    from daemon.cli import donations

    donations.print_timeline(donation, as_json=as_json)


@click.command()
@click.argument("donation", callback=check_donation)
@ticket_argument
@by_option
@json_option
def assign(donation: str, ticket: str, actor: str, as_json: bool) -> None:
    """Move a donation to a ticket.

    The assignment counts whatever ticket the donation's events name, and later events do not change it. DONATION is the
    id of a PaymentIntent, Checkout Session or charge, as `donationd unassigned`, `donationd ledger TICKET --ids` and
    Stripe's dashboard show it. The last assignment counts. Who assigned it and when is on record (`donationd audit`).

    \b
    Example:
      donationd assign pi_3PqXb2Lkd story-1 --by alex
    """
    from daemon.cli import donations

    donations.assign(donation, ticket, actor, as_json=as_json)


@click.command("withdraw-consent")
@click.argument("donation", callback=check_donation)
@by_option
@json_option
def withdraw_consent(donation: str, actor: str, as_json: bool) -> None:
    """Show a donor's name on public pages no longer.

    The donation stays in every total, as an anonymous one. Of a monthly donation this holds for all donations of its
    subscription, also for those to come. No later event shows the name again. DONATION is the id of a PaymentIntent,
    Checkout Session or charge, as `donationd ledger TICKET --ids` and Stripe's dashboard show it.

    \b
    Example:
      donationd withdraw-consent pi_3PqXb2Lkd --by alex
    """
    from daemon.cli import donations

    donations.withdraw_consent(donation, actor, as_json=as_json)


@click.command()
@click.argument("donation", required=False, callback=check_donation)
@click.option("--email", is_flag=True, help="Erase all donations of one e-mail, which is read from the terminal.")
@click.option("--yes", is_flag=True, help="Do not ask for a confirmation.")
@by_option
@json_option
def erase(donation: str | None, email: bool, yes: bool, actor: str, as_json: bool) -> None:
    """Erase a donor's last name, country and e-mail hash.

    DONATION is the id of a PaymentIntent, Checkout Session or charge, as `donationd ledger TICKET --ids`,
    `donationd unassigned` and Stripe's dashboard show it.

    No total changes, and no later delivery brings the data back. The e-mail is neither shown nor kept: its hash is
    looked for, made with DONOR_EMAIL_HASH_KEY (if that is set) and without it.

    \b
    Examples:
      donationd erase pi_3PqXb2Lkd
      donationd erase --email
    """
    from daemon.cli import donations

    if (donation is None) is not email:
        raise click.UsageError("name a donation, or give --email")
    donations.erase(donation, asked=not yes, actor=actor, as_json=as_json)


@click.command()
@limit_option
@json_lines_option
def audit(limit: int, as_json: bool) -> None:
    """List the operators' actions.

    Each line says what was done to which donation, event or ticket, by whom and when. The newest action comes first.
    The hash that is printed at the end stands for all of them: `donationd verify --audit-hash HASH` shows later whether
    one of them was changed or removed.

    \b
    Examples:
      donationd audit --limit 10
      donationd audit --json | jq .by
    """
    from daemon.cli import donations

    donations.print_actions(limit, as_json=as_json)
