"""The job that appends to the operator log what it has not yet (SPEC 14)."""

from daemon.jobs.config import JobsConfig
from daemon.jobs.schedule import Job, JobDependencies, ProblemsFound
from daemon.operator_log.export import CannotExport, export
from daemon.runtime.chained_file import BrokenChain

EVERY_S = 60


def job(config: JobsConfig) -> Job | None:
    """It runs where OPERATOR_LOG names a file."""
    return Job("export_operator_log", EVERY_S, run, calls_stripe=False) if config.operator_log else None


async def run(deps: JobDependencies) -> None:
    """One pass. Raises ProblemsFound if the file cannot be continued."""
    path = deps.config.operator_log
    assert path is not None  # noqa: S101 - otherwise there is no such job
    try:
        await export(deps.database, path)
    except (BrokenChain, CannotExport) as error:
        problem = str(error)
    except OSError as error:
        problem = f"OPERATOR_LOG, {path}, cannot be written: {error.strerror}"
    else:
        return
    raise ProblemsFound([problem])
