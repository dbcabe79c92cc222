"""Counts attempts to pay and looks for signals of fraud, beside the deliveries and never on their way (SPEC 11)."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime

import structlog

from daemon.api.metrics import ApiMetrics
from daemon.ledger.events.event_facts import Attempt
from daemon.reports import attempts
from daemon.reports.attempts import AttemptCounter
from daemon.reports.fraud import HOUR_S, Level, Name, Signal
from daemon.reports.fraud_report import attempt_signals, ledger_signals
from daemon.reports.fraud_thresholds import Thresholds
from sql.database import Database
from sql.errors import DatabaseUnavailable, StatementRejected

log = structlog.get_logger()

TURN_S = 5.0  # counts are stored at each turn; a signal of attempts is in the metrics two turns later at most
TURNS_PER_LEDGER = 60  # payments and refunds are read from the journal every five minutes
TURNS_PER_CLEANING = 12
LAST_STORE_S = 1.0  # at the end of the process
OF_ATTEMPTS = (Name.CARD_TESTING, Name.COUNTRY)
OF_LEDGER = (Name.BURST, Name.SOON_REFUNDS, Name.EARLY_WARNING)
# How long a signal of attempts is in the metrics after its last failure. Hours are counted, so it is up to one more.
CURRENT_S = HOUR_S


class FraudWatch:
    """The counts of this process, and the signals of all processes together.

    Args:
        database: the primary server, by connections that no delivery waits for.
        dispute_fee: what Stripe charges for a dispute, for people; None if that is not configured.
    """

    def __init__(
        self,
        database: Database,
        metrics: ApiMetrics,
        limits: Thresholds,
        dispute_fee: str | None,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._limits = limits
        self._dispute_fee = dispute_fee
        self._clock = clock
        self._sleep = sleep
        self._counter = AttemptCounter(clock)
        self._of_attempts: Sequence[Signal] = ()
        self._of_ledger: Sequence[Signal] = ()
        self._logged: set[tuple[Name, Level, str, str]] = set()

    def count(self, attempt: Attempt) -> None:
        """Counts an attempt; this takes a microsecond and waits for nothing."""
        self._counter.count(attempt)
        self._metrics.payment_attempt(failed=attempt.failed)

    async def run(self) -> None:
        """Stores what was counted, and keeps the metrics of the signals fresh, until it is cancelled."""
        turn = 0
        try:
            while True:
                try:
                    await self._turn(turn)
                    turn += 1
                except (DatabaseUnavailable, StatementRejected) as error:  # the next turn tries again
                    log.debug("signals of fraud are not looked for", reason=str(error))
                await self._sleep(TURN_S)
        finally:
            with contextlib.suppress(DatabaseUnavailable, StatementRejected, TimeoutError):
                async with asyncio.timeout(LAST_STORE_S):
                    await attempts.store(self._database, self._counter, self._limits.minute_percent)

    async def _turn(self, turn: int) -> None:
        await attempts.store(self._database, self._counter, self._limits.minute_percent)
        self._metrics.attempts_not_counted(self._counter.not_counted)
        if turn % TURNS_PER_CLEANING == 0:
            await attempts.delete_old(self._database)
        now_s = self._clock()
        found = await attempt_signals(self._database, self._limits)
        self._of_attempts = [signal for signal in found if signal.until > now_s - HOUR_S - CURRENT_S]
        self._show(OF_ATTEMPTS, self._of_attempts)
        if turn % TURNS_PER_LEDGER == 0:
            now = datetime.fromtimestamp(now_s, UTC)
            self._of_ledger = await ledger_signals(self._database, self._limits, now, self._dispute_fee)
            self._show(OF_LEDGER, self._of_ledger)
        self._log([*self._of_attempts, *self._of_ledger])

    def _show(self, names: Iterable[Name], signals: Sequence[Signal]) -> None:
        """Show what was read just now: of all processes the metric has what was shown last."""
        self._metrics.fraud_signals(names, Counter((signal.name, signal.level) for signal in signals))

    def _log(self, signals: Sequence[Signal]) -> None:
        new: dict[tuple[Name, Level, str], list[Signal]] = {}
        for signal in self._new(signals):
            new.setdefault((signal.name, signal.level, signal.by), []).append(signal)
        for (name, level, by), (first, *more) in new.items():
            # Neither a hash nor a ticket: the report shows both to those who may read it.
            others = f" And {len(more)} more." if more else ""
            log.warning(f"[Fraud] ⚠️ {level}: {first.reason}{others}", signal=name, by=by)

    def _new(self, signals: Sequence[Signal]) -> Iterable[Signal]:
        """The signals that were not there at the last turn."""
        keys = {(signal.name, signal.level, signal.by, signal.subject): signal for signal in signals}
        new = [signal for key, signal in keys.items() if key not in self._logged]
        self._logged = set(keys)
        return new
