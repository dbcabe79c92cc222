"""What `donationd status` does: everything on one screen, as the sidecar reports it; the database may be what fails."""

import http.client
import json
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from daemon.cli.settings import settings
from daemon.instance import health_client
from health_sidecar.config import SidecarAddress

TIMEOUT_S = 10.0
LINE_CHARS = 200  # of the screen; --json has everything
OUTCOMES = ("applied", "duplicate", "ignored", "failed", "refused")

Report = dict[str, Any]


def print_status(*, as_json: bool) -> int:
    """Prints the sidecar's report; returns the exit status."""
    address = settings(SidecarAddress)
    report = _ask(address.metrics_host, address.metrics_port)
    if as_json:
        click.echo(json.dumps(report))
    else:
        for line in _screen(report):
            click.echo(line if len(line) <= LINE_CHARS else f"{line[: LINE_CHARS - 1]}…")
    return 0 if report["ok"] else 1


def _ask(host: str, port: int) -> Report:
    """The sidecar's report; where it does not answer, a report of that."""
    where = f"{health_client.reachable(host)} port {port}"
    problem = f"what answers at {where} is not this release's sidecar"
    try:
        status, report = health_client.get(host, port, "/health/status", TIMEOUT_S)
        if status == http.client.OK and "problems" in report:
            return report
    except ValueError:  # the reply is no JSON object
        pass
    except (OSError, http.client.HTTPException) as error:
        problem = f"the sidecar does not answer at {where} ({_reason(error)}); does `donationd up` run?"
    return {"ok": False, "problems": [problem]}


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or type(error).__name__


def _screen(report: Report) -> Iterator[str]:
    yield "All is well." if report["ok"] else "Not well:"
    yield from (f"  - {problem}" for problem in report["problems"])
    if "readiness" not in report:
        return
    now_s = time.time()
    waiting = report["waiting"]
    yield from ["", f"Database   {_readiness(report['readiness'], now_s)}"]
    if replica := report.get("replica"):  # a sidecar of the release before has none
        state, lag_kib = "used for reads" if replica["usable"] else "not used", replica["lagBytes"] / 1024
        yield f"Replica    {state}; {replica['lagSeconds']:.1f} s and {lag_kib:,.0f} KiB behind, at most"
    yield ""
    yield from _processes(report["processes"], now_s)
    yield from ["", *_events(report["events"]), ""]
    yield (
        f"Waiting    {_count(waiting, 'webhook_events_failed_waiting')} failed events, "
        f"{_count(waiting, 'donations_unassigned')} unassigned donations, "
        f"{_count(waiting, 'mails_undelivered')} undelivered mails"
    )
    yield from ["", *_jobs(report["jobs"], now_s), "", "Last changes"]
    for run in report["runs"]:
        yield f"  {run['at'][:19].replace('T', ' ')}  {run['kind']:<10} {run['state']:<10} {run['detail']}".rstrip()


def _processes(processes: Sequence[Report], now_s: float) -> Iterator[str]:
    yield f"{'Processes':<20} {'state':<10} {'for':>12} {'restarts':>9}"
    for process in processes:
        runs = "-" if process["startedAt"] is None else _span(now_s - process["startedAt"])
        yield f"  {process['name']:<18} {process['state']:<10} {runs:>12} {process['restarts']:>9}"
    if not processes:
        yield "  none known: supervisord's listener has not written them yet, or they run in containers"


JOBS = {
    None: "the jobs process has not started yet",
    "idle": "none: STRIPE_API_KEY is not set",
    "running_without_stripe": "this host runs those below; STRIPE_API_KEY is not set, so fees, payouts, mails, replay, "
    "reconciliation and the check of the account wait for it",
    "waiting_without_stripe": "another host runs them, or this one cannot yet; STRIPE_API_KEY is not set on this one",
    "waiting": "another host runs them, or this one cannot yet",
    "running": "this host runs them",
}


def _jobs(jobs: Report, now_s: float) -> Iterator[str]:
    yield f"Jobs       {JOBS.get(jobs['state'], jobs['state'])}"
    for job in jobs["runs"]:
        succeeded = f"last success {_span(now_s - job['lastSuccessAt'])} ago"
        yield f"  {job['job']:<18} {job['outcome']:<12} {succeeded:<28} {job['detail']}".rstrip()


def _events(events: Report) -> Iterator[str]:
    minute, hour = events["minute"], events["hour"]
    yield f"{'Events in the last':<20} {_span(minute['seconds']):>10} {_span(hour['seconds']):>12}"
    for outcome in OUTCOMES:
        yield f"  {outcome:<18} {minute.get(outcome, 0):>10} {hour.get(outcome, 0):>12}"


def _readiness(readiness: Report, now_s: float) -> str:
    state = "ready" if readiness["ready"] else f"not ready: {readiness['lastError'] or readiness['message']}"
    if readiness["lastPingAt"] is None:
        return f"{state}; no ping was answered yet"
    pinged_s = datetime.fromisoformat(readiness["lastPingAt"]).astimezone(UTC).timestamp()
    return f"{state}; last ping answered {_span(now_s - pinged_s)} ago"


def _count(waiting: dict[str, int], name: str) -> str:
    """A number, or a question mark while it is not known."""
    return str(waiting.get(name, "?"))


def _span(seconds: float) -> str:
    """A length of time in its two largest units."""
    whole = max(0, int(seconds))
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
