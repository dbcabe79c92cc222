"""The real thing to send to: a whole `donationd up` with its own PostgreSQL, and what must be true of it afterwards."""

import hashlib
import re
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import psycopg2
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from daemon.ledger.verification import verify
from daemon.runtime.http.sessions import COOKIE, Sessions
from daemon.runtime.operator_tokens import OperatorToken, Scope
from sql.snapshot import snapshot
from tests.fuzz.mutation import CANARY
from tests.fuzz.seeds import TICKETS
from tests.support.instance import Instance, eventually, get, instance_of_its_own

SECRET = "whsec_" + "fuzz" * 8
OPERATOR = OperatorToken("fuzz", frozenset({Scope.READ, Scope.ACT}), hashlib.sha256(b"fuzz").hexdigest())
ENVIRON = {
    "API_PROCESSES": "1",
    "HOST": "127.0.0.1",
    "STRIPE_LIVEMODE": "false",
    "STRIPE_WEBHOOK_SECRET": SECRET,
    "REQUEST_DEADLINE_MS": "5000",
    "OPERATOR_TOKENS": f"{OPERATOR.name}:read+act:{OPERATOR.sha256}",
    # As many as there are clients.
    "OPERATOR_PLACES": "16",
    "EXPORT_PLACES": "16",
    # No request of a case may be refused for want of room or time: that has tests of its own.
    "WEBHOOK_QUEUE_LIMIT": "10000",
}
FAULT = re.compile(
    rf"Traceback|Unexpected error|exception was never retrieved|Error handling request|{re.escape(CANARY)}"
)
ERRORS_500 = re.compile(r'^http_requests_total\{[^}]*status="500"[^}]*\} ([0-9.e+]+)$', re.M)


@dataclass(frozen=True)
class Site:
    """A running instance, and the process of each of its programs when it began."""

    instance: Instance
    pids: dict[str, int]

    @property
    def ports(self) -> tuple[int, int]:
        """Those of the API and of the sidecar."""
        api, sidecar = (urlsplit(url).port for url in (self.instance.api, self.instance.sidecar))
        assert api is not None
        assert sidecar is not None
        return api, sidecar

    def faults(self) -> Iterator[str]:
        """What is wrong after everything was sent, a line each."""
        if get(f"{self.instance.api}/health/db")[0] != 200:
            yield "the API is not ready any more"
        running = self.instance.pids()
        for name, pid in self.pids.items():
            if running.get(name) != pid:
                yield f"{name} is another process than at first, or none: it died"
        for log in sorted((self.instance.state / "logs").glob("*.log*")):
            text = log.read_text(errors="replace")
            if found := FAULT.search(text):
                yield f"{log.name}: {text[max(0, found.start() - 300) : found.end() + 2000]}"
        with urllib.request.urlopen(f"{self.instance.sidecar}/metrics", timeout=10) as reply:  # noqa: S310 - our own
            counted = sum(map(float, ERRORS_500.findall(reply.read().decode())))
            if counted:
                yield f"{counted:.0f} replies with 500, as the metrics count them"
        with snapshot(self.instance.environ["DATABASE_URL"], "donationd fuzz") as moment:
            for difference in verify(moment, lambda _done: None):
                yield f"the ledger is not what its facts add up to: {difference}"


def operator_session() -> tuple[str, str]:
    """The Cookie header of an operator's session, and the token of its forms; they need no running process."""
    sessions, response = Sessions([OPERATOR], [SECRET]), web.Response()
    sessions.begin(OPERATOR, response)
    cookie = f"{COOKIE}={response.cookies[COOKIE].value}"
    session = sessions.find(make_mocked_request("GET", "/operator", {"Cookie": cookie}))
    assert session is not None
    return cookie, session.form_token


@contextmanager
def site() -> Iterator[Site]:
    """An instance with two tickets, ended afterwards."""
    with instance_of_its_own(ENVIRON) as instance:
        instance.start()
        with closing(psycopg2.connect(instance.environ["DATABASE_URL"])) as database, database:
            database.cursor().execute("INSERT INTO recording_tickets (id) SELECT unnest(%s)", (list(TICKETS),))
        eventually(lambda: get(f"{instance.api}/health/db")[0] == 200, "the API is ready")
        yield Site(instance, instance.pids())
