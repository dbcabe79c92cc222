"""What `donationd up` prints while it waits: the reason, and what to do about it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import psycopg2
import pytest

from daemon.instance.installation import ROOT
from daemon.instance.postgres import ROLE
from sql import migrate
from tests.support.instance import SIGNING_SECRET, Instance, eventually, instance_of_its_own
from tests.support.postgres import USER, running_server

SOON_S = 12.0  # the processes start, the sidecar asks once; not as long as the gate goes on trying
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


@contextmanager
def waiting_instance(url: str) -> Iterator[Instance]:
    """`up` with this database, while it waits."""
    environ = {
        **{"DATABASE_URL": url, "STRIPE_WEBHOOK_SECRET": SIGNING_SECRET, "HOST": "127.0.0.1"},
        "API_PROCESSES": "1",
    }
    with instance_of_its_own(environ) as instance, ThreadPoolExecutor(1) as beside:
        starting = beside.submit(instance.start)
        try:
            eventually(lambda: instance.up is not None, "it is started")
            yield instance
        finally:
            assert instance.up is not None
            instance.up.terminate()  # which ends the thread too
            starting.exception()
            instance.end()


def is_ready(instance: Instance) -> bool:
    return any("donationd is ready" in line for line in list(instance.printed))


def said(instance: Instance, words: str) -> bool:
    return any(line.startswith("  waiting: ") and words in line for line in list(instance.printed))


def test_a_wrong_password_a_missing_schema_and_then_ready(admin_url: str) -> None:
    """Each reason is printed when the first attempt has failed, with the remedy, and again as long as it lasts: the
    sidecar's restarts do not hide it.
    """
    run(admin_url, (ROOT / "deploy" / "roles.sql").read_text(), f"ALTER ROLE {ROLE} PASSWORD 'right'")
    with waiting_instance(admin_url.replace(f"{USER}@", f"{ROLE}:right@")) as instance:
        eventually(lambda: said(instance, "schema out of sync"), "the reason: no tables", SOON_S)
        assert said(instance, "donationd migrate")
        migrate.apply(admin_url)
        eventually(lambda: is_ready(instance), "migrating was enough", 30)
    with waiting_instance(admin_url.replace(f"{USER}@", f"{ROLE}:wrong@")) as instance:
        reason = "authentication failed for the database user"
        eventually(lambda: said(instance, reason), "the reason: the password", SOON_S)
        assert said(instance, "DATABASE_URL")
        printed = len(instance.printed)
        eventually(lambda: len(instance.printed) > printed + 2, "it goes on to say so", 30)
        assert all(reason in line for line in instance.printed[printed:])
        assert not any("wrong" in line for line in instance.printed)
        run(admin_url, f"ALTER ROLE {ROLE} PASSWORD 'wrong'")
        eventually(lambda: is_ready(instance), "the password was enough", 30)


def test_nothing_listens_at_the_databases_address() -> None:
    """The reason says that it is the database that does not answer."""
    with waiting_instance(f"postgresql://{ROLE}@127.0.0.1:1/none") as instance:
        eventually(lambda: said(instance, "connection refused"), "the reason", SOON_S)
        assert said(instance, "is PostgreSQL running")
