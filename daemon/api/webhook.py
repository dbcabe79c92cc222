"""The path of an event: raw bytes -> signature -> facts -> one durable statement -> reply (SPEC 4)."""

import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from aiohttp import web

from daemon.api.metrics import SAMPLE_INTERVAL_S, ApiMetrics
from daemon.api.request_context import log_context, set_event_id
from daemon.api.signature import BadSignature, verify
from daemon.ledger.recorder import Outcome, ReceivedEvent, Result
from daemon.ledger.stripe_events import CannotApply, NotAnEvent, StripeEvent, read
from daemon.runtime.http.limits import read_body
from daemon.runtime.rate_limited_log import CountingLog, RateLimitedLog

BODY_LIMIT = 1024 * 1024  # Stripe's events have a few kB

Record = Callable[[ReceivedEvent, int], Awaitable[Outcome]]  # an event, and its body's size in bytes


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
        self._secrets = [secret.encode() for secret in secrets]
        self._livemode = livemode
        self._hash_key = hash_key
        self._clock = clock
        self._skew_due_s = 0.0
        self._refusals = CountingLog("[Webhook] ❌ Refused what is no event that Stripe signed")
        self._lines = {
            result: RateLimitedLog(level, wording, f"[Webhook] … and {{}} more events {result}")
            for result, (level, wording) in WORDING.items()
        }

    async def receive(self, request: web.Request) -> web.Response:
        """Answers once the event's effect is durable; the status of each rejection is in SPEC 4's table."""
        started = time.perf_counter()
        try:
            body = await read_body(request, BODY_LIMIT)
            now = self._clock()
            signed_s = verify(body, request.headers.get("Stripe-Signature", ""), self._secrets, now)
            if now >= self._skew_due_s:
                self._skew_due_s = now + SAMPLE_INTERVAL_S
                self._metrics.clock_skew(now - signed_s)
            event, error = self._reduce(body)
        except web.HTTPRequestEntityTooLarge:
            self._refuse("too large")
            raise
        except BadSignature as refusal:
            self._refuse(refusal.reason)
            raise web.HTTPBadRequest(text=str(refusal)) from None
        except NotAnEvent as refusal:
            self._refuse("no event")
            raise web.HTTPBadRequest(text=str(refusal)) from None
        set_event_id(request, event.id)
        result, error = await self._record(ReceivedEvent(event, error), len(body))
        self._metrics.event_answered(event.type, result, time.perf_counter() - started)
        if event.unknown_status and result is Result.APPLIED:
            self._metrics.unknown_status(event.unknown_status)
        self._log(request, event, result, error)
        if result is Result.FAILED:
            raise web.HTTPUnprocessableEntity(text=f"event {event.id} can't be applied: {error}")
        reply = _Reply(True, event.type, result is Result.DUPLICATE, event.facts is not None, event.reason)
        return web.Response(body=msgspec.json.encode(reply), content_type="application/json")

    def _reduce(self, body: bytes) -> tuple[StripeEvent, str | None]:
        """The event, and the scrubbed reason why it can't be applied, if so."""
        try:
            return read(body, livemode=self._livemode, hash_key=self._hash_key), None
        except CannotApply as failure:
            return failure.event, failure.reason

    def _refuse(self, reason: str) -> None:
        self._metrics.body_rejected(reason)
        self._refusals.count(reason)

    def _log(self, request: web.Request, event: StripeEvent, result: Result, error: str | None) -> None:
        reason = error or event.reason
        self._lines[result].write(
            event.id, **log_context(request), type=event.type, **({"reason": reason} if reason else {})
        )


# Level and message of an event's log line, by what became of it, in the seed's wording.
WORDING = {
    Result.DUPLICATE: ("info", "[Webhook] ✅ Event {} already processed, skipping"),
    Result.FAILED: ("error", "[Webhook] ❌ Event {} can't be applied"),
    Result.APPLIED: ("info", "[Webhook] ✅ Attribution updated by event {}"),
    Result.IGNORED: ("debug", "[Webhook] Event {} changes nothing"),
}
