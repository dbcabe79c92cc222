"""What the journal must hold by SPEC 9, from the events themselves: a second implementation that knows no facts.

It reads the raw events of one donation, asks for each object what it stood at in each second, and books each change.
What the donation is in the end (its id, ticket, currency, amount and paidAt) comes from the simulator's own model.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from daemon.simulator.scenarios import Scenario
from daemon.simulator.stripe_objects import Json
from tests.simulator.oracle import Expected, expected_donations

FOREVER = 2**62
TAKING = {"needs_response", "under_review", "appeal_needs_response", "appeal_under_review", "lost"}
STAGES = (
    *("warning_needs_response", "warning_under_review", "warning_closed", "needs_response", "under_review"),
    *("appeal_needs_response", "appeal_under_review", "(unknown)", "charge_refunded", "prevented", "lost", "won"),
)
HANDLED = {
    "checkout.session": ("completed", "async_payment_succeeded", "async_payment_failed", "expired"),
    "payment_intent": ("succeeded", "payment_failed", "canceled", "processing", "created"),
    "charge": ("succeeded", "updated", "captured", "failed", "refunded"),
    "charge.refund": ("updated",),
    "refund": ("created", "updated", "failed"),
    "charge.dispute": ("created", "updated", "closed", "funds_withdrawn", "funds_reinstated"),
}
FAMILY = {"charge.refund": "refund", "charge.dispute": "dispute"}

# What the journal holds, as sums. No sum of a donation, ticket and currency is left where nothing is booked any more.
BOOKED = """
SELECT donation_id, ticket_id, currency, kind, object_id, extract(epoch FROM effective_at)::bigint,
       sum(amount_minor)::bigint
FROM ledger_entries GROUP BY 1, 2, 3, 4, 5, 6 HAVING sum(amount_minor) <> 0 ORDER BY 1, 2, 3, 4, 5, 6
"""

Key = tuple[str, str, int]  # kind, object, effective_at
Sums = dict[Key, int]


@dataclass(frozen=True)
class Seen:
    """An object as an event carried it."""

    at: int
    type: str
    shown: Json


@dataclass
class Events:
    """The objects of some events, by family and id, in the order of time, and to which PaymentIntent each belongs."""

    seen: dict[str, dict[str, list[Seen]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    intent_of: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, events: Iterable[Json]) -> "Events":
        """Sorts events by time, whatever their order, and each once."""
        result = cls()
        once = {event["id"]: event for event in events}
        for event in sorted(once.values(), key=lambda event: (event["created"], event["id"])):
            source, _, name = event["type"].rpartition(".")
            if name in HANDLED.get(source, ()):
                result._add(FAMILY.get(source, source), Seen(event["created"], event["type"], event["data"]["object"]))
        return result

    def _add(self, family: str, seen: Seen) -> None:
        shown = seen.shown
        if shown.get("source_transfer"):
            return
        if family == "payment_intent":
            latest = shown.get("latest_charge")
            listed = (shown.get("charges") or {}).get("data", [])
            for charge in [*listed, *([latest] if isinstance(latest, dict) else [])]:
                self.intent_of[charge["id"]] = shown["id"]
                self._add("charge", Seen(seen.at, "", charge))
            if isinstance(latest, str):
                self.intent_of[latest] = shown["id"]
        if intent := shown.get("payment_intent"):
            self.intent_of[shown["id"]] = intent
            if charge := shown.get("charge"):
                self.intent_of[charge] = intent
        self.seen[family][shown["id"]].append(seen)

    def members(self, family: str, donation: str) -> dict[str, list[Seen]]:
        """The objects of a family that belong to a donation."""
        return {id_: seen for id_, seen in self.seen[family].items() if self._donation(id_, seen) == donation}

    def _donation(self, id_: str, seen: Sequence[Seen]) -> str:
        charge = next((s.shown["charge"] for s in seen if s.shown.get("charge")), id_)
        return self.intent_of.get(id_) or self.intent_of.get(charge) or charge


def newest(seen: Sequence[Seen], value: Callable[[Json], Any]) -> Any:
    """The newest value that counts; of one second the larger."""
    values = [(each.at, found) for each in seen if (found := value(each.shown)) not in (None, "", 0)]
    return max(values)[1] if values else None


def took_money(charge: Json) -> bool:
    has = charge["amount_captured"] > 0 if "amount_captured" in charge else charge["captured"]
    return bool(charge["paid"] and charge["status"] == "succeeded" and has)


def captured(charge: Json) -> int:
    if "amount_captured" in charge:
        return int(charge["amount_captured"])
    return int(charge["amount"]) if took_money(charge) else 0


@dataclass
class Charge:
    """A charge's snapshots."""

    id: str
    seen: list[Seen]

    def __post_init__(self) -> None:
        self.created: int = newest(self.seen, lambda shown: shown["created"])
        self.captured: int = newest(self.seen, captured) or 0
        self.has_failed = newest(self.seen, lambda shown: shown["status"]) == "failed"
        self.took = [each.at for each in self.seen if took_money(each.shown)]
        self.holds = bool(self.took) and not self.has_failed
        self.is_late_failure = bool(self.captured) and self.has_failed
        self.failed_at = min((each.at for each in self.seen if each.shown["status"] == "failed"), default=FOREVER)

    def paid_times(self) -> list[int]:
        said = ("charge.succeeded", "charge.captured")
        changed = len(self.took) < len(self.seen)
        return [s.at for s in self.seen if took_money(s.shown) and (changed or s.type in said)]

    def reached(self) -> list[tuple[int, int]]:
        return [(each.at, captured(each.shown)) for each in self.seen if captured(each.shown)]


