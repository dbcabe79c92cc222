"""Compares some of Stripe's objects with what the ledger has stored of them, and records what is new in them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
from msgspec import Raw

from daemon.jobs.runs import RunDependencies
from daemon.ledger import comparison, donation_objects, journal, kept_facts, operator_actions, projection
from daemon.ledger.changes import ReadObjects
from daemon.ledger.comparison import Difference
from daemon.ledger.events.fields import Id
from daemon.ledger.facts import Facts, Family, merge, merge_into, object_ids, owners
from daemon.ledger.recorder import KnownFacts
from daemon.ledger.stripe_events import CannotApply
from daemon.ledger.stripe_objects import Reading, facts_of
from daemon.stripe_api.client import StripeRejected
from sql import load
from sql.errors import StatementRejected

NOT_FOUND = 404
CHARGE_PARTS = ("balance_transaction", "failure_balance_transaction", "refunds")


class ActionRow(NamedTuple):
    """A row of actions_on.sql."""

    action: str
    donation: str
    detail: str
    actor: str
    at_us: int


class Failure(NamedTuple):
    """An object that cannot be compared or recorded, and why, without any value of it."""

    object_id: str
    reason: str


@dataclass
class Findings:
    """What some objects say beyond what is stored.

    Attributes:
        differences: what that changes in donations.
        changes: the facts to be recorded, by group of objects that belong together.
        invisible: how many of these groups change no field of a donation.
    """

    differences: list[Difference] = field(default_factory=list)
    changes: list[Facts] = field(default_factory=list)
    invisible: int = 0
    failures: list[Failure] = field(default_factory=list)


class _Identified(msgspec.Struct):
    id: Id = "(without id)"


@dataclass(frozen=True)
class ObjectComparison:
    """How objects of one reading are compared.

    Attributes:
        rehash: also take e-mail hashes other than those that are stored.
        with_payments: read the payments that the objects name and the ledger does not have.
    """

    deps: RunDependencies
    reading: Reading
    rehash: bool = False
    with_payments: bool = False

    async def compare(self, objects: Sequence[Raw]) -> Findings:
        """What these objects say beyond what is stored. Nothing is written.

        Raises:
            StripeUnavailable, StripeRejected, DatabaseUnavailable, StatementRejected: nothing is known then.
        """
        found = Findings()
        stated = self._read(objects, found)
        groups = await self.deps.recorder.known_facts(stated)
        if self.with_payments and (payments := await self._missing_payments(groups, found)):
            stated += payments
            groups = await self.deps.recorder.known_facts(stated)
        subscriptions = await self._subscriptions(stated, groups)
        for group in groups:
            await self._compare_group(group, subscriptions, found)
        await self._compare_subscriptions(stated, subscriptions, found)
        return found

    def _read(self, objects: Iterable[Raw], found: Findings) -> list[Facts]:
        """The facts of each object that states any."""
        stated = []
        for raw in objects:
            try:
                facts = facts_of(raw, self.reading)
            except (CannotApply, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                reason = error.reason if isinstance(error, CannotApply) else "its shape is unexpected"
                found.failures.append(Failure(_id_of(raw), reason))
            else:
                stated += [facts] if facts else []
        return stated

    async def _missing_payments(self, groups: Sequence[KnownFacts], found: Findings) -> list[Facts]:
        """The PaymentIntents, or charges, that groups without any stored facts name."""
        payments: list[Raw] = []
        for group in groups:
            if group.stored:
                continue
            intents, charges = (group.stated.get(family, {}) for family in (Family.PAYMENT_INTENT, Family.CHARGE))
            for id_ in intents:
                payments += await self._get("/v1/payment_intents", id_, "latest_charge.")
            for id_ in charges if not intents else ():
                payments += await self._get("/v1/charges", id_, "")
        return self._read(payments, found)

    async def _get(self, path: str, id_: str, prefix: str) -> list[Raw]:
        """One payment; none if Stripe does not know it."""
        expand = [f"{prefix}{part}" for part in CHARGE_PARTS]
        try:
            reply = await self.deps.stripe.get(f"{path}/{id_}", {"expand": expand}, account=self.reading.account)
        except StripeRejected as rejection:
            if rejection.status != NOT_FOUND:
                raise
            return []
        return [Raw(reply.body)]

    async def _subscriptions(
        self, stated: Sequence[Facts], groups: Sequence[KnownFacts]
    ) -> donation_objects.Subscriptions:
        """What is stored of the subscriptions that are compared, or from which a payment takes its ticket."""
        named = {id_ for facts in stated for id_ in facts.get(Family.SUBSCRIPTION, {})}
        for group in groups:
            named |= projection.subscriptions(merge(group.stored, group.stated))
        return await self.deps.recorder.known_subscriptions(named)

    async def _compare_group(
        self, group: KnownFacts, subscriptions: donation_objects.Subscriptions, found: Findings
    ) -> None:
        news = comparison.news(group.stored, group.stated, with_hashes=self.rehash)
        if not comparison.has_news(group.stored, news):
            return
        if not group.stored:
            merge_into(news, await self._operator_facts(news))
        merged = kept_facts.redact(merge(group.stored, news))
        before, after = journal.derive(group.stored, subscriptions), journal.derive(merged, subscriptions)
        differences = list(comparison.differences(before, after, self.reading.at))
        found.differences += differences
        found.invisible += not differences
        found.changes.append(news)

    async def _operator_facts(self, facts: Facts) -> Facts:
        """What operators did to donations that are missing: a donor who was erased stays erased."""
        restored: Facts = {}
        rows = await self.deps.database.fetch(load("actions_on"), {"ids": list(object_ids(facts))})
        for row in map(ActionRow._make, rows):
            match row.action:
                case "erase":
                    action = operator_actions.erase(facts, row.donation, actor=row.actor, at_us=row.at_us)
                case "withdraw":
                    action = operator_actions.withdraw_consent(facts, row.donation, actor=row.actor, at_us=row.at_us)
                case _:
                    action = operator_actions.assign(facts, row.donation, row.detail, actor=row.actor, at_us=row.at_us)
            merge_into(restored, action.facts)
        return restored

    async def _compare_subscriptions(
        self, stated: Sequence[Facts], subscriptions: donation_objects.Subscriptions, found: Findings
    ) -> None:
        """Subscriptions by themselves: what changes in one concerns all its payments. Most have their ticket from their
        invoices already, and then nothing of them differs."""
        for facts in stated:
            known: Facts = {Family.SUBSCRIPTION: dict(subscriptions)}
            of: Facts = {Family.SUBSCRIPTION: facts.get(Family.SUBSCRIPTION, {})}
            news = comparison.news(known, of, with_hashes=True)
            if not comparison.has_news(known, news):
                continue
            found.changes.append(news)
            if await self._changes_payments(news):
                found.differences += comparison.subscription_differences(subscriptions, news[Family.SUBSCRIPTION])
            else:
                found.invisible += 1

    async def _changes_payments(self, news: Facts) -> bool:
        """Whether a payment of these subscriptions shows something else with what is new of them."""
        for payment in await self.deps.recorder.known_payments(news[Family.SUBSCRIPTION]):
            subscriptions = await self.deps.recorder.known_subscriptions(projection.subscriptions(payment))
            subscriptions_then = merge({Family.SUBSCRIPTION: dict(subscriptions)}, news)[Family.SUBSCRIPTION]
            before, after = journal.derive(payment, subscriptions), journal.derive(payment, subscriptions_then)
            if any(comparison.differences(before, after, self.reading.at)):
                return True
        return False

    async def record(self, changes: Sequence[Facts], cause: str) -> list[Failure]:
        """Records facts. Returns those groups that the database does not accept."""
        try:
            await self.deps.recorder.record([ReadObjects(facts, cause) for facts in changes])
        except StatementRejected as refusal:
            if not refusal.for_its_values:
                raise
            if len(changes) == 1:
                return [Failure(min(owners(changes[0]), default="(unknown)"), str(refusal))]
            half = len(changes) // 2
            return [*await self.record(changes[:half], cause), *await self.record(changes[half:], cause)]
        return []


def _id_of(raw: Raw) -> str:
    try:
        return msgspec.json.decode(raw, type=_Identified).id
    except msgspec.MsgspecError:
        return _Identified().id
