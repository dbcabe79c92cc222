"""Gives the operator console its calls, which are those of the operator API, and its downloads (SPEC 13)."""

from collections.abc import Sequence

from aiohttp import web

from daemon.api.endpoints import CSV, Endpoint
from daemon.api.operator import OperatorApi
from daemon.pages.console import PATH, Console
from daemon.pages.ended_sessions import EndedSessions
from daemon.runtime.http.auth import OperatorAuthentication, OperatorToken, Scope
from daemon.runtime.http.sessions import Sessions
from sql.database import Database


def console_routes(
    api: OperatorApi,
    operators: OperatorAuthentication,
    tokens: Sequence[OperatorToken],
    signing_secrets: Sequence[str],
    database: Database,
) -> list[web.RouteDef]:
    """The routes of the console: its pages, and the exports and reports of the API for browsers with a session.

    Args:
        signing_secrets: those of the webhook, from which the keys of sessions are derived.
        database: where ended sessions are kept.
    """
    console = Console(api, operators, Sessions(tokens, signing_secrets), EndedSessions(database))
    downloads = [each for each in api.endpoints.values() if each.scope is Scope.EXPORT or CSV in each.replies]
    return [*console.routes(), *(_download(api, endpoint, console) for endpoint in downloads)]


def _download(api: OperatorApi, endpoint: Endpoint, console: Console) -> web.RouteDef:
    """A browser does not say that it wants a report as CSV: its address does."""
    is_report = len(endpoint.replies) > 1
    path = f"{PATH}/{endpoint.path}{'.csv' if is_report else ''}"
    return api.route(endpoint, console.authenticate, path, CSV if is_report else None)
