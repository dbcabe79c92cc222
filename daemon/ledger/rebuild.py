"""Derives stored rows again after a release changed a rule (SPEC 9): `donationd rebuild`.

Each row is read, derived and written by the recorder, like a delivery that states nothing new: beside live traffic, and
with its ticket's totals in the same statement. A row that another process writes meanwhile is read again, so nothing is
applied twice, whichever release that process runs. Each row contains the version of its rules: a run after an
interruption continues with the rows that are left.

Totals change with the rows. Where they do not agree, after a change by hand or a partial restore, they are set under
the ledger's lock, one ticket at a time, to the sums of the rows: a second run at the same time changes nothing.
"""

from collections.abc import Callable

from daemon.ledger import projection
from daemon.ledger.changes import Derivation
from daemon.ledger.recorder import Recorder
from sql import load
from sql.database import Database

ROWS = 200  # per statement: tens of milliseconds, in which deliveries wait


async def has_older_rows(database: Database) -> bool:
    """Whether older rules derived any row. An index answers it."""
    [(found,)] = await database.fetch(load("has_older_rows"))
    return bool(found)


async def count_rows(database: Database) -> int:
    """The number of rows to derive again. Reads the whole table."""
    [(count,)] = await database.fetch(load("count_older_rows"), {"rules": projection.RULES_VERSION})
    return int(count)


async def rebuild(database: Database, progress: Callable[[int], None]) -> int:
    """Derives every row again that older rules derived.

    Args:
        progress: is called with the number of rows done since the last call.

    Returns:
        The number of rows that were derived again.

    Raises:
        DatabaseUnavailable, StatementRejected: as Recorder.record; what was done until then stays.
    """
    recorder, after, rebuilt = Recorder(database), "", 0
    while True:
        rows = await database.fetch(
            load("older_rows"), {"rules": projection.RULES_VERSION, "after": after, "limit": ROWS}
        )
        if not rows:
            return rebuilt
        await recorder.record([Derivation(id_) for (id_,) in rows])
        after, rebuilt = rows[-1][0], rebuilt + len(rows)
        progress(len(rows))


async def set_wrong_totals(database: Database) -> list[str]:
    """Sets the totals of each ticket where they are not what its donations add up to.

    Returns:
        The tickets concerned; '' stands for the donations without a ticket.

    Raises:
        DatabaseUnavailable, StatementRejected: as Database.fetch; what was set until then stays.
    """
    tickets = sorted(str(ticket) for (ticket,) in await database.fetch(load("wrong_totals")))
    for ticket in tickets:
        await database.fetch(f"{load('lock_ledger')};\n{load('set_totals')}", {"ticket": ticket})
    return tickets
