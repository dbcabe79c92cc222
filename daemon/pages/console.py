"""The operator console: sign-in, sessions, protection against other sites, and pages (SPEC 13).

request -> session -> (form: its own page, the session's token) -> a call of the operator API -> HTML
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode

from aiohttp import hdrs, web
from yarl import URL

from daemon.pages.console_pages import ACTIONS, PAGES, Action, Page, Rejected, find_page
from daemon.pages.ended_sessions import EndedSessions
from daemon.pages.rendering import HTML, StaticFile, render
from daemon.runtime.http.auth import OperatorAuthentication, OperatorToken, Scope, require_scope
from daemon.runtime.http.errors import ERROR_HEADERS, message_of
from daemon.runtime.http.limits import read_body
from daemon.runtime.http.sessions import Session, Sessions, is_from_own_page

PATH = "/operator"
SIGN_IN, SIGN_IN_CHECK, SIGN_OUT = f"{PATH}/sign-in", f"{PATH}/sign-in/check", f"{PATH}/sign-out"
FORM = "application/x-www-form-urlencoded"
FORM_BYTES, FORM_FIELDS = 16 * 1024, 20
# Where a form may send the operator afterwards: a page of the console.
OWN_PAGE = re.compile(r"/operator(?:/[\w-][\w.-]*)*(?:\?[\w.~%+&=:@-]*)?", re.ASCII)
NOT_FROM_HERE = "this form was not sent by a page of this session: open the page again and repeat what you did"
# No script runs, nothing comes from elsewhere, and no other page may frame this one.
CONTENT_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
CHART_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
POLICY = "Content-Security-Policy"
HEADERS = {
    hdrs.CACHE_CONTROL: "no-store",
    POLICY: CONTENT_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # with `no-referrer` a browser would send forms with `Origin: null`
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
STYLE = StaticFile(f"{PATH}/style.css", "operator.css")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Operations(Protocol):
    """The operator API within this process: its checks, limits, audit log and errors."""

    async def call(self, name: str, token: OperatorToken, texts: Mapping[str, str | None]) -> Any:
        """What an operation replies to an operator; its parameters are texts, None stands for null."""
        ...


class Console:
    """Answers the requests of operators' browsers.

    Args:
        operators: checks the token of a sign-in, with the limits of the operator API.
    """

    def __init__(
        self, operations: Operations, operators: OperatorAuthentication, sessions: Sessions, ended: EndedSessions
    ) -> None:
        self._operations = operations
        self._operators = operators
        self._sessions = sessions
        self._ended = ended

    def routes(self) -> list[web.RouteDef]:
        """The routes of the console."""
        return [
            STYLE.route(),
            web.get(SIGN_IN, self._show_sign_in),
            web.post(SIGN_IN, self._sign_in),
            web.get(SIGN_IN_CHECK, self._check_sign_in),
            web.post(SIGN_OUT, self._sign_out),
            web.get(f"{PATH}/chart.svg", self._chart),
            *(web.get(PATH + page.path, self._page(page)) for page in PAGES),
            web.get(f"{PATH}/", self._page(PAGES[0])),
            *(web.post(PATH + action.path, self._action(action)) for action in ACTIONS),
        ]

    async def authenticate(self, request: web.Request, scope: Scope) -> OperatorToken:
        """The token of the request's session. Raises 303 to the sign-in without one, 403 if it lacks the scope."""
        return require_scope((await self._session(request)).token, scope)

    async def _find(self, request: web.Request) -> Session | None:
        """The session of a request. The database is asked only about cookies that this instance has signed."""
        session = self._sessions.find(request)
        return None if session is None or await self._ended.has(session) else session

    async def _session(self, request: web.Request) -> Session:
        session = await self._find(request)
        if session is None:
            wanted = request.path_qs if request.method == "GET" else PATH
            raise web.HTTPSeeOther(f"{SIGN_IN}?{urlencode({'next': wanted})}")
        return session

    # --- Sessions

    async def _show_sign_in(self, request: web.Request) -> web.Response:
        wanted = _own_page(request.query.get("next"))
        if await self._find(request):
            raise web.HTTPSeeOther(wanted)
        return _html("operator/sign_in.html", wanted=wanted, problem=None if self._operators.has_tokens else NO_TOKENS)

    async def _sign_in(self, request: web.Request) -> web.Response:
        if not is_from_own_page(request):
            raise web.HTTPForbidden(text=NOT_FROM_HERE)
        form = await _read_form(request)
        wanted = _own_page(form.get("next"))
        try:
            token = self._operators.check(
                form.get("token", "").strip().encode(errors="surrogateescape"), request.remote
            )
        except (web.HTTPUnauthorized, web.HTTPTooManyRequests) as error:
            response = _html("operator/sign_in.html", error.status, wanted=wanted, problem=error.text)
            response.headers.update({name: error.headers[name] for name in ERROR_HEADERS if name in error.headers})
            return response
        response = web.Response(
            status=HTTPStatus.SEE_OTHER,
            headers={**HEADERS, hdrs.LOCATION: f"{SIGN_IN_CHECK}?{urlencode({'next': wanted})}"},
        )
        self._sessions.begin(token, response)
        return response

    async def _check_sign_in(self, request: web.Request) -> web.Response:
        """Whether the browser has kept the cookie, which it does over TLS and on the loopback interface only."""
        wanted = _own_page(request.query.get("next"))
        if await self._find(request):
            raise web.HTTPSeeOther(wanted)
        return _html("operator/sign_in.html", wanted=wanted, problem=COOKIE_LOST)

    async def _sign_out(self, request: web.Request) -> web.Response:
        session = await self._session(request)
        await self._form(request, session)
        await self._ended.add(session)
        response = web.Response(status=HTTPStatus.SEE_OTHER, headers={**HEADERS, hdrs.LOCATION: SIGN_IN})
        self._sessions.delete_cookie(response)
        return response

    # --- Pages and actions

    def _page(self, page: Page) -> Handler:
        async def show(request: web.Request) -> web.Response:
            session = await self._session(request)
            require_scope(session.token, page.scope)
            return await self._show(session, page, request.rel_url, request.match_info)

        return show

    async def _show(
        self,
        session: Session,
        page: Page,
        url: URL,
        ids: Mapping[str, str],
        *,
        rejected: Rejected | None = None,
        status: int = HTTPStatus.OK,
    ) -> web.Response:
        """A page.

        Args:
            url: its path and query.
            ids: those in its path.
            rejected: the form on it that was not accepted, with the status of the reply.
        """
        asked = {name: text for name, text in url.query.items() if text and name != "done"}
        parameters = page.parameters({**asked, **ids})
        reply, problem, others = None, None, dict[str, Any]()
        try:
            if page.operation:
                reply = await self._operations.call(page.operation, session.token, parameters)
            others = {name: await self._operations.call(name, session.token, {}) for name in page.also}
        except (web.HTTPBadRequest, web.HTTPNotFound) as error:
            status, problem = (status if rejected else error.status), error.text
        return _html(
            f"operator/{page.name}.html",
            status,
            **_frame(session, page, url),
            **{"asked": asked, "parameters": parameters, "reply": reply, "problem": problem, **others},
            rejected=rejected,
            links=_links(asked, getattr(reply, "next_cursor", None)),
        )

    async def _chart(self, request: web.Request) -> web.Response:
        """`chart.svg?by=&currency=&ticket=&scheme=`: the chart of the page of reports, in one currency."""
        session = await self._session(request)
        asked = {name: text for name, text in request.query.items() if name in ("by", "ticket")}
        report = await self._operations.call("report_recent", session.token, asked)
        currency = request.query.get("currency")
        periods = next((each.periods for each in report.currencies if each.currency == currency), None)
        if periods is None:
            raise web.HTTPNotFound(text="nothing moved in this currency")
        is_dark = request.query.get("scheme") == "dark"
        form = "%Y-%m" if report.by == "month" else "%d %b"
        svg = await asyncio.to_thread(_income_chart, periods, form, is_dark=is_dark)
        return web.Response(body=svg, content_type="image/svg+xml", headers=HEADERS | {POLICY: CHART_POLICY})

    def _action(self, action: Action) -> Handler:
        async def do(request: web.Request) -> web.Response:
            session = await self._session(request)
            form = await self._form(request, session)
            back = _own_page(form.get("back"))
            parameters = {**action.parameters(form), **request.match_info}
            try:
                await self._operations.call(action.operation, session.token, parameters)
            except (web.HTTPClientError, web.HTTPServerError) as error:
                rejected = Rejected.of(action, form, error.text or "")
                return await self._show_again(session, URL(back), rejected, error.status)
            done = urlencode({"done": action.operation})
            raise web.HTTPSeeOther(f"{back}{'&' if '?' in back else '?'}{done}")

        return do

    async def _show_again(self, session: Session, back: URL, rejected: Rejected, status: int) -> web.Response:
        """The page from which a form came that was not accepted; a page with the error where that cannot be shown."""
        found = find_page(back.path.removeprefix(PATH))
        if found is None or found[0].scope not in session.token.scopes:
            return error_page(status, rejected.message, str(back))
        page, ids = found
        return await self._show(session, page, back, ids, rejected=rejected, status=status)

    async def _form(self, request: web.Request, session: Session) -> dict[str, str]:
        """The fields of a form. Raises 403 unless a page of this session has sent it."""
        if not is_from_own_page(request):
            raise web.HTTPForbidden(text=NOT_FROM_HERE)
        form = await _read_form(request)
        if not session.accepts(form.get("form_token", "")):
            raise web.HTTPForbidden(text=NOT_FROM_HERE)
        return form


