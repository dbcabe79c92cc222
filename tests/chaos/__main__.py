"""`make chaos`: faults, one after the other, done to everything at once under load; then the reckoning.

FAULTS says how many, SEED which: the same seed deals the same faults in the same order. The table goes to stdout,
progress to stderr. Exit status 0 if everything that must be zero is, 1 if not, 130 after Ctrl-C.
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path

from daemon.runtime.readiness import ReadinessClient
from tests.chaos import jobs
from tests.chaos.audit import (
    MARGIN_S,
    Incident,
    Record,
    Verdict,
    judge_ledger,
    judge_replies,
    judge_supervisord,
    noticed_s,
    table,
)
from tests.chaos.faults import EMBEDDED_FAULTS, Fault, deal
from tests.chaos.faults import FAULTS as KINDS
from tests.chaos.load import Load
from tests.chaos.site import (
    DEADLINE_S,
    READY_TIMEOUT_S,
    TICKETS,
    NotReady,
    Site,
    embedded_site,
    site_with_jobs,
    site_with_proxies,
)
from tests.support.guard import guarded

FAULTS = 200
# One fault in so many is done to the site whose PostgreSQL supervisord runs, and to that whose jobs work.
EMBEDDED_SHARE = 9
JOBS_SHARE = 6
LOOK_S = 0.02
QUIET_S = 0.7  # without a failed request, so that the fault's consequences have ended
CALM_S = (0.0, 0.5)  # between one fault's last consequence and the next fault
DELIVERED_S = 60.0  # what was begun is delivered to the end within this, after the last fault


def main() -> int:
    """Runs everything; returns the exit status."""
    for sig in (signal.SIGINT, signal.SIGTERM):  # also where a shell's `&` made us deaf to Ctrl-C
        signal.signal(sig, signal.default_int_handler)
    try:
        faults, seed = (int(os.environ.get(name) or default) for name, default in (("FAULTS", FAULTS), ("SEED", 1)))
    except ValueError:
        print("FAULTS and SEED: whole numbers", file=sys.stderr)
        return 2
    records: list[Record] = []
    verdict = Verdict()
    status = 0
    try:
        with guarded():
            asyncio.run(_run(faults, seed, records, verdict))
    except KeyboardInterrupt:
        status = 130
    print(table(records, verdict))
    return status or int(not verdict.clean)


SITES = {"proxies": site_with_proxies, "embedded": embedded_site, "jobs": site_with_jobs}
KINDS_AT: Mapping[str, Sequence[Fault]] = {"proxies": KINDS, "embedded": EMBEDDED_FAULTS, "jobs": jobs.FAULTS}


async def _run(faults: int, seed: int, records: list[Record], verdict: Verdict) -> None:
    rng = random.Random(seed)
    say(f"{faults} faults, seed {seed}")
    for number, (site, kinds, count) in enumerate(_plan(faults)):
        if count:
            await _at(SITES[site](), deal(rng, count, kinds), seed + number, records, verdict)


def _plan(faults: int) -> list[tuple[str, Sequence[Fault], int]]:
    """At which sites so many faults are done, which, and how many; SITE names the only one."""
    if (only := os.environ.get("SITE")) is not None:
        return [(only, KINDS_AT[only], faults)]
    embedded, working = faults // EMBEDDED_SHARE, faults // JOBS_SHARE
    counts = {"proxies": faults - embedded - working, "embedded": embedded, "jobs": working}
    return [(site, KINDS_AT[site], counts[site]) for site in SITES]


async def _at(
    opening: AbstractAsyncContextManager[Site],
    faults: Sequence[Fault],
    seed: int,
    records: list[Record],
    verdict: Verdict,
) -> None:
    """All of it at one site: load, faults, and the reckoning, also of a run that was cut short."""
    async with opening as site:
        secret = site.instance.signing_secret
        load = Load(site.instance.api, secret, TICKETS, seed, DEADLINE_S + MARGIN_S, site.begin)
        load.scenarios.extend(site.lost)
        record = Record([], load.replies, load.scenarios, [], whole=False)
        records.append(record)
        delivering = asyncio.create_task(load.run())
        watching = asyncio.create_task(_watch(site, record))
        try:
            await _inject(site, faults, random.Random(seed), record)
            load.finish()
            async with asyncio.timeout(DELIVERED_S):
                await delivering
            record.whole = True
            if site.mail:
                await jobs.finish_jobs(site, say)
        except NotReady as error:
            verdict.count("did not come back", [f"{record.incidents[-1].fault.name}: {error}"])
        except TimeoutError:
            verdict.count("not delivered in the end", [f"some events, {DELIVERED_S:.0f} s after the last fault"])
        finally:
            for task in (watching, delivering):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            judge_replies(record, verdict)
            judge_supervisord(site.instance.state / "logs" / "supervisord.log", verdict)
        await asyncio.to_thread(judge_ledger, record, site.url, verdict)
        if site.mail:
            await asyncio.to_thread(jobs.judge_jobs, site.url, site.mail, verdict)


async def _inject(site: Site, faults: Sequence[Fault], rng: random.Random, record: Record) -> None:
    await asyncio.sleep(CALM_S[1])
    for number, fault in enumerate(faults, 1):
        incident = Incident(fault, time.monotonic())
        record.incidents.append(incident)
        await fault.inject(site, rng)
        incident.ended_s = time.monotonic()
        incident.ready_s = await _calm(site, record)
        noticed = noticed_s(incident, record.replies)
        say(
            f"{number}/{len(faults)} {fault.name}: lasted {incident.ended_s - incident.began_s:.1f} s, "
            f"{'not noticed' if noticed is None else f'noticed after {noticed:.2f} s'}, "
            f"ready after {incident.ready_s - incident.ended_s:.1f} s"
        )
        await asyncio.sleep(rng.uniform(*CALM_S))


async def _watch(site: Site, record: Record) -> None:
    """Follows the sidecar as an API process does, for ever, and notes when it would become not ready."""
    follower = ReadinessClient(Path(site.instance.environ["READINESS_SOCKET"]))
    following = asyncio.create_task(follower.run())
    was_ready = False
    try:
        while True:
            if was_ready and not follower.ready:
                record.unready_s.append(time.monotonic())
            was_ready = follower.ready
            await asyncio.sleep(LOOK_S)
    finally:
        following.cancel()


async def _calm(site: Site, record: Record) -> float:
    """Returns once everything has been ready, and every reply a 200, for QUIET_S; the moment since when.

    Raises:
        NotReady: it takes too long.
    """
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        await site.await_ready()
        since_s, seen = time.monotonic(), len(record.replies)
        await asyncio.sleep(QUIET_S)
        if all(reply.status == 200 for reply in record.replies[seen:]):
            return since_s
    raise NotReady(f"no quiet within {READY_TIMEOUT_S:.0f} s")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
