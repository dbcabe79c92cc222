"""What an API process answers on the short path (daemon.runtime.http.short_path): ordinary deliveries, health checks.

The path of an event is that of `webhook`, without a task, a middleware or a timer of its own: the end of its batch
calls back, and one watch ends all deliveries that take too long.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial

from aiohttp import web

from daemon.api.error_replies import ErrorReplies
from daemon.api.metrics import WEBHOOK_ROUTE, ApiMetrics
from daemon.api.request_context import event_log_context
from daemon.api.webhook import JSON, Webhook
from daemon.ledger.batcher import Batcher, Overloaded
from daemon.ledger.recorder import Outcome, ReceivedEvent
from daemon.runtime.http.errors import Busy
from daemon.runtime.http.health_routes import HealthChecks
from daemon.runtime.http.limits import Places
from daemon.runtime.http.short_path import PreparedReply, ShortHandler, ShortRequest
from daemon.runtime.readiness import ReadinessClient

WATCH_S = 0.25  # a delivery exceeds its deadline by at most so much
MAX_REPLIES = 512  # that are kept prepared


class _Delivery:
    """A delivery that is being recorded."""

    __slots__ = ("began_s", "outcome", "place", "received", "request")

    def __init__(self, request: ShortRequest, received: ReceivedEvent) -> None:
        self.request = request
        self.received = received
        self.began_s = time.perf_counter()
        self.place: asyncio.Future[None] | None = None  # while it waits for a place
        self.outcome: asyncio.Future[Outcome] | None = None  # once it has one


@dataclass(frozen=True)
class ShortPath:
    """The handlers of the short path.

    Args:
        deadline_s: the time that one request may take in total.
        draining: once set, each reply closes its connection.
    """

    webhook: Webhook
    batcher: Batcher
    places: Places
    health: HealthChecks
    readiness: ReadinessClient
    metrics: ApiMetrics
    errors: ErrorReplies
    draining: asyncio.Event
    deadline_s: float
    _deliveries: dict[_Delivery, None] = field(default_factory=dict)  # the earliest first

    def handlers(self) -> dict[bytes, ShortHandler]:
        """By request line."""
        checks = {
            f"GET {path} HTTP/1.1".encode(): partial(self._check_health, path, reply)
            for path, reply in self.health.replies.items()
        }
        return {b"POST /webhooks/stripe HTTP/1.1": self._deliver, **checks}

    async def watch_deadline(self) -> None:
        """End the deliveries that take too long. Never returns."""
        while True:
            await asyncio.sleep(WATCH_S)
            latest_s = time.perf_counter() - self.deadline_s
            for delivery in list(self._deliveries):
                if delivery.began_s > latest_s:
                    break
                self._fail(delivery, TimeoutError())

    def _check_health(self, path: str, reply: Callable[[], web.Response], request: ShortRequest) -> bool:
        began_s = time.perf_counter()
        self._answer(request, path, "GET", PreparedReply.of(reply()), began_s)
        return True

    def _deliver(self, request: ShortRequest) -> bool:
        """Record an event that Stripe signed, if there is one. Everything else is left to `webhook.receive`."""
        if not self.readiness.ready:
            return False
        try:
            received = ReceivedEvent(*self.webhook.read(request.body, request.headers))
        except Exception:  # `webhook.receive` meets the same one, and replies
            return False
        delivery = _Delivery(request, received)
        self._deliveries[delivery] = None
        delivery.place = self.places.take()
        if delivery.place is None:
            self._record(delivery)
        else:
            delivery.place.add_done_callback(partial(self._place_found, delivery))
        return True

    def _place_found(self, delivery: _Delivery, place: asyncio.Future[None]) -> None:
        if place.cancelled():
            return
        try:
            place.result()
        except Busy as error:
            self._fail(delivery, error)
            return
        if delivery in self._deliveries:
            self._record(delivery)
        else:  # its time was over at the very moment
            self.places.release()

    def _record(self, delivery: _Delivery) -> None:
        try:
            delivery.outcome = self.batcher.submit(delivery.received, len(delivery.request.body))
        except Overloaded as error:
            self.places.release()
            self._fail(delivery, error)
            return
        delivery.outcome.add_done_callback(partial(self._recorded, delivery))

    def _recorded(self, delivery: _Delivery, outcome: asyncio.Future[Outcome]) -> None:
        self.places.release()
        if outcome.cancelled():
            return
        try:
            duration_s = time.perf_counter() - delivery.began_s
            body = self.webhook.recorded(delivery.received.event, outcome.result(), duration_s)
        except Exception as error:
            self._fail(delivery, error)
        else:
            self._end(delivery, _accepted(body))

    def _fail(self, delivery: _Delivery, error: Exception) -> None:
        context = partial(event_log_context, delivery.received.event.id)
        self._end(delivery, PreparedReply.of(self.errors.reply(error, WEBHOOK_ROUTE, context)))
        for wait in (delivery.place, delivery.outcome):
            if wait:
                wait.cancel()

    def _end(self, delivery: _Delivery, reply: PreparedReply) -> None:
        del self._deliveries[delivery]
        self._answer(delivery.request, WEBHOOK_ROUTE, "POST", reply, delivery.began_s)

    def _answer(self, request: ShortRequest, route: str, method: str, reply: PreparedReply, began_s: float) -> None:
        self.metrics.request_answered(route, method, reply.status, time.perf_counter() - began_s)
        request.answer(reply, close=self.draining.is_set())


@lru_cache(maxsize=MAX_REPLIES)
def _accepted(body: bytes) -> PreparedReply:
    return PreparedReply.of(web.Response(body=body, content_type=JSON))
