"""Records events and operators' acts: the only caller of the SQL that writes donations.

What the ledger holds of a batch's objects is read, folded with the batch into donations here, in Python, and written
by one statement that first checks that the ledger still holds what was read. Of a donation where it does not, nothing
is written; it is read and folded again. So no lock is ever held while this process thinks, SQL knows nothing of
Stripe's rules, and the rules are plain Python that tests can hold against a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from daemon import fold
from daemon.acts import Act
from daemon.facts import Facts, StripeEvent
from sql import load
from sql.database import Database, DatabaseDown, Refused

# Each round either writes a donation or learns what another process has just written. More rounds than this mean
# that others write the same donations all the time: Stripe shall deliver again.
ROUNDS = 20

# The statements only look rows up by their keys. Said once per connection, so that a plan made while the tables were
# small is no worse when they are large.
PREPARE = f"""
SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
SET plan_cache_mode = force_generic_plan;
PREPARE find_held AS {load("find_held")};
PREPARE record_events AS {load("record_events")}
"""
FIND = "EXECUTE find_held (%s)"
EXECUTE = f"{load('lock_ledger')};\nEXECUTE record_events (%s, %s, %s, %s, %s)"


class Entry(msgspec.Struct, frozen=True):
    """One event to record. `error` is the scrubbed reason why it can't be applied, else None."""

    event: StripeEvent
    error: str | None = None

    @property
    def facts(self) -> Facts:
        """What the event states; nothing if it changes nothing."""
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


@dataclass
class _Held:
    """A row of the ledger that holds facts."""

    root: str
    version: int
    facts: Facts

    def __post_init__(self) -> None:
        self.ids = fold.ids(self.facts)


@dataclass
class _Group:
    """Everything that hangs together by the ids it names: what is held, and the changes to be merged in."""

    held: list[_Held] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)

    def absorb(self, other: "_Group") -> None:
        """Takes over everything of another group."""
        self.held += other.held
        self.changes += other.changes
        self.ids |= other.ids


@dataclass
class _Folded:
    """A group's outcome: what it was folded from, and its donations, root first; none where nothing is new."""

    group: _Group
    version: int
    facts: Facts
    donations: list[fold.Donation]

    def group_row(self, n: int) -> dict[str, object]:
        """As record_events.sql reads it."""
        if not self.donations:
            return {"n": n, "root": "", "ids": (), "unheld": (), "moved": ()}
        root, held = self.donations[0].id, self.group.held
        return {
            "n": n,
            "root": root,
            "ids": self.group.ids,
            "unheld": self.group.ids.difference(*(row.ids for row in held)),
            "moved": {id_ for row in held if row.root != root for id_ in row.ids},
        }

    def donation_rows(self, n: int) -> list[dict[str, object]]:
        """As record_events.sql reads them: the facts stand on the root's row only."""
        root = self.donations[0].id if self.donations else ""
        return [
            {**msgspec.structs.asdict(donation), "n": n, "root": root, "version": self.version, "facts": self.facts}
            if donation.id == root
            else {**msgspec.structs.asdict(donation), "n": n, "root": root, "version": 0, "facts": None}
            for donation in self.donations
        ]


