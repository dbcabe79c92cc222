"""What an API process answers on the short path (daemon.runtime.http.short_path): ordinary deliveries, health checks.

The path of an event is that of `webhook`, without a task, a middleware or a timer of its own: the end of its batch
calls back, and one watch ends all deliveries that take too long.
"""

import asyncio
import time
from collections import deque
from functools import lru_cache, partial

from aiohttp import web

from daemon.api.error_replies import ErrorReplies
from daemon.api.metrics import WEBHOOK_ROUTE, ApiMetrics
from daemon.api.request_context import event_log_context
from daemon.api.webhook import JSON, Webhook
from daemon.ledger.batcher import Batcher, Overloaded
from daemon.ledger.recorder import Outcome, ReceivedEvent
from daemon.runtime.http.health_routes import HealthChecks
from daemon.runtime.http.limits import Places
from daemon.runtime.http.short_path import PreparedReply, ShortHandler, ShortRequest
from daemon.runtime.readiness import ReadinessClient

WATCH_S = 0.25  # a delivery exceeds its deadline by at most so much
TURN_CHECKS = 64  # health checks in one iteration of the event loop
MAX_REPLIES = 512  # that are kept prepared


_Check = tuple[ShortRequest, str, float]  # a health check, its path, and when it came


class _Delivery:
    """A delivery that is being recorded."""

    __slots__ = ("began_s", "received", "request")

    def __init__(self, request: ShortRequest, received: ReceivedEvent) -> None:
        self.request = request
        self.received = received
        self.began_s = time.perf_counter()


class ShortPath:
    """The handlers of the short path.

    Replies are sent together with the others of the same iteration of the event loop, so that one write to the files of
    the metrics counts all of them.

    Args:
        deadline_s: the time that one request may take in total.
        draining: once set, each reply closes its connection.
    """

    def __init__(
        self,
        webhook: Webhook,
        batcher: Batcher,
        places: Places,
        *,
        health: HealthChecks,
        readiness: ReadinessClient,
        metrics: ApiMetrics,
        errors: ErrorReplies,
        draining: asyncio.Event,
        deadline_s: float,
    ) -> None:
        self.webhook = webhook
        self.health = health
        self.readiness = readiness
        self.metrics = metrics
        self.errors = errors
        self.draining = draining
        self.deadline_s = deadline_s
        self._batcher = batcher
        self._places = places
        self._deliveries: dict[_Delivery, None] = {}  # the earliest first
        self._finished: list[tuple[_Delivery, Outcome | BaseException]] = []  # they have no reply yet
        self._first_checks: list[_Check] = []
        self._checks = deque[_Check]()
        self._is_sending = False

    def handlers(self) -> dict[bytes, ShortHandler]:
        """By request line."""
        checks = {f"GET {path} HTTP/1.1".encode(): partial(self._check_health, path) for path in self.health.paths}
        return {b"POST /webhooks/stripe HTTP/1.1": self._deliver, **checks}

    async def watch_deadline(self) -> None:
        """End the deliveries that take too long. Never returns."""
        while True:
            await asyncio.sleep(WATCH_S)
            latest_s = time.perf_counter() - self.deadline_s
            for delivery in list(self._deliveries):
                if delivery.began_s > latest_s:
                    break
                self._finish(delivery, TimeoutError())

    def _check_health(self, path: str, request: ShortRequest) -> bool:
        """A check after a pause is answered at once, so that no number of others delays it; the others by turns."""
        checks = self._first_checks if request.after_pause else self._checks
        checks.append((request, path, time.perf_counter()))
        self._send_soon()
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
        place = self._places.take()
        if place is None:
            self._record(delivery)
        else:
            place.add_done_callback(partial(self._place_found, delivery))
        return True

    def _place_found(self, delivery: _Delivery, place: asyncio.Future[None]) -> None:
        if (error := place.exception()) is not None:
            self._finish(delivery, error)
        elif delivery in self._deliveries:
            self._record(delivery)
        else:  # its time was over
            self._places.release()

    def _record(self, delivery: _Delivery) -> None:
        try:
            outcome = self._batcher.submit(delivery.received, len(delivery.request.body))
        except Overloaded as error:
            self._places.release()
            self._finish(delivery, error)
            return
        outcome.add_done_callback(partial(self._recorded, delivery))

    def _recorded(self, delivery: _Delivery, outcome: asyncio.Future[Outcome]) -> None:
        self._places.release()
        self._finish(delivery, outcome.exception() or outcome.result())

    def _finish(self, delivery: _Delivery, result: Outcome | BaseException) -> None:
        if delivery in self._deliveries:  # else its time was over
            del self._deliveries[delivery]
            self._finished.append((delivery, result))
            self._send_soon()

    def _send_soon(self) -> None:
        if not self._is_sending:
            self._is_sending = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        """Send the replies of this iteration of the event loop, after they have been counted together."""
        self._is_sending = False
        finished, self._finished = self._finished, []
        checks = [*self._first_checks, *(self._checks.popleft() for _ in range(min(TURN_CHECKS, len(self._checks))))]
        self._first_checks.clear()
        now_s = time.perf_counter()
        replies: list[tuple[ShortRequest, PreparedReply]] = []
        with self.metrics.written_together():
            for delivery, result in finished:
                reply = self._reply(delivery, result, now_s)
                self.metrics.request_answered(WEBHOOK_ROUTE, "POST", reply.status, now_s - delivery.began_s)
                replies.append((delivery.request, reply))
            for request, path, began_s in checks:
                reply = self.health.prepared(path)
                self.metrics.request_answered(path, "GET", reply.status, now_s - began_s)
                replies.append((request, reply))
        close = self.draining.is_set()
        for request, reply in replies:
            request.answer(reply, close=close)
        if self._checks:
            self._send_soon()

    def _reply(self, delivery: _Delivery, result: Outcome | BaseException, now_s: float) -> PreparedReply:
        event = delivery.received.event
        try:
            if isinstance(result, BaseException):
                raise result
            return _accepted(self.webhook.recorded(event, result, now_s - delivery.began_s))
        except Exception as error:
            context = partial(event_log_context, event.id)
            return PreparedReply.of(self.errors.reply(error, WEBHOOK_ROUTE, context))


@lru_cache(maxsize=MAX_REPLIES)
def _accepted(body: bytes) -> PreparedReply:
    return PreparedReply.of(web.Response(body=body, content_type=JSON))
