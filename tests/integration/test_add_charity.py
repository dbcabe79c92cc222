"""`donationd charities`: a charity gets schema, roles and files, all of them or none."""

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from psycopg2.extensions import parse_dsn

from daemon.api.config import Config as ApiConfig
from daemon.cli.main import main
from daemon.instance import charity_files
from daemon.instance.charities import of_role
from daemon.instance.charity_files import CharityFiles
from health_sidecar.gate import run_once
from sql import migrate
from tests.support.ledger import record, rows, scenario
from tests.support.postgres import USER, Server, debian_programs, running_server
from tests.support.role_rights import attempting, check_only_rows, is_refused

HELPERS, SHELTER = "helpers", "shelter"
SECRET = "whsec_" + "b" * 32


@pytest.fixture(scope="module", params=["the embedded PostgreSQL", "Debian's PostgreSQL 15"])
def each_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server with nothing of ours."""
    with running_server({}, debian_programs() if "Debian" in request.param else None, in_memory=True) as server:
        yield server


@pytest.fixture
def url(each_server: Server) -> Iterator[str]:
    """An empty database, as a superuser; the roles that a test made are removed with it."""
    with attempting(each_server.url.format(name="postgres")) as cursor:
        cursor.execute("CREATE DATABASE ledgers")
        yield each_server.url.format(name="ledgers")
        cursor.execute("DROP DATABASE ledgers WITH (FORCE)")
        cursor.execute("SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> current_user")
        for (role,) in cursor.fetchall():
            cursor.execute(f"DROP ROLE {role}")


@pytest.fixture
def charities(url: str, tmp_path: Path) -> Callable[..., Result]:
    """Runs `donationd charities` for the database, or for another URL, with its files in a folder of the test's own."""

    def run(*words: str, as_url: str = url) -> Result:
        options = ["--folder", str(tmp_path)] if words[0] == "add" else []
        return CliRunner().invoke(main, ["charities", *words, *options], env={"MIGRATE_DATABASE_URL": as_url})

    return run


def settings(folder: Path, charity: str) -> dict[str, str]:
    """What systemd makes of the file for the processes."""
    lines = CharityFiles(folder, charity).environment.read_text().splitlines()
    return {name: value.strip("'") for name, value in (line.split("=", 1) for line in lines if line[0] != "#")}


def roles(url: str) -> list[str]:
    return [str(name) for (name,) in rows(url, "SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1")]


def test_a_charity_is_ready_after_one_command(charities: Callable[..., Result], url: str, tmp_path: Path) -> None:
    """Its files are complete but for Stripe's secret, and only their owner can read them; its gate passes; its role has
    the rights on its rows and no other; and no password is printed.
    """
    done = charities("add", HELPERS)
    assert done.exit_code == 0, done.output
    environ = settings(tmp_path, HELPERS)
    files = [tmp_path / "helpers.env", tmp_path / "helpers.owner.env"]
    assert sorted(tmp_path.iterdir()) == files
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600, 0o600]
    config = ApiConfig.from_environ({**environ, "STRIPE_WEBHOOK_SECRET": SECRET})
    assert (config.ledger_schema, config.host, config.port) == (HELPERS, "127.0.0.1", 3004)
    assert config.operator_log == Path(environ["DONATIOND_STATE"], "operator.log")
    assert "MIGRATE_DATABASE_URL" not in environ
    assert run_once(environ) == 0
    check_only_rows(environ["DATABASE_URL"], HELPERS)
    record(environ["DATABASE_URL"], scenario("paid").events, schema=HELPERS)
    for path in files:
        [line] = [line for line in path.read_text().splitlines() if "DATABASE_URL=" in line]
        password = parse_dsn(line.split("=", 1)[1].strip("'"))["password"]
        assert len(password) == 32
        assert password not in done.output
    with attempting(environ["DATABASE_URL"]) as cursor:
        cursor.execute("SHOW search_path")
        assert cursor.fetchone() == (HELPERS,)
    assert rows(url, "SELECT has_schema_privilege('helpers_owner', 'public', 'CREATE')") == [(False,)]


