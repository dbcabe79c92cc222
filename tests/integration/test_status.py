"""How everything is, for people and programs: the history, its availability, and `donationd status`."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from daemon.api.read_pools import ReplicaMetrics
from daemon.cli.commands.status import status
from daemon.cli.status import JOBS
from daemon.jobs.metrics import STATES
from daemon.runtime.readiness import HEALTHY, Readiness
from health_sidecar import report
from health_sidecar.endpoints import build_app, report_routes
from health_sidecar.event_rates import INTERVAL_S, EventRates
from health_sidecar.history import History, Run
from health_sidecar.process_states import Process
from health_sidecar.read_replica import replica_of
from sql.database import Database
from tests.support.api_application import MakeClient

NOON = datetime(2024, 12, 16, 12, tzinfo=UTC)
EVENTS = {"minute": {"seconds": 60, "applied": 3}, "hour": {"seconds": 3600, "applied": 40, "duplicate": 2}}
NOTHING_WAITS = {"webhook_events_failed_waiting": 0, "donations_unassigned": 0, "mails_undelivered": 0}
RUNNING = {"sidecar": Process(state="RUNNING", started_s=0.0)}
READY = Readiness(ready=True, last_ping_at=NOON, message=HEALTHY)


def run(minute: float, ok: bool, state: str = "passed") -> Run:
    return Run(kind="transition", ok=ok, state=state, detail="", at=NOON + timedelta(minutes=minute))


def minutes(minute: float) -> datetime:
    return NOON + timedelta(minutes=minute)


@pytest.mark.parametrize(
    ("runs", "since", "percent"),
    [
        ([run(0, True)], 0, 100.0),
        ([run(0, True), run(50, False), run(60, True)], 0, 90.0),
        ([run(0, True), run(50, False), run(60, True)], 50, 80.0),  # the outage is partly outside
        ([run(0, True), run(50, False)], 90, 0.0),  # the state before the window holds in it
        ([run(0, True), run(99.9999, False)], 0, 99.999),  # cut, not rounded
        ([], 0, None),
    ],
)
def test_availability_is_the_share_of_the_window_that_was_ready(
    runs: list[Run], since: float, percent: float | None
) -> None:
    """Each state lasts until the next; the window ends at minute 100."""
    assert report.availability(runs, minutes(since), minutes(100)) == percent


@given(st.lists(st.tuples(st.integers(0, 10**6), st.booleans()), min_size=1), st.integers(0, 10**6))
def test_availability_and_its_opposite_make_a_hundred(states: list[tuple[int, bool]], since: int) -> None:
    """Up and down share the known part of any window between them, but for what cutting takes."""
    runs = [run(minute, ok) for minute, ok in sorted(states)]
    opposite = [run(minute, not ok) for minute, ok in sorted(states)]
    begin, end = max(minutes(since), runs[0].at), minutes(10**6 + 1)
    up, down = report.availability(runs, begin, end), report.availability(opposite, begin, end)
    assert up is not None
    assert down is not None
    assert 99.998 <= up + down <= 100


def app(runs: list[Run], whole: dict[str, object] | None = None) -> web.Application:
    async def all_of_it() -> dict[str, object]:
        return whole or {}

    routes = report_routes(lambda since, now: report.history(runs, since, now), all_of_it)
    return build_app(lambda: READY, CollectorRegistry(), routes)


async def test_history_begins_where_it_is_asked_to_or_where_knowledge_does(aiohttp_client: MakeClient) -> None:
    """Rows in the window, oldest first; before the first known row nothing is claimed."""
    client = await aiohttp_client(app([run(0, False, "failed"), run(1, True)]))
    reply = await client.get("/health/history", params={"since": "2024-12-16T13:00:30+01:00"})
    assert reply.status == 200
    body = await reply.json()
    assert body["since"] == "2024-12-16T12:00:30.000Z"
    assert [row["state"] for row in body["runs"]] == ["passed"]
    assert body["availabilityPercent"] > 0
    body = await (await client.get("/health/history?since=2020-01-01T00:00:00Z")).json()
    assert body["since"] == "2024-12-16T12:00:00.000Z"
    assert body["runs"][0] == {
        "at": "2024-12-16T12:00:00.000Z",
        "kind": "transition",
        "ok": False,
        "state": "failed",
        "detail": "",
    }


@pytest.mark.parametrize("since", ["", "yesterday", "2024-12-16", "2024-12-16T12:00:00", "2999-01-01T00:00:00Z", "1e9"])
async def test_what_is_no_moment_of_the_past_is_refused(aiohttp_client: MakeClient, since: str) -> None:
    """400 with the parameter's name and what it needs."""
    client = await aiohttp_client(app([]))
    reply = await client.get("/health/history", params={"since": since})
    assert reply.status == 400
    assert (await reply.json())["message"].startswith("since: ")


async def test_history_contains_earlier_processes(database: Database) -> None:
    """What the table holds comes before what this process has seen; each row is there once."""
    former = History(None, database.fetch)
    former.record(run(0, True))
    former.record(run(1, False, "stopped"))
    await former.drain()
    history = History(None, database.fetch)
    history.record(run(2, True))
    assert [each.at for each in history.recent] == [minutes(2)]
    for _ in range(2):
        await history.read_earlier_rows()
    assert [each.at for each in history.recent] == [minutes(0), minutes(1), minutes(2)]


