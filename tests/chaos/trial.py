"""Faults done to a site under load, one after the other, and the reckoning."""

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any

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
from tests.chaos.faults import Fault
from tests.chaos.load import Load
from tests.chaos.site import DEADLINE_S, READY_TIMEOUT_S, TICKETS, NotReady, Site
from tests.support.guard import guarded

LOOK_S = 0.02
QUIET_S = 0.7  # without a failed request, so that the fault's consequences have ended
CALM_S = (0.0, 0.5)  # between one fault's last consequence and the next fault
DELIVERED_S = 60.0  # what was begun is delivered to the end within this, after the last fault

Trial = Callable[[int, int, list[Record], Verdict], Coroutine[Any, Any, None]]


def run(trial: Trial, count: str, default: int) -> int:
    """Runs a trial, of which nothing stays on the machine, and prints its table.

    Args:
        trial: gets the number of faults and the seed, and notes what happens.
        count: the variable of the environment that has this number; SEED has the other.
        default: the number of faults unless it is set.

    Returns the exit status: 0 if everything that must be zero is, 1 if not, 2 for a wrong number, 130 after Ctrl-C.
    """
    for sig in (signal.SIGINT, signal.SIGTERM):  # also where a shell's `&` made this process ignore Ctrl-C
        signal.signal(sig, signal.default_int_handler)
    try:
        faults, seed = (int(os.environ.get(name) or number) for name, number in ((count, default), ("SEED", 1)))
    except ValueError:
        say(f"{count} and SEED: whole numbers")
        return 2
    records: list[Record] = []
    verdict = Verdict()
    status = 0
    try:
        with guarded():
            asyncio.run(trial(faults, seed, records, verdict))
    except KeyboardInterrupt:
        status = 130
    print(table(records, verdict))
    return status or int(not verdict.clean)


async def run_faults(
    opening: AbstractAsyncContextManager[Site],
    faults: Sequence[Fault],
    seed: int,
    records: list[Record],
    verdict: Verdict,
) -> None:
    """Delivers to a site while faults are done to it, and judges what came of it, also of a run that was cut short.

    Args:
        opening: gives the site, ready.
        seed: of the load, and of what is random in a fault.
        records, verdict: get what happened.
    """
    async with opening as site:
        secret = site.instance.signing_secret
        load = Load(site.instance.api, secret, TICKETS, seed, DEADLINE_S + MARGIN_S, site.begin, site.pause_s)
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