def test_repeated_it_changes_nothing(charities: Callable[..., Result], tmp_path: Path) -> None:
    """What an operator has entered stays, and so do the passwords; what is missing is added."""
    assert charities("add", HELPERS).exit_code == 0
    path = tmp_path / "helpers.env"
    entered = path.read_text().replace("PORT=3004", "PORT=4000").replace("METRICS_PORT=9465\n", "")
    path.write_text(entered + "CHARITY_NAME=The helpers' house\n")
    before = {each: each.read_bytes() for each in tmp_path.iterdir()}
    again = charities("add", HELPERS, "--json")
    assert {each: each.read_bytes() for each in tmp_path.iterdir()} == before
    shown = json.loads(again.stdout)
    assert (shown["port"], shown["metrics_port"]) == (4000, 9464)
    assert "applied" not in again.output
    assert run_once(settings(tmp_path, HELPERS)) == 0


def test_two_charities_share_the_database_and_nothing_else(charities: Callable[..., Result], tmp_path: Path) -> None:
    """Ports, state folders and passwords differ, neither role reaches a table of the other, and both are listed."""
    for name in (HELPERS, SHELTER):
        assert charities("add", name).exit_code == 0
    first, second = settings(tmp_path, HELPERS), settings(tmp_path, SHELTER)
    assert {name for name in first if first[name] == second[name]} == {"HOST", "STRIPE_WEBHOOK_SECRET"}
    record(second["DATABASE_URL"], scenario("paid").events, schema=SHELTER)
    with attempting(first["DATABASE_URL"]) as cursor:
        assert is_refused(cursor, "SELECT FROM shelter.stripe_attributions")
        assert is_refused(cursor, "SET ROLE shelter")
        assert is_refused(cursor, "SET ROLE helpers_owner")
    as_helpers = CliRunner().invoke(main, ["charities", "list", "--json"], env={"DATABASE_URL": first["DATABASE_URL"]})
    for listed in (as_helpers, charities("list", "--json")):
        assert [json.loads(line)["schema"] for line in listed.stdout.splitlines()] == [HELPERS, SHELTER]


