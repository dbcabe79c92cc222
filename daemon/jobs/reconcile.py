"""Compares the ledger with Stripe's objects, lists every difference, and then corrects it (SPEC 12): `donationd
reconcile`.

Each page of each list is compared with what is stored. Only what is new in it is recorded, and the journal's entries
name the run as their cause. The recorder merges it as it merges events, so a webhook that changes the same donation at
the same time is neither lost nor overwritten.
"""

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import NamedTuple

import msgspec
from msgspec import Raw, Struct

from daemon.jobs.dry_run import DryRunRecorder
from daemon.jobs.list_walk import Position, WalkedPage, walk
from daemon.jobs.object_comparison import CHARGE_PARTS, Failure, ObjectComparison
from daemon.jobs.runs import RunDependencies, load_state, save_state
from daemon.jobs.unknown_donations import UnknownDonations
from daemon.ledger.comparison import Difference
from daemon.ledger.rebuild import set_wrong_totals
from daemon.ledger.stripe_objects import Reading
from daemon.stripe_api.client import Params, StripeRejected
from sql import load

# A run that is older begins again: the lists that it has read may have changed since.
CONTINUED_S = 86_400


class ObjectList(NamedTuple):
    """A list of Stripe's objects.

    Attributes:
        name: for people.
        params: of each call: which objects, and in which of their fields whole objects are wanted.
        prefix: how the ids of donations begin that are objects of this list; empty if no donation is.
        names_payments: its objects name payments that a run over some days may not have read.
    """

    name: str
    path: str
    params: Params = MappingProxyType({})
    prefix: str = ""
    names_payments: bool = False


def _charge_parts(place: str) -> Params:
    return {"expand": [f"data.{place}{part}" for part in CHARGE_PARTS]}


# What has the ticket of a payment comes before the money, so that no money is booked without its ticket first.
LISTS = (
    ObjectList("subscriptions", "/v1/subscriptions", {"status": "all"}),
    ObjectList("invoices", "/v1/invoices", {"status": "paid"}),
    ObjectList("sessions", "/v1/checkout/sessions", _charge_parts("payment_intent.latest_charge."), "cs_"),
    ObjectList("PaymentIntents", "/v1/payment_intents", _charge_parts("latest_charge."), "pi_"),
    ObjectList("charges", "/v1/charges", _charge_parts(""), "ch_"),
    ObjectList("refunds", "/v1/refunds", {"expand": ["data.failure_balance_transaction"]}, names_payments=True),
    ObjectList("disputes", "/v1/disputes", names_payments=True),
    ObjectList("early fraud warnings", "/v1/radar/early_fraud_warnings", names_payments=True),
)


class Reconciled(Struct, frozen=True):
    """What a run has found so far.

    Attributes:
        objects: how many were read.
        differences: how many fields of donations differed.
        completed: groups of objects of which a fact was missing that changes no field of a donation.
        unknown: donations that Stripe does not know.
        failed: objects that could not be compared or recorded.
    """

    objects: int = 0
    differences: int = 0
    completed: int = 0
    unknown: int = 0
    failed: int = 0

    def plus(self, other: "Reconciled") -> "Reconciled":
        """Both together."""
        return Reconciled(**{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__})


class Options(Struct, frozen=True):
    """What a run is to do.

    Attributes:
        since: the Unix second from which on objects were created that are read; 0: all objects.
        dry_run: only list the differences. Such a run is not continued: a part of the list would be of no use.
        rehash: also correct e-mail hashes that were computed with another key.
    """

    since: int = 0
    dry_run: bool = False
    rehash: bool = False

    def includes(self, other: "Options") -> bool:
        """Whether a run with these options does what one with the others does."""
        return self.since <= other.since and (self.dry_run, self.rehash) == (other.dry_run, other.rehash)


class RunState(Struct, frozen=True):
    """How far a run is.

    Attributes:
        name: of the run, as the cause in the journal: `reconcile:` and the time of its beginning.
        begun_at: that time in Unix seconds.
        places: what is left to read: accounts (None: the key's own) and numbers in LISTS. The first is being read.
        low: the `created` of the last object that was compared.
    """

    name: str
    begun_at: int
    options: Options
    places: tuple[tuple[str | None, int], ...]
    position: Position
    low: int = 0
    found: Reconciled = Reconciled()

    def continues(self, options: Options, now: int) -> bool:
        """Whether a run with these options continues this one."""
        return bool(self.places) and self.options.includes(options) and now - self.begun_at < CONTINUED_S

    def next_list(self) -> "RunState":
        """The beginning of the next list."""
        return msgspec.structs.replace(self, places=self.places[1:], position=Position(self.options.since), low=0)


class _Created(Struct):
    id: str
    created: int


def _created(raw: Raw) -> _Created | None:
    """The id of an object and when it was created; None for an object of unexpected shape."""
    try:
        return msgspec.json.decode(raw, type=_Created)
    except msgspec.MsgspecError:
        return None


