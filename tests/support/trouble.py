"""Trouble with the disk and the database of a running sidecar and API, and what they reply meanwhile."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psycopg2
import pytest

from daemon.instance.postgres import ROLE
from tests.support.instance import eventually
from tests.support.live import LATEST_S, TICKET, Answer, Live, living
from tests.support.postgres import USER, Server
from tests.support.process import WAIT_S

Start = Callable[..., Live]
ADD_TICKET = f"INSERT INTO recording_tickets VALUES ('{TICKET}')"  # noqa: S608 - a constant
FEW_REQUESTS = 5
QUICK_PINGS = {"WATCHDOG_INTERVAL_MS": "100"}  # where no request fails, so that no API process reports it


def run(url: str, *statements: str) -> list[tuple[object, ...]]:
    """Runs each statement by itself, as who may do anything; returns the last one's rows."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SET default_transaction_read_only = off")
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def done(url: str, do: Sequence[str], undo: Sequence[str]) -> Iterator[None]:
    """Statements that cause trouble, and those that repair it at the end."""
    run(url, *do)
    try:
        yield
    finally:
        run(url, *undo)


@contextmanager
def starting(ledger: str, folders: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a sidecar and an API on the ledger, as its role unless a URL is given; they have taken a delivery."""
    with ExitStack() as stack:

        def start(url: str = ledger.replace(USER, ROLE), **environ: str) -> Live:
            live = stack.enter_context(living(folders.mktemp("live"), url, ledger, environ))
            check_serves(live)
            return live

        yield start


def check_serves(live: Live) -> None:
    """They take a delivery and answer a read."""
    assert live.post().status == 200
    assert live.total().status == 200


def assert_unavailable(answer: Answer) -> None:
    """503 that says when to come again, in time."""
    assert (answer.status, answer.retry_after) == (503, "30")
    assert answer.took_s < LATEST_S


def assert_refuses(live: Live, trouble: str, *, reads: bool, times: int = FEW_REQUESTS) -> None:
    """Each delivery is answered 503, reads as said, and the API has one line that names the trouble."""
    for _ in range(times):
        assert_unavailable(live.post())
        answer = live.total()
        assert answer.status == (200 if reads else 503)
        assert answer.took_s < LATEST_S
    assert_logged(live, trouble)


def assert_logged(live: Live, trouble: str) -> None:
    """The API has one line with these words, but for the line that counts, which follows after ten seconds."""
    [_line] = [line for line in live.api.lines(trouble) if not str(line["event"]).endswith("times more")]


def await_not_ready(live: Live, error: str) -> None:
    """The sidecar has found out by itself, and says why."""
    eventually(lambda: not live.ready and live.last_error == error, f"not ready: {error}", WAIT_S)
    eventually(lambda: bool(live.sidecar.lines("marked not ready")), "it is logged")
    [line] = live.sidecar.lines("marked not ready")
    assert line["error"] == error


class OwnServer:
    """A server of a test's own in a folder, started and stopped as the test likes.

    Args:
        make: creates its data in the folder that it is called with.
    """

    def __init__(self, folder: str, make: Callable[[Server], None]) -> None:
        self.server = Server(Path(folder))
        make(self.server)
        self.url = self.server.url.format(name="postgres")
        self.log = self.server.log

    def start(self) -> None:
        """Returns once it takes connections."""
        # As many connections as the tests' server has, whose standby it may be.
        self.server.start({"wal_recycle": "off", "max_connections": "50"})

    @property
    def has_ended(self) -> bool:
        """Whether no process listens on its socket any more."""
        return not (self.server.home / "data" / "postmaster.pid").exists()


@contextmanager
def server_of_its_own(make: Callable[[Server], None]) -> Iterator[OwnServer]:
    """A running server; it ends with the context, in whatever state it is."""
    with tempfile.TemporaryDirectory(prefix="donationd-pg-", ignore_cleanup_errors=True) as folder:
        own = OwnServer(folder, make)
        try:
            own.start()
            yield own
        finally:
            if not own.has_ended:
                own.server.stop("immediate")


@contextmanager
def renamed(url: str, table: str) -> Iterator[None]:
    """A table that is not there any more; restored from a backup at the end."""
    with done(url, [f"ALTER TABLE {table} RENAME TO gone"], [f"ALTER TABLE gone RENAME TO {table}"]):
        yield
