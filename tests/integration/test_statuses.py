"""A donation's statuses are listed once; whatever else names them agrees with that list."""

import re

from daemon.ledger.donation import Status
from daemon.ledger.projection import STATUSES
from daemon.ledger.verification import COUNT_OF_STATUS
from sql.database import Database
from tests.support.api_application import Client, MakeClient, application, follower
from tests.support.ledger import TICKET


async def test_the_database_accepts_these_statuses_and_no_other(database: Database) -> None:
    """The CHECK of the column names exactly the statuses of the list."""
    [(check,)] = await database.fetch(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'status_known'"
    )
    assert sorted(re.findall(r"'([A-Z]+)'", check)) == sorted(Status)


def test_each_status_is_derived_by_one_rule() -> None:
    """The rules that derive a status, and those that count donations by status, name statuses of the list only."""
    assert sorted(status for status, _sentence, _holds in STATUSES) == sorted(Status)
    assert COUNT_OF_STATUS.keys() <= set(Status)


async def test_the_api_takes_these_statuses_and_no_other(database: Database, aiohttp_client: MakeClient) -> None:
    """The ledger's parameter takes each status of the list; any other word is a mistake that names all of them."""
    client: Client = await aiohttp_client(application(database, follower()))
    path = f"/api/tickets/{TICKET}/donations"
    for status in Status:
        assert (await client.get(path, params={"status": status})).status == 404  # there is no such ticket
    refused = await client.get(path, params={"status": "paid"})
    assert refused.status == 400
    assert (await refused.json())["message"] == f"status: one of {', '.join(Status)}"
