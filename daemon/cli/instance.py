"""What `donationd reload`, `migrate`, `gate` and `accept-ledger` do."""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
import msgspec
import psycopg2

from daemon.api.config import MigrateConfig
from daemon.cli.arguments import Failure
from daemon.cli.database import LONG_S, LedgerAddress, StatementsLogged, ask
from daemon.cli.settings import check_url, read
from daemon.instance import environment
from daemon.instance import reload as reloading
from daemon.ledger import audit
from daemon.ledger import rebuild as rebuilding
from daemon.runtime.config import Basics, Settings, set_variables
from health_sidecar import gate as gate_check
from health_sidecar.ledger_position import FILE, LedgerPosition
from sql import migrate as migration
from sql.errors import classify


def reload() -> None:
    """Replaces the API processes of this folder's instance and prints a line for each."""
    read(Basics, os.environ)
    environ = environment.running_environ()
    if environ is None:
        raise Failure("no instance runs in this folder: start one with `donationd up`")
    _check_migrations(read(MigrateConfig, {**environ, **set_variables(os.environ)}))
    try:
        reloading.reload(environ, click.echo)
    except reloading.CannotReload as error:
        raise Failure(str(error)) from None


def _check_migrations(config: MigrateConfig) -> None:
    """Raises Failure if the database lacks migrations that this release cannot do without: its processes would fail on
    every event, while those of the previous release work. Warns of others. Without a URL nothing is checked.
    """
    url = config.database_url.get_secret_value() if config.database_url else ""
    if not url:
        return
    try:
        drift = migration.drift(url, schema=config.ledger_schema)
    except psycopg2.Error:
        return  # without its database no new process becomes ready, which ends the reload
    if drift.required:
        missing = ", ".join(drift.missing)
        raise Failure(f"migrations not applied: {missing}. Run `donationd migrate` first. No process was restarted")
    if warning := drift.warning():
        click.echo(warning, err=True)


def migrate(*, as_json: bool) -> None:
    """Applies what is missing, books the rows that the journal does not contain yet, and prints what was done."""
    ledger = owners_address()
    with one_sentence():
        applied = migration.apply(ledger.url, lambda line: click.echo(line, err=as_json), schema=ledger.schema)
    booked = _book(ledger)
    ask(audit.chain, timeout_s=LONG_S, ledger=ledger)  # the actions of releases before the chain
    if as_json:
        click.echo(json.dumps({"applied": applied, "booked": booked}))
        return
    click.echo(f"{len(applied)} applied; the schema is up to date" if applied else "the schema is up to date")
    if booked:
        click.echo(f"booked the entries of {booked} rows")


def _book(ledger: LedgerAddress) -> int:
    """Books the entries of the rows that releases before the journal stored, as `donationd rebuild` does: in batches
    beside live traffic, and after an interruption only what is left. Returns the number of rows."""
    if not ask(rebuilding.has_older_rows, ledger=ledger):
        return 0
    rows = ask(rebuilding.count_rows, timeout_s=LONG_S, ledger=ledger)
    try:
        with click.progressbar(length=rows, label="booking", file=sys.stderr) as bar:
            return ask(
                lambda database: rebuilding.rebuild(database, bar.update),
                timeout_s=LONG_S,
                sends_donor_data=True,
                ledger=ledger,
            )
    except StatementsLogged as refusal:
        click.echo(f"{refusal.message}\n{rows} rows are not booked in the journal: run donationd rebuild", err=True)
        return 0


def print_drift(*, as_json: bool) -> int:
    """Prints how the schema differs from this release's migrations; returns the exit status."""
    ledger = owners_address()
    with one_sentence():
        drift = migration.drift(ledger.url, schema=ledger.schema)
    is_up_to_date = not (drift.missing or drift.edited)
    if as_json:
        click.echo(json.dumps({"upToDate": is_up_to_date, **dataclasses.asdict(drift), "required": drift.required}))
        return 0 if is_up_to_date else 1
    for what, names in (("missing", drift.missing), ("edited", drift.edited), ("unknown", drift.unknown)):
        for name in names:
            click.echo(f"{what}: {name}")
    if warning := drift.warning():
        click.echo(warning)
    if is_up_to_date:
        click.echo("the schema is up to date")
    return 0 if is_up_to_date else 1


def gate(*, as_json: bool) -> int:
    """Runs the startup gate once, with what the sidecar of this folder's instance has seen; returns the exit status."""
    running = environment.running_environ() or {}
    beside = {name: running[name] for name in ("READINESS_SOCKET",) if name in running}
    return gate_check.run_once({**beside, **set_variables(os.environ)}, as_json=as_json)


def accept_ledger(*, as_json: bool) -> None:
    """Takes the ledger as it is for the one that this host has seen, and prints where it stands."""
    config = read(Settings, {**(environment.running_environ() or {}), **set_variables(os.environ)})
    path = config.readiness_socket.with_name(FILE)
    ledger = LedgerAddress(check_url(config.database_url.get_secret_value()), config.ledger_schema)
    try:
        position = ask(lambda database: LedgerPosition(path, database.fetch).accept(), ledger=ledger)
    except OSError as error:
        raise Failure(f"{path} cannot be written ({error.strerror}): run this as the user of the sidecar") from None
    entry = f"journal entry {position.entry.key} of {position.entry.at}" if position.entry else "an empty journal"
    click.echo(msgspec.json.encode(position) if as_json else f"accepted: {entry} is the newest of this ledger ({path})")


def owners_address() -> LedgerAddress:
    """Where the ledger is, as the role that migrates."""
    config = read(MigrateConfig, os.environ)
    if not config.url:
        raise Failure("set MIGRATE_DATABASE_URL or DATABASE_URL to postgresql://user@host/database")
    return LedgerAddress(check_url(config.url), config.ledger_schema)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Makes one sentence of an error. Of a failed connection it names only the class: libpq's text may repeat parts of
    the URL.
    """
    try:
        yield
    except migration.MigrationError as error:
        raise Failure(str(error)) from None
    except psycopg2.Error as error:
        if error.pgcode:
            raise Failure(f"the database refused: {str(error).strip().splitlines()[0]}") from None
        problem = f"no connection to the database ({classify(error)})"
        raise Failure(f"{problem}; in its URL, special characters are percent-encoded") from None