class Reports:
    """What a run reports while it goes on; a caller replaces what it wants to know.

    Attributes:
        difference: called with each difference before it is corrected.
        unknown: called with the id of each donation that Stripe does not know.
        failure: called with each object that cannot be compared or recorded.
        progress: called after each page with the name of its list and what was found so far.
    """

    def difference(self, difference: Difference) -> None: ...

    def unknown(self, donation: str) -> None: ...

    def failure(self, failure: Failure) -> None: ...

    async def progress(self, name: str, found: Reconciled) -> None: ...


async def reconcile(
    deps: RunDependencies, options: Options, reports: Reports, *, kind: str = "reconcile"
) -> Reconciled:
    """Reads all lists. A run that was interrupted is continued, if its options include these and it began within
    CONTINUED_S.

    Args:
        kind: which run it is; runs of several kinds are interrupted and continued independently.

    Raises:
        StripeUnavailable, StripeRejected, DatabaseUnavailable, StatementRejected: what was corrected until then stays,
        and the next run continues.
    """
    if options.dry_run:
        deps = replace(deps, recorder=DryRunRecorder(deps.database))
    state, now = await load_state(deps.database, kind, RunState), int(time.time())
    if options.dry_run or state is None or not state.continues(options, now):
        state = await _begin(deps, options, reports, now)
    run = _Run(deps, reports, kind)
    while state.places:
        state = (await run.read_list(state)).next_list()
        await run.save(state)
    if not options.dry_run:
        await deps.database.fetch(load("end_restore"), {"begun_at": state.begun_at, "since": state.options.since})
    return state.found


async def _begin(deps: RunDependencies, options: Options, reports: Reports, now: int) -> RunState:
    """A new run. Totals are corrected first, because each correction of a donation changes them."""
    wrong = sorted(ticket for (ticket,) in await deps.database.fetch(load("wrong_totals")))
    for ticket in wrong:
        reports.difference(Difference(ticket, "totals"))
    if wrong and not options.dry_run:
        await set_wrong_totals(deps.database)
    accounts = (None, *await deps.connected_accounts())
    places = tuple((account, number) for account in accounts for number in range(len(LISTS)))
    name = f"reconcile:{datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H:%M:%SZ}"
    return RunState(name, now, options, places, Position(options.since), found=Reconciled(differences=len(wrong)))


class _Run(NamedTuple):
    """What the steps of a run share."""

    deps: RunDependencies
    reports: Reports
    kind: str

    async def read_list(self, state: RunState) -> RunState:
        """Compares the rest of one list with the ledger, and corrects the ledger page by page."""
        account, number = state.places[0]
        of = LISTS[number]
        unknown = UnknownDonations(self.deps.stripe, self.deps.database, of.path, of.prefix, account)
        async for page in self._pages(of, account, state.position):
            found = await self._correct(of, page, account, state)
            created = [each for each in map(_created, page.objects) if each]
            low = min((each.created for each in created), default=state.low)
            if of.prefix and not state.position.is_second:
                end = state.options.since - 1 if page.position.is_second else low
                missing = await unknown.compare({each.id for each in created}, end, state.low or page.read_at)
                for donation in missing:
                    self.reports.unknown(donation)
                found = found.plus(Reconciled(unknown=len(missing)))
            state = msgspec.structs.replace(state, position=page.position, low=low, found=state.found.plus(found))
            await self.save(state)
            await self.reports.progress(of.name, state.found)
        return state

    async def save(self, state: RunState) -> None:
        """Keeps how far the run is."""
        if not state.options.dry_run:
            await save_state(self.deps.database, self.kind, state)

    async def _pages(self, of: ObjectList, account: str | None, position: Position) -> AsyncIterator[WalkedPage]:
        """The pages of a list; what Stripe rejects names the list."""
        try:
            async for page in walk(self.deps.stripe, of.path, of.params, position, account=account):
                yield page
        except StripeRejected as rejection:
            rejection.add_note(f"while {of.name} were read{f' of account {account}' if account else ''}")
            raise

    async def _correct(self, of: ObjectList, page: WalkedPage, account: str | None, state: RunState) -> Reconciled:
        """Lists what differs on one page, and then corrects it."""
        options = state.options
        reading = Reading(page.read_at, self.deps.livemode, self.deps.hash_key, account)
        with_payments = of.names_payments and options.since > 0
        comparison = ObjectComparison(self.deps, reading, options.rehash, with_payments)
        findings = await comparison.compare(page.objects)
        for difference in findings.differences:
            self.reports.difference(difference)
        failures = findings.failures
        if findings.changes:
            failures = failures + await comparison.record(findings.changes, state.name)
        for failure in failures:
            self.reports.failure(failure)
        return Reconciled(
            objects=len(page.objects),
            differences=len(findings.differences),
            completed=findings.invisible,
            failed=len(failures),
        )
