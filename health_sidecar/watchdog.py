"""The watchdog: pings the database at a long interval, and at a short one as soon as a ping fails.

The state machine has no I/O: it takes the time and the result of a ping and decides when the next ping is due.
`watch_database` is the loop that pings at these times.

    WATCHING --ping failed, fewer than the limit--> WATCHING, next ping after the short interval
    WATCHING --the last failure--> RECONNECTING: not ready
    RECONNECTING --attempt succeeded--> WATCHING: ready again
    RECONNECTING --last attempt failed--> GAVE_UP: the process ends with exit status 1
"""

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from sql.errors import DatabaseUnavailable

# The original design closes its connection and waits for a second before its first attempt to reconnect.
RECONNECT_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Rules:
    """The watchdog's settings, all times in seconds."""

    interval_s: float = 30.0
    retry_s: float = 0.2
    max_failures: int = 3
    reconnect_attempts: int = 5
    reconnect_delay_s: float = 5.0


class Phase(enum.Enum):
    """What the watchdog does."""

    WATCHING = "watching"
    RECONNECTING = "reconnecting"
    GAVE_UP = "gave up"


class Outcome(enum.Enum):
    """The effect of a ping's result."""

    STEADY = "steady"
    FAILED = "failed"
    RESTORED = "restored"
    LOST = "lost"
    RECONNECT_FAILED = "reconnect failed"
    RECONNECTED = "reconnected"
    GAVE_UP = "gave up"


@dataclass(frozen=True, slots=True)
class Watch:
    """The watchdog's state; `failures` and `attempts` are consecutive."""

    due_s: float
    phase: Phase = Phase.WATCHING
    failures: int = 0
    attempts: int = 0
    pinged_s: float = float("-inf")

    @property
    def ready(self) -> bool:
        """Whether requests may use the database."""
        return self.phase is Phase.WATCHING


def begin(rules: Rules, now_s: float) -> Watch:
    """The state right after the gate has passed, whose own ping counts as the first."""
    return Watch(due_s=now_s + rules.interval_s, pinged_s=now_s)


def succeeded(watch: Watch, rules: Rules, now_s: float) -> tuple[Watch, Outcome]:
    """A ping, or an attempt to reconnect, was answered."""
    if watch.phase is Phase.RECONNECTING:
        outcome = Outcome.RECONNECTED
    else:
        outcome = Outcome.RESTORED if watch.failures else Outcome.STEADY
    return begin(rules, now_s), outcome


def failed(watch: Watch, rules: Rules, now_s: float) -> tuple[Watch, Outcome]:
    """A ping, or an attempt to reconnect, was not answered."""
    if watch.phase is Phase.RECONNECTING:
        return _attempt_failed(watch, rules, now_s)
    failures = watch.failures + 1
    if failures < rules.max_failures:
        return replace(watch, failures=failures, due_s=now_s + rules.retry_s, pinged_s=now_s), Outcome.FAILED
    pause_s = min(RECONNECT_PAUSE_S, rules.reconnect_delay_s)
    lost = Watch(due_s=now_s + pause_s, phase=Phase.RECONNECTING, failures=failures, pinged_s=now_s)
    return lost, Outcome.LOST


def _attempt_failed(watch: Watch, rules: Rules, now_s: float) -> tuple[Watch, Outcome]:
    """One more attempt to reconnect has failed."""
    tried = replace(watch, attempts=watch.attempts + 1, due_s=now_s + rules.reconnect_delay_s, pinged_s=now_s)
    if tried.attempts < rules.reconnect_attempts:
        return tried, Outcome.RECONNECT_FAILED
    return replace(tried, phase=Phase.GAVE_UP), Outcome.GAVE_UP


def reported(watch: Watch, rules: Rules, now_s: float) -> Watch:
    """An API process reports a failed query: ping at once, but never more often than the short interval.

    While reconnecting a report changes nothing.
    """
    if watch.phase is not Phase.WATCHING:
        return watch
    return replace(watch, due_s=min(watch.due_s, max(now_s, watch.pinged_s + rules.retry_s)))


def describe(watch: Watch, outcome: Outcome, rules: Rules) -> list[tuple[str, str]]:
    """The log lines of an outcome, in the wording of the original design: level and text. `watch` is the new state."""
    match outcome:
        case Outcome.STEADY:
            return [("debug", "[DB Watchdog] Ping successful")]
        case Outcome.FAILED:
            return [("warning", f"[DB Watchdog] ❌ Ping failed ({watch.failures}/{rules.max_failures})")]
        case Outcome.LOST:
            return [
                ("error", f"[DB Watchdog] ❌ Ping failed ({watch.failures}/{rules.max_failures})"),
                ("error", "[DB Watchdog] ❌ Database marked not ready, reconnecting"),
            ]
        case Outcome.RESTORED:
            return [("info", "[DB Watchdog] ✅ Database connection restored")]
        case Outcome.RECONNECTED:
            return [
                ("info", "[DB Watchdog] ✅ Reconnect successful"),
                ("info", "[DB Watchdog] ✅ Database connection restored"),
            ]
        case Outcome.RECONNECT_FAILED:
            return [("error", f"[DB Watchdog] Reconnect attempt {watch.attempts} failed")]
        case Outcome.GAVE_UP:
            return [
                ("error", f"[DB Watchdog] Reconnect attempt {watch.attempts} failed"),
                ("critical", "[DB Watchdog] 🚨 CRITICAL: Database reconnection failed"),
                ("critical", "[DB Watchdog] Server will shut down"),
            ]


async def watch_database(
    rules: Rules,
    *,
    ping: Callable[[], Awaitable[None]],
    reconnect: Callable[[], Awaitable[None]],
    wait_report: Callable[[float], Awaitable[bool]],
    clock: Callable[[], float],
    on_result: Callable[[Watch, Outcome, str | None], None],
) -> None:
    """Run the state machine until it gives up.

    `ping` and `reconnect` raise DatabaseUnavailable; `wait_report(seconds)` returns True as soon as an API process
    reports a failed query, False after that time; `on_result` is called with every result and the class of its error.
    """
    watch = begin(rules, clock())
    while watch.phase is not Phase.GAVE_UP:
        pause_s = watch.due_s - clock()
        # A ping that is due comes first: no flood of reports can delay it.
        if pause_s > 0 and await wait_report(pause_s):
            watch = reported(watch, rules, clock())
            continue
        try:
            await (ping() if watch.phase is Phase.WATCHING else reconnect())
        except DatabaseUnavailable as down:
            watch, outcome = failed(watch, rules, clock())
            on_result(watch, outcome, down.kind)
        else:
            watch, outcome = succeeded(watch, rules, clock())
            on_result(watch, outcome, None)