class Recorder:
    """Writes to the ledger through one database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, changes: Sequence[Change]) -> Recorded:
        """Records events and acts and merges their facts, durably when it returns.

        An event whose facts the database refuses is recorded as failed, and keeps no other from being applied.

        Raises:
            DatabaseDown: nothing is known to be written of what is not yet recorded; deliver it again.
            Refused: the database takes nothing at all (its schema or permissions are wrong), or not this act.
        """
        recorded = Recorded()
        await self._merge(changes, recorded)
        return recorded

    async def _isolate(self, changes: Sequence[Change], refusal: Refused, recorded: Recorded) -> None:
        """Finds the event that the database refuses, by halves, and records it as failed."""
        if len(changes) > 1:
            half = len(changes) // 2
            await self._merge(changes[:half], recorded)
            await self._merge(changes[half:], recorded)
            return
        [change] = changes
        if isinstance(change, Act) or not change.facts:
            raise refusal
        failed = Entry(msgspec.structs.replace(change.event, facts=None), str(refusal))
        await self._merge([failed], recorded)
        recorded.refused[change.event.id] = str(refusal)

    async def _merge(self, changes: Sequence[Change], recorded: Recorded) -> None:
        """Folds and writes, until the ledger was what the fold had begun from."""
        pending = list(changes)
        for _ in range(ROUNDS):
            try:
                groups = await self._group([change for change in pending if change.facts])
                new, stale = await self._write(groups, pending)
            except DatabaseDown as down:
                if down.kind != "conflict":
                    raise
                continue
            except Refused as refusal:
                if not refusal.for_its_values:
                    raise
                await self._isolate(pending, refusal, recorded)
                return
            recorded.new.update(new)
            pending = [change for n in stale for change in groups[n].changes]
            if not pending:
                return
        raise DatabaseDown("too much contention")

    async def _group(self, changes: Sequence[Change]) -> list[_Group]:
        """Puts together what shares an id, directly or through rows of the ledger."""
        ids_of = [fold.ids(change.facts) for change in changes]
        group_of: dict[str, _Group] = {}
        for row in await self._held({id_ for ids in ids_of for id_ in ids}):
            _join(group_of, row.ids).held.append(row)
        for change, ids in zip(changes, ids_of, strict=True):
            _join(group_of, ids).changes.append(change)
        return list({id(group): group for group in group_of.values()}.values())

    async def _held(self, ids: set[str]) -> list[_Held]:
        """What the ledger holds of these objects."""
        if not ids:
            return []
        # Quoted, for `null` may be an id too; an id holds neither quotes nor backslashes.
        array = "{" + ",".join(f'"{id_}"' for id_ in ids) + "}"
        rows = await self._database.fetch(FIND, [array], prepare=PREPARE)
        return [_Held(root, version, msgspec.json.decode(facts)) for root, version, facts in rows]

    async def _write(self, groups: list[_Group], changes: Sequence[Change]) -> tuple[list[str], list[int]]:
        """One statement. Returns the events recorded, and the numbers of the groups that were not written."""
        folded = [_fold(group) for group in groups]
        number = {id(change): n for n, group in enumerate(groups) for change in group.changes}
        arrays: tuple[list[object], ...] = (
            [each.group_row(n) for n, each in enumerate(folded)],
            [{"n": n, "root": h.root, "version": h.version} for n, group in enumerate(groups) for h in group.held],
            [row for n, each in enumerate(folded) for row in each.donation_rows(n)],
            [_event_row(c, number.get(id(c))) for c in changes if isinstance(c, Entry)],
            [_act_row(c, number[id(c)]) for c in changes if isinstance(c, Act)],
        )
        params = [msgspec.json.encode(array).decode() for array in arrays]
        [(recorded, stale)] = await self._database.fetch(EXECUTE, params, prepare=PREPARE)
        return recorded, stale


def _join(group_of: dict[str, _Group], ids: set[str]) -> _Group:
    """The one group of everything that has these ids; groups that meet in them become one."""
    met = {id(group): group for id_ in ids if (group := group_of.get(id_))}
    joined, *others = met.values() or [_Group()]
    for other in others:
        joined.absorb(other)
        group_of.update(dict.fromkeys(other.ids, joined))
    joined.ids |= ids
    group_of.update(dict.fromkeys(ids, joined))
    return joined


def _fold(group: _Group) -> _Folded:
    """Merges a group's changes into what is held, and derives its donations."""
    bases = [row.facts for row in group.held]
    facts = bases[0] if len(bases) == 1 else fold.merge({}, *bases)
    is_new = [fold.absorb(facts, change.facts) for change in group.changes]
    if len(bases) == 1 and not any(is_new):
        return _Folded(group, 0, {}, [])
    facts = fold.forget(facts)
    version = 1 + max((row.version for row in group.held), default=0)
    return _Folded(group, version, facts, fold.donations(facts))


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
    return {**vars(act), "facts": None, "n": n}
