"""The only caller of donation SQL: records events, and reads the ledger.

Events are folded into donations here, in Python, and written by one statement that first checks that the ledger still
holds what they were folded from. Where it does not, the statement writes nothing of that donation and hands back what
it holds; the fold is done again from that. So no lock is ever held while this process thinks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

import msgspec

from daemon import fold
from daemon.facts import Facts, StripeEvent
from sql import load
from sql.database import Database, DatabaseDown, Row

# Each round either writes a donation or learns what another process has just written. More rounds than this mean
# that others write the same donations all the time: Stripe shall deliver again.
ROUNDS = 20


@dataclass(frozen=True)
class Entry:
    """One event to record. `error` is the scrubbed reason why it can't be applied, else None."""

    event: StripeEvent
    error: str | None = None


@dataclass(frozen=True)
class _Held:
    """A row of the ledger that holds facts."""

    root: str
    version: int
    facts: Facts


@dataclass
class _Group:
    """Everything that hangs together by the ids it names: rows held, and entries to be merged into them."""

    held: list[_Held] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)

    def as_input(self, n: int) -> dict[str, object]:
        """The group as record_events.sql reads it. Without donations where the entries add nothing new."""
        base: Facts = {}
        for held in self.held:
            base = fold.merge(base, held.facts)
        facts = base
        for entry in self.entries:
            facts = fold.merge(facts, entry.event.facts or {})
        unchanged = facts == base and len(self.held) == 1
        donations = fold.donations(facts)
        return {
            "n": n,
            "ids": fold.ids(facts),
            "base": {held.root: held.version for held in self.held},
            "root": donations[0].id,
            "donations": None if unchanged else [self._row(d, facts, donations[0].id) for d in donations],
        }

    def _row(self, donation: fold.Donation, facts: Facts, root: str) -> dict[str, object]:
        is_root = donation.id == root
        version = 1 + max((held.version for held in self.held), default=0)
        return {**asdict(donation), "version": version if is_root else 0, "facts": facts if is_root else None}


class Ledger:
    """Donations in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._record_sql = f"{load('lock_ledger')};\n{load('record_events')}"

    async def record(self, entries: Sequence[Entry]) -> set[str]:
        """Records events and merges their facts, durably when it returns.

        Returns:
            The ids of the events that are new (or failed before); the others had been recorded already.

        Raises:
            DatabaseDown: nothing is known to be written of those not yet recorded; deliver them again.
        """
        recorded: set[str] = set()
        pending, held = list(entries), list[_Held]()
        for _ in range(ROUNDS):
            groups = _group(held, (e for e in pending if e.event.facts))
            new, stale = await self._write(groups, pending)
            recorded.update(new)
            pending = [entry for n in stale for entry in groups[n].entries]
            held = list({h.root: h for rows in stale.values() for h in rows}.values())
            if not pending:
                return recorded
        raise DatabaseDown("too much contention")

    async def _write(self, groups: list[_Group], entries: Sequence[Entry]) -> tuple[list[str], dict[int, list[_Held]]]:
        number = {entry.event.id: n for n, group in enumerate(groups) for entry in group.entries}
        batch = {
            "groups": [group.as_input(n) for n, group in enumerate(groups)],
            "events": [
                {
                    "id": e.event.id,
                    "type": e.event.type,
                    "created": e.event.created,
                    "livemode": e.event.livemode,
                    "error": e.error,
                    "n": number.get(e.event.id),
                }
                for e in entries
            ],
        }
        [(recorded, stale)] = await self._database.fetch(
            self._record_sql, {"batch": msgspec.json.encode(batch).decode()}
        )
        return recorded, {n: [_Held(*row) for row in rows] for n, rows in stale}

    async def page(
        self, ticket: str, *, limit: int, status: str | None, currency: str | None, after: "Cursor | None"
    ) -> list[Row]:
        """Rows of donation_page.sql: at most `limit`, after the cursor."""
        return await self._database.fetch(
            load("donation_page"),
            {
                "ticket": ticket,
                "limit": limit,
                "status": status,
                "currency": currency,
                "after_paid": None if after is None or after.paid < 0 else after.paid,
                "after_created": after.created if after else None,
                "after_id": after.id if after else None,
            },
        )

    async def ticket(self, ticket: str) -> Row | None:
        """The row of ticket.sql, or None for an unknown ticket."""
        rows = await self._database.fetch(load("ticket"), {"ticket": ticket})
        return rows[0] if rows else None

    async def totals(self, ticket: str) -> list[Row]:
        """Rows of ticket_totals.sql: none for an unknown ticket."""
        return await self._database.fetch(load("ticket_totals"), {"ticket": ticket})


@dataclass(frozen=True)
class Cursor:
    """A place in the ledger's order: times in Unix seconds, `paid` -1 for a donation that is not paid."""

    paid: int
    created: int
    id: str


def _group(held: Iterable[_Held], entries: Iterable[Entry]) -> list[_Group]:
    """Puts together what shares an id, directly or through others."""
    group_of: dict[str, _Group] = {}
    for row in held:
        _join(group_of, row.facts).held.append(row)
    for entry in entries:
        _join(group_of, entry.event.facts or {}).entries.append(entry)
    return list({id(group): group for group in group_of.values()}.values())


def _join(group_of: dict[str, _Group], facts: Facts) -> _Group:
    """The one group of everything that these facts name; groups that meet in them become one."""
    names = fold.ids(facts)
    met = {id(group): group for name in names if (group := group_of.get(name))}
    if len(met) == 1:
        joined = next(iter(met.values()))
    else:
        joined = _Group([h for g in met.values() for h in g.held], [e for g in met.values() for e in g.entries])
        names += [name for name, group in group_of.items() if id(group) in met] if met else []
    group_of.update(dict.fromkeys(names, joined))
    return joined