def _income_chart(periods: Sequence[Any], form: str, *, is_dark: bool) -> bytes:
    """What draws it is loaded with the first chart, in its thread: a process without operators does not need it."""
    from daemon.pages.charts import DARK, LIGHT, income_chart  # noqa: PLC0415

    return income_chart(periods, form, DARK if is_dark else LIGHT)


NO_TOKENS = (
    "there is no operator yet: `donationd tokens new NAME --scopes read+act` prints a token, and its entry for the "
    "setting OPERATOR_TOKENS"
)
COOKIE_LOST = (
    "the browser did not keep the cookie of the session: open this page by https, or on this machine at "
    "http://127.0.0.1 with Chromium or Firefox"
)


def error_page(status: int, message: str, back: str = PATH) -> web.Response:
    """An error as a page of the console, with a way back."""
    named = HTTPStatus(status)
    return _html("operator/error.html", status, title=named.phrase, message=message or named.description, back=back)


def is_of_console(path: str) -> bool:
    """Whether a path is one of the console's."""
    return path == PATH or path.startswith(f"{PATH}/")


def as_page(reply: web.Response) -> web.Response:
    """An error reply of the process as a page of the console; one that is a page already stays as it is."""
    if reply.content_type == HTML:
        return reply
    page = error_page(reply.status, message_of(reply))
    page.headers.update({name: reply.headers[name] for name in ERROR_HEADERS if name in reply.headers})
    return page


