"""`make chaos`: faults, one after the other, done to everything at once under load; then the reckoning.

FAULTS says how many, SEED which: the same seed deals the same faults in the same order. The table goes to stdout,
progress to stderr. Exit status 0 if everything that must be zero is, 1 if not, 130 after Ctrl-C.
"""

import os
import random
import sys
from collections.abc import Mapping, Sequence

from tests.chaos import jobs
from tests.chaos.audit import Record, Verdict
from tests.chaos.faults import EMBEDDED_FAULTS, Fault, deal
from tests.chaos.faults import FAULTS as KINDS
from tests.chaos.site import embedded_site, site_with_jobs, site_with_proxies
from tests.chaos.trial import run, run_faults, say

FAULTS = 200
# One fault in so many is done to the site whose PostgreSQL supervisord runs, and to that whose jobs work.
EMBEDDED_SHARE = 9
JOBS_SHARE = 6
SITES = {"proxies": site_with_proxies, "embedded": embedded_site, "jobs": site_with_jobs}
KINDS_AT: Mapping[str, Sequence[Fault]] = {"proxies": KINDS, "embedded": EMBEDDED_FAULTS, "jobs": jobs.FAULTS}


async def _run(faults: int, seed: int, records: list[Record], verdict: Verdict) -> None:
    rng = random.Random(seed)
    say(f"{faults} faults, seed {seed}")
    for number, (site, kinds, count) in enumerate(_plan(faults)):
        if count:
            await run_faults(SITES[site](), deal(rng, count, kinds), seed + number, records, verdict)


def _plan(faults: int) -> list[tuple[str, Sequence[Fault], int]]:
    """At which sites so many faults are done, which, and how many; SITE names the only one."""
    if (only := os.environ.get("SITE")) is not None:
        return [(only, KINDS_AT[only], faults)]
    embedded, working = faults // EMBEDDED_SHARE, faults // JOBS_SHARE
    counts = {"proxies": faults - embedded - working, "embedded": embedded, "jobs": working}
    return [(site, KINDS_AT[site], counts[site]) for site in SITES]


if __name__ == "__main__":
    sys.exit(run(_run, "FAULTS", FAULTS))
