"""What commands share: their settings, the database they use, how they fail, how they show a time."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

import click

from daemon.api.config import CommandConfig
from daemon.instance import up
from daemon.ledger.facts import TICKET_PATTERN
from daemon.runtime.config import Basics, ConfigError
from sql import load
from sql.database import Database
from sql.errors import DatabaseUnavailable, StatementRejected
from sql.server_settings import NAMES, ServerSettings

T = TypeVar("T")
Kind = TypeVar("Kind", bound=Basics)

NO_DATABASE = "DATABASE_URL: not set"
ENVIRON = "daemon.cli.database.environ"  # looked for and mentioned once per command


class Failure(click.ClickException):
    """The work failed: one clear sentence, exit status 1."""


def read(kind: type[Kind], environ: Mapping[str, str]) -> Kind:
    """The settings in `environ`; fails with every mistake at once."""
    try:
        return kind.from_environ(environ)
    except ConfigError as error:
        problems = error.problems
    if NO_DATABASE in problems:
        problems.append("set DATABASE_URL to postgresql://user@host/database, or start `donationd up --embedded` here")
    raise Failure("\n".join(problems))


def settings(kind: type[Kind]) -> Kind:
    """The settings set here; without DATABASE_URL on top of those of the embedded instance of this folder."""
    known = click.get_current_context().meta
    if ENVIRON not in known:
        known[ENVIRON] = _environ()
    return read(kind, known[ENVIRON])


def _environ() -> dict[str, str]:
    given = {name: value for name, value in os.environ.items() if value}
    embedded = None if "DATABASE_URL" in given else up.embedded_environ()
    if embedded:
        click.echo("(using the embedded instance of this folder)", err=True)
    return {**(embedded or {}), **given}


def database_url() -> str:
    url = settings(CommandConfig).database_url.get_secret_value()
    if not url.startswith("postgresql://"):
        raise Failure("DATABASE_URL must start with postgresql://")
    return url


def ask(question: Callable[[Database], Awaitable[T]], timeout_s: float = 60, *, sends_donor_data: bool = False) -> T:
    """Asks the database one thing, from a command; each statement may take `timeout_s`.

    With `sends_donor_data` it is asked only if PostgreSQL's log will contain none of the statements' values: the role
    may be another one than the startup gate has checked.
    """
    url = database_url()

    async def answer() -> T:
        database = Database(
            url, pool_size=1, statement_timeout_s=timeout_s, connect_timeout_s=5, application_name="donationd cli"
        )
        try:
            if sends_donor_data:
                await _check_log(database)
            return await question(database)
        finally:
            await database.close()

    try:
        return asyncio.run(answer())
    except DatabaseUnavailable as error:
        raise Failure(f"{error}; `donationd gate` says more") from None
    except StatementRejected as refusal:
        raise Failure(f"{refusal}; is the schema up to date? See: donationd migrate --status") from None


async def _check_log(database: Database) -> None:
    """Fails if the server would log this role's statements with their values, and that is not permitted."""
    found = ServerSettings(await database.fetch(load("server_settings"), {"names": NAMES})).logged_statements()
    if found and not settings(CommandConfig).allow_logged_statements:
        heading = "PostgreSQL's log would contain donors' data; ALLOW_LOGGED_STATEMENTS=true permits it"
        raise Failure("\n".join([heading, *found.values()]))


def ticket_argument(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not re.fullmatch(TICKET_PATTERN, value):
        raise click.BadParameter(
            "1 to 64 letters, digits, dashes and underscores, and no more than 8 if all are digits"
        )
    return value


def minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"
