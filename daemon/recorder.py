"""Records events and operators' acts: the only caller of the SQL that writes donations.

What is recorded is folded into donations here, in Python, and written by one statement that first checks that the
ledger still holds what they were folded from. Where it does not, the statement writes nothing of that donation and
hands back what it holds; the fold is done again from that. So no lock is ever held while this process thinks, SQL
knows nothing of Stripe's rules, and the rules are plain Python that tests can hold against a model.

What was written lately is kept in memory, as the likely ground of the next fold: Stripe's events of one payment come
close together, and mostly one round trip is enough. It is only ever a guess, which the statement checks.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
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

# Donations remembered, about 1 kB each. A payment's events come within seconds; at a thousand payments a second this
# is some seconds' worth.
REMEMBERED = 6500

# The statement only looks rows up by their keys. Said once per connection, so that a plan made while the tables were
# small is no worse when they are large.
PREPARE = f"""
SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
SET plan_cache_mode = force_generic_plan;
PREPARE record_events AS {load("record_events")}
"""
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


class _Held(msgspec.Struct, array_like=True, frozen=True):
    """A row of the ledger that holds facts, as JSON: small in memory, and no dict that somebody could change."""

    root: str
    version: int
    facts: msgspec.Raw

    def read(self) -> Facts:
        facts: Facts = msgspec.json.decode(self.facts)
        return facts


class _Stale(msgspec.Struct, array_like=True):
    """A group that was not written, and a row it should be folded from, if any; one of these per row."""

    n: int
    root: str | None
    version: int | None
    facts: msgspec.Raw

    @property
    def held(self) -> _Held | None:
        """The row."""
        if self.root is None or self.version is None:
            return None
        return _Held(self.root, self.version, self.facts)


_recorded = msgspec.json.Decoder(list[str])
_stale = msgspec.json.Decoder(list[_Stale])


class _Memory:
    """The rows written or met lately, by the id of their root; the oldest are forgotten."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rows: OrderedDict[str, _Held] = OrderedDict()

    def find(self, ids: Iterable[str]) -> list[_Held]:
        """The rows among these ids."""
        return [row for id_ in ids if (row := self._rows.get(id_))]

    def keep(self, row: _Held) -> None:
        """Remembers a row, instead of the one remembered before."""
        self._rows[row.root] = row
        self._rows.move_to_end(row.root)
        if len(self._rows) > self._limit:
            self._rows.popitem(last=False)

    def drop(self, ids: Iterable[str]) -> None:
        """Forgets the rows among these ids."""
        for id_ in ids:
            self._rows.pop(id_, None)


@dataclass
class _Group:
    """Everything that hangs together by the ids it names: rows held, their facts, and changes to be merged in."""

    held: list[_Held] = field(default_factory=list)
    base: list[Facts] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)

    def absorb(self, other: "_Group") -> None:
        """Takes over everything of another group."""
        self.held += other.held
        self.base += other.base
        self.changes += other.changes


@dataclass
class _Folded:
    """A group's outcome: its objects, the row that holds its facts, and its donations, if they changed."""

    ids: list[str]
    row: _Held
    donations: list[fold.Donation]

    def donation_rows(self, n: int) -> list[dict[str, object]]:
        """As record_events.sql reads them: the facts stand on the root's row only."""
        return [
            {**msgspec.structs.asdict(donation), "n": n, "version": self.row.version, "facts": self.row.facts}
            if donation.id == self.row.root
            else {**msgspec.structs.asdict(donation), "n": n, "version": 0, "facts": None}
            for donation in self.donations
        ]


class Recorder:
    """Writes to the ledger through one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._memory = _Memory(REMEMBERED)

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
        pending, met = list(changes), list[_Held]()
        for _ in range(ROUNDS):
            groups = self._group([change for change in pending if change.facts], met)
            try:
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
            pending = [change for n in {row.n for row in stale} for change in groups[n].changes]
            met = [row.held for row in stale if row.held is not None]
            if not pending:
                return
        raise DatabaseDown("too much contention")

    async def _write(self, groups: list[_Group], changes: Sequence[Change]) -> tuple[list[str], list[_Stale]]:
        """One statement. Returns the events recorded, and what stale groups should be folded from."""
        folded = [_fold(group) for group in groups]
        number = {id(change): n for n, group in enumerate(groups) for change in group.changes}
        arrays: tuple[list[object], ...] = (
            [{"n": n, "root": each.row.root, "ids": each.ids} for n, each in enumerate(folded)],
            [{"n": n, "root": h.root, "version": h.version} for n, group in enumerate(groups) for h in group.held],
            [row for n, each in enumerate(folded) for row in each.donation_rows(n)],
            [_event_row(c, number.get(id(c))) for c in changes if isinstance(c, Entry)],
            [_act_row(c, number[id(c)]) for c in changes if isinstance(c, Act)],
        )
        params = [msgspec.json.encode(array).decode() for array in arrays]
        [(recorded, stale_rows)] = await self._database.fetch(EXECUTE, params, prepare=PREPARE)
        stale = _stale.decode(stale_rows)
        stale_numbers = {row.n for row in stale}
        for n, each in enumerate(folded):
            self._memory.drop(each.ids)
            if n not in stale_numbers:
                self._memory.keep(each.row)
        return _recorded.decode(recorded), stale

    def _group(self, changes: Sequence[Change], met: Iterable[_Held]) -> list[_Group]:
        """Puts together what shares an id, directly or through rows met in the ledger or remembered."""
        group_of: dict[str, _Group] = {}
        ids_of = [fold.ids(change.facts) for change in changes]
        for row in (*met, *(row for ids in ids_of for row in self._memory.find(ids))):
            if row.root not in group_of:
                facts = row.read()
                group = _join(group_of, fold.ids(facts))
                group.held.append(row)
                group.base.append(facts)
        for change, ids in zip(changes, ids_of, strict=True):
            _join(group_of, ids).changes.append(change)
        return list({id(group): group for group in group_of.values()}.values())


def _join(group_of: dict[str, _Group], ids: list[str]) -> _Group:
    """The one group of everything that has these ids; groups that meet in them become one."""
    met = {id(group): group for id_ in ids if (group := group_of.get(id_))}
    joined, *others = met.values() or [_Group()]
    for other in others:
        joined.absorb(other)
        group_of.update({id_: joined for id_, group in group_of.items() if group is other})
    group_of.update(dict.fromkeys(ids, joined))
    return joined


def _fold(group: _Group) -> _Folded:
    """Merges a group's changes into what is held, and derives its donations; none where nothing is new."""
    facts = group.base[0] if len(group.base) == 1 else fold.merge({}, *group.base)
    is_new = [fold.absorb(facts, change.facts) for change in group.changes]
    if len(group.held) == 1 and not any(is_new):
        return _Folded(fold.ids(facts), group.held[0], [])
    facts = fold.forget(facts)
    donations = fold.donations(facts)
    version = 1 + max((held.version for held in group.held), default=0)
    row = _Held(donations[0].id, version, msgspec.Raw(msgspec.json.encode(facts)))
    return _Folded(fold.ids(facts), row, donations)


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
