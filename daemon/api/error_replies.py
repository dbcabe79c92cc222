"""The one table from errors to replies, for every request of an API process."""

import re
from collections.abc import Callable, Mapping

from aiohttp import web

from daemon.ledger.batcher import Overloaded
from daemon.runtime.http.errors import BodyTimeout, Busy, NoMemory, error_reply, unavailable
from daemon.runtime.rate_limited_log import IncidentLog
from daemon.runtime.readiness import ReadinessClient
from sql.errors import DatabaseUnavailable, StatementRejected, remedy

# What can go wrong with a request for reasons of the server, with its log line. It repeats with each request: it is
# written once, and then counted.
FAULTS = {
    "busy": ("warning", "[API] More requests at the same time than the limits allow"),
    "down": ("warning", "[API] Database unavailable"),
    "schema": ("error", "[API] The schema is not as it should be"),
    "slow": ("warning", "[API] Request took too long"),
    "unexpected": ("error", "[API] Unexpected error"),
}

REPORT = re.compile(r"/(?:api/)?operator/reports(?:/(?P<name>[a-z]+))?(?:\.csv)?")  # as a route
NOT_READY = "Database connection is currently unavailable"


class ErrorReplies:
    """The replies to errors. What can be wrong with the process is logged, and the sidecar learns of it."""

    def __init__(self, readiness: ReadinessClient) -> None:
        self._readiness = readiness
        self._faults = {name: IncidentLog(level, text) for name, (level, text) in FAULTS.items()}

    def reply(self, error: Exception, route: str, context: Callable[[], Mapping[str, str]]) -> web.Response:
        """The reply to a request that ended with this error.

        Args:
            context: the ids of the request, for the log.
        """
        match error:
            case web.HTTPException():
                return error_reply(error)
            case Busy():
                self._faults["busy"].report(error.kind)
                return unavailable("There are more requests of this kind than can be worked on at the same time")
            case NoMemory():
                return unavailable("There are more requests than fit into memory")
            case BodyTimeout():
                return error_reply(web.HTTPRequestTimeout())
            case web.RequestPayloadError() | ConnectionError():
                return error_reply(web.HTTPBadRequest(text="the body is not complete"))
            case DatabaseUnavailable(kind="timeout") | TimeoutError() if report := REPORT.fullmatch(route):
                self._readiness.report_failure()  # perhaps it is not the report that is slow
                self._faults["slow"].report(route, **context())
                return error_reply(web.HTTPServiceUnavailable(text=_slow_report(report["name"])))
            case DatabaseUnavailable():
                self._readiness.report_failure()
                self._faults["down"].report(error.kind, **remedy(error.kind), **context())
                return unavailable(NOT_READY)
            case Overloaded():
                return unavailable("There are more events than can wait")
            case StatementRejected():
                self._readiness.report_failure()
                self._faults["schema"].report(str(error), route=route, **context())
                return unavailable(NOT_READY)
            case TimeoutError():
                self._faults["slow"].report(route, **context())
                return unavailable(NOT_READY)
        # The error's text and trace may hold anything; its type and place are enough to find it.
        self._faults["unexpected"].report(f"{type(error).__name__} at {_place(error)}", route=route, **context())
        return error_reply(web.HTTPInternalServerError(text="unexpected error; the log contains the details"))


def _slow_report(name: str | None) -> str:
    command = f"donationd report {name}" if name else "donationd report"
    return f"this report takes longer than a reply may (DB_STATEMENT_TIMEOUT_MS, REQUEST_DEADLINE_MS): run `{command}`"


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}" if trace else ""
