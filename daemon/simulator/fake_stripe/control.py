"""What tests and commands make happen at the fake from another process: `POST /_control/{action}` with a JSON object.

Tests in the same process call the functions of `checkout_sessions`, the steps of `World` and `Failures` themselves.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from daemon.simulator import early_warnings, scenarios
from daemon.simulator.fake_stripe import checkout_sessions
from daemon.simulator.fake_stripe.failures import Failure
from daemon.simulator.fake_stripe.fake import FakeStripe
from daemon.simulator.stripe_objects import Charge, Dispute, Donor, Json


def play(fake: FakeStripe, seed: int, payments: int, tickets: list[str], now: int) -> Json:
    """Adds the payments that `scenarios.generate` makes of these arguments, without delivering their events."""
    made = scenarios.generate(seed, payments, tickets, now=now)
    fake.add(made)
    return {"payments": len(made), "events": sum(len(scenario.events) for scenario in made)}


def fail(fake: FakeStripe, **details: Any) -> Json:
    """Makes requests fail; the arguments are the attributes of `Failure`."""
    fake.failures.add(Failure(**details))
    return {}


def recover(fake: FakeStripe) -> Json:
    """Makes everything work again."""
    fake.failures.clear()
    return {}


def permit(fake: FakeStripe, key: str, permissions: list[str]) -> Json:
    """Accepts an API key and restricts it to these permissions, such as `charge_read`."""
    fake.keys.add(key)
    fake.failures.permissions[key] = set(permissions)
    return {}


def lose(fake: FakeStripe, events: Sequence[str] = (), objects: Sequence[str] = ()) -> Json:
    """Delivers no events with these ids or types any more, and treats objects with these ids as unknown."""
    fake.failures.lost_events.update(events)
    fake.failures.hidden.update(objects)
    return {}


def pay(
    fake: FakeStripe,
    session: str,
    *,
    name: str | None = "Ada Example",
    email: str | None = "ada@example.org",
    country: str | None = "US",
    method: str = "card",
    answers: Mapping[str, str] = {},
    declined: bool = False,
) -> Json:
    """A donor pays a Checkout Session, or tries to."""
    donor = Donor(name, None, country, email, None, None, None, None)
    world = fake.world_with(session)
    if declined:
        return checkout_sessions.decline(world, session, donor, fake.now).render(world.api)
    paid = checkout_sessions.pay(world, session, donor, fake.now, answers=answers, method=method)
    return paid.render(world.api)


def bill(fake: FakeStripe, subscription: str, declined: bool = False) -> Json:
    """The next month of a subscription is billed."""
    world = fake.world_with(subscription)
    return checkout_sessions.bill(world, subscription, fake.now, declined=declined).render(world.api)


def dispute(fake: FakeStripe, charge: str, amount: int | None = None, status: str = "needs_response") -> Json:
    """A donor's bank disputes a charge, all of it unless an amount is named."""
    world = fake.world_with(charge)
    disputed: Charge = world.collections["charge"][charge]
    with world.step(world.resume(charge), fake.now) as payment:
        return payment.dispute(disputed, disputed.amount if amount is None else amount, status).render(world.api)


def warn(fake: FakeStripe, charge: str, fraud_type: str = "made_with_stolen_card") -> Json:
    """The issuer of a card reports that a charge is fraud."""
    world = fake.world_with(charge)
    with world.step(world.resume(charge), fake.now) as payment:
        return early_warnings.warn(payment.state, world.collections["charge"][charge], fraud_type).render(world.api)


def decide(fake: FakeStripe, dispute: str, status: str) -> Json:
    """A dispute gets another status."""
    world = fake.world_with(dispute)
    decided: Dispute = world.collections["dispute"][dispute]
    with world.step(world.resume(decided.charge.id), fake.now) as payment:
        payment.change_dispute(decided, status)
    return decided.render(world.api)


def end_debit(fake: FakeStripe, charge: str, succeeds: bool = True) -> Json:
    """A bank debit that is under way arrives or fails."""
    world = fake.world_with(charge)
    pending: Charge = world.collections["charge"][charge]
    with world.step(world.resume(charge), fake.now) as payment:
        if succeeds:
            payment.clear_debit(pending)
        else:
            payment.bounce_debit(pending)
    return pending.render(world.api)


ACTIONS: dict[str, Callable[..., Json]] = {
    action.__name__: action
    for action in (play, fail, recover, permit, lose, pay, bill, dispute, warn, decide, end_debit)
}
