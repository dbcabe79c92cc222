"""What an API process answers on the short path (daemon.runtime.http.short_path): ordinary deliveries, health checks.

The path of an event is that of `webhook`, without a task and a middleware of its own (reply_queue.py).
"""

import asyncio
from functools import lru_cache, partial

from aiohttp import web

from daemon.api.metrics import WEBHOOK_ROUTE
from daemon.api.reply_queue import PendingRequest, ReplyQueue
from daemon.api.webhook import JSON, Webhook
from daemon.ledger.batcher import Batcher, Overloaded
from daemon.ledger.changes import Outcome, ReceivedEvent
from daemon.ledger.stripe_events import StripeEvent
from daemon.runtime.http.errors import error_reply
from daemon.runtime.http.health_routes import HealthChecks
from daemon.runtime.http.limits import Places
from daemon.runtime.http.short_path import PreparedReply, ShortHandler, ShortRequest

MAX_REPLIES = 512  # that are kept prepared


class ShortPath:
    """The handlers of deliveries and health checks on the short path."""

    def __init__(
        self, webhook: Webhook, batcher: Batcher, places: Places, health: HealthChecks, replies: ReplyQueue
    ) -> None:
        self._webhook = webhook
        self._batcher = batcher
        self._places = places
        self._health = health
        self._replies = replies
        self._readiness = replies.parts.readiness

    def handlers(self) -> dict[bytes, ShortHandler]:
        """By request line."""
        checks = {f"GET {path} HTTP/1.1".encode(): partial(self._check_health, path) for path in self._health.paths}
        return {b"POST /webhooks/stripe HTTP/1.1": self._deliver, **checks}

    def _check_health(self, path: str, request: ShortRequest) -> bool:
        """A check after a pause is answered at once, so that no number of others delays it; the others by turns."""
        check = PendingRequest(request, path, lambda _result, _took_s: self._health.prepared(path))
        if request.after_pause:
            self._replies.answer_now(check)
        else:
            self._replies.answer_by_turns(check)
        return True

    def _deliver(self, request: ShortRequest) -> bool:
        """Record an event that Stripe signed. What Stripe has not signed is rejected by turns, so that no number of
        such requests delays an event."""
        if not self._readiness.ready:
            return False
        try:
            received = ReceivedEvent(*self._webhook.read(request.body, request.headers))
        except web.HTTPBadRequest as error:
            rejected = _rejected(str(error.text))
            self._replies.answer_by_turns(PendingRequest(request, WEBHOOK_ROUTE, lambda _result, _took_s: rejected))
            return True
        except Exception:  # `webhook.receive` meets the same one, and replies
            return False
        event = received.event
        delivery = PendingRequest(request, WEBHOOK_ROUTE, partial(self._recorded_reply, event), event.id)
        self._replies.add(delivery)
        place = self._places.take()
        if place is None:
            self._record(delivery, received)
        else:
            place.add_done_callback(partial(self._place_found, delivery, received))
        return True

    def _place_found(self, delivery: PendingRequest, received: ReceivedEvent, place: asyncio.Future[None]) -> None:
        if (error := place.exception()) is not None:
            self._replies.finish(delivery, error)
        elif delivery in self._replies:
            self._record(delivery, received)
        else:  # its time was over
            self._places.release()

    def _record(self, delivery: PendingRequest, received: ReceivedEvent) -> None:
        try:
            self._batcher.submit(received, len(delivery.request.body), partial(self._recorded, delivery))
        except Overloaded as error:
            self._recorded(delivery, error)

    def _recorded(self, delivery: PendingRequest, result: Outcome | Exception) -> None:
        self._places.release()
        self._replies.finish(delivery, result)

    def _recorded_reply(self, event: StripeEvent, outcome: Outcome, took_s: float) -> PreparedReply:
        return _accepted(self._webhook.recorded(event, outcome, took_s))


@lru_cache(maxsize=MAX_REPLIES)
def _accepted(body: bytes) -> PreparedReply:
    return PreparedReply.of(web.Response(body=body, content_type=JSON))


@lru_cache(maxsize=MAX_REPLIES)
def _rejected(reason: str) -> PreparedReply:
    return PreparedReply.of(error_reply(web.HTTPBadRequest(text=reason)))