def _html(template: str, status: int = HTTPStatus.OK, **values: Any) -> web.Response:
    text = render(template, style=STYLE.url, **values)
    return web.Response(text=text, status=status, content_type=HTML, headers=HEADERS)


def _frame(session: Session, page: Page, url: URL) -> dict[str, Any]:
    """What every page shows around its content."""
    here = url.without_query_params("done")
    notices = {action.operation: action.done for action in ACTIONS}
    return {
        "page": page,
        "menu": [each for each in PAGES if each.in_menu and each.scope in session.token.scopes],
        "session": session,
        "may_act": Scope.ACT in session.token.scopes,
        "here": str(here),
        "path": here.path,
        "notice": notices.get(url.query.get("done", "")),
    }


def _links(asked: Mapping[str, str], next_cursor: str | None) -> list[tuple[str, str]]:
    """The words and queries of the links to other pages of a list."""
    rest = {name: text for name, text in asked.items() if name != "cursor"}
    first = [("First page", urlencode(rest))] if "cursor" in asked else []
    return first + ([("Next page", urlencode(rest | {"cursor": next_cursor}))] if next_cursor else [])


def _own_page(path: str | None) -> str:
    """The path, if it is that of a page of the console; else the console's."""
    return path if path and OWN_PAGE.fullmatch(path) else PATH


async def _read_form(request: web.Request) -> dict[str, str]:
    """The fields of a form, each once."""
    if request.content_type != FORM:
        raise web.HTTPUnsupportedMediaType(text=f"a form is sent as {FORM}")
    body = await read_body(request, FORM_BYTES)
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True, max_num_fields=FORM_FIELDS))
    except ValueError:
        raise web.HTTPBadRequest(text="the form is not complete") from None
