"""Adds a charity to a database: its schema, its two roles and its environment files.

The role that is named like the schema is for the processes; its owner, `NAME_owner`, is for migrations.
"""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import psycopg2
from psycopg2 import errors
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import parse_dsn

from daemon.instance.charity_files import CharityFiles, locked, remove
from daemon.instance.environment import DEFAULTS, new_password
from daemon.instance.roles import set_rights
from sql.schemas import SchemaTaken, has_role, make_role, make_schema

CONNECT_TIMEOUT_S = 5
MAX_NAME_CHARS = 57  # PostgreSQL's names have 63 bytes, and the owner's is longer
RIGHTS = (
    "The role in MIGRATE_DATABASE_URL, or in DATABASE_URL, needs CREATEROLE, and CREATE on the database "
    "(GRANT CREATE ON DATABASE … TO …), or must be a superuser"
)
OF_A_ROLE = {"user", "password", "dbname"}  # what a URL's query may state and is another role's


class CannotAdd(Exception):
    """The charity cannot be added; the text says why, what exists, and what to do."""


@dataclass(frozen=True)
class Added:
    """What was done for a charity.

    Attributes:
        environment, owner_environment: the files.
        owner_url: of the database, as the role that migrates. It has a password.
        commands_left: what only an administrator may run; until then the gate of this charity does not pass.
    """

    name: str
    database: str
    environment: Path
    owner_environment: Path
    port: int
    metrics_port: int
    owner_url: str
    commands_left: list[str]


def add(url: str, name: str, folder: Path) -> Added:
    """Adds the charity `name`, or what it lacks. Its schema is then to be migrated.

    Schema and roles are made in one transaction, and the files of a run that fails before its end are removed. Runs
    with the same folder wait for each other: no two charities get the same ports, and no file another run's password.

    Args:
        url: the database, as a role that may create roles and schemas.
        folder: where the environment files are.

    Raises:
        CannotAdd
        OSError: a file cannot be read or written.
        psycopg2.Error: the database cannot be reached.
    """
    charity = CharityFiles(folder, name)
    with closing(psycopg2.connect(url, connect_timeout=CONNECT_TIMEOUT_S)) as connection, locked(folder):
        database = connection.info.dbname
        owner, known = f"{name}_owner", charity.read()
        passwords = {name: _password(known, "DATABASE_URL"), owner: _password(known, "MIGRATE_DATABASE_URL")}
        _refuse_unknown_passwords(connection, charity, passwords)
        urls = {role: of_role(url, database, role, password or new_password()) for role, password in passwords.items()}
        _refuse_another_database(connection, charity, known, urls[name])
        written = charity.write(url=urls[name], owner_url=urls[owner])
        try:
            commands_left = _make(connection, name, urls)
        except BaseException:
            remove(written)
            raise
    settings = {**DEFAULTS, **charity.read()}
    return Added(
        name,
        database,
        charity.environment,
        charity.owner,
        int(settings["PORT"]),
        int(settings["METRICS_PORT"]),
        urls[owner],
        commands_left,
    )


def of_role(url: str, database: str, role: str, password: str) -> str:
    """The URL of the same server for another role."""
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2]
    query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] not in OF_A_ROLE]
    place = f"{quote(role)}:{quote(password, safe='')}@{hosts}"
    return urlunsplit((parts.scheme, place, f"/{quote(database, safe='')}", urlencode(query, quote_via=quote), ""))


def _password(settings: dict[str, str], variable: str) -> str | None:
    return parse_dsn(settings[variable]).get("password") if variable in settings else None


def _refuse_unknown_passwords(connection: Connection, charity: CharityFiles, passwords: dict[str, str | None]) -> None:
    """Raises CannotAdd for a role of which no file has the password: it may be no charity's."""
    with connection, connection.cursor() as cursor:
        taken = [role for role, password in passwords.items() if password is None and has_role(cursor, role)]
    if taken:
        raise CannotAdd(
            f"the role {taken[0]} exists, and {charity.folder} has no file with its password. If it is this charity's, "
            f"bring {charity.environment.name} and {charity.owner.name} from where it was added; otherwise use another "
            "name. Nothing was changed"
        )


def _refuse_another_database(connection: Connection, charity: CharityFiles, known: dict[str, str], url: str) -> None:
    """Raises CannotAdd where the charity's file leads to another database than the one to add it to.

    An operator may have changed the file's URL, to that of a pooler for example; then the role is here.
    """
    given, expected = parse_dsn(known.get("DATABASE_URL", url)), parse_dsn(url)
    with connection, connection.cursor() as cursor:
        is_here = given["dbname"] == expected["dbname"] and has_role(cursor, charity.name)
    if given != expected and not is_here:
        raise CannotAdd(
            f"DATABASE_URL in {charity.environment} is of another database. To add the charity to this one, use "
            "another folder, or move the file away. Nothing was changed"
        )


def _make(connection: Connection, name: str, urls: dict[str, str]) -> list[str]:
    """Makes schema and roles, in one transaction. Returns the commands that an administrator must run."""
    owner = f"{name}_owner"
    try:
        with connection, connection.cursor() as cursor:
            for role, url in urls.items():
                make_role(cursor, role, parse_dsn(url)["password"], schema=name)
            make_schema(cursor, name, owner)
            set_rights(cursor, schema=name, role=name)
    except errors.InsufficientPrivilege as refusal:
        raise CannotAdd(f"{str(refusal).splitlines()[0]}. {RIGHTS}. Nothing was changed") from None
    except SchemaTaken as taken:
        raise CannotAdd(
            f"the schema {name} exists and belongs to the role {taken}: use another name, or give the schema and its "
            f"tables to a role {owner}. Nothing was changed"
        ) from None
    return [line for line in "".join(connection.notices).splitlines() if line.endswith(";")]
