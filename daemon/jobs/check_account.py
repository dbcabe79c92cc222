"""The job that checks daily whether key, permissions and webhook endpoint at Stripe are what donationd needs."""

from daemon.jobs.config import JobsConfig
from daemon.jobs.schedule import Job, JobDependencies, ProblemsFound
from daemon.stripe_api.account_check import account_problems

DAY_S = 86400
RECHECK_S = 60  # so that `donationd status` soon agrees with a `stripe check` that finds nothing wrong


def job(_config: JobsConfig) -> Job:
    """It runs wherever there is a key."""
    return Job("check_account", DAY_S, check, recheck_s=RECHECK_S)


async def check(deps: JobDependencies) -> None:
    """One check. Raises ProblemsFound."""
    config = deps.config
    problems = await account_problems(
        deps.stripe, config.endpoint_url, livemode=config.stripe_livemode, has_checkout=config.public_url is not None
    )
    if problems:
        raise ProblemsFound([f"{problem.text}: {problem.remedy}" for problem in problems])
