"""How a command uses the database: one question at a time, each error one sentence."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

from daemon.api.config import CommandConfig
from daemon.cli.arguments import Failure
from daemon.cli.settings import check_url, settings
from sql import load
from sql.database import Database
from sql.errors import DatabaseUnavailable, StatementRejected
from sql.server_settings import NAMES, ServerSettings

T = TypeVar("T")

LONG_S = 3600.0  # for statements that read the whole ledger


class LedgerAddress(NamedTuple):
    """Where a ledger is: the URL of its database, and its schema."""

    url: str
    schema: str


def ledger_address() -> LedgerAddress:
    """Where the ledger of this command is."""
    config = settings(CommandConfig)
    return LedgerAddress(check_url(config.database_url.get_secret_value()), config.ledger_schema)


class StatementsLogged(Failure):
    """PostgreSQL's log would contain the donor data of the statements."""


def ask(
    question: Callable[[Database], Awaitable[T]],
    timeout_s: float = 60,
    *,
    sends_donor_data: bool = False,
    connections: int = 1,
    ledger: LedgerAddress | None = None,
) -> T:
    """Asks the database one question; each statement may take `timeout_s`.

    With `sends_donor_data` the question is asked only if PostgreSQL's log will contain none of the statements' values:
    the role may be another one than the startup gate has checked.

    Args:
        connections: how many the question needs at the same time.
        ledger: another one than the command's.
    """
    ledger = ledger or ledger_address()

    async def answer() -> T:
        database = Database(
            ledger.url,
            pool_size=connections,
            statement_timeout_s=timeout_s,
            connect_timeout_s=5,
            application_name="donationd cli",
            schema=ledger.schema,
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
        raise StatementsLogged("\n".join([heading, *found.values()]))
