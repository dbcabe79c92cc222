"""What a job is, and when its passes begin. No I/O."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from daemon.jobs.config import JobsConfig
from daemon.ledger.recorder import Recorder
from daemon.stripe_api.client import StripeApi
from sql.database import Database

FIRST_RETRY_S = 5.0
MAX_RETRY_S = 900.0


async def not_reported(_progress: str) -> None:
    """For a pass whose progress is not shown."""


@dataclass(frozen=True, kw_only=True)
class JobDependencies:
    """What the passes of all jobs share.

    Attributes:
        stripe_api: None without STRIPE_API_KEY; then no job runs that calls Stripe.
        database: a few connections that no webhook waits for.
        recorder: writes events and facts as the API does, over other connections.
        metrics: what the sidecar serves. A feature creates its metrics by one function of the registry, with
            functools.cache, so that all passes of a process count with the same ones. They are of this host: what is
            true of the ledger belongs into a table, because the next pass may be another host's.
        report: shows how far this pass is, as a few words without any donor data, in `donationd status`.
    """

    config: JobsConfig
    database: Database
    recorder: Recorder
    stripe_api: StripeApi | None
    metrics: CollectorRegistry
    report: Callable[[str], Awaitable[None]] = not_reported

    @property
    def stripe(self) -> StripeApi:
        """The client of a job that calls Stripe."""
        assert self.stripe_api is not None  # noqa: S101 - such a job does not run without it
        return self.stripe_api


@dataclass(frozen=True)
class Job:
    """Work that is done in passes, one at a time, on one host.

    Attributes:
        name: of its row in `job_runs`, and the label `name` of its metrics; such as `check_account`.
        every_s: seconds from the end of a pass that succeeded until the next one.
        run: one pass. It may be cancelled at every await, and then begins again. It raises StripeUnavailable or
            DatabaseUnavailable to be tried again with backoff, and ProblemsFound if an operator must do something.
        recheck_s: as `every_s`, after a pass that found problems, so that what an operator corrects is soon known; None
            if it is no different.
        calls_stripe: whether it needs STRIPE_API_KEY.
    """

    name: str
    every_s: int
    run: Callable[[JobDependencies], Awaitable[None]]
    recheck_s: int | None = None
    calls_stripe: bool = True

    def pause_s(self, problems: int) -> float:
        """Seconds from the end of a pass that succeeded, and found so many problems, until the next one."""
        return self.recheck_s if problems and self.recheck_s else self.every_s


class ProblemsFound(Exception):
    """A pass was completed and has found what an operator must correct.

    Attributes:
        problems: a sentence each, with the command that corrects it, without any donor data.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)

    def summary(self) -> str:
        """The first problem, and how many more there are."""
        more = len(self.problems) - 1
        return self.problems[0] + (f" (and {more} more: see jobs.log)" if more else "")


def retry_s(job: Job, failures: int, share: float, retry_after_s: float = 0.0) -> float:
    """How long to wait after a pass that failed: exponential backoff with full jitter.

    Args:
        failures: since the last success, this one included.
        share: a random number from 0 to 1.
        retry_after_s: how long Stripe wants no call.
    """
    longest_s = min(MAX_RETRY_S, job.every_s, FIRST_RETRY_S * 2.0 ** min(failures - 1, 10))
    return retry_after_s + share * longest_s
