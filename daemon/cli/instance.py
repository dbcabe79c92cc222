"""What `donationd reload`, `migrate` and `gate` do."""

import dataclasses
import json
import os

import click
import psycopg2

from daemon.api.config import MigrateConfig
from daemon.cli.arguments import Failure
from daemon.cli.settings import check_url, read
from daemon.instance import environment
from daemon.instance import reload as reloading
from daemon.runtime.config import Basics
from health_sidecar import gate as startup_gate
from sql import migrate as migration
from sql.errors import classify


def reload() -> None:
    """Replaces the API processes of this folder's instance and prints a line for each."""
    read(Basics, os.environ)
    environ = environment.running_environ()
    if environ is None:
        raise Failure("no instance runs in this folder: start one with `donationd up`")
    try:
        reloading.reload(environ, click.echo)
    except reloading.CannotReload as error:
        raise Failure(str(error)) from None


def migrate(*, as_json: bool) -> None:
    """Applies what is missing and prints what it applied."""
    url = _owner_url()
    try:
        applied = migration.apply(url, lambda line: click.echo(line, err=as_json))
    except migration.MigrationError as error:
        raise Failure(str(error)) from None
    except psycopg2.Error as error:
        raise Failure(_without_url(error)) from None
    if as_json:
        click.echo(json.dumps({"applied": applied}))
    else:
        click.echo(f"{len(applied)} applied; the schema is up to date" if applied else "the schema is up to date")


def print_drift(*, as_json: bool) -> int:
    """Prints how the schema differs from this release's migrations; returns the exit status."""
    url = _owner_url()
    try:
        drift = migration.drift(url)
    except migration.MigrationError as error:
        raise Failure(str(error)) from None
    except psycopg2.Error as error:
        raise Failure(_without_url(error)) from None
    is_up_to_date = not (drift.missing or drift.edited)
    if as_json:
        click.echo(json.dumps({"upToDate": is_up_to_date, **dataclasses.asdict(drift)}))
        return 0 if is_up_to_date else 1
    for what, names in (("missing", drift.missing), ("edited", drift.edited), ("unknown", drift.unknown)):
        for name in names:
            click.echo(f"{what}: {name}")
    if is_up_to_date:
        click.echo("the schema is up to date")
    return 0 if is_up_to_date else 1


def _owner_url() -> str:
    url = read(MigrateConfig, os.environ).url
    if not url:
        raise Failure("set MIGRATE_DATABASE_URL or DATABASE_URL to postgresql://user@host/database")
    return check_url(url)


def _without_url(error: psycopg2.Error) -> str:
    """The server's sentence about a statement; about a connection only the class of the error, because libpq's text
    may repeat parts of the URL.
    """
    if error.pgcode:
        return f"the database refused: {str(error).strip().splitlines()[0]}"
    return f"no connection to the database ({classify(error)}); in its URL, special characters are percent-encoded"


def gate(*, as_json: bool) -> int:
    """Runs the startup gate; returns the exit status."""
    return startup_gate.run_once(os.environ, as_json=as_json)
