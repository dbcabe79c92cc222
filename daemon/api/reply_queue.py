"""Requests on the short path (daemon.runtime.http.short_path) that wait for their replies, and the sending of these.

A request has no task and no timer of its own: what it waits for calls back, and one watch ends all requests that take
too long.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from daemon.api.error_replies import ErrorReplies
from daemon.api.metrics import ApiMetrics
from daemon.api.request_context import event_log_context, new_log_context
from daemon.api.tickets import TOTAL_PATH, allow_all_sites
from daemon.runtime.http.short_path import PreparedReply, ShortRequest
from daemon.runtime.readiness import ReadinessClient

WATCH_S = 0.25  # a request exceeds its deadline by at most so much
MAX_TURNS = 64  # replies by turns in one iteration of the event loop


@dataclass(frozen=True)
class ReplyParts:
    """What the replies to all requests have in common.

    Args:
        readiness: checked before anything else, except for health checks.
        draining: once set, each reply closes its connection, so that clients connect to another process.
        deadline_s: the time that one request may take in total.
    """

    readiness: ReadinessClient
    metrics: ApiMetrics
    errors: ErrorReplies
    draining: asyncio.Event
    deadline_s: float


class PendingRequest:
    """A request that has no reply yet.

    Args:
        make_reply: makes the reply of the request's result and of the seconds that it took.
        event_id: of a delivery, for the log.
    """

    __slots__ = ("began_s", "event_id", "make_reply", "request", "route")

    def __init__(
        self,
        request: ShortRequest,
        route: str,
        make_reply: Callable[[Any, float], PreparedReply],
        event_id: str | None = None,
    ) -> None:
        self.request = request
        self.route = route
        self.make_reply = make_reply
        self.event_id = event_id
        self.began_s = time.perf_counter()


class ReplyQueue:
    """The requests that wait.

    Replies are sent together with the others of the same iteration of the event loop, so that one write to the files of
    the metrics counts all of them.
    """

    def __init__(self, parts: ReplyParts) -> None:
        self.parts = parts
        self._pending: dict[PendingRequest, None] = {}  # the earliest first
        self._finished: list[tuple[PendingRequest, object]] = []  # with their results
        self._turns = deque[PendingRequest]()
        self._is_sending = False

    def __contains__(self, pending: PendingRequest) -> bool:
        """Whether the request still waits for its result."""
        return pending in self._pending

    def add(self, pending: PendingRequest) -> None:
        """The request waits for its result, until its time is over."""
        self._pending[pending] = None

    def finish(self, pending: PendingRequest, result: object) -> None:
        """The request has its result, or the error that it ended with. Its time may be over: then it has a reply."""
        if pending in self._pending:
            del self._pending[pending]
            self.answer(pending, result)

    def answer(self, pending: PendingRequest, result: object = None) -> None:
        """Reply together with the others of this iteration of the event loop."""
        self._finished.append((pending, result))
        self._send_soon()

    def answer_now(self, pending: PendingRequest) -> None:
        """Reply before anything else."""
        self._send([(pending, None)])

    def answer_by_turns(self, pending: PendingRequest) -> None:
        """Reply in this iteration or a later one: in each to no more than MAX_TURNS of such requests."""
        self._turns.append(pending)
        self._send_soon()

    async def watch_deadline(self) -> None:
        """End the requests that take too long. Never returns."""
        while True:
            await asyncio.sleep(WATCH_S)
            self._end_late()  # a function of its own: variables of this one would keep a request while it sleeps

    def _end_late(self) -> None:
        """End the requests that have taken too long."""
        latest_s = time.perf_counter() - self.parts.deadline_s
        for pending in list(self._pending):
            if pending.began_s > latest_s:
                break
            self.finish(pending, TimeoutError())

    def _send_soon(self) -> None:
        if not self._is_sending:
            self._is_sending = True
            asyncio.get_running_loop().call_soon(self._send_finished)

    def _send_finished(self) -> None:
        """Send the replies of this iteration of the event loop."""
        self._is_sending = False
        finished, self._finished = self._finished, []
        if self._turns:
            finished += [(self._turns.popleft(), None) for _ in range(min(MAX_TURNS, len(self._turns)))]
        self._send(finished)
        if self._turns:
            self._send_soon()

    def _send(self, finished: Sequence[tuple[PendingRequest, object]]) -> None:
        """Send these replies, after they have been counted together."""
        now_s, metrics, replies = time.perf_counter(), self.parts.metrics, []
        with metrics.written_together():
            for pending, result in finished:
                took_s = now_s - pending.began_s
                reply = self._reply(pending, result, took_s)
                metrics.request_answered(pending.route, pending.request.method, reply.status, took_s)
                replies.append((pending.request, reply))
        close = self.parts.draining.is_set()
        for request, reply in replies:
            request.answer(reply, close=close)

    def _reply(self, pending: PendingRequest, result: object, took_s: float) -> PreparedReply:
        if isinstance(result, Exception):  # not raised again: this frame and its trace would be a reference cycle
            return self._error_reply(pending, result)
        try:
            return pending.make_reply(result, took_s)
        except Exception as error:
            return self._error_reply(pending, error)

    def _error_reply(self, pending: PendingRequest, error: Exception) -> PreparedReply:
        id_ = pending.event_id
        context = partial(event_log_context, id_) if id_ else new_log_context
        reply = self.parts.errors.reply(error, pending.route, context)
        if pending.route == TOTAL_PATH:
            allow_all_sites(reply)
        return PreparedReply.of(reply)