async def test_events_of_the_last_minute_and_hour_come_from_the_counters() -> None:
    """An event a second, looked at for two hours: the windows hold what happened in them, and nothing at the start."""
    now = [0.0]
    rates = EventRates(lambda: {"applied": int(now[0])} if now[0] else {}, clock=lambda: now[0])
    await rates.read()
    now[0] = 3.0
    assert (await rates.recent())["hour"] == {"seconds": 3, "applied": 3}
    for look in range(1, 1441):
        now[0] = look * INTERVAL_S
        await rates.read()
    recent = await rates.recent()
    assert recent["minute"] == {"seconds": 60, "applied": 60}
    assert recent["hour"] == {"seconds": 3600, "applied": 3600}


async def test_files_that_cannot_be_read_just_now_count_nothing_twice() -> None:
    """A moment without counters is no fall to zero."""
    readings = iter([{"applied": 100}, {}, {"applied": 101}])
    rates = EventRates(lambda: next(readings), clock=lambda: 0.0)
    await rates.read()
    await rates.read()
    assert (await rates.recent())["minute"]["applied"] == 1


async def ask(port: int | None, *words: str) -> Result:
    """`donationd status`, beside the event loop that answers it."""
    environ = {"DATABASE_URL": "postgresql://nowhere", "METRICS_HOST": "0.0.0.0", "METRICS_PORT": str(port)}
    return await asyncio.to_thread(CliRunner().invoke, status, words, env=environ)


async def test_status_exits_0_only_if_all_is_well(aiohttp_client: MakeClient) -> None:
    """All well: 0. The screen has each thing once."""
    whole = report.status(READY, RUNNING, EVENTS, NOTHING_WAITS, [run(0, True)])
    client = await aiohttp_client(app([], whole))
    result = await ask(client.port)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("All is well.\n")
    for words in ("ready; last ping answered", "sidecar            RUNNING", "1 h 0 min", "2024-12-16 12:00:00"):
        assert words in result.output
    assert "0 failed events, 0 unassigned donations, 0 undelivered mails" in result.output


@pytest.mark.parametrize(
    ("readiness", "processes", "waiting", "problem"),
    [
        (Readiness(ready=False, last_error="timeout"), RUNNING, NOTHING_WAITS, "(timeout)"),
        (Readiness(ready=True, last_error="timeout"), RUNNING, NOTHING_WAITS, "the last ping of the database failed"),
        (READY, {"api:api_00": Process(state="FATAL")}, NOTHING_WAITS, "api:api_00 is FATAL"),
        (READY, RUNNING, {"webhook_events_failed_waiting": 2}, "2 failed events"),
        (READY, RUNNING, {"donations_unassigned": 1}, "1 paid donations"),
        (READY, RUNNING, {"mails_undelivered": 1}, "1 mails to donors"),
        (
            READY,
            RUNNING,
            {"schema_migrations_missing": 1},
            "1 migrations of this release are not applied: donationd migrate",
        ),
    ],
)
async def test_each_trouble_is_a_sentence_and_exit_status_1(
    aiohttp_client: MakeClient,
    readiness: Readiness,
    processes: dict[str, Process],
    waiting: dict[str, int],
    problem: str,
) -> None:
    """One problem is enough, and --json has it too."""
    whole = report.status(readiness, processes, EVENTS, waiting, [])
    client = await aiohttp_client(app([], whole))
    result = await ask(client.port)
    assert result.exit_code == 1
    assert problem in result.output
    as_json = await ask(client.port, "--json")
    assert as_json.exit_code == 1
    status = json.loads(as_json.stdout)
    assert not status["ok"]
    assert problem in status["problems"][0]


async def test_the_replica_has_a_line(aiohttp_client: MakeClient) -> None:
    """It is shown where there is one, as the API processes' metrics have it, and is a problem if it cannot be used."""
    registry = CollectorRegistry()
    assert replica_of(registry) is None
    metrics = ReplicaMetrics(registry)
    assert replica_of(registry) is None
    for state, line, code in (
        ("usable", "Replica    used for reads; 0.0 s and 0 KiB behind, at most\n", 0),
        ("unusable", "Replica    not used; 0.0 s", 1),
    ):
        metrics.show_state(state)
        whole = report.status(READY, RUNNING, EVENTS, NOTHING_WAITS, [], replica=replica_of(registry))
        client = await aiohttp_client(app([], whole))
        result = await ask(client.port)
        assert (result.exit_code, line in result.output) == (code, True), result.output
        assert ("the replica in READ_DATABASE_URL cannot be used" in result.output) == bool(code)


def test_every_state_of_the_jobs_is_explained() -> None:
    """The screen says in words what the jobs process shows as a metric."""
    assert set(JOBS) == {None, *STATES}
    assert "STRIPE_API_KEY is not set" in JOBS["running_without_stripe"]


async def test_a_problem_with_a_long_text_is_one_short_line(aiohttp_client: MakeClient) -> None:
    """--json has all of it."""
    whole = report.status(READY, RUNNING, EVENTS, NOTHING_WAITS, [])
    long = "x" * 1000
    client = await aiohttp_client(app([], whole | {"ok": False, "problems": [long]}))
    screen, as_json = await ask(client.port), await ask(client.port, "--json")
    assert max(map(len, screen.stdout.splitlines())) == 200
    assert json.loads(as_json.stdout)["problems"] == [long]


async def test_a_silent_sidecar_is_a_problem_and_no_traceback(aiohttp_client: MakeClient) -> None:
    """No sidecar, or another program on its port: one sentence, exit status 1, JSON for programs all the same."""
    client = await aiohttp_client(web.Application())
    port = client.port
    other = await ask(client.port, "--json")
    assert (other.exit_code, json.loads(other.stdout)["ok"]) == (1, False)
    assert "is not this release's sidecar" in other.stdout
    await client.close()
    absent = await ask(port)
    assert absent.exit_code == 1
    assert "the sidecar does not answer" in absent.output
