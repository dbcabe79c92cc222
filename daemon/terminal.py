"""What commands share: the database they talk to, how they fail, how they show a time."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

import click

from daemon import up
from daemon.facts import TICKET_PATTERN
from sql.database import Database, DatabaseDown, Refused

T = TypeVar("T")


class Failure(click.ClickException):
    """The work failed: one clear sentence, exit status 1."""


def environ() -> Mapping[str, str]:
    """The environment; without DATABASE_URL that of the embedded instance running here, saying so."""
    if os.environ.get("DATABASE_URL"):
        return os.environ
    embedded = up.embedded_environ()
    if embedded is None:
        raise Failure("set DATABASE_URL to postgresql://user@host/database, or start `donationd up --embedded` here")
    click.echo("(using the embedded database of this folder)", err=True)
    return {**embedded, **{name: value for name, value in os.environ.items() if value}}


def database_url() -> str:
    url = environ().get("DATABASE_URL", "")
    if not url.startswith("postgresql://"):
        raise Failure("DATABASE_URL must start with postgresql://")
    return url


def ask(question: Callable[[Database], Awaitable[T]], timeout_s: float = 60) -> T:
    """Asks the database one thing, from a command; each statement may take `timeout_s`."""
    url = database_url()

    async def answer() -> T:
        database = Database(
            url, pool_size=1, statement_timeout_s=timeout_s, connect_timeout_s=5, application_name="donationd cli"
        )
        try:
            return await question(database)
        finally:
            await database.close()

    try:
        return asyncio.run(answer())
    except DatabaseDown as error:
        raise Failure(f"{error}; `donationd gate` says more") from None
    except Refused as refusal:
        raise Failure(f"{refusal}; is the schema up to date? See: donationd migrate --status") from None


def ticket_argument(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not re.fullmatch(TICKET_PATTERN, value):
        raise click.BadParameter(
            "1 to 64 letters, digits, dashes and underscores, and no more than 8 if all are digits"
        )
    return value


def minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"
