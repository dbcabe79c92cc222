"""The jobs process: what is done regularly, most of it by Stripe's API, until SIGTERM."""

from daemon.runtime.loading import begin_loading

if __name__ == "__main__":
    begin_loading()

import os
import sys
from collections.abc import Mapping

import structlog

from daemon.jobs.config import JobsConfig
from daemon.jobs.metrics import SLOT, JobMetrics
from daemon.runtime.lifecycle import ProcessRun, Program, run_process, serving
from daemon.runtime.metrics_files import open_files
from daemon.runtime.readiness import ReadinessClient

log = structlog.get_logger()


async def serve(config: JobsConfig, process: ProcessRun) -> int:
    """Run the jobs until the process is to stop, and return the exit status."""
    metrics = JobMetrics(open_files(config.prometheus_multiproc_dir, SLOT))
    waiting = "waiting" if config.stripe_api_key else "waiting_without_stripe"
    metrics.show_state(waiting if config.has_jobs else "idle")
    readiness = ReadinessClient(config.readiness_socket)
    async with process.running(metrics.keep(), readiness.run()):
        if not config.has_jobs:
            log.info("[Jobs] STRIPE_API_KEY is not set: no job runs")
            await process.stop.wait()
        elif await process.wait(readiness.wait_gate()):
            from daemon.jobs.work import run_jobs

            await run_jobs(config, process, metrics)
    log.info("[Jobs] Stopped", pid=os.getpid())
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
