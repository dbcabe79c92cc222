"""The only caller of donation SQL: records events and operators' acts, and reads the ledger.

What is recorded is folded into donations here, in Python, and written by one statement that first checks that the
ledger still holds what they were folded from. Where it does not, the statement writes nothing of that donation and
hands back what it holds; the fold is done again from that. So no lock is ever held while this process thinks, SQL
knows nothing of Stripe's rules, and the rules are plain Python that tests can hold against a model.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace

import msgspec

from daemon import fold
from daemon.acts import Act
from daemon.facts import Facts, StripeEvent
from sql import load
from sql.database import Database, DatabaseDown, Refused, Row

# Each round either writes a donation or learns what another process has just written. More rounds than this mean
# that others write the same donations all the time: Stripe shall deliver again.
ROUNDS = 20


@dataclass(frozen=True)
class Entry:
    """One event to record. `error` is the scrubbed reason why it can't be applied, else None."""

    event: StripeEvent
    error: str | None = None

    @property
    def facts(self) -> Facts:
        return self.event.facts or {}


Change = Entry | Act


@dataclass
class Recorded:
    """What became of the events recorded; those in neither had been recorded before.

    `new` holds ids of events recorded now (or failed before), `refused` the ids of those among them whose facts the
    database did not take, with the scrubbed reason.
    """

    new: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Held:
    """A row of the ledger that holds facts."""

    root: str
    version: int
    facts: Facts


@dataclass
class _Group:
    """Everything that hangs together by the ids it names: rows held, and changes to be merged into them."""

    held: list[_Held] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    def as_input(self, n: int) -> dict[str, object]:
        """The group as record_events.sql reads it. Without donations where the changes add nothing new."""
        base: Facts = {}
        for held in self.held:
            base = fold.merge(base, held.facts)
        facts = base
        for change in self.changes:
            facts = fold.merge(facts, change.facts)
        facts = fold.forget(facts)
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

    async def record(self, changes: Sequence[Change]) -> Recorded:
        """Records events and acts and merges their facts, durably when it returns.

        An event whose facts the database refuses is recorded as failed, and keeps no other from being applied.

        Raises:
            DatabaseDown: nothing is known to be written of what is not yet recorded; deliver it again.
            Refused: the database takes nothing at all (its schema or permissions are wrong), or not this act.
        """
        recorded = Recorded()
        await self._record(changes, recorded)
        return recorded

    async def _record(self, changes: Sequence[Change], recorded: Recorded) -> None:
        try:
            await self._merge(changes, recorded)
        except Refused as refusal:
            if not refusal.for_its_values:
                raise
            await self._isolate(changes, refusal, recorded)

    async def _isolate(self, changes: Sequence[Change], refusal: Refused, recorded: Recorded) -> None:
        """Finds the event that the database refuses, by halves, and records it as failed."""
        if len(changes) > 1:
            half = len(changes) // 2
            await self._record(changes[:half], recorded)
            await self._record(changes[half:], recorded)
            return
        [change] = changes
        if isinstance(change, Act) or not change.facts:
            raise refusal
        failed = Entry(replace(change.event, facts=None), str(refusal))
        await self._merge([failed], recorded)
        recorded.refused[change.event.id] = str(refusal)

    async def _merge(self, changes: Sequence[Change], recorded: Recorded) -> None:
        pending, held = list(changes), list[_Held]()
        for _ in range(ROUNDS):
            groups = _group(held, (change for change in pending if change.facts))
            try:
                new, stale = await self._write(groups, pending)
            except DatabaseDown as down:
                if down.kind != "conflict":
                    raise
                continue
            recorded.new.update(new)
            pending = [change for n in stale for change in groups[n].changes]
            held = list({h.root: h for rows in stale.values() for h in rows}.values())
            if not pending:
                return
        raise DatabaseDown("too much contention")

    async def _write(self, groups: list[_Group], changes: Sequence[Change]) -> tuple[list[str], dict[int, list[_Held]]]:
        number = {id(change): n for n, group in enumerate(groups) for change in group.changes}
        batch = {
            "groups": [group.as_input(n) for n, group in enumerate(groups)],
            "events": [_event_row(c, number.get(id(c))) for c in changes if isinstance(c, Entry)],
            "acts": [_act_row(c, number[id(c)]) for c in changes if isinstance(c, Act)],
        }
        [(recorded, stale)] = await self._database.fetch(
            self._record_sql, {"batch": msgspec.json.encode(batch).decode()}
        )
        return recorded, {n: [_Held(*row) for row in rows] for n, rows in stale}

    async def facts_of(self, id_: str) -> Facts | None:
        """Everything held of the donation that this Stripe object belongs to; None if nobody has named it."""
        rows = await self._database.fetch(load("facts_of"), {"id": id_})
        return rows[0][0] if rows else None

    async def facts_with(self, email_hashes: Iterable[str]) -> list[Facts]:
        """The facts of all donations that hold one of these e-mail hashes. Reads the whole ledger."""
        rows = await self._database.fetch(load("facts_with_hash"), {"patterns": [f"%{h}%" for h in email_hashes]})
        return [row[0] for row in rows]

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


def _event_row(entry: Entry, n: int | None) -> dict[str, object]:
    event = entry.event
    return {
        "id": event.id,
        "type": event.type,
        "created": event.created,
        "livemode": event.livemode,
        "error": entry.error,
        "n": n,
    }


def _act_row(act: Act, n: int) -> dict[str, object]:
    return {**asdict(act), "facts": None, "n": n}


def _group(held: Iterable[_Held], changes: Iterable[Change]) -> list[_Group]:
    """Puts together what shares an id, directly or through others."""
    group_of: dict[str, _Group] = {}
    for row in held:
        _join(group_of, row.facts).held.append(row)
    for change in changes:
        _join(group_of, change.facts).changes.append(change)
    return list({id(group): group for group in group_of.values()}.values())


def _join(group_of: dict[str, _Group], facts: Facts) -> _Group:
    """The one group of everything that these facts name; groups that meet in them become one."""
    names = fold.ids(facts)
    met = {id(group): group for name in names if (group := group_of.get(name))}
    if len(met) == 1:
        joined = next(iter(met.values()))
    else:
        joined = _Group([h for g in met.values() for h in g.held], [c for g in met.values() for c in g.changes])
        names += [name for name, group in group_of.items() if id(group) in met] if met else []
    group_of.update(dict.fromkeys(names, joined))
    return joined
