"""The public pages on a test's database: the routes of an API process, and a whole site for a browser in a thread."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from aiohttp import web

from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.operators import Operators
from daemon.ledger.recorder import Recorder
from daemon.ledger.stripe_events import read
from daemon.pages.consent_page import ConsentPage
from daemon.pages.public import BeginPayment, PageSettings, PublicPages
from daemon.pages.ticket_views import Entered
from daemon.pages.tickets import Tickets
from daemon.runtime.http.auth import OperatorToken
from daemon.runtime.http.limits import Places
from daemon.runtime.readiness import ReadinessClient
from daemon.simulator.sender import encode
from sql.database import Database
from tests.support.api_application import application, follower

ADDRESS = "https://give.example.org"
SETTINGS = PageSettings(
    ADDRESS,
    ("https://charity.example",),
    ZoneInfo("Europe/Berlin"),
    takes_payments=True,
    fee_currencies=frozenset({"USD"}),
)
ADD_TICKET = """
INSERT INTO recording_tickets (id, title, currency, goal_minor, state)
VALUES (%(id)s, %(title)s, 'USD', %(goal)s, %(state)s)
"""
# Paid donations of $50 until a ticket has `count`; every second donor wants the name to be shown.
DONATIONS = """
WITH added AS (
    INSERT INTO stripe_attributions (id, root, version, facts, ticket_id, status, amount_minor, currency,
        refunded_minor, disputed_minor, created_at, paid_at, donor_last_name, consent)
    SELECT id, id, 1, '{}', %(ticket)s, 'PAID', 5000, 'USD', 0, 0, at, at, %(name)s, n %% 2 = 0
    FROM (SELECT count(*) AS had FROM stripe_attributions WHERE ticket_id = %(ticket)s) before
    CROSS JOIN LATERAL generate_series(had + 1, %(count)s) n
    CROSS JOIN LATERAL (
        SELECT 'pi_' || md5(%(ticket)s || n) AS id, timestamptz '2026-11-25 12:00Z' + n * interval '1 hour' AS at
    ) made
    RETURNING amount_minor
)
INSERT INTO ticket_totals AS t SELECT %(ticket)s, 'USD', sum(amount_minor), 0, 0, count(*), 0, 0, 0 FROM added
ON CONFLICT (ticket_id, currency) DO UPDATE SET paid_minor = t.paid_minor + excluded.paid_minor,
    paid = t.paid + excluded.paid
"""
CHECKOUT = "https://checkout.stripe.com/c/pay/cs_test_1"
T = TypeVar("T")


async def begin_payment(_request: web.Request, _ticket: str, _entered: Entered) -> str:
    """Every payment can begin."""
    return CHECKOUT


def page_routes(
    database: Database,
    settings: PageSettings = SETTINGS,
    begin: BeginPayment = begin_payment,
    places: Places | None = None,
) -> list[web.RouteDef]:
    """The routes of the public pages, all on one database."""
    tickets = Tickets(database, "USD")
    operators = Operators(database, Recorder(database))
    consent = ConsentPage(database, operators, tickets, Places("withdrawals of consent", 1))
    return [*PublicPages(tickets, settings, places or Places("public pages", 16), begin).routes(), *consent.routes()]


def consenting_payment(ticket: str) -> list[ReceivedEvent]:
    """The events of a donation pi_1 whose donor Example wants the name to be shown."""
    at, donor = 1_793_000_000, {"name": "Ada Example", "email": "ada@example.org", "address": {"country": "US"}}
    session = {"id": "cs_1", "mode": "payment", "payment_status": "paid", "payment_intent": "pi_1", "created": at}
    session |= {"metadata": {"ticketId": ticket}, "customer_details": donor}
    session |= {"custom_fields": [{"key": "showName", "type": "dropdown", "dropdown": {"value": "yes"}}]}
    charge = {"id": "ch_1", "amount": 5000, "amount_captured": 5000, "captured": True, "paid": True, "created": at}
    charge |= {"status": "succeeded", "currency": "usd", "payment_intent": "pi_1", "billing_details": donor}
    return [_event("checkout.session.completed", session, at), _event("charge.succeeded", charge, at)]


def _event(event_type: str, stripe_object: Mapping[str, object], at: int) -> ReceivedEvent:
    body = {"id": f"evt_{stripe_object['id']}", "type": event_type, "created": at, "livemode": False}
    return ReceivedEvent(read(encode({**body, "data": {"object": stripe_object}}), livemode=False, hash_key=None))


def database_at(url: str) -> Database:
    """A database for pages."""
    return Database(url, pool_size=4, statement_timeout_s=60, connect_timeout_s=30, application_name="donationd test")


class Site:
    """An API with its pages on a port of this machine, in an event loop of its own."""

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._url = url
        self.readiness: ReadinessClient = follower()
        self.requests: list[str] = []  # methods and paths, in the order of arrival
        self.address = ""

    @contextmanager
    def running(
        self,
        settings: PageSettings = SETTINGS,
        begin: BeginPayment = begin_payment,
        tokens: tuple[OperatorToken, ...] = (),
    ) -> "Iterator[Site]":
        """Serves until the end, the console to those who have one of the tokens."""
        self._thread.start()
        runner, database = self.run(self._start(settings, begin, tokens))
        try:
            yield self
        finally:
            self.run(self._stop(runner, database))
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _start(
        self, settings: PageSettings, begin: BeginPayment, tokens: tuple[OperatorToken, ...]
    ) -> tuple[web.AppRunner, Database]:
        self.database = database_at(self._url)
        routes = page_routes(self.database, settings, begin)
        app = application(self.database, self.readiness, feature_routes=routes, tokens=tokens)
        app.middlewares.insert(0, self._note())
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner, self.database

    def _note(self) -> Any:
        @web.middleware
        async def note(request: web.Request, handler: Callable[..., Awaitable[web.StreamResponse]]) -> Any:
            self.requests.append(f"{request.method} {request.path}")
            return await handler(request)

        return note

    async def _stop(self, runner: web.AppRunner, database: Database) -> None:
        await runner.cleanup()
        await database.close()

    def run(self, work: Any) -> Any:
        """What a coroutine returns that runs in the site's event loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def sql(self, text: str, values: Mapping[str, object] = {}) -> list[tuple[Any, ...]]:
        """The rows of a statement."""
        return self.run(self.database.fetch(text, dict(values)))  # type: ignore[no-any-return]
