"""The time from the start of supervisord until the API is ready: what `up` waits for, and what it says meanwhile."""

import http.client
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from daemon.instance.console import CannotStart, say
from daemon.instance.health_client import health
from daemon.instance.supervisord import Output, collect
from daemon.runtime.readiness import GATE_FAILED
from sql.errors import REMEDIES

POLL_S = 0.1
PROGRESS_INTERVAL_S = 5.0

# Sentences for classes of error that the sidecar reports without one.
SENTENCES = {
    "authentication failed": "authentication failed for the database user",
    "connection refused": "connection refused by the database: is PostgreSQL running at the address in DATABASE_URL?",
    "timeout": "the database does not answer in time",
    "unknown host": "the host in DATABASE_URL is not known",
    "unreachable": "the host in DATABASE_URL cannot be reached",
}


def wait_until_ready(supervisord: subprocess.Popen[bytes], output: Output, environ: Mapping[str, str]) -> None:
    """Waits, for as long as it takes, until the API reports that it is ready; prints what it waits for.

    Raises:
        CannotStart: supervisord has ended.
    """
    printed, printed_s = "", time.monotonic()
    while True:
        status, api_report = health(environ)
        if status == http.client.OK:
            return
        if collect(supervisord) is not None:
            reason = output.last() or f"{environ['DONATIOND_STATE']}/logs/supervisord.log says why"
            raise CannotStart(f"supervisord ended at start: {reason}")
        # Between two process runs of the sidecar no process reports a reason: it is still the one before.
        waiting = _waiting_for(environ, api_report) or printed or f"the sidecar starts (see {_log(environ, 'sidecar')})"
        if waiting != printed or time.monotonic() > printed_s + PROGRESS_INTERVAL_S:
            printed, printed_s = waiting, time.monotonic()
            say(f"  waiting: {waiting}")
        time.sleep(POLL_S)


def _waiting_for(environ: Mapping[str, str], api_report: Mapping[str, Any]) -> str | None:
    """What keeps the API from being ready, as the API or the sidecar reports it; None if neither answers."""
    report = health(environ, "METRICS_", "/health/status")[1]
    readiness = api_report or report.get("readiness", {})
    if readiness.get("ready"):
        return f"the API starts (see {_log(environ, 'api_00')})"
    if readiness.get("lastError"):
        return f"{_reason(readiness, report.get('runs', []))} (see {_log(environ, 'sidecar')})"
    return api_report.get("message")


def _reason(readiness: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    """Why the database cannot be used, with what to do about it.

    Args:
        readiness: as GET /health/db has it, with a class of error.
        runs: the sidecar's last gate runs and changes of state, newest last: where the gate failed for more than the
            connection, its run says what is missing, and the command that repairs it.
    """
    error = readiness["lastError"]
    if readiness["message"] == GATE_FAILED and runs and runs[-1]["detail"] != error:
        return f"{error}: {runs[-1]['detail']}"
    reason = SENTENCES.get(error, error)
    return f"{reason}; {REMEDIES[error]}" if error in REMEDIES else reason


def _log(environ: Mapping[str, str], program: str) -> str:
    return f"{environ['DONATIOND_STATE']}/logs/{program}.log"
