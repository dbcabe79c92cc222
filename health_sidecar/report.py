"""The reports for people and programs: availability over a window, and the status of everything. No I/O."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from daemon.runtime.readiness import Readiness, utc_text
from health_sidecar.history import Run
from health_sidecar.process_states import Processes
from health_sidecar.read_replica import ReadReplica

SHOWN_RUNS = 10


def history(runs: Sequence[Run], since: datetime, now: datetime) -> dict[str, object]:
    """The reply of GET /health/history: the runs of a window, oldest first, and its availability.

    Args:
        runs: all known runs, oldest first.

    Returns:
        `since` is the start of the window, or the time of the first known run if that is later;
        `availabilityPercent` is null if nothing is known.
    """
    known_since = max(since, runs[0].at) if runs else since
    return {
        "since": utc_text(known_since),
        "until": utc_text(now),
        "availabilityPercent": availability(runs, known_since, now),
        "runs": [as_json(run) for run in runs if run.at >= known_since],
    }


def availability(runs: Sequence[Run], since: datetime, now: datetime) -> float | None:
    """The percentage of the window in which the database was ready; each state lasts until the next run.

    Cut, not rounded, to three decimals: 100 means always ready. None if the window is empty or nothing is known.
    """
    if not runs or now <= since:
        return None
    ends = [*(run.at for run in runs[1:]), now]
    parts = (min(end, now) - max(run.at, since) for run, end in zip(runs, ends, strict=True) if run.ok)
    ready = sum((part for part in parts if part > timedelta()), timedelta())
    return (100_000 * ready // (now - since)) / 1000


def status(
    readiness: Readiness,
    processes: Processes,
    events: Mapping[str, Mapping[str, int]],
    waiting: Mapping[str, int],
    runs: Sequence[Run],
    *,
    jobs: Mapping[str, object] = {"state": None, "runs": []},
    replica: ReadReplica | None = None,
    further_problems: Sequence[str] = (),
) -> dict[str, object]:
    """The reply of GET /health/status, which `donationd status` shows.

    Args:
        jobs: of JobRuns.
        replica: None without READ_DATABASE_URL.
        further_problems: with supervisord and with jobs, a sentence each.
    """
    problems = [*_problems(readiness, processes, waiting), *further_problems]
    if replica and replica.problem:
        problems.append(replica.problem)
    return {
        "ok": not problems,
        "problems": problems,
        "readiness": readiness.to_json(),
        "processes": [
            {"name": name, "state": process.state, "startedAt": process.started_s, "restarts": process.restarts}
            for name, process in sorted(processes.items())
        ],
        "events": events,
        "waiting": waiting,
        "jobs": jobs,
        "replica": replica and replica.to_json(),
        "runs": [as_json(run) for run in runs[-SHOWN_RUNS:]],
    }


def _problems(readiness: Readiness, processes: Processes, waiting: Mapping[str, int]) -> list[str]:
    """One sentence for each problem."""
    found = []
    if not readiness.ready:
        found.append(f"{readiness.message}{f' ({readiness.last_error})' if readiness.last_error else ''}")
    elif readiness.last_error:
        found.append(f"the last ping of the database failed: {readiness.last_error}")
    found += [f"{name} is {process.state}" for name, process in processes.items() if process.state != "RUNNING"]
    found += [f"{count} {WAITING[name]}" for name, count in waiting.items() if count]
    return found


# What waits for a person, by the metric's name.
WAITING = {
    "webhook_events_failed_waiting": "failed events wait for a fix: donationd failed list",
    "mails_undelivered": "mails to donors were not delivered: donationd receipts undelivered",
    "donations_unassigned": "paid donations belong to no known ticket: donationd unassigned",
    "schema_migrations_missing": "migrations of this release are not applied: donationd migrate",
}


def as_json(run: Run) -> dict[str, object]:
    """A run in a reply."""
    return {"at": utc_text(run.at), "kind": run.kind, "ok": run.ok, "state": run.state, "detail": run.detail}
