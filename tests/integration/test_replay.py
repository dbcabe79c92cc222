"""Replay: events that no webhook has recorded are read from Stripe's event list, and give the same ledger."""

import asyncio
import json
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from prometheus_client import CollectorRegistry

from daemon.api.event_replay import EventReplay
from daemon.cli.main import main
from daemon.jobs import recovery, runs
from daemon.jobs.config import JobsConfig
from daemon.jobs.reconcile import RunState
from daemon.jobs.replay import Failed, Replayed, ReplayState, replay
from daemon.jobs.runs import load_state
from daemon.jobs.schedule import JobDependencies, ProblemsFound
from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.recorder import Recorder
from daemon.ledger.stripe_events import StripeEvent
from daemon.simulator.fake_stripe.failures import Failure
from daemon.simulator.fake_stripe.fake import TEST_KEY, FakeStripe
from daemon.simulator.scenarios import generate
from daemon.simulator.stripe_objects import DAY_S
from daemon.simulator.world import Event
from daemon.stripe_api.client import StripeUnavailable
from sql.connection import Row
from sql.database import Database
from tests.simulator.oracle import only_donation
from tests.support.api_application import MakeClient, application, follower
from tests.support.console import Visitor
from tests.support.guard import base_environ
from tests.support.instance import eventually
from tests.support.operators import ACTOR, TOKENS, bearer
from tests.support.stripe_world import Site, site_of

NOW = 1_800_000_000
SCENARIOS = generate(3, 30, ["story-1", "story-2"], now=NOW)
EVENTS = sorted((event for each in SCENARIOS for event in each.events), key=lambda event: event["created"])
NEWEST = EVENTS[-1]["created"]
RECENT = [event for event in EVENTS if event["created"] >= NEWEST - 30 * DAY_S]
ROWS = """
SELECT id, facts::jsonb::text, ticket_id, status, amount_minor, refunded_minor, disputed_minor, paid_at, refunded_at
FROM stripe_attributions ORDER BY id
"""
TOTALS = "SELECT * FROM ticket_totals WHERE paid + refunded + disputed > 0 ORDER BY 1, 2"
RECORDED = "SELECT id, error FROM stripe_events ORDER BY id"


@pytest.fixture
async def site(database: Database) -> AsyncIterator[Site]:
    fake = FakeStripe(clock=lambda: NEWEST + 1000)
    fake.add(SCENARIOS)
    async with site_of(fake, database) as site:
        yield site


async def ledger(database: Database) -> tuple[list[Row], list[Row], list[Row]]:
    return await database.fetch(ROWS), await database.fetch(TOTALS), await database.fetch(RECORDED)


async def test_a_database_restored_from_yesterday(site: Site) -> None:
    """It has the events until the backup. The others are read from Stripe's list, with some that it has; row for row
    the ledger is what it was."""
    backup_at = RECENT[-40]["created"]
    older = [event for event in RECENT if event["created"] < backup_at]
    await site.deliver(RECENT)
    before = await ledger(site.database)
    await site.database.fetch(
        "TRUNCATE stripe_attributions, stripe_objects, stripe_events, ticket_totals, ledger_entries"
    )
    await site.deliver(older)
    replayed = await replay(site.deps, backup_at - 3 * DAY_S)
    assert replayed.applied + replayed.ignored >= len(RECENT) - len(older) > 0
    assert replayed.seen_before > 0
    assert replayed.failed == 0
    assert await ledger(site.database) == before
    again = await replay(site.deps, backup_at - 3 * DAY_S)
    assert (again.applied, again.ignored, again.failed) == (0, 0, 0)


