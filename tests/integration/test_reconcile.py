"""Reconciliation: what the ledger lacks or has wrong is listed, then corrected, and a second run finds nothing."""

import json
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import pytest

from daemon.jobs import replay, runs
from daemon.jobs.reconcile import Options, RunState, reconcile
from daemon.jobs.runs import load_state
from daemon.ledger import operators
from daemon.ledger.recorder import Recorder
from daemon.reports.early_warnings import State, read_warnings
from daemon.simulator import early_warnings
from daemon.simulator.api_versions import Api
from daemon.simulator.fake_stripe.failures import Failure
from daemon.simulator.fake_stripe.fake import TEST_KEY, FakeStripe
from daemon.simulator.payment import Payment
from daemon.simulator.scenarios import generate
from daemon.simulator.state import Inputs
from daemon.simulator.stripe_objects import DAY_S, Charge, Json
from daemon.stripe_api.client import StripeRejected, StripeUnavailable
from sql.database import Database
from tests.support.ledger import put_ticket
from tests.support.reconciled_ledger import DONATIONS, expected_rows, ledger, listed, shown, verified
from tests.support.stripe_world import Noted, Site, site_of

NOW = 1_800_000_000
SCENARIOS = generate(3, 40, ["story-1", "story-2"], now=NOW)
EVENTS = sorted((event for each in SCENARIOS for event in each.events), key=lambda event: event["created"])
NEWEST = EVENTS[-1]["created"]


@pytest.fixture
async def site(database: Database) -> AsyncIterator[Site]:
    fake = FakeStripe(clock=lambda: NEWEST + 1000)
    fake.add(SCENARIOS)
    async with site_of(fake, database) as site:
        yield site


async def check(site: Site, url: str) -> None:
    """The ledger shows what the simulator expects, and is consistent; another run finds nothing to do."""
    assert await shown(site) == expected_rows(SCENARIOS)
    assert verified(url) == []
    found, noted = await site.reconcile()
    assert (noted.differences, found.unknown, found.failed) == ([], 0, 0)
    found, _ = await site.reconcile()
    assert found.completed == 0


async def test_a_ledger_built_from_objects_equals_one_built_from_events(site: Site, database_url: str) -> None:
    """An empty ledger gets every donation from Stripe's objects, with the same figures, times, totals and entries as
    from
    all events: when these arrive afterwards, nothing changes."""
    found, noted = await site.reconcile()
    missing = [each.subject for each in noted.differences if each.field == "donation"]
    assert sorted(missing) == sorted({str(row[0]) for row in expected_rows(SCENARIOS)})
    assert (found.unknown, found.failed) == (0, 0)
    await check(site, database_url)
    before = await ledger(site)
    await site.deliver(EVENTS)
    assert await ledger(site) == before


async def test_a_day_of_events_lost(site: Site, database_url: str) -> None:
    """Events of a day are lost. A dry run lists the differences and changes nothing; the run lists the same, each once,
    and corrects them; its entries name the run."""
    lost = [event for event in EVENTS if event["created"] >= NEWEST - DAY_S]
    await site.deliver(event for event in EVENTS if event not in lost)
    before = await ledger(site)
    _, dry = await site.reconcile(dry_run=True, since=NEWEST - 3 * DAY_S)
    assert await ledger(site) == before
    assert dry.differences != []
    _, noted = await site.reconcile(since=NEWEST - 3 * DAY_S)
    assert listed(noted) == listed(dry)
    causes = "SELECT count(DISTINCT cause) FROM ledger_entries WHERE starts_with(cause, 'reconcile:')"
    assert await site.database.fetch(causes) == [(1,)]
    await check(site, database_url)


