"""`donationd find`: the donations of a Stripe object or of a donor."""

import click

from daemon.cli.arguments import by_option, check_query, json_lines_option, limit_option


@click.command()
@click.argument("query", required=False, callback=check_query)
@click.option("--email", is_flag=True, help="Find the donations of one e-mail, which is read from the terminal.")
@by_option
@limit_option
@json_lines_option
def find(query: str | None, email: bool, actor: str, limit: int, as_json: bool) -> None:
    """Find donations by a Stripe id or a donor's e-mail.

    QUERY is the id of a PaymentIntent, Checkout Session, charge, refund, dispute, invoice or subscription, or an e-mail
    hash (64 hexadecimal digits, as `donationd report donors` shows it). The donation paid last comes first.

    The e-mail is neither shown nor kept: its hash is looked for, made with DONOR_EMAIL_HASH_KEY (if that is set) and
    without it. A search by e-mail or by hash is on record, without both (`donationd audit`).

    \b
    Examples:
      donationd find pi_3PqXb2Lkd
      donationd find --email --by alex
    """
    from daemon.cli import find

    if (query is None) is not email:
        raise click.UsageError("give an id or a hash, or --email")
    find.print_found(query, actor, limit, as_json=as_json)
