"""A real PostgreSQL for the whole run, and a fresh, migrated database per test by cloning a template.

The binaries are those of the embedded package; TEST_PG_BIN names another installation's folder.
"""

import itertools
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg2
import pytest

from daemon.embedded import find_programs
from sql import migrate
from sql.database import Database

TEMPLATE = "template_ledger"
USER = "donationd_owner"
_numbers = itertools.count(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Quick tests first: a mistake shows at once, and the whole life under supervisord comes last."""
    items.sort(key=lambda item: "supervised" in item.nodeid or "test_up" in item.nodeid)


def _as_user() -> dict[str, object]:
    """PostgreSQL refuses to run as root."""
    return {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a server's maintenance database, without the database's name: append `/name`."""
    programs = Path(os.environ["TEST_PG_BIN"]) if "TEST_PG_BIN" in os.environ else find_programs()
    with tempfile.TemporaryDirectory(prefix="donationd-pg-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        home.chmod(0o777)
        data, run = home / "data", {**_as_user()}
        subprocess.run(
            [programs / "initdb", "-N", "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C"],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=home,
            **run,  # type: ignore[call-overload]
        )
        start = [programs / "pg_ctl", "-D", data, "-w", "-l", home / "log", "-o"]
        options = f"-c listen_addresses='' -c unix_socket_directories={home} -c max_connections=50 -c fsync=on"
        subprocess.run([*start, options, "start"], check=True, stdout=subprocess.DEVNULL, cwd=home, **run)  # type: ignore[call-overload]
        try:
            yield f"postgresql://{USER}@/{{name}}?host={home}"
        finally:
            subprocess.run(
                [programs / "pg_ctl", "-D", data, "-m", "immediate", "stop"],
                check=True,
                stdout=subprocess.DEVNULL,
                cwd=home,
                **run,  # type: ignore[call-overload]
            )


@pytest.fixture(scope="session")
def template(postgres: str) -> str:
    """The name of a migrated database that tests are cloned from."""
    _admin(postgres, f"CREATE DATABASE {TEMPLATE}")
    migrate.apply(postgres.format(name=TEMPLATE))
    return TEMPLATE


@pytest.fixture
def empty_url(postgres: str) -> Iterator[str]:
    """A database without any table."""
    yield from _fresh(postgres, "template1")


@pytest.fixture
def database_url(postgres: str, template: str) -> Iterator[str]:
    """A migrated database of the test's own."""
    yield from _fresh(postgres, template)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The test's own database, through our driver."""
    database = Database(
        database_url, pool_size=4, statement_timeout_s=10, connect_timeout_s=5, application_name="donationd test"
    )
    yield database
    await database.close()


def _fresh(postgres: str, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    _admin(postgres, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield postgres.format(name=name)
    _admin(postgres, f"DROP DATABASE {name} WITH (FORCE)")


def _admin(postgres: str, sql: str) -> None:
    connection = psycopg2.connect(postgres.format(name="postgres"))
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(sql)
    finally:
        connection.close()
