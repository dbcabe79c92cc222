"""One event's way: raw bytes -> signature -> facts -> one durable statement -> reply (SPEC 4)."""

import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from aiohttp import web

from daemon.api.metrics import SAMPLE_INTERVAL_S, ApiMetrics
from daemon.api.request_context import brings, ids
from daemon.api.signature import BadSignature, verify
from daemon.ledger.recorder import Entry, Recorded
from daemon.ledger.stripe_events import CannotApply, NotAnEvent, StripeEvent, read
from daemon.runtime.http.limits import read_body
from daemon.runtime.rate_limited_log import CountingLog, RateLimitedLog

BODY_LIMIT = 1024 * 1024  # Stripe's events have a few kB

Record = Callable[[Entry, int], Awaitable[Recorded]]  # an event, and its body's size in bytes


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
            outcome: RateLimitedLog(level, wording, f"[Webhook] … and {{}} more events {outcome}")
            for outcome, (level, wording) in WORDING.items()
        }

    async def receive(self, request: web.Request) -> web.Response:
        """Answers once the event's effect is durable; each refusal has its status in SPEC 4's table."""
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
        brings(request, event.id)
        recorded = await self._record(Entry(event, error), len(body))
        error = recorded.refused.get(event.id, error)
        outcome = _outcome(event, error, event.id in recorded.new)
        self._metrics.event_answered(event.type, outcome, time.perf_counter() - started)
        if event.unknown_status and outcome == "applied":
            self._metrics.unknown_status(event.unknown_status)
        self._say(request, event, outcome, error)
        if outcome == "failed":
            raise web.HTTPUnprocessableEntity(text=f"event {event.id} can't be applied: {error}")
        reply = _Reply(True, event.type, outcome == "duplicate", event.facts is not None, event.reason)
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

    def _say(self, request: web.Request, event: StripeEvent, outcome: str, error: str | None) -> None:
        reason = error or event.reason
        self._lines[outcome].write(event.id, **ids(request), type=event.type, **({"reason": reason} if reason else {}))


def _outcome(event: StripeEvent, error: str | None, is_new: bool) -> str:
    if not is_new:
        return "duplicate"
    if error is not None:
        return "failed"
    return "applied" if event.facts is not None else "ignored"


# Level and message of an event's log line, by outcome, in the seed's wording.
WORDING = {
    "duplicate": ("info", "[Webhook] ✅ Event {} already processed, skipping"),
    "failed": ("error", "[Webhook] ❌ Event {} can't be applied"),
    "applied": ("info", "[Webhook] ✅ Attribution updated by event {}"),
    "ignored": ("debug", "[Webhook] Event {} changes nothing"),
}
