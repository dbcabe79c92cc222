"""A real sidecar and a real API process on one database, without supervisord, and truly signed deliveries to them."""

import itertools
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg2

from daemon.ledger.verification import verify
from daemon.simulator import sender
from daemon.simulator.scenarios import generate
from daemon.simulator.stripe_objects import Json
from sql.snapshot import snapshot
from tests.support.guard import base_environ
from tests.support.instance import eventually, free_ports
from tests.support.process import WAIT_S, Process

SECRET = "whsec_" + "live" * 8
TICKET = "story-1"
DEADLINE_S = 6.0
# Whatever else happens a reply comes no later than this: the deadline, and what a busy machine adds. A process that
# waits for its database without a deadline needs much longer.
LATEST_S = DEADLINE_S + 8.0
# Short waits, but the usual proportions and the usual interval of pings: none is due while a test runs, so that what
# the sidecar knows it knows from the API's report. With supervisord a process ends after five attempts and
# the next begins; here the one process goes on trying.
SETTINGS = {
    "STRIPE_LIVEMODE": "false",
    "HOST": "127.0.0.1",
    "LOG_FORMAT": "json",
    "DB_STATEMENT_TIMEOUT_MS": "1500",
    "REQUEST_DEADLINE_MS": str(int(DEADLINE_S * 1000)),
    "WATCHDOG_RETRY_MS": "50",
    "RECONNECT_ATTEMPTS": "1000",
    "RECONNECT_DELAY_MS": "100",
}
# For tests that are not about these limits: no statement of a busy machine reaches them.
PATIENT = {"DB_STATEMENT_TIMEOUT_MS": "5000", "REQUEST_DEADLINE_MS": "20000"}


@dataclass(frozen=True)
class Answer:
    """A reply, and how long it took; status 0: none."""

    status: int
    retry_after: str | None
    body: Json
    took_s: float


def _pays_the_ticket(event: Json) -> bool:
    payment = event["data"]["object"]
    ticket, currency = payment.get("metadata", {}).get("ticketId"), payment.get("currency")
    return (event["type"], ticket, currency) == ("payment_intent.succeeded", TICKET, "usd")


class Program(Process):
    """One of the two processes, and what it writes into its log."""

    def __init__(self, module: str, environ: Mapping[str, str], log: Path) -> None:
        super().__init__([sys.executable, "-m", module], log, environ)
        self.log = log

    def lines(self, words: str = "") -> list[dict[str, object]]:
        """The lines with these words; the last line of the file may not be complete yet."""
        *lines, _ = self.log.read_text().split("\n")
        return [json.loads(line) for line in lines if words in line]

    def clear_log(self) -> None:
        """From now on `lines` returns only what is written from now on."""
        os.truncate(self.log, 0)


