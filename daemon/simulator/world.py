"""What Stripe holds of one account: all objects in their present state, and the log of their events.

A world results from scenarios that have been played (`add`), and from payments that begin and go on in it (`begin`,
`resume`). It lists its objects as Stripe's API does: the newest first.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from daemon.simulator.api_versions import TODAY, Api
from daemon.simulator.balance import DOLLARS, Balance, balance_transaction_id
from daemon.simulator.collection import Collection, Stored
from daemon.simulator.copies import Copy
from daemon.simulator.payment import Payment
from daemon.simulator.scenarios import ALPHABET, Scenario
from daemon.simulator.state import Endpoint, Inputs, State
from daemon.simulator.stripe_invoices import Customer, Invoice, InvoicePayment
from daemon.simulator.stripe_objects import DAY_S, Json


class Event:
    """An event as it was sent; it keeps the shape of the API version of that time."""

    def __init__(self, shown: Json) -> None:
        self.shown = shown
        self.id, self.created, self.type = str(shown["id"]), int(shown["created"]), str(shown["type"])

    def render(self, _api: Api) -> Json:
        """The event's JSON object."""
        return self.shown


TYPES = (
    *("payment_intent", "charge", "refund", "dispute", "checkout.session"),
    *("subscription", "invoice", "invoice_payment", "event", "webhook_endpoint", "balance_transaction", "payout"),
    *("customer", "radar.early_fraud_warning"),
)


class World:
    """One account in one mode.

    Args:
        currency: in which Stripe settles.

    Attributes:
        api: the API version that events have here, and what replies have where a request names no version.
        account: the id of a connected account; None for the platform's own.
        collections: the objects, by the name of their type.
        balance: what the balance consists of, as of the last `settle`.
        on_events: is called with the events of each step that is taken in this world (not of scenarios that are added).
    """

    def __init__(
        self,
        *,
        livemode: bool = False,
        account: str | None = None,
        api: Api = TODAY,
        currency: str = DOLLARS,
        on_events: Callable[[list[Json]], None] = lambda _: None,
    ) -> None:
        self.livemode, self.account, self.api = livemode, account, api
        self.collections: dict[str, Collection[Any]] = {name: Collection() for name in TYPES}
        transactions, payouts = self.collections["balance_transaction"], self.collections["payout"]
        self.balance = Balance(transactions, payouts, livemode=livemode, currency=currency)
        self.on_events = on_events
        self._rng = random.SystemRandom()  # another run for the same ledger must not make the same ids
        self._states: dict[str, State] = {}  # by the id of each object
        self._payments: dict[int, Payment] = {}  # by the identity of their states; those that began in this world
        self._changes = 0
        self._settled: tuple[int, int] | None = None  # the number of changes and the day of the last `settle`

    def new_id(self, prefix: str) -> str:
        """An id as Stripe makes them."""
        return prefix + "".join(self._rng.choices(ALPHABET, k=56 if prefix.startswith("cs_") else 23))

    def add(self, scenarios: Iterable[Scenario]) -> None:
        """Adds all objects and events of scenarios that have been played."""
        for scenario in scenarios:
            for state in scenario.states:
                self._include(state)
            self._log(scenario.events)

    def add_copies(self, originals: Iterable[Scenario], copies: int, *, with_events: bool = True) -> None:
        """Adds this number of copies of each scenario, whose ids end with MARKER; no further steps are possible."""
        for scenario in originals:
            things = [each for state in scenario.states for each in _objects(state)]
            things += [("event", Event(event)) for event in scenario.events] if with_events else []
            for number in range(copies):
                for type_, thing in things:
                    self.collections[type_].add(Copy(thing, number))
        self._changes += 1

    def begin(self, inputs: Inputs, *, amount: int, currency: str, at: int) -> Payment:
        """A new payment in this world; its steps are taken within `step`."""
        endpoint = Endpoint(self.new_id, at, self.api, self.account, self.livemode)
        return Payment(endpoint, inputs, amount=amount, currency=currency)

    def resume(self, object_id: str) -> Payment:
        """The payment that an object belongs to, for further steps. Raises KeyError for an unknown id."""
        state = self._states[object_id]
        if id(state) in self._payments:
            return self._payments[id(state)]
        source = state.intent or (state.sessions or state.charges)[0]
        payment = Payment(state.endpoint, Inputs(), amount=source.amount, currency=source.currency)
        payment.state = state
        return payment

    @contextmanager
    def step(self, payment: Payment, at: int) -> Iterator[Payment]:
        """What the payment does within becomes part of the world, and its events are passed to `on_events`."""
        events = payment.endpoint.events
        before, payment.at = len(events), max(at, payment.at)
        yield payment
        self._include(payment.state, payment)
        self._log(events[before:])
        self.on_events(events[before:])

    @property
    def states(self) -> list[State]:
        """What Stripe holds of each payment, in the order in which they were added."""
        return list({id(state): state for state in self._states.values()}.values())

    def find(self, id_: str) -> Stored | None:
        """The object with this id, of whatever type; None if there is none."""
        return next((found for each in self.collections.values() if (found := each.get(id_))), None)

    def settle(self, now: int) -> None:
        """Adds the balance transactions and payouts until this second, where something has changed since the last."""
        reason = self._changes, now // DAY_S
        if reason != self._settled:
            self._settled = reason
            self.balance.update(self.collections["charge"], now)

    def _include(self, state: State, payment: Payment | None = None) -> None:
        """Adds the objects of a payment that are not in the world yet."""
        self._changes += 1
        if payment is not None:
            self._payments[id(state)] = payment
        for type_, thing in _objects(state):
            self.collections[type_].add(thing)
            self._states.setdefault(thing.id, state)

    def _log(self, events: Iterable[Json]) -> None:
        for event in events:
            self.collections["event"].add(Event(event))


def _objects(state: State) -> Iterator[tuple[str, Stored]]:
    """All objects of a payment, each with its type. A charge that took money names its balance transaction, even if no
    event says so.
    """
    for session in state.sessions:
        yield "checkout.session", session
    if state.intent is not None:
        yield "payment_intent", state.intent
    for charge in state.charges:
        charge.balance_transaction = balance_transaction_id(charge)
        yield "charge", charge
    for refund in state.refunds:
        yield "refund", refund
    for dispute in state.disputes:
        yield "dispute", dispute
    for warning in state.warnings:
        yield "radar.early_fraud_warning", warning
    if state.subscription is not None:
        yield "subscription", state.subscription
    if state.invoice is not None:
        yield from _invoice_objects(state.invoice)


def _invoice_objects(invoice: Invoice) -> Iterator[tuple[str, Stored]]:
    yield "invoice", invoice
    if invoice.subscription is not None:
        yield "subscription", invoice.subscription
        yield "customer", Customer(invoice.subscription, invoice.customer)
    if invoice.status == "paid":
        yield "invoice_payment", InvoicePayment(invoice)