@dataclass(frozen=True)
class Move:
    at: int
    kind: str
    object: str
    amount: int
    payments: int = 0


class Model:
    """One donation's movements and entries."""

    def __init__(self, end: Expected, events: Events) -> None:
        self.end, self.amount = end, end.amount_minor or 0
        charges = [Charge(id_, seen) for id_, seen in events.members("charge", end.donation).items()]
        self.charges = sorted(charges, key=lambda of: (of.holds, of.created, of.id), reverse=True)
        self.intent = events.members("payment_intent", end.donation).get(end.donation, [])
        sessions = events.members("checkout.session", end.donation).items()
        self.session = min(
            sessions, key=lambda of: (newest(of[1], lambda s: s.get("created")) or 0, of[0]), default=None
        )
        self.refunds = events.members("refund", end.donation)
        self.disputes = events.members("dispute", end.donation)
        self.hold = self._hold()

    def entries(self) -> Sums:
        """The sums that the journal must hold of the donation."""
        moves = [*self._late(), *self._paid()]
        if not moves:
            return {}
        moves += [*self._refunded(), *self._snapshots(), *self._disputed()]
        kinds = ("payment", "refund", "dispute")
        level = dict.fromkeys(kinds, 0)
        sums: Sums = defaultdict(int)
        before, standing = (0, 0, 0), 0
        for move in sorted(
            moves, key=lambda m: (m.at, kinds.index(m.kind), -m.amount / max(1, abs(m.amount)), m.object)
        ):
            level[move.kind] += move.amount
            standing += move.payments
            after = self._figures(*level.values()) if standing else (0, 0, 0)
            for kind, was, is_ in zip(kinds, before, after, strict=True):
                sums[kind, move.object, move.at] += is_ - was
            before = after
        return {key: amount for key, amount in sums.items() if amount}

    def _figures(self, paid: int, refunded: int, disputed: int) -> tuple[int, int, int]:
        refunded = max(0, refunded + min(0, self._beyond_in_the_end()))
        if self.end.amount_minor is None:
            return paid, refunded, disputed
        refunded = min(paid, refunded)
        return paid, refunded, max(0, min(disputed, paid - refunded))

    # --- payments

    def _late(self) -> Iterator[Move]:
        since = 0
        for charge in sorted(self.charges, key=lambda of: (of.failed_at, of.id)):
            if charge.is_late_failure:
                at = self._paid_at(charge, since, charge.failed_at)
                since = charge.failed_at
                if at is not None and at <= charge.failed_at:
                    steps = list(_steps(charge.id, charge.reached(), charge.captured, at, charge.failed_at))
                    yield from steps
                    yield Move(since, "payment", charge.id, -sum(step.amount for step in steps), -1)

    def _paid_at(self, charge: Charge, since: int, until: int) -> int | None:
        def within(times: list[int]) -> list[int]:
            kept = (min(times), max(times)) if times else ()
            return [at for at in kept if since <= at < until][:1]

        said = within([s.at for s in self.intent if s.type == "payment_intent.succeeded"]) + charge.paid_times()
        if said:
            return min(said)
        if charge.took:
            return charge.created
        received = within([s.at for s in self.intent if s.shown["amount_received"]])
        session = self.session[1] if self.session else []
        received += within([s.at for s in session if s.shown.get("payment_status") == "paid"])
        return min(received, default=None)

    def _paid(self) -> Iterator[Move]:
        if self.end.paid_at is None:
            return
        taking = [of for of in self.charges if of.captured][:1]
        unit = newest(taking[0].seen, lambda s: s["currency"]) if taking else None
        intent_unit = newest(self.intent, lambda s: s["currency"])
        reached = [each for charge in taking for each in charge.reached()]
        if unit in (None, intent_unit):
            reached += [(s.at, s.shown["amount_received"]) for s in self.intent if s.shown["amount_received"]]
        if max((amount for _, amount in reached), default=0) < self.amount:
            reached = [(self.end.paid_at, self.amount)]
        first = self.charges[0] if self.charges else None
        object_ = first.id if first and first.holds else self.end.donation
        yield from _steps(object_, reached, self.amount, self.end.paid_at, FOREVER)

    # --- refunds

    def _refund(self, seen: Sequence[Seen]) -> tuple[int, int, int]:
        """Amount, created, and when it failed or was canceled."""
        failed = min((s.at for s in seen if s.shown.get("status") in ("failed", "canceled")), default=FOREVER)
        return newest(seen, lambda s: s["amount"]) or 0, newest(seen, lambda s: s["created"]), failed

    def _refunded(self) -> Iterator[Move]:
        for id_, seen in self.refunds.items():
            amount, created, failed = self._refund(seen)
            yield Move(created, "refund", id_, amount)
            if failed < FOREVER:
                yield Move(failed, "refund", id_, -amount)

    def _hold(self) -> int:
        charge = next((of for of in self.charges if newest(of.seen, lambda s: s["amount"])), None)
        if charge is None:
            return 0
        received = newest(self.intent, lambda s: s["amount_received"]) or 0
        taken = max(charge.captured, received)
        gap = max(0, newest(charge.seen, lambda s: s["amount"]) - taken)
        if not taken:
            return int(gap)
        flag = max((s.at, s.shown["captured"]) for s in charge.seen)[1]
        if flag is False and charge.captured:
            return 0
        final = [s for s in charge.seen if s.shown.get("amount_captured") and s.shown["captured"] is not False]
        last = max((s.at, s.shown["amount_refunded"]) for s in charge.seen)[1]
        return int(min(gap, min((s.shown["amount_refunded"] for s in final), default=last)))

    def _unnamed(self, at: int, returned: int) -> int:
        """What a snapshot counts beyond the known refunds in it and the released hold; negative if it counts less."""
        refunds = [self._refund(seen) for seen in self.refunds.values()]
        inside = [(amount, failed) for amount, created, failed in refunds if created <= at <= failed]
        known = sum(amount for amount, failed in inside if failed != at)
        failing = sum(amount for amount, failed in inside if failed == at)
        known += min(failing, max(0, returned - self.hold - known))
        return max(0, returned - known) - self.hold

    def _beyond_in_the_end(self) -> int:
        last = max(((s.at, s.shown["amount_refunded"]) for s in self._reporting()), default=None)
        return self._unnamed(*last) if last else -self.hold

    def _reporting(self) -> list[Seen]:
        return self.charges[0].seen if self.charges else []

    def _snapshots(self) -> Iterator[Move]:
        """Each amount counts from the earliest snapshot that shows as much."""
        most, so_far = self._beyond_in_the_end(), 0
        for at, returned in sorted((s.at, s.shown["amount_refunded"]) for s in self._reporting()):
            shown = min(self._unnamed(at, returned), most)
            if shown > so_far:
                yield Move(at, "refund", self.charges[0].id, shown - so_far)
                so_far = shown

    # --- disputes

    def _disputed(self) -> Iterator[Move]:
        for id_, seen in self.disputes.items():
            kept: list[Json] = []  # per status the earliest and the newest
            for status in {s.shown["status"] for s in seen}:
                of = [(s.at, s.shown["amount"]) for s in seen if s.shown["status"] == status]
                for at in (min(of)[0], max(of)[0]):
                    kept.append({"at": at, "status": status, "amount": max(amount for t, amount in of if t == at)})
            is_foreign = newest(seen, lambda s: s["currency"]).upper() != self.end.currency
            levels = [(0, 0)]
            for at in sorted({each["at"] for each in kept}):
                states = [each for each in kept if each["at"] == at]
                state = max(states, key=lambda s: (_stage(s["status"]), s["amount"]))
                takes = state["status"] in TAKING or state["status"] not in STAGES
                levels.append((at, (self.amount if is_foreign else state["amount"]) if takes else 0))
            for (_, was), (at, is_) in pairwise(levels):
                yield Move(at, "dispute", id_, is_ - was)