class Live:
    """The two processes.

    Args:
        folder: for the socket, the metrics and the logs.
        url: the role's, for the processes.
        owner_url: for the tests that look at the ledger.
    """

    def __init__(self, folder: Path, url: str, owner_url: str, environ: Mapping[str, str] = {}) -> None:
        self.folder, self.url, self.owner_url = folder, url, owner_url
        port, metrics_port = free_ports(2)
        self.api_url, self.sidecar_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{metrics_port}"
        self._environ = base_environ() | {
            "DATABASE_URL": url,
            "STRIPE_WEBHOOK_SECRET": SECRET,
            "PORT": str(port),
            "METRICS_PORT": str(metrics_port),
            "READINESS_SOCKET": str(folder / "readiness.sock"),
            "METRICS_DIR": str(folder / "metrics"),
            "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
            "API_SLOT": "0",
            **SETTINGS,
            **environ,
        }
        self._events = self._payments()
        self.acknowledged: list[Json] = []  # events answered 200
        self.refused: list[Json] = []  # events answered otherwise, in their order

    def _payments(self) -> Iterator[Json]:
        """One event of each of many payments, without end: each is a donation more, in the same total."""
        for seed in itertools.count():
            for scenario in generate(seed, 20, [TICKET], now=int(time.time())):
                yield from (event for event in scenario.events if _pays_the_ticket(event))

    def start(self) -> None:
        """Returns once the API listens."""
        (self.folder / "metrics").mkdir(exist_ok=True)
        self.sidecar = Program("health_sidecar", self._environ, self.folder / "sidecar.log")
        self.api = Program("daemon.api", self._environ, self.folder / "api.log")
        eventually(lambda: bool(self.api.lines("listening on")) or self.ended, "the API listens", WAIT_S)
        assert not self.ended, self.sidecar.log.read_text() + self.api.log.read_text()

    def restart(self, **environ: str) -> None:
        """Both end and start again, with these variables changed and their logs empty."""
        self.stop()
        self._environ |= environ
        self.clear_logs()
        self.start()

    @property
    def ended(self) -> bool:
        """Whether one of them has ended."""
        return any(program.poll() is not None for program in (self.sidecar, self.api))

    def stop(self) -> None:
        """Ends both, in whatever state they are."""
        for program in (self.api, self.sidecar):
            if program.poll() is None:
                program.end()

    def clear_logs(self) -> None:
        """From now on both logs contain only what is written from now on."""
        self.api.clear_log()
        self.sidecar.clear_log()

    def event(self) -> Json:
        """An event that was never delivered: a donation more."""
        return next(self._events)

    def post(self, event: Json | None = None) -> Answer:
        """Delivers an event, a new one unless it is given."""
        event = event or self.event()
        body = sender.encode(event)
        headers = {"Stripe-Signature": sender.sign(body, SECRET, int(time.time()))}
        answer = self._ask(urllib.request.Request(f"{self.api_url}/webhooks/stripe", body, headers))  # noqa: S310
        (self.acknowledged if answer.status == 200 else self.refused).append(event)
        return answer

    def total(self) -> Answer:
        """Asks for the ticket's total."""
        return self.get(f"/api/tickets/{TICKET}/donations/total")

    def get(self, path: str) -> Answer:
        """Asks the API."""
        return self._ask(urllib.request.Request(f"{self.api_url}{path}"))  # noqa: S310

    def _ask(self, request: urllib.request.Request) -> Answer:
        began_s = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310
                return Answer(reply.status, None, json.loads(reply.read()), time.monotonic() - began_s)
        except urllib.error.HTTPError as reply:
            with reply:
                body = json.loads(reply.read())
                return Answer(reply.code, reply.headers["Retry-After"], body, time.monotonic() - began_s)
        except OSError:
            return Answer(0, None, {}, time.monotonic() - began_s)

    @property
    def ready(self) -> bool:
        """What the API believes."""
        return self.get("/health/db").status == 200

    @property
    def last_error(self) -> object:
        """The class of the last failure, as /health/db says it."""
        return self.get("/health/db").body.get("lastError")

    def check_well_again(self) -> None:
        """The next delivery succeeds by itself, Stripe's further deliveries too, and the ledger lacks nothing."""
        eventually(lambda: self.post().status == 200, "a delivery is taken again", WAIT_S)
        refused, self.refused = self.refused, []
        for event in refused:
            eventually(lambda event=event: self.post(event).status == 200, event["id"])  # type: ignore[misc]
        eventually(lambda: self.total().status == 200, "reads succeed")
        eventually(lambda: self.ready, "it is ready")
        assert self.differences() == []
        assert self.api.lines("Unexpected error") == []

    def differences(self) -> list[str]:
        """What `donationd verify` would say, and each event acknowledged that is not on record."""
        with closing(psycopg2.connect(self.owner_url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT id FROM stripe_events WHERE error IS NULL")
            recorded = {id_ for (id_,) in cursor.fetchall()}
        lost = [f"{event['id']} was acknowledged and is lost" for event in self.acknowledged]
        with snapshot(self.owner_url, "donationd test") as moment:
            return [line for line in lost if line.split()[0] not in recorded] + list(verify(moment, lambda _n: None))


@contextmanager
def living(folder: Path, url: str, owner_url: str, environ: Mapping[str, str] = {}) -> Iterator[Live]:
    """The two processes from when the API listens until the end."""
    live = Live(folder, url, owner_url, environ)
    try:
        live.start()
        yield live
    finally:
        live.stop()
