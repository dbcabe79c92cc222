"""The arguments and options that several commands share, with the checks of their values.

Like the commands themselves this module imports no more than click; a check imports what it needs when it runs.
"""

import getpass
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from decimal import Decimal

    from daemon.ledger.reader import Moment

MAX_ROWS = 1_000_000
WHERE_IDS_ARE = (
    "`donationd ledger TICKET --ids` and `donationd unassigned` show ids, and Stripe's dashboard has them too (pi_…)"
)


class Failure(click.ClickException):
    """The work failed: one clear sentence, exit status 1."""


def check_ticket(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """A ticket id."""
    from daemon.ledger.facts import TICKET_PATTERN

    if not re.fullmatch(TICKET_PATTERN, value):
        raise click.BadParameter(
            "a ticket id is 1 to 64 letters, digits, dashes and underscores, and no more than 8 if all are digits"
        )
    return value


def check_optional_ticket(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """A ticket id; None where none was given."""
    return None if value is None else check_ticket(context, parameter, value)


def check_charity(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """The name of a charity: that of its schema and of its role."""
    from daemon.instance.charities import MAX_NAME_CHARS
    from daemon.runtime.config import SCHEMA

    if not SCHEMA.fullmatch(value) or len(value) > MAX_NAME_CHARS or value in {"public", "none"}:
        raise click.BadParameter(
            f"a charity's name is 1 to {MAX_NAME_CHARS} of a-z, 0-9 and _, with no digit first; "
            "it is not public or none, and does not begin with pg_"
        )
    return value


def check_payout(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """The id of a payout; None where none was given."""
    if value is not None and not (value.startswith("po_") and _is_object_id(value)):
        raise click.BadParameter("this is not the id of a payout, such as po_1PqXb2Lkd")
    return value


def check_donation(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """The id of a PaymentIntent, Checkout Session or charge, or None where the argument may be left out."""
    if value is not None and not _is_object_id(value):
        raise click.BadParameter(f"this is not the id of a PaymentIntent, Checkout Session or charge; {WHERE_IDS_ARE}")
    return value


def check_event(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """The id of a Stripe event."""
    if not _is_object_id(value):
        raise click.BadParameter("this is not the id of an event, such as evt_1PqXb2Lkd")
    return value


def check_optional_event(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """The id of a Stripe event; None where none was given."""
    return None if value is None else check_event(context, parameter, value)


def check_since(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """A time, or a number of days before now, in Unix seconds; None where none was given."""
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,5}d", value, re.ASCII):
        return max(0, int(time.time()) - int(value[:-1]) * 86_400)
    try:
        moment = datetime.fromisoformat(value)
        return max(0, int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()))
    except (ValueError, OverflowError):
        raise click.BadParameter("a day or a time such as 2026-11-01T12:00:00Z, or days such as 3d") from None


def check_query(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """A Stripe id of a donation or an e-mail hash, or None where the argument may be left out."""
    if value is not None and "@" in value:
        raise click.BadParameter("an e-mail is not given here, where the shell's history keeps it: use --email")
    if value is not None and not _is_object_id(value):
        raise click.BadParameter("this is neither the id of a Stripe object, such as pi_3PqXb2Lkd, nor an e-mail hash")
    return value


def _is_object_id(value: str) -> bool:
    from daemon.ledger.facts import ID_PATTERN

    return re.fullmatch(ID_PATTERN, value) is not None


def check_currency(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """A currency's three letters, in capitals; None where none was given."""
    from daemon.ledger.money import CURRENCY

    if value is None:
        return None
    if not CURRENCY.fullmatch(value.upper()):
        raise click.BadParameter("a currency is three letters, such as EUR")
    return value.upper()


def check_amount(_context: click.Context, _parameter: click.Parameter, value: str | None) -> "Decimal | None":
    """An amount in major units, which may be 0; None where none was given."""
    from decimal import Decimal

    if value is None:
        return None
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,3})?", value, re.ASCII):
        raise click.BadParameter("an amount is written in digits, such as 5000 or 49.50")
    return Decimal(value)


def check_hash(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """A SHA-256 hash; None where none was given."""
    if value is not None and not re.fullmatch(r"[0-9A-Fa-f]{64}", value, re.ASCII):
        raise click.BadParameter("a hash has 64 hexadecimal digits")
    return value


def check_title(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """What people see of a ticket; None where none was given."""
    from daemon.ledger.tickets import is_title

    if value is not None and not is_title(value):
        raise click.BadParameter("a title has at most 200 characters, and none of them is a control character")
    return value


def check_moment(_context: click.Context, _parameter: click.Parameter, value: str | None) -> "Moment | None":
    """An entry's number or a time; None where none was given."""
    from daemon.ledger.reader import Moment

    try:
        return None if value is None else Moment.parse(value)
    except ValueError:
        raise click.BadParameter("an entry's number, or a time such as 2026-01-31T00:00:00Z") from None


def check_time_zone(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """The IANA name of a time zone; None where none was given."""
    from daemon.reports.time_zones import UnknownTimeZone, load_time_zone

    try:
        if value is not None:
            load_time_zone(value)
    except UnknownTimeZone as problem:
        raise click.BadParameter(str(problem)) from None
    return value


def check_actor(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str:
    """Who does it: what was given, else the user's own name."""
    from daemon.ledger.operator_actions import ACTOR_LIMIT

    try:
        actor = (value if value is not None else getpass.getuser()).strip()
    except (KeyError, OSError):
        raise click.BadParameter("this user has no name on this machine: give yours with --by NAME") from None
    if not (actor and actor.isprintable() and len(actor) <= ACTOR_LIMIT):
        raise click.BadParameter(f"a name has 1 to {ACTOR_LIMIT} printable characters")
    return actor


ticket_argument = click.argument("ticket", callback=check_ticket)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
json_lines_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object per line, for programs."
)
by_option = click.option(
    "--by", "actor", callback=check_actor, help="Who does this, for the record. Without it your user name is recorded."
)
time_zone_option = click.option(
    "--tz",
    "time_zone",
    callback=check_time_zone,
    metavar="ZONE",
    help="The time zone in which days begin, such as Europe/Berlin; without it REPORT_TIME_ZONE.",
)
limit_option = click.option(
    "--limit", type=click.IntRange(1, MAX_ROWS), default=100, show_default=True, help="Print at most this many."
)
