"""A real PostgreSQL for the whole run, and a fresh, migrated database per test by cloning a template.

Modules that `oldest_schema` lists begin with the schema of the release before, all others with today's. A module whose
tests begin with the same ledger replaces the fixture `template` by one of `make_template`.

The binaries are those of the embedded package; TEST_PG_BIN names another installation's folder.
"""

import contextlib
import gc
import itertools
import logging
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import hypothesis
import psycopg2
import pytest
import structlog
from psycopg2.extensions import connection as Connection

from daemon.instance.environment import DEFAULTS
from daemon.instance.supervisord import stop_limits
from daemon.simulator.fake_stripe.fake import FakeStripe
from daemon.simulator.fake_stripe.server import serving
from sql import migrate
from sql.database import Database
from tests.support import oldest_schema
from tests.support.guard import guarded
from tests.support.instance import SECRETS, Instance, instance_of_its_own
from tests.support.order import place
from tests.support.postgres import Clone, MakeTemplate, Server, own_database, running_server

# Of new objects, after which Python looks for cycles that nothing refers to any more. At its default of 700 it spends a
# tenth of the processor time of these tests on that, because the worlds that they make have millions of objects.
GC_THRESHOLD = 50_000
TODAYS, OLDEST = "template_ledger", "template_oldest"
EMBEDDED = "deploy/embedded.conf"
# Autovacuum would analyse the tables of some tests and not those of others, and delay the removal of rows meanwhile.
SETTINGS = {"max_connections": "50", "autovacuum": "off"}
_numbers = itertools.count(1)

# The same inputs in each run, and no limit of time for one of them: what refuses a change was caused by that change.
# `pytest --hypothesis-profile=default` and `make fuzz` try others.
hypothesis.settings.load_profile("ci")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Whatever ends the run, nothing of it is left; --basetemp=FOLDER keeps what tests wrote into their tmp_path."""
    gc.disable()  # until all modules are loaded, with none of them to be freed: a quarter of that time
    stack = contextlib.ExitStack()
    stack.enter_context(guarded())
    config.add_cleanup(stack.close)
    config.option.basetemp = config.option.basetemp or Path(tempfile.gettempdir(), "t")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Puts the tests in order. A test of a whole instance may take as long as `up` may take to stop, in addition to
    every test's limit.
    """
    side_by_side = hasattr(config, "workerinput")  # set by pytest-xdist
    items.sort(key=lambda item: place(item.nodeid.partition("::")[0], side_by_side=side_by_side))
    limit_s = float(config.getini("timeout")) + stop_limits(DEFAULTS | {"DONATIOND_INCLUDE": EMBEDDED}).total_s
    for item in items:
        if "supervised" in item.nodeid:
            item.add_marker(pytest.mark.timeout(limit_s))


def pytest_collection_finish() -> None:
    """What has been imported by now is never freed, so no search for cycles needs to look at it."""
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    gc.enable()


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Whatever a test configures, the next one finds logging as it was."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield
    root.handlers[:], level = before
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A running server."""
    with running_server(SETTINGS, in_memory=True) as server:
        yield server


@pytest.fixture(scope="session")
def postgres(server: Server) -> str:
    """The server's URL, with `{name}` where the database's name belongs."""
    return server.url


@pytest.fixture(scope="session")
def administrator(postgres: str) -> Iterator[Connection]:
    """A connection that creates and drops databases."""
    with closing(psycopg2.connect(postgres.format(name="postgres"))) as connection:
        connection.autocommit = True
        yield connection


@pytest.fixture(scope="session")
def oldest(postgres: str, administrator: Connection) -> str:
    """The name of a database without rows, with the oldest schema that this release works on."""
    administrator.cursor().execute(f"CREATE DATABASE {OLDEST}")
    oldest_schema.make(postgres.format(name=OLDEST))
    return OLDEST


@pytest.fixture(scope="session")
def todays(postgres: str, administrator: Connection, oldest: str) -> str:
    """The name of a database without rows, with today's schema."""
    administrator.cursor().execute(f"CREATE DATABASE {TODAYS} TEMPLATE {oldest} STRATEGY FILE_COPY")
    migrate.apply(postgres.format(name=TODAYS))
    return TODAYS


@pytest.fixture(scope="module")
def migrated(request: pytest.FixtureRequest, oldest: str, todays: str) -> str:
    """The name of a migrated database without rows, with the schema that the module's tests begin with."""
    return oldest if request.path.name in oldest_schema.MODULES else todays


@pytest.fixture(scope="module")
def make_template(postgres: str, administrator: Connection, migrated: str) -> MakeTemplate:
    """Returns the name of a new database, migrated and then filled by a function of its URL."""

    def make(fill: Callable[[str], None]) -> str:
        name = f"filled_{next(_numbers)}"
        administrator.cursor().execute(f"CREATE DATABASE {name} TEMPLATE {migrated} STRATEGY FILE_COPY")
        fill(postgres.format(name=name))
        return name

    return make


@pytest.fixture(scope="module")
def template(migrated: str) -> str:
    """The name of the database that the test's own is cloned from."""
    return migrated


@pytest.fixture(scope="session")
def clone(postgres: str, administrator: Connection) -> Clone:
    """Makes a database from the one of this name, and drops it at the end of the block; the block gets its URL."""
    return partial(own_database, postgres, administrator)


@pytest.fixture
def empty_url(clone: Clone) -> Iterator[str]:
    """A database without any table."""
    with clone("template1") as url:
        yield url


@pytest.fixture
def database_url(clone: Clone, template: str) -> Iterator[str]:
    """A migrated database of the test's own."""
    with clone(template) as url:
        yield url


@pytest.fixture(scope="module")
def shared_url(clone: Clone, template: str) -> Iterator[str]:
    """A migrated database for all tests of a module that leave it as it is: to make one takes longer than they do."""
    with clone(template) as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The test's own database, through our driver."""
    database = Database(
        database_url, pool_size=4, statement_timeout_s=60, connect_timeout_s=30, application_name="donationd test"
    )
    yield database
    await database.close()


@pytest.fixture
async def fake_stripe() -> AsyncIterator[FakeStripe]:
    """An empty fake of Stripe's API at its `base_url`, which accepts the key TEST_KEY."""
    async with serving(FakeStripe()) as fake:
        yield fake


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch) -> Iterator[Instance]:
    """A whole instance with one API process, not yet started."""
    with instance_of_its_own(SECRETS | {"API_PROCESSES": "1"}) as instance:
        monkeypatch.setenv("DONATIOND_STATE", str(instance.state))
        yield instance