@pytest.mark.parametrize("kept", [0.0, 0.5])
async def test_a_dry_run_lists_what_a_run_corrects(site: Site, monkeypatch: pytest.MonkeyPatch, kept: float) -> None:
    """Whatever events were lost, and wherever a page ends, a dry run finds the same as the run, also after another one;
    it is not continued and continues nothing."""
    monkeypatch.setattr("daemon.stripe_api.client.PAGE_SIZE", 20)
    rng = random.Random(6)
    await site.deliver(event for event in EVENTS if rng.random() < kept)
    before = await ledger(site)
    (first, dry), (second, again) = await site.reconcile(dry_run=True), await site.reconcile(dry_run=True)
    assert await ledger(site) == before
    assert await load_state(site.database, "reconcile", RunState) is None
    found, noted = await site.reconcile()
    assert listed(dry) == listed(again) == listed(noted)
    assert first == second == found
    assert (
        sum(each.field == "donation" for each in noted.differences)
        == len(expected_rows(SCENARIOS)) - len(before[0])
        > 0
    )


async def test_without_a_loss_nothing_differs(site: Site, database_url: str) -> None:
    """Where all events were received no donation changes, and nothing is written a second time."""
    await site.deliver(EVENTS)
    before = await ledger(site)
    _, noted = await site.reconcile()
    assert (noted.differences, noted.unknowns, noted.failures) == ([], [], [])
    assert await ledger(site) == before
    await check(site, database_url)


async def test_a_subscription_that_changes_no_payment_is_no_difference(site: Site, database_url: str) -> None:
    """Events of subscriptions were never sent: their payments have their ticket from their invoices. What is added is
    no difference, and then there is nothing more to add."""
    await site.deliver(event for event in EVENTS if not event["type"].startswith("customer.subscription."))
    before = await ledger(site)
    found, noted = await site.reconcile()
    subscriptions = len(list(site.fake.world.collections["subscription"]))
    assert (noted.differences, found.differences) == ([], 0)
    assert found.completed >= subscriptions > 1
    assert await ledger(site) == before
    await check(site, database_url)


async def test_a_subscription_that_changes_its_payments_is_a_difference(database: Database) -> None:
    """It got its ticket after its invoices were made, and the event is lost: the line names the subscription, a dry run
    prints the same, and all its payments follow."""
    generated = generate(3, 40, ["story-1"], now=NOW)
    scenario = next(each for each in generated if each.states[-1].invoice)
    delivered = json.loads(json.dumps(scenario.events).replace('"ticketId"', '"other"'))
    invoices = [state.invoice for state in scenario.states if state.invoice]
    for invoice in invoices:
        invoice.metadata = invoice.line_metadata = {}
    subscription = invoices[0].subscription
    assert subscription is not None
    subscription.metadata = {"ticketId": "story-9"}
    fake = FakeStripe(clock=lambda: NEWEST + 1000)
    fake.add([scenario])
    async with site_of(fake, database) as site:
        await site.deliver(delivered)
        (_, dry), (_, noted) = await site.reconcile(dry_run=True), await site.reconcile()
        assert listed(dry) == listed(noted)
        assert f"{subscription.id}: ticket is not known, should be story-9" in listed(noted)
        tickets = "SELECT DISTINCT ticket_id FROM stripe_attributions WHERE subscription_id = %s"
        assert await database.fetch(tickets, [subscription.id]) == [("story-9",)]
        assert (await site.reconcile())[1].differences == []


async def test_a_donation_deleted_by_hand(site: Site, database_url: str) -> None:
    """It comes back with its entries, which were never deleted, with its ticket from the audit log, and without the
    data of a donor who was erased; the totals are right again."""
    await site.deliver(EVENTS)
    await put_ticket(site.database, "story-9")
    paid = [row for row in await site.database.fetch(DONATIONS) if row[2] == "PAID" and row[7] and row[12]]
    moved, erased, deleted = (str(row[0]) for row in paid[:3])
    actions = operators.Operators(site.database, Recorder(site.database))
    await actions.assign(moved, "story-9", actor="alex")
    await actions.erase({erased: await actions.facts_of(erased)}, actor="alex")
    before = await ledger(site)
    sql = "DELETE FROM stripe_attributions WHERE id = ANY (%(ids)s)"
    await site.database.fetch(sql, {"ids": [moved, erased, deleted]})
    _, noted = await site.reconcile()
    assert {each.subject for each in noted.differences if each.field == "donation"} == {moved, erased, deleted}
    assert "totals" in {each.field for each in noted.differences}
    assert await ledger(site) == before
    assert verified(database_url) == []


