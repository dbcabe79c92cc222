"""What a job is: work that the jobs process does regularly."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from daemon.jobs.config import JobsConfig
from daemon.ledger.recorder import Recorder
from daemon.stripe_api.client import StripeApi
from sql.database import Database


@dataclass(frozen=True, kw_only=True)
class JobDependencies:
    """What the passes of all jobs share.

    Attributes:
        database: a few connections that no webhook waits for.
        recorder: writes events and facts as the API does.
        metrics: what the sidecar serves. A feature creates its metrics by one function of the registry, with
            functools.cache, so that all passes of a process count with the same ones.
    """

    config: JobsConfig
    database: Database
    recorder: Recorder
    stripe: StripeApi
    metrics: CollectorRegistry


@dataclass(frozen=True)
class Job:
    """Work that is done in passes, one at a time, on one host.

    Attributes:
        name: of its rows in `job_runs` and of its label in metrics; such as `check_endpoint`.
        every_s: seconds from the end of a pass that succeeded until the next one.
        run: one pass. It may be cancelled at every await, and then begins again. It raises StripeUnavailable or
            DatabaseUnavailable to be tried again with backoff.
    """

    name: str
    every_s: float
    run: Callable[[JobDependencies], Awaitable[None]]