async def test_killed_at_every_page(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed before or after it saves a page is continued by the next one, also with events that arrive
    meanwhile: in the end every event is recorded."""
    monkeypatch.setattr("daemon.stripe_api.client.PAGE_SIZE", 10)
    rng = random.Random(3)
    kills = 0

    async def save_state(database: Database, kind: str, state: ReplayState) -> None:
        if is_before := rng.random() < 0.3:
            raise Killed
        await runs.save_state(database, kind, state)
        if not is_before and rng.random() < 0.3:
            raise Killed

    monkeypatch.setattr("daemon.jobs.replay.save_state", save_state)
    for _ in range(1000):
        try:
            await replay(site.deps, 0)
            break
        except Killed:
            kills += 1
    assert kills > 10
    recorded = {id_ for id_, _ in await site.database.fetch(RECORDED)}
    assert recorded == {event["id"] for event in RECENT}


class Killed(Exception):
    """The process ends here."""


async def test_a_throttled_run_is_not_done(site: Site) -> None:
    """Too many requests end the run with an error; the next one continues behind the last page."""
    site.fake.failures.add(Failure(status=429, retry_after=0, skip=1, times=None, path="GET /v1/events"))
    with pytest.raises(StripeUnavailable):
        await replay(site.deps, 0)
    state = await load_state(site.database, "replay", ReplayState)
    assert state is not None
    assert state.accounts == (None,)
    site.fake.failures.clear()
    await replay(site.deps, 0)
    assert {id_ for id_, _ in await site.database.fetch(RECORDED)} == {event["id"] for event in RECENT}


async def test_events_that_cannot_be_applied(site: Site) -> None:
    """They are recorded with their reason as by the webhook, and what is no event at all is reported."""
    dispute = {"id": "du_1", "object": "dispute", "amount": "five"}
    unknown = {"id": "evt_shape", "object": "event", "type": "charge.dispute.created", "livemode": False}
    site.fake.world.collections["event"].add(Event({**unknown, "created": NEWEST, "data": {"object": dispute}}))
    no_event = {"id": "evt_none", "created": NEWEST, "type": "x", "object": "list"}
    site.fake.world.collections["event"].add(Event({**unknown, "created": NEWEST, "data": {"object": dispute}}))
    site.fake.world.collections["event"].add(Event(no_event))
    failures: list[Failed] = []
    replayed = await replay(site.deps, NEWEST - DAY_S, on_failure=failures.append)
    assert replayed.failed >= 2
    assert {each.event for each in failures} == {"evt_shape", ""}
    assert "evt_shape" in dict(await site.database.fetch(RECORDED))


async def test_connected_accounts(site: Site) -> None:
    """Events of the connected accounts that the ledger knows are read from their own lists, which do not name them."""
    known, lost, *_ = (each for each in generate(8, 20, ["story-1"], now=NEWEST) if each.kind == "paid")
    world = site.fake.world_of(livemode=False, account="acct_1")
    for event in lost.events:
        world.collections["event"].add(Event({name: value for name, value in event.items() if name != "account"}))
    await site.deliver({**event, "account": "acct_1"} for event in known.events)
    await replay(site.deps, NEWEST - 30 * DAY_S)
    rows = await site.database.fetch("SELECT id FROM stripe_attributions WHERE account = 'acct_1' ORDER BY id")
    assert [id_ for (id_,) in rows] == sorted(only_donation(each).donation for each in (known, lost))


async def record_failed(database: Database, event_id: str) -> None:
    failed = StripeEvent(event_id, "charge.updated", NEWEST, False, None)
    await Recorder(database).record([ReceivedEvent(failed, "an unknown shape")])


@pytest.fixture
def donationd(
    site: Site, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., "asyncio.Future[Result]"]:
    """Runs `donationd …` beside the fake."""
    settings = {"DATABASE_URL": database_url, "STRIPE_API_KEY": TEST_KEY, "STRIPE_API_BASE": site.fake.base_url}
    for name, value in (settings | {"STRIPE_LIVEMODE": "false", "ALLOW_LOGGED_STATEMENTS": "true"}).items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> "asyncio.Future[Result]":
        invoke = partial(CliRunner().invoke, main, arguments)
        return asyncio.get_running_loop().run_in_executor(None, invoke)

    return run


async def test_the_commands(
    site: Site, donationd: Callable[..., "asyncio.Future[Result]"], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`replay` and `reconcile` bring the ledger back, say what they did, and name what is wrong."""
    event = next(event for event in RECENT if event["type"] == "charge.succeeded")
    await record_failed(database, event["id"])
    await record_failed(database, "evt_old")
    single = await donationd("replay", event["id"], "--json")
    assert json.loads(single.stdout) == {"applied": 1, "seen_before": 0, "ignored": 0, "failed": 0}
    failed = await donationd("replay", "--failed")
    assert failed.exit_code == 1
    assert "evt_old could not be applied: Stripe does not have it" in failed.stderr
    listed = await donationd("replay", "--since", "2020-01-01")
    assert (listed.exit_code, listed.stderr) == (0, "")
    assert " 0 that could not be applied" in listed.stdout
    dry = await donationd("reconcile", "--dry-run", "--json")
    assert dry.exit_code == 1
    *lines, found = map(json.loads, dry.stdout.splitlines())
    assert found["differences"] == len(lines) > 0
    assert {"subject", "field", "ledger", "stripe", "is_read_time"} >= lines[0].keys()
    corrected = await donationd("reconcile")
    assert corrected.exit_code == 0
    assert "differences corrected" in corrected.stderr
    assert {line.split(": ")[0] for line in corrected.stdout.splitlines()} >= {each["subject"] for each in lines}
    assert (await donationd("reconcile")).stdout == ""
    site.fake.failures.permissions[TEST_KEY] = {"subscription_read"}
    rejected = await donationd("reconcile")
    assert rejected.exit_code == 1
    assert "while invoices were read" in rejected.stderr
    assert (await donationd("replay", "evt_1", "--failed")).exit_code == 2
    monkeypatch.delenv("STRIPE_API_KEY")
    assert "STRIPE_API_KEY: not set" in (await donationd("replay")).stderr


async def test_ctrl_c(site: Site, database_url: str) -> None:
    """Ctrl-C ends a command at once with exit status 130, also while it waits for Stripe; the next run continues."""
    site.fake.failures.add(Failure("hang", seconds=30, skip=1, path="GET /v1/charges"))
    settings = {"DATABASE_URL": database_url, "STRIPE_API_KEY": TEST_KEY, "STRIPE_API_BASE": site.fake.base_url}
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("donationd"),
        "reconcile",
        env=base_environ() | settings | {"STRIPE_LIVEMODE": "false", "ALLOW_LOGGED_STATEMENTS": "true"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    calls = site.fake.calls  # of charges one is answered, and the second one hangs
    await asyncio.to_thread(eventually, lambda: any("charges" in call.path for call in list(calls)), "no call")
    process.send_signal(signal.SIGINT)
    _, said = await process.communicate()
    assert (process.returncode, said) == (130, b"\ninterrupted\n")
    state = await load_state(site.database, "reconcile", RunState)
    assert state is not None
    assert state.places[0] == (None, 4)


async def test_the_endpoint(site: Site, aiohttp_client: MakeClient, database: Database) -> None:
    """`POST failed-events/{id}/replay` reads one event from Stripe and applies it; the action is on record."""
    replays = EventReplay(site.stripe, database, Recorder(database), livemode=False, hash_key=None)
    client = await aiohttp_client(application(database, follower(), tokens=TOKENS, event_replay=replays))
    event = next(event for event in RECENT if event["type"] == "charge.succeeded")

    async def post(event_id: str, status: int) -> dict[str, object]:
        path = f"/api/operator/failed-events/{event_id}/replay"
        async with client.post(path, json={}, headers=bearer(ACTOR)) as response:
            assert response.status == status
            body: dict[str, object] = await response.json()
            return body

    await post(event["id"], 404)
    await record_failed(database, event["id"])
    await record_failed(database, "evt_old")
    assert await post(event["id"], 200) == {"event": event["id"], "by": "anna", "result": "applied", "error": None}
    await post(event["id"], 409)
    await post("evt_old", 410)
    site.fake.failures.add(Failure(status=500, times=None))
    await post("evt_old", 503)
    actions = "SELECT actor, action, event_id FROM operator_acts ORDER BY id"
    expected = [("anna", "replay", id_) for id_ in (event["id"], "evt_old", "evt_old")]
    assert await database.fetch(actions) == expected


async def test_the_button_of_the_console(site: Site, aiohttp_client: MakeClient, database: Database) -> None:
    """It does the same: the event is applied and leaves the queue; what Stripe does not have stays, with the reason."""
    replays = EventReplay(site.stripe, database, Recorder(database), livemode=False, hash_key=None)
    client = await aiohttp_client(application(database, follower(), tokens=TOKENS, event_replay=replays))
    anna = await Visitor(client).sign_in(ACTOR)
    event = next(event for event in RECENT if event["type"] == "charge.succeeded")
    await record_failed(database, event["id"])
    await record_failed(database, "evt_old")
    queue = "/operator/failed"
    reply = await anna.post(f"{queue}/{event['id']}/replay", {"back": queue})
    assert reply.headers["Location"] == f"{queue}?done=replay_event"
    page = await anna.page(reply.headers["Location"])
    assert 'role="status">The event was read from Stripe again.' in page
    assert event["id"] not in page and "evt_old" in page
    charge = event["data"]["object"]["id"]
    assert await database.fetch("SELECT count(*) FROM stripe_attributions WHERE charge_id = %s", [charge]) == [(1,)]
    reply = await anna.post(f"{queue}/evt_old/replay", {"back": queue})
    assert reply.status == 410 and "Stripe does not have event evt_old any more" in await reply.text()


async def test_the_daily_job(site: Site, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reports what it has brought back, and the next pass finds nothing; it reads the events of one day more than
    since the last pass."""
    monkeypatch.setattr("daemon.jobs.recovery.time.time", lambda: NEWEST + 1000.0)
    reported: list[str] = []

    async def report(progress: str) -> None:
        reported.append(progress)

    settings = {"DATABASE_URL": database_url, "STRIPE_API_KEY": TEST_KEY, "STRIPE_LIVEMODE": "false"}
    deps = JobDependencies(
        config=JobsConfig.from_environ(settings),
        database=site.database,
        recorder=Recorder(site.database),
        stripe_api=site.stripe,
        metrics=CollectorRegistry(),
        report=report,
    )
    job = recovery.daily(deps.config)
    lost = RECENT[-40:]
    await site.deliver(event for event in RECENT if event not in lost)
    with pytest.raises(ProblemsFound) as found:
        await job.run(deps)
    assert "events were not received, and have been applied now" in found.value.problems[0]
    assert any("events read" in each for each in reported)
    assert any("PaymentIntents" in each for each in reported)
    await job.run(deps)
    weekly = recovery.weekly(deps.config)
    with pytest.raises(ProblemsFound, match="is missing"):  # what is older than 40 days
        await weekly.run(deps)
    await weekly.run(deps)


def test_counts_are_added() -> None:
    assert Replayed(1, 2, 3, 4).plus(Replayed(10, 20, 30, 40)) == Replayed(11, 22, 33, 44)