async def test_every_donation_deleted_by_hand(site: Site, database_url: str) -> None:
    """All come back, also what other lists say of them: refunds, disputes, sessions and invoices."""
    await site.deliver(EVENTS)
    await site.database.fetch("DELETE FROM stripe_attributions")
    found, _ = await site.reconcile()
    assert found.failed == 0
    await check(site, database_url)


async def test_a_refund_during_31_days_of_downtime(database: Database, database_url: str) -> None:
    """A donation of long ago is refunded while the ledger is down, and its event is too old to be read: the refund is
    found among the objects of these days, and booked at the time at which it was made."""
    scenario = next(each for each in generate(4, 20, ["story-1"], now=NOW) if each.kind == "paid")
    fake = FakeStripe(clock=lambda: NEWEST + 100 * DAY_S)
    fake.add([scenario])
    intent = scenario.states[0].intent
    assert intent is not None
    async with site_of(fake, database) as site:
        await site.deliver(scenario.events)
        [(_, *_rest)] = await site.database.fetch(DONATIONS)
        payment = fake.world.resume(intent.id)
        with fake.world.step(payment, NEWEST + 60 * DAY_S):
            payment.refund(intent.charges[0], 100)
        _, noted = await site.reconcile(since=NEWEST + 50 * DAY_S)
        assert ("refunded", "1.00 USD") in [(each.field, each.stripe) for each in noted.differences]
        refunds = await database.fetch(
            "SELECT extract(epoch FROM effective_at)::bigint, amount_minor FROM ledger_entries WHERE kind = 'refund'"
        )
        assert refunds == [(NEWEST + 60 * DAY_S, 100)]
        assert verified(database_url) == []


async def test_the_payment_of_a_refund_is_read_as_well(database: Database, database_url: str) -> None:
    """A run over some days finds a refund whose payment is older and was lost: the payment is read by its id."""
    scenario = next(each for each in generate(4, 20, ["story-1"], now=NOW) if each.kind == "paid")
    fake = FakeStripe(clock=lambda: NEWEST + 100 * DAY_S)
    fake.add([scenario])
    intent = scenario.states[0].intent
    assert intent is not None
    payment = fake.world.resume(intent.id)
    with fake.world.step(payment, NEWEST + 60 * DAY_S):
        payment.refund(intent.charges[0], 100)
    async with site_of(fake, database) as site:
        await site.reconcile(since=NEWEST + 50 * DAY_S)
        [row] = await database.fetch(DONATIONS)
        assert row[2:6] == ("PAID", intent.amount, "USD", 100)
        assert verified(database_url) == []


def warned(fake: FakeStripe, fraud_type: str) -> tuple[Payment, Charge]:
    """A payment whose charge was reported as fraud."""
    payment = fake.world.begin(Inputs(), amount=2500, currency="usd", at=NOW)
    with fake.world.step(payment, NOW):
        payment.create_intent()
        charge = payment.succeed()
    with fake.world.step(payment, NOW + 60):
        early_warnings.warn(payment.state, charge, fraud_type)
    return payment, charge


