"""The watchdog's rules, walked through with a clock of our own."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from health_sidecar.watchdog import (
    RECONNECT_PAUSE_S,
    Outcome,
    Phase,
    Rules,
    Watch,
    begin,
    describe,
    failed,
    reported,
    succeeded,
    watch_database,
)
from sql.errors import DatabaseUnavailable

RULES = Rules()


def fail_times(count: int, watch: Watch, rules: Rules = RULES) -> tuple[Watch, list[Outcome]]:
    """The state after `count` failures, each at the moment it was due, and what each meant."""
    outcomes = []
    for _ in range(count):
        watch, outcome = failed(watch, rules, watch.due_s)
        outcomes.append(outcome)
    return watch, outcomes


def test_healthy_database_is_pinged_once_per_interval() -> None:
    """While pings succeed, the next is due one interval after the last."""
    watch = begin(RULES, 100.0)
    assert watch.due_s == 130.0
    watch, outcome = succeeded(watch, RULES, 130.0)
    assert (watch.due_s, outcome, watch.ready) == (160.0, Outcome.STEADY, True)


def test_two_failures_warn_and_keep_ready() -> None:
    """Below the limit a failure only shortens the interval."""
    watch, outcomes = fail_times(2, begin(RULES, 0.0))
    assert outcomes == [Outcome.FAILED, Outcome.FAILED]
    assert watch.ready
    assert watch.failures == 2
    assert watch.due_s == 30.0 + 2 * RULES.retry_s


def test_third_failure_marks_not_ready() -> None:
    """The third consecutive failure decides, less than half a second after the first."""
    first, _ = fail_times(1, begin(RULES, 0.0))
    watch, outcomes = fail_times(2, first)
    assert outcomes[-1] is Outcome.LOST
    assert not watch.ready
    assert watch.pinged_s - first.pinged_s == pytest.approx(2 * RULES.retry_s)


def test_success_between_failures_starts_the_count_again() -> None:
    """Only consecutive failures count; the first success restores the long interval."""
    watch, _ = fail_times(2, begin(RULES, 0.0))
    watch, outcome = succeeded(watch, RULES, 31.0)
    assert outcome is Outcome.RESTORED
    assert (watch.failures, watch.due_s) == (0, 61.0)
    watch, _ = fail_times(2, watch)
    assert watch.ready


def test_reconnects_are_spaced_and_bounded() -> None:
    """After a short breath come exactly the configured attempts, a delay apart, then the end."""
    watch, _ = fail_times(3, begin(RULES, 0.0))
    assert watch.due_s - watch.pinged_s == RECONNECT_PAUSE_S
    for attempt in range(1, RULES.reconnect_attempts):
        watch, outcome = failed(watch, RULES, watch.due_s)
        assert (outcome, watch.attempts) == (Outcome.RECONNECT_FAILED, attempt)
        assert watch.due_s - watch.pinged_s == RULES.reconnect_delay_s
    watch, outcome = failed(watch, RULES, watch.due_s)
    assert (outcome, watch.phase, watch.ready) == (Outcome.GAVE_UP, Phase.GAVE_UP, False)


def test_reconnect_makes_ready_and_forgets_failures() -> None:
    """One successful attempt brings back the state right after the gate."""
    watch, _ = fail_times(5, begin(RULES, 0.0))
    assert watch.attempts == 2
    watch, outcome = succeeded(watch, RULES, 50.0)
    assert outcome is Outcome.RECONNECTED
    assert watch == begin(RULES, 50.0)


def test_report_brings_the_ping_forward() -> None:
    """An API process's report makes a ping due now, if the last one is not just over."""
    watch = reported(begin(RULES, 0.0), RULES, 10.0)
    assert watch.due_s == 10.0


def test_reports_cannot_flood_the_database() -> None:
    """However many reports come, pings keep the short interval between them."""
    watch = begin(RULES, 10.0)
    for now_s in (10.0, 10.05, 10.1):
        watch = reported(watch, RULES, now_s)
    assert watch.due_s == 10.0 + RULES.retry_s


def test_report_while_reconnecting_changes_nothing() -> None:
    """An outage that is known already keeps its schedule."""
    watch, _ = fail_times(3, begin(RULES, 0.0))
    assert reported(watch, RULES, watch.pinged_s + 0.5) == watch


