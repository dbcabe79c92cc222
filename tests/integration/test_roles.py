"""What the role of the API and the sidecar may do, by trying it: rows, and nothing else (deploy/roles.sql)."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg2
import pytest

from daemon.instance.installation import ROOT
from daemon.instance.postgres import ROLE
from sql import load, migrate
from tests.support.postgres import USER, Server, debian_programs, running_server
from tests.support.role_rights import attempting, check_only_rows

ROLES = (ROOT / "deploy" / "roles.sql").read_text()


@pytest.fixture
def role_url(database_url: str) -> Iterator[str]:
    """The migrated database as the role of deploy/roles.sql sees it; the file is run twice."""
    with attempting(database_url) as cursor:
        for _ in range(2):
            cursor.execute((ROOT / "deploy" / "roles.sql").read_text())
        yield database_url.replace(USER, ROLE)
        cursor.execute(f"DROP OWNED BY {ROLE}")


def test_rows_and_nothing_else(role_url: str) -> None:
    """No definition, file, program, password, large object or other role's right is within the role's reach."""
    check_only_rows(role_url)


def test_it_covers_what_migrations_add(role_url: str, database_url: str) -> None:
    """A table that a later migration of the same owner makes can be used at once, its rows and nothing else."""
    with attempting(database_url) as owner:
        owner.execute("CREATE TABLE later (id bigint GENERATED ALWAYS AS IDENTITY, word text)")
    with attempting(role_url) as cursor:
        cursor.execute("INSERT INTO later (word) VALUES ('one')")
        cursor.execute("UPDATE later SET word = 'two'")
        cursor.execute("DELETE FROM later RETURNING word")
        assert cursor.fetchall() == [("two",)]
        cursor.execute(load("ping"))
        assert cursor.fetchall() == [(1,)]
    check_only_rows(role_url)


# --- Any role that runs the file, in one run


@pytest.fixture(scope="module", params=["the embedded PostgreSQL", "Debian's PostgreSQL 15"])
def each_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server with nothing of ours."""
    with running_server({}, debian_programs() if "Debian" in request.param else None) as server:
        yield server


class Site:
    """A ledger's database whose owner, `charity`, is no superuser."""

    def __init__(self, server: Server, rights: str) -> None:
        self._postgres = server.url.format(name="postgres")
        self.admin = server.url.format(name="ledger")
        self.owner = self.admin.replace(USER, "charity")
        self.role = self.admin.replace(USER, ROLE)
        with attempting(self._postgres) as cursor:
            cursor.execute(f"CREATE ROLE charity LOGIN {rights}")
            cursor.execute("CREATE DATABASE ledger OWNER charity")

    def remove(self) -> None:
        """Database and roles."""
        with attempting(self._postgres) as cursor:
            cursor.execute("DROP DATABASE ledger WITH (FORCE)")
            cursor.execute(f"DROP ROLE IF EXISTS {ROLE}")
            cursor.execute("DROP ROLE charity")

    def check_works(self) -> None:
        """The role reads and writes the rows of every table and can do nothing else, and so it is after a migration."""
        migrate.apply(self.owner)
        with attempting(self.owner) as owner:
            owner.execute("CREATE TABLE later (id bigint GENERATED ALWAYS AS IDENTITY, word text)")
        with attempting(self.role) as cursor:
            cursor.execute("INSERT INTO later (word) VALUES ('one') RETURNING id")
        check_only_rows(self.role)


@contextmanager
def site(server: Server, rights: str = "") -> Iterator[Site]:
    """A ledger's database whose owner has these rights besides."""
    found = Site(server, rights)
    try:
        yield found
    finally:
        found.remove()


def commands_left(url: str) -> list[str]:
    """Runs the file once; the commands that it says an administrator must run."""
    with closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(ROLES)
        assert len(connection.notices) <= 1
        return [line for line in "".join(connection.notices).splitlines() if line.endswith(";")]


def run_as(url: str, commands: list[str]) -> None:
    with attempting(url) as cursor:
        for command in commands:
            cursor.execute(command)


@pytest.mark.parametrize("migrated", [False, True])
def test_a_superuser_needs_one_run(each_server: Server, migrated: bool) -> None:
    """Before the first migration or after it: one run is enough for all tables that the owner makes, then and later."""
    with site(each_server) as ledger:
        if migrated:
            migrate.apply(ledger.owner)
        assert commands_left(ledger.admin) == []
        ledger.check_works()
        assert commands_left(ledger.owner) == []


@pytest.mark.parametrize("migrated", [False, True])
@pytest.mark.parametrize("rights", ["CREATEROLE", ""])
def test_an_owner_needs_one_run_and_what_it_prints(each_server: Server, rights: str, migrated: bool) -> None:
    """What the owner lacks the right for is printed. Once an administrator has run that, everything works, and there is
    nothing left to print.
    """
    with site(each_server, rights) as ledger:
        if migrated:
            migrate.apply(ledger.owner)
        left = commands_left(ledger.owner)
        assert ("CREATE ROLE donationd LOGIN;" in left) is (rights == "")
        assert any("lo_create" in command for command in left)
        run_as(ledger.admin, left)
        ledger.check_works()
        assert commands_left(ledger.owner) == []


def test_who_owns_nothing_gets_every_command(each_server: Server) -> None:
    """Run as a role that may do none of it, the file changes nothing and prints all of it."""
    with site(each_server) as ledger:
        migrate.apply(ledger.owner)
        run_as(ledger.admin, [f"CREATE ROLE {ROLE} LOGIN"])
        left = commands_left(ledger.role)
        assert commands_left(ledger.role) == left
        run_as(ledger.admin, left)
        ledger.check_works()
        assert commands_left(ledger.role) == []
