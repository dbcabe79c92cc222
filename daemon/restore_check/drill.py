"""The steps of the drill: a backup, work, the loss of everything, the restore, and the comparison."""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from daemon.jobs.balance import read_balance
from daemon.jobs.outbox import Outbox
from daemon.jobs.reconcile import Options, Reports, reconcile
from daemon.jobs.replay import replay
from daemon.jobs.runs import RunDependencies
from daemon.ledger import audit, verification
from daemon.ledger.recorder import Recorder
from daemon.operator_log.apply import apply
from daemon.operator_log.export import export
from daemon.reports import closings
from daemon.restore_check.comparison import Compared, compare, keep, lines_with
from daemon.restore_check.scratch import ScratchLedger
from daemon.restore_check.work import Work
from daemon.simulator.fake_stripe.fake import TEST_KEY, FakeStripe
from daemon.simulator.fake_stripe.server import serving
from daemon.stripe_api.client import StripeApi
from daemon.stripe_api.config import StripeApiConfig
from sql.database import Database
from sql.snapshot import snapshot

STATEMENT_S = 600.0
LOG = "operator.log"

Report = Callable[[str], None]


@dataclass
class Outcome:
    """What the drill found.

    Attributes:
        compared: the rows of the lost ledger, by kind.
        problems: a sentence for everything else that is not as it must be.
        seconds: how long each step took.
    """

    compared: list[Compared] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def is_equal(self) -> bool:
        """Whether the restored ledger is the lost one."""
        return not self.problems and not any(each.differing for each in self.compared)


class Drill:
    """One drill in a folder.

    Args:
        events: how many before the backup, and how many after it.
        report: is called with each step that begins.
    """

    def __init__(self, folder: Path, events: int, report: Report) -> None:
        self._folder, self._events, self._report = folder, events, report
        self._log = folder / LOG
        self._now = int(time.time())
        self.outcome = Outcome()

    async def run(self) -> Outcome:
        """All steps."""
        with self._step("making a ledger"):
            ledger = ScratchLedger(self._folder, lambda _: None)
        async with serving(FakeStripe()) as fake:
            work = await self._lose(ledger, fake)
            ledger.destroy()
            ledger.restore()
            with ledger.running():
                async with connected(ledger.url, fake) as deps:
                    await self._restore(ledger, deps, work)
        return self.outcome

    async def _lose(self, ledger: ScratchLedger, fake: FakeStripe) -> Work:
        """The work before and after the backup, and what the lost ledger has in the end."""
        with ledger.running():
            async with connected(ledger.url, fake) as deps:
                work = Work(fake, deps, self._now)
                with self._step(f"{self._events} events before the backup"):
                    await work.before_the_backup(self._events)
                    await export(deps.database, self._log)
        with self._step("base backup"):
            ledger.back_up()
        with ledger.running():
            async with connected(ledger.url, fake) as deps:
                work.continue_with(deps)
                with self._step(f"{self._events} events after it"):
                    await work.after_the_backup(self._events)
                    await export(deps.database, self._log)
                with self._step("all actions of operators"):
                    await work.until_the_loss()
                with self._step("export of the operator log"):
                    await export(deps.database, self._log)
            keep(ledger.url, "facts", self._folder / "lost-facts")
            keep(ledger.url, "rows", self._folder / "lost-rows")
        return work

    async def _restore(self, ledger: ScratchLedger, deps: RunDependencies, work: Work) -> None:
        """Everything that an operator does after the files of the backup are in their place, and the comparison."""
        with self._step("operator log"):
            await apply(deps.database, self._log)
        self._look_for_erased(ledger, work, "applied")
        with self._step("replay of Stripe's events"):
            await replay(deps, work.backup_at - 1)
        self._look_for_erased(ledger, work, "replayed")
        if await Outbox(deps.database).due():
            self.outcome.problems.append("mails are sent before the ledger has been compared with Stripe's objects")
        with self._step("reconciliation with Stripe's objects"):
            found = await reconcile(deps, Options(), Reports())
        if found.differences or found.unknown or found.failed:
            self.outcome.problems.append(f"after the replay the ledger differed from Stripe's objects: {found}")
        if not await Outbox(deps.database).due():
            self.outcome.problems.append("mails still wait after the ledger was compared with Stripe's objects")
        await read_balance(deps.stripe, deps.database)
        with self._step("comparison"):
            self._look_for_erased(ledger, work, "reconciled")
            self.outcome.compared = [
                *compare(self._folder / "lost-facts", self._folder / "replayed-facts"),
                *compare(self._folder / "lost-rows", self._folder / "reconciled-rows"),
            ]
            await self._check_reports(deps.database)
            self.outcome.problems += _differences(ledger.url)

    def _look_for_erased(self, ledger: ScratchLedger, work: Work, when: str) -> None:
        """Keeps all rows as they are now: they must not contain anything of the donors who were erased."""
        for of in ("facts", "rows"):
            keep(ledger.url, of, self._folder / f"{when}-{of}")
            if lines := lines_with(self._folder / f"{when}-{of}", work.canaries):
                self.outcome.problems.append(f"{lines} {of} contain data of erased donors when the ledger was {when}")

    async def _check_reports(self, database: Database) -> None:
        """Each closed report can still be made as it was filed."""
        for each in await closings.closings(database):
            report = await closings.restated(database, each.closed_period, version=each.version)
            if not report.head["filedConfirmed"]:
                self.outcome.problems.append(f"the closed report {each.period}, version {each.version}, is another one")

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self._report(name)
        began_s = time.monotonic()
        yield
        self.outcome.seconds[name] = round(time.monotonic() - began_s, 2)


@asynccontextmanager
async def connected(url: str, fake: FakeStripe) -> AsyncIterator[RunDependencies]:
    """What the work and the restore need of a ledger and of the fake."""
    config = StripeApiConfig.from_environ(
        {
            "DATABASE_URL": url,
            "STRIPE_API_KEY": TEST_KEY,
            "STRIPE_API_BASE": fake.base_url,
            "STRIPE_LIVEMODE": "false",
        }
    )
    database = Database(
        url,
        pool_size=3,
        statement_timeout_s=STATEMENT_S,
        connect_timeout_s=5,
        application_name="donationd restore-check",
    )
    stripe = StripeApi(config)
    try:
        yield RunDependencies(
            stripe=stripe, database=database, recorder=Recorder(database), livemode=False, hash_key=None
        )
    finally:
        await stripe.close()
        await database.close()


def _differences(url: str) -> list[str]:
    """What `donationd verify` finds."""
    chain = audit.Chain()
    with snapshot(url, "donationd restore-check") as moment:
        found = [*verification.verify(moment, lambda _: None), *chain.differences(audit.chained_actions(moment))]
    return [f"donationd verify finds: {line}" for line in found]