def _stage(status: str) -> int:
    return STAGES.index(status if status in STAGES else "(unknown)")


def _steps(object_: str, reached: Sequence[tuple[int, int]], most: int, paid_at: int, until: int) -> Iterator[Move]:
    """A payment at paidAt with what was reached by then, and each further capture when it was first stated."""
    amounts = [(at, min(amount, most)) for at, amount in reached]
    level = max((amount for at, amount in amounts if at <= paid_at), default=min(amount for _, amount in amounts))
    yield Move(paid_at, "payment", object_, level, 1)
    for at, amount in sorted(amounts):
        if amount > level and at <= until:
            yield Move(at, "payment", object_, amount - level)
            level = amount


def expected_entries(end: Expected, events: Iterable[Json]) -> Sums:
    """The sums per kind, object and effective_at that the journal must hold of a donation."""
    return Model(end, Events.of(events)).entries()


def booked_rows(scenarios: Iterable[Scenario]) -> list[tuple[Any, ...]]:
    """The rows of BOOKED that these payments must have."""
    rows = []
    for scenario in scenarios:
        for end in expected_donations(scenario):
            sums = expected_entries(end, scenario.events).items()
            rows += [(end.donation, end.ticket or "", end.currency or "", *key, amount) for key, amount in sums]
    return sorted(rows)