@given(
    events=st.lists(st.sampled_from(["ok", "fail", "report"]), max_size=60),
    rules=st.builds(Rules, max_failures=st.integers(1, 5), reconnect_attempts=st.integers(1, 5)),
)
def test_invariants_hold_after_any_history(events: list[str], rules: Rules) -> None:
    """Ready exactly while fewer than the limit failed in a row; the next ping is never further off than a pause."""
    watch = begin(rules, 0.0)
    for event in events:
        if watch.phase is Phase.GAVE_UP:
            break
        now_s = watch.due_s
        if event == "report":
            watch = reported(watch, rules, now_s)
        else:
            watch, _ = (succeeded if event == "ok" else failed)(watch, rules, now_s)
        assert watch.ready == (watch.failures < rules.max_failures)
        assert watch.attempts <= rules.reconnect_attempts
        assert now_s <= watch.due_s <= now_s + max(rules.interval_s, rules.reconnect_delay_s)


def test_log_lines_have_the_original_wording() -> None:
    """The lines that operators search for have the exact wording of the original design."""
    watch, _ = fail_times(1, begin(RULES, 0.0))
    assert describe(watch, Outcome.FAILED, RULES) == [("warning", "[DB Watchdog] ❌ Ping failed (1/3)")]
    lines = [text for outcome in Outcome for _, text in describe(watch, outcome, RULES)]
    assert "[DB Watchdog] ✅ Database connection restored" in lines
    assert "[DB Watchdog] ✅ Reconnect successful" in lines
    assert "[DB Watchdog] 🚨 CRITICAL: Database reconnection failed" in lines
    assert "[DB Watchdog] Server will shut down" in lines


class Stage:
    """A database, a clock and reports for the loop: `answers` are the pings' results in order."""

    def __init__(self, answers: str, reports_at_s: tuple[float, ...] = ()) -> None:
        self.now_s = 0.0
        self.asked: list[tuple[str, float]] = []
        self.results: list[tuple[Outcome, str | None]] = []
        self._answers = iter(answers)
        self._reports = list(reports_at_s)

    async def wait_report(self, timeout_s: float) -> bool:
        """Time passes until the timeout or the next report."""
        await asyncio.sleep(0)
        if self._reports and self._reports[0] <= self.now_s + timeout_s:
            self.now_s = max(self.now_s, self._reports.pop(0))
            return True
        self.now_s += timeout_s
        return False

    async def _answer(self, question: str) -> None:
        self.asked.append((question, round(self.now_s, 3)))
        if next(self._answers) != "+":
            raise DatabaseUnavailable("connection refused")

    async def ping(self) -> None:
        await self._answer("ping")

    async def reconnect(self) -> None:
        await self._answer("reconnect")

    async def run(self, rules: Rules) -> None:
        """The loop, until it gives up or the answers are used up."""
        await watch_database(
            rules,
            ping=self.ping,
            reconnect=self.reconnect,
            wait_report=self.wait_report,
            clock=lambda: self.now_s,
            on_result=lambda _watch, outcome, error: self.results.append((outcome, error)),
        )


async def test_loop_ends_when_reconnects_are_used_up() -> None:
    """An outage that lasts: three pings, the attempts on their schedule, then the loop returns."""
    stage = Stage("-" * 5)
    await stage.run(Rules(reconnect_attempts=2))
    assert stage.asked == [
        ("ping", 30.0),
        ("ping", 30.2),
        ("ping", 30.4),
        ("reconnect", 31.4),
        ("reconnect", 36.4),
    ]
    assert stage.results[-1] == (Outcome.GAVE_UP, "connection refused")


async def test_loop_pings_at_once_after_a_report() -> None:
    """A report at second 5 makes the outage known well within a second."""
    stage = Stage("---" + "-", reports_at_s=(5.0, 5.1))
    await stage.run(Rules(reconnect_attempts=1))
    assert stage.asked[:3] == [("ping", 5.0), ("ping", 5.2), ("ping", 5.4)]
    assert stage.results[2][0] is Outcome.LOST


async def test_flood_of_reports_does_not_put_off_the_ping() -> None:
    """A thousand reports at the same moment cost one ping, and that ping comes."""
    stage = Stage("+" + "-" * 4, reports_at_s=(5.0,) * 1000)
    await stage.run(Rules(reconnect_attempts=1))
    assert stage.asked[0] == ("ping", 5.0)
    assert stage.asked[1][1] >= 5.2


async def test_loop_goes_on_after_a_reconnect() -> None:
    """After a reconnect the long interval is back."""
    stage = Stage("---+" + "---" + "-")
    await stage.run(Rules(reconnect_attempts=1))
    assert stage.asked[3:5] == [("reconnect", 31.4), ("ping", 61.4)]
    assert (Outcome.RECONNECTED, None) in stage.results
