"""What `donationd up` prints while it waits: the reason, and what to do about it."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import NamedTuple

import psycopg2
import pytest

from daemon.instance.installation import ROOT
from daemon.instance.postgres import ROLE
from sql import migrate
from tests.support.instance import RECOVERY_TIMEOUT_S, SIGNING_SECRET, Instance, eventually, instance_of_its_own
from tests.support.postgres import USER, running_server

NEVER_MS = "3600000"
DATABASE = "ledger"


@pytest.fixture
def admin_url() -> Iterator[str]:
    """An empty database of a server that asks the role donationd for a password, as its superuser sees it."""
    with running_server({}) as server:
        rules = server.home / "data" / "pg_hba.conf"
        rules.write_text(f"local all {ROLE} scram-sha-256\n{rules.read_text()}")
        run(server.url.format(name="postgres"), f"CREATE DATABASE {DATABASE}", "SELECT pg_reload_conf()")
        yield server.url.format(name=DATABASE)


def run(url: str, *statements: str) -> None:
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


class Start(NamedTuple):
    """The start of an instance, and what comes of it."""

    instance: Instance
    result: Future[str]

    def said(self, words: str) -> bool:
        """Whether `up` has named this as the reason."""
        return any(line.startswith("  waiting: ") and words in line for line in list(self.instance.printed))

    def wait_until_ready(self) -> None:
        self.result.result(RECOVERY_TIMEOUT_S)

    @property
    def sidecars(self) -> int:
        """How many sidecars were started so far."""
        return self.instance.log("supervisord").count("spawned: 'sidecar'")


@contextmanager
def waiting_instance(url: str, retry_delay_ms: str) -> Iterator[Start]:
    """`up` with this database, while it waits; the gate tries again after this delay, which is doubled each time."""
    environ = {
        **{"DATABASE_URL": url, "STRIPE_WEBHOOK_SECRET": SIGNING_SECRET, "HOST": "127.0.0.1"},
        **{"API_PROCESSES": "1", "GATE_RETRY_DELAY_MS": retry_delay_ms},
    }
    with instance_of_its_own(environ) as instance, ThreadPoolExecutor(1) as beside:
        starting = beside.submit(instance.start)
        try:
            eventually(lambda: instance.up is not None, "it is started")
            yield Start(instance, starting)
        finally:
            assert instance.up is not None
            instance.up.terminate()  # which ends the thread too
            starting.exception()
            instance.end()


def test_a_wrong_password_a_missing_schema_and_then_ready(admin_url: str) -> None:
    """Each reason is printed with the remedy, and again as long as it lasts: the sidecar's restarts do not hide it."""
    run(admin_url, (ROOT / "deploy" / "roles.sql").read_text(), f"ALTER ROLE {ROLE} PASSWORD 'right'")
    with waiting_instance(admin_url.replace(f"{USER}@", f"{ROLE}:right@"), "100") as start:
        eventually(lambda: start.said("schema out of sync"), "the reason: no tables")
        assert start.said("donationd migrate")
        migrate.apply(admin_url)
        start.wait_until_ready()
    with waiting_instance(admin_url.replace(f"{USER}@", f"{ROLE}:wrong@"), "100") as start:
        reason, printed = "authentication failed for the database user", start.instance.printed
        eventually(lambda: start.said(reason), "the reason: the password")
        assert start.said("DATABASE_URL")
        before, sidecars = len(printed), start.sidecars
        eventually(lambda: start.sidecars > sidecars + 1, "the sidecar is started again, twice")
        after = len(printed)
        eventually(lambda: len(printed) > after, "it goes on to say so")
        assert all(reason in line for line in printed[before:])
        assert not any("wrong" in line for line in printed)
        run(admin_url, f"ALTER ROLE {ROLE} PASSWORD 'wrong'")
        start.wait_until_ready()


def test_nothing_listens_at_the_databases_address() -> None:
    """The reason is printed when the first attempt has failed, and names the database as what does not answer."""
    with waiting_instance(f"postgresql://{ROLE}@127.0.0.1:1/none", NEVER_MS) as start:
        eventually(lambda: start.said("connection refused"), "the reason")
        assert start.said("is PostgreSQL running")