def test_charities_are_added_to_a_folder_one_after_the_other(
    charities: Callable[..., Result], url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at the same time would choose the same ports. Who waits too long has changed nothing."""
    monkeypatch.setattr(charity_files, "LOCK_WAIT_S", 0.0)
    with charity_files.locked(tmp_path):
        done = charities("add", HELPERS)
    assert (done.exit_code, "another `donationd charities add` writes there" in done.output) == (1, True)
    assert list(tmp_path.iterdir()) == []
    assert HELPERS not in roles(url)


def test_who_may_create_roles_needs_no_superuser(charities: Callable[..., Result], url: str, tmp_path: Path) -> None:
    """What only a superuser may set is printed, and once that has run nothing is left to print."""
    with attempting(url) as cursor:
        cursor.execute("CREATE ROLE clerk LOGIN CREATEROLE")
        cursor.execute("GRANT CREATE ON DATABASE ledgers TO clerk")
    clerk = url.replace(USER, "clerk")
    done = charities("add", HELPERS, "--json", as_url=clerk)
    assert done.exit_code == 0, done.output
    left = json.loads(done.stdout)["commands_left"]
    assert any("SET log_min_error_statement" in command for command in left)
    assert all(command in done.stderr for command in left)
    with attempting(url) as cursor:
        for command in left:
            cursor.execute(command)
    assert json.loads(charities("add", HELPERS, "--json", as_url=clerk).stdout)["commands_left"] == []
    check_only_rows(settings(tmp_path, HELPERS)["DATABASE_URL"], HELPERS)


def test_without_the_right_nothing_is_made(charities: Callable[..., Result], url: str, tmp_path: Path) -> None:
    """Neither a file nor a role stays, also where only the schema is refused; the error says which rights it needs."""
    with attempting(url) as cursor:
        cursor.execute("CREATE ROLE visitor LOGIN")
        cursor.execute("CREATE ROLE clerk LOGIN CREATEROLE")
    before = roles(url)
    for role in ("visitor", "clerk"):
        done = charities("add", HELPERS, as_url=url.replace(USER, role))
        assert done.exit_code == 1
        assert "needs CREATEROLE, and CREATE on the database" in done.output
        assert [*tmp_path.iterdir()] == []
        assert roles(url) == before


def test_what_is_not_this_charitys_is_not_taken(charities: Callable[..., Result], url: str, tmp_path: Path) -> None:
    """A role whose password is in no file, a schema of another owner, and the files of another database."""
    with attempting(url) as cursor:
        cursor.execute("CREATE ROLE helpers LOGIN")
        cursor.execute("CREATE SCHEMA shelter")
    before = roles(url)
    assert "the role helpers exists" in charities("add", HELPERS).output
    assert f"belongs to the role {USER}" in charities("add", SHELTER).output
    assert [*tmp_path.iterdir()] == []
    assert roles(url) == before
    assert charities("add", "kitchen").exit_code == 0
    elsewhere = charities("add", "kitchen", as_url=url.replace("/ledgers", "/postgres"))
    assert (elsewhere.exit_code, "is of another database" in elsewhere.output) == (1, True)


@pytest.mark.parametrize("content", [b"PORT='3005\n", b"PORT=\xff\n"])
def test_a_file_that_no_shell_can_read_is_named(
    content: bytes, charities: Callable[..., Result], tmp_path: Path
) -> None:
    """It may be that of another charity, whose port is taken. Nothing is made."""
    (tmp_path / "shelter.env").write_bytes(content)
    done = charities("add", HELPERS)
    assert (done.exit_code, "shelter.env: it cannot be read" in done.output) == (1, True)
    assert [*tmp_path.iterdir()] == [tmp_path / "shelter.env"]


def test_a_migration_that_fails_can_be_repeated(
    charities: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what exists, and the next run does the rest."""

    def fail(*_: object, **__: object) -> list[str]:
        raise migrate.MigrationError("other sessions hold a lock")

    with monkeypatch.context() as patch:
        patch.setattr(migrate, "apply", fail)
        done = charities("add", HELPERS)
    assert done.exit_code == 1
    assert "Schema, roles and files of helpers exist, and not all tables: run this again" in done.output
    assert charities("add", HELPERS).exit_code == 0
    assert run_once(settings(tmp_path, HELPERS)) == 0


@pytest.mark.parametrize("name", ["public", "none", "pg_helpers", "Helpers", "a" * 58, "1st", "hel-pers"])
def test_a_name_that_cannot_be_a_role_is_wrong_usage(name: str) -> None:
    """Exit status 2, before any connection."""
    assert CliRunner().invoke(main, ["charities", "add", name]).exit_code == 2


NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@given(
    role=st.from_regex(r"[a-z_][a-z0-9_]{0,20}", fullmatch=True),
    password=NAMES,
    database=NAMES,
    hosts=st.sampled_from(["a.example", "a.example:1,b.example:2", "[::1]:5432", ""]),
    query=st.sampled_from(["", "?host=/run/a%20b&port=1", "?sslmode=verify-full&user=admin&password=p&dbname=x"]),
)
def test_the_url_of_another_role_leads_to_the_same_server(
    role: str, password: str, database: str, hosts: str, query: str
) -> None:
    """Whatever characters a name has: libpq finds role, password and database in the URL, and all else as it was."""
    admin = f"postgresql://{quote('ad:min', safe='')}:{quote('p@:/', safe='')}@{hosts}/postgres{query}"
    made, former = parse_dsn(of_role(admin, database, role, password)), parse_dsn(admin)
    assert (made.pop("user"), made.pop("password"), made.pop("dbname")) == (role, password, database)
    assert made == {name: value for name, value in former.items() if name not in {"user", "password", "dbname"}}