@pytest.mark.parametrize("reader", ["reconcile", "replay"])
async def test_early_fraud_warnings(database: Database, database_url: str, reader: str) -> None:
    """Warnings whose events were lost are read from Stripe's objects, or from its list of events, with what ended them,
    also of a payment that the ledger lacks. Then nothing differs."""
    fake = FakeStripe(clock=lambda: NEWEST + 1000)
    (_, open_), (refunded_payment, refunded), (disputed_payment, disputed) = (
        warned(fake, kind) for kind in ("made_with_stolen_card", "misc", "unauthorized_use_of_card")
    )
    paid = [each.shown for each in fake.world.collections["event"] if each.type == "charge.succeeded"]
    with fake.world.step(refunded_payment, NOW + 90) as payment:
        payment.refund(refunded, refunded.amount)
    with fake.world.step(disputed_payment, NOW + 90) as payment:
        payment.dispute(disputed, disputed.amount)
    async with site_of(fake, database) as site:
        await site.deliver(event for event in paid if event["data"]["object"]["id"] != open_.id)
        if reader == "reconcile":
            await site.reconcile()
        else:
            await replay.replay(site.deps, NOW - DAY_S)
        assert {(each.charge, each.kind, each.state, each.made_at) for each in await read_warnings(database)} == {
            (open_.id, "made_with_stolen_card", State.OPEN, NOW + 60),
            (refunded.id, "misc", State.REFUNDED, NOW + 60),
            (disputed.id, "unauthorized_use_of_card", State.DISPUTED, NOW + 60),
        }
        _, noted = await site.reconcile()
        assert (noted.differences, noted.unknowns, noted.failures) == ([], [], [])
        assert (await site.reconcile())[0].completed == 0
        assert verified(database_url) == []


async def test_donations_that_stripe_does_not_know(site: Site, database_url: str) -> None:
    """Those of another account are listed, whatever the size of a page, and stay; objects of the other mode change
    nothing."""
    await site.deliver(EVENTS)
    foreign = generate(9, 15, ["story-1"], now=NOW - DAY_S)
    await site.deliver(event for each in foreign for event in each.events)
    rows = await ledger(site)
    expected = {str(row[0]) for row in expected_rows(foreign)}
    for _ in range(2):
        found, noted = await site.reconcile()
        assert set(noted.unknowns) == expected
        assert (found.unknown, found.differences) == (len(expected), 0)
    assert await ledger(site) == rows


