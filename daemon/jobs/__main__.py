"""The jobs process: what asks Stripe's API regularly, until SIGTERM."""

import os
import sys
from collections.abc import Callable, Mapping

import structlog

from daemon.jobs.config import JobsConfig
from daemon.jobs.schedule import Job
from daemon.runtime.lifecycle import ProcessRun, Program, run_process, serving

log = structlog.get_logger()

# Every job, by the function that makes it from the configuration; None if the configuration does not ask for it.
JOBS: tuple[Callable[[JobsConfig], Job | None], ...] = ()


async def serve(config: JobsConfig, process: ProcessRun) -> int:
    """Run the jobs until the process is to stop, and return the exit status."""
    if config.stripe_api_key is None:
        log.info("[Jobs] STRIPE_API_KEY is not set: no job runs")
    await process.stop.wait()
    return int(process.failed)


JOBS_PROCESS = Program(
    name="The jobs process",
    config=JobsConfig,
    run=serving(serve),
    rejected="🚨 The jobs cannot run with this configuration",
)


def main(environ: Mapping[str, str]) -> int:
    """Run the jobs process. Returns the exit status: 0 after SIGTERM, 1 if it failed."""
    return run_process(JOBS_PROCESS, environ)


if __name__ == "__main__":
    sys.exit(main(os.environ))
