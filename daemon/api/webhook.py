"""The path of an event: raw bytes -> signature -> facts -> one SQL statement, committed -> reply (SPEC 4)."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import lru_cache

import msgspec
from aiohttp import web

from daemon.api.metrics import SAMPLE_INTERVAL_S, ApiMetrics
from daemon.api.request_context import event_log_context, log_context, set_event_id
from daemon.api.signature import BadSignature, signing_state, verify
from daemon.ledger.changes import Outcome, ReceivedEvent, Result
from daemon.ledger.stripe_events import CannotApply, NotAnEvent, StripeEvent, read
from daemon.runtime.http.limits import read_body
from daemon.runtime.rate_limited_log import CountingLog, RateLimitedLog

BODY_LIMIT = 1024 * 1024  # bytes; Stripe's events have a few kB

JSON = "application/json"
MAX_REPLIES = 512  # that are kept as bytes; an ordinary instance has some dozens

# Records an event; the number is the size of its body in bytes.
Record = Callable[[ReceivedEvent, int], Awaitable[Outcome]]


class _Reply(msgspec.Struct, omit_defaults=True):
    received: bool
    type: str
    idempotent: bool
    handled: bool
    reason: str | None = None


class Webhook:
    """`POST /webhooks/stripe`."""

    def __init__(
        self,
        record: Record,
        metrics: ApiMetrics,
        *,
        secrets: Sequence[str],
        livemode: bool,
        hash_key: bytes | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._record = record
        self._metrics = metrics
        self._secrets = [signing_state(secret) for secret in secrets]
        self._livemode = livemode
        self._hash_key = hash_key
        self._clock = clock
        self._next_skew_sample_s = 0.0
        self._rejections = CountingLog("[Webhook] ❌ Rejected requests that are not events signed by Stripe")
        self._event_logs = {
            result: RateLimitedLog(level, wording, f"[Webhook] … and {{}} more events {result}")
            for result, (level, wording) in WORDING.items()
        }

    async def receive(self, request: web.Request) -> web.Response:
        """Replies once the event's effect is committed, or with the status of its rejection: 400, 413, 422 or 503."""
        began_s = time.perf_counter()
        event, failure, size = await self._read_event(request)
        set_event_id(request, event.id)
        outcome = await self._record(ReceivedEvent(event, failure), size)
        body = self.recorded(event, outcome, time.perf_counter() - began_s, log_context(request))
        return web.Response(body=body, content_type=JSON)

    def recorded(
        self, event: StripeEvent, outcome: Outcome, duration_s: float, context: Mapping[str, str] | None = None
    ) -> bytes:
        """Counts and logs an event that was recorded. Returns the body of the reply.

        Args:
            context: the ids of the request; None if it has none yet.

        Raises:
            HTTPUnprocessableEntity: the event can't be applied.
        """
        result, error = outcome
        self._metrics.event_answered(event.type, result, duration_s)
        if event.unknown_status and result is Result.APPLIED:
            self._metrics.unknown_status(event.unknown_status)
        self._log(event, result, error, context)
        if result is Result.FAILED:
            raise web.HTTPUnprocessableEntity(text=f"event {event.id} can't be applied: {error}")
        return _reply(event.type, result is Result.DUPLICATE, event.facts is not None, event.reason)

    async def _read_event(self, request: web.Request) -> tuple[StripeEvent, str | None, int]:
        """The event that Stripe signed, the reason why it cannot be applied (None if it can), and its size in bytes.

        Raises:
            HTTPException: the request is not an event that Stripe signed; it is counted as rejected.
        """
        try:
            body = await read_body(request, BODY_LIMIT)
        except web.HTTPRequestEntityTooLarge:
            self._count_rejection("too large")
            raise
        event, failure = self.read(body, request.headers)
        return event, failure, len(body)

    def read(self, body: bytes, headers: Mapping[str, str]) -> tuple[StripeEvent, str | None]:
        """The event that Stripe signed, and the reason why it cannot be applied; None if it can.

        Raises:
            HTTPBadRequest: it is not an event that Stripe signed; it is counted as rejected.
        """
        try:
            self._verify(body, headers.get("Stripe-Signature", ""))
            return self._reduce(body)
        except BadSignature as rejection:
            self._count_rejection(rejection.reason)
            raise web.HTTPBadRequest(text=str(rejection)) from None
        except NotAnEvent as rejection:
            self._count_rejection("no event")
            raise web.HTTPBadRequest(text=str(rejection)) from None

    def _verify(self, body: bytes, signature: str) -> None:
        """Checks the signature, and measures from time to time how far the clock here is from Stripe's."""
        now_s = self._clock()
        signed_s = verify(body, signature, self._secrets, now_s)
        if now_s >= self._next_skew_sample_s:
            self._next_skew_sample_s = now_s + SAMPLE_INTERVAL_S
            self._metrics.clock_skew(now_s - signed_s)

    def _reduce(self, body: bytes) -> tuple[StripeEvent, str | None]:
        """The event, and the reason why it cannot be applied, without any value of the event; None if it can."""
        try:
            return read(body, livemode=self._livemode, hash_key=self._hash_key), None
        except CannotApply as failure:
            return failure.event, failure.reason

    def _count_rejection(self, reason: str) -> None:
        self._metrics.body_rejected(reason)
        self._rejections.count(reason)

    def _log(self, event: StripeEvent, result: Result, error: str | None, context: Mapping[str, str] | None) -> None:
        log = self._event_logs[result]
        if not log.has_room():
            log.leave_out()
            return
        reason = error or event.reason
        log.write(
            event.id,
            **(context or event_log_context(event.id)),
            type=event.type,
            **({"reason": reason} if reason else {}),
        )


@lru_cache(maxsize=MAX_REPLIES)
def _reply(event_type: str, idempotent: bool, handled: bool, reason: str | None) -> bytes:
    reply = _Reply(received=True, type=event_type, idempotent=idempotent, handled=handled, reason=reason)
    return msgspec.json.encode(reply)


# The level and the text of an event's log line, by its result.
WORDING = {
    Result.DUPLICATE: ("info", "[Webhook] ✅ Event {} already processed, skipping"),
    Result.FAILED: ("error", "[Webhook] ❌ Event {} can't be applied"),
    Result.APPLIED: ("info", "[Webhook] ✅ Attribution updated by event {}"),
    Result.IGNORED: ("debug", "[Webhook] Event {} changes nothing"),
}