async def test_killed_at_every_page(site: Site, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed before or after it saves a page is continued by the next one, and in the end everything was
    compared."""
    monkeypatch.setattr("daemon.stripe_api.client.PAGE_SIZE", 20)
    rng = random.Random(5)
    await site.deliver(event for event in EVENTS if rng.random() > 0.5)
    saves = 0

    async def save_state(database: Database, kind: str, state: RunState) -> None:
        nonlocal saves
        saves += 1
        is_before = rng.random() < 0.5
        if saves % 2 and is_before:
            raise Killed
        await original(database, kind, state)
        if saves % 2:
            raise Killed

    original = runs.save_state
    monkeypatch.setattr("daemon.jobs.reconcile.save_state", save_state)
    kills = 0
    while True:
        try:
            await reconcile(site.deps, Options(), Noted())
            break
        except Killed:
            kills += 1
    assert kills > 15
    monkeypatch.setattr("daemon.jobs.reconcile.save_state", original)
    await check(site, database_url)


class Killed(Exception):
    """The process ends here."""


FAILURES = {
    "too many requests": Failure(status=429, retry_after=0, times=None, path="GET /v1/charges"),
    "a malformed reply": Failure("malformed", times=None, path="GET /v1/charges"),
    "an incomplete reply": Failure("truncated", times=None, path="GET /v1/charges"),
    "no reply": Failure("disconnect", times=None, path="GET /v1/charges"),
    "an error at Stripe": Failure(status=500, times=None, path="GET /v1/charges"),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_a_run_that_stripe_stops(site: Site, failure: Failure) -> None:
    """Whatever is wrong with a reply, the run ends with an error and is not done; the next one continues."""
    site.fake.failures.add(failure)
    with pytest.raises(StripeUnavailable):
        await site.reconcile()
    state = await load_state(site.database, "reconcile", RunState)
    assert state is not None
    assert state.places[0] == (None, 4)
    site.fake.failures.clear()
    site.fake.calls.clear()
    await site.reconcile()
    assert "/v1/payment_intents" not in {call.path for call in site.fake.calls}
    assert await shown(site) == expected_rows(SCENARIOS)


async def test_an_old_run_is_not_continued(site: Site) -> None:
    """What was read long ago may have changed since: after a day, and with other options, a run begins again."""
    site.fake.failures.add(Failure(status=500, times=None, path="GET /v1/refunds"))
    with pytest.raises(StripeUnavailable):
        await site.reconcile(since=NOW - 40 * DAY_S)
    state = await load_state(site.database, "reconcile", RunState)
    assert state is not None
    begun_at = state.begun_at
    assert state.continues(Options(since=NOW), begun_at + DAY_S - 1)
    assert not state.continues(Options(since=NOW), begun_at + DAY_S)
    assert not state.continues(Options(), begun_at)
    assert not state.continues(Options(since=NOW, dry_run=True), begun_at)


async def test_a_permission_is_missing(site: Site) -> None:
    """The error names the list, and nothing that was corrected is lost."""
    site.fake.failures.permissions[TEST_KEY] = {"subscription_read", "invoice_read", "checkout_session_read"}
    with pytest.raises(StripeRejected) as rejected:
        await site.reconcile()
    assert rejected.value.__notes__ == ["while PaymentIntents were read"]
    assert rejected.value.status == 403


@dataclass(frozen=True)
class Unexpected:
    """An object of an unexpected shape, with a person's name in an unexpected place."""

    id: str
    shown: Json
    created: int = NEWEST

    def render(self, _api: Api) -> Json:
        common = {"id": self.id, "object": "refund", "created": self.created, "failure_balance_transaction": None}
        return {**common, "amount": 1, "charge": "ch_odd", **self.shown}


async def test_objects_of_unexpected_shape(site: Site) -> None:
    """They are reported without any value of them, and do not stop the run."""
    refunds = site.fake.world.collections["refund"]
    odd: list[Json] = [{"amount": "Ann"}, {"created": "Ann"}, {"object": "Ann"}, {"charge": {"id": "Ann B."}}]
    for number, fields in enumerate(odd):
        refunds.add(Unexpected(f"re_odd{number}", fields))
    found, noted = await site.reconcile()
    assert found.failed == len(odd)
    assert {each.object_id for each in noted.failures} == {f"re_odd{number}" for number in range(len(odd))}
    assert not any("Ann" in each.reason for each in noted.failures)
    assert await shown(site) == expected_rows(SCENARIOS)


async def test_live_traffic_meanwhile(site: Site, database_url: str) -> None:
    """Events that arrive between the comparison of a page and its correction are neither lost nor overwritten."""
    rng = random.Random(7)
    waiting = EVENTS[:]
    rng.shuffle(waiting)

    class Busy(Noted):
        def difference(self, difference: object) -> None:
            arrived.extend(waiting[:20])
            del waiting[:20]

    arrived: list[Json] = []
    deps = site.deps
    record = deps.recorder.record

    async def record_after_events(changes: Sequence[object]) -> object:
        await site.deliver(arrived)
        arrived.clear()
        return await record(changes)  # type: ignore[arg-type]

    deps.recorder.record = record_after_events  # type: ignore[method-assign, assignment]
    await reconcile(deps, Options(), Busy())
    await check(site, database_url)


async def test_rehash(site: Site) -> None:
    """Only with `rehash` the hashes of e-mails are computed again with the present key; then a second run finds
    none."""
    hashes = "SELECT id, donor_email_hash FROM stripe_attributions ORDER BY id"
    await site.deliver(EVENTS)
    before = await site.database.fetch(hashes)
    site.hash_key = b"a key of the charity's own"
    found, _ = await site.reconcile()
    assert found.differences == 0
    _, noted = await site.reconcile(rehash=True)
    assert {each.field for each in noted.differences} == {"email_hash"}
    assert {(each.ledger, each.stripe) for each in noted.differences} == {(None, None)}
    after: dict[str, str | None] = dict(await site.database.fetch(hashes))
    assert all((was is None) == (after[id_] is None) and (was is None or was != after[id_]) for id_, was in before)
    found, _ = await site.reconcile(rehash=True)
    assert (found.differences, found.completed) == (0, 0)
