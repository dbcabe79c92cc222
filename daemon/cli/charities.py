"""What `donationd charities` does."""

import dataclasses
import json
import os
from pathlib import Path

import click

from daemon.cli.arguments import Failure
from daemon.cli.database import ask
from daemon.cli.instance import one_sentence, owners_address
from daemon.instance import charities
from daemon.runtime.config import set_variables
from sql import load, migrate

NEXT_STEPS = """\
{name} has the schema {name} of the database {database}; its API listens on port {port}, its sidecar on {metrics_port}.
Next:
  1. Complete {environment}: STRIPE_WEBHOOK_SECRET of this charity's endpoint, and what else it uses.
  2. Start it: (set -a; . {environment}; donationd up)
  3. After an upgrade: (set -a; . {owner_environment}; donationd migrate)
{owner_environment} is not for the processes."""
ADMINISTRATOR = "Until a superuser runs these commands in the database {database}, its startup gate does not pass:"


def add(name: str, folder: Path, *, as_json: bool) -> None:
    """Adds a charity, migrates its schema, and prints what comes next."""
    url = owners_address().url
    try:
        with one_sentence():
            added = charities.add(url, name, folder.absolute())
    except charities.CannotAdd as reason:
        raise Failure(str(reason)) from None
    except OSError as error:
        raise Failure(f"{error.filename}: {error.strerror}. Nothing was changed") from None
    _migrate(added)
    facts = {key: value for key, value in dataclasses.asdict(added).items() if key != "owner_url"}
    if added.commands_left:
        click.echo("\n".join([ADMINISTRATOR.format(**facts), *added.commands_left]), err=True)
    click.echo(json.dumps(facts, default=str) if as_json else NEXT_STEPS.format(**facts))


def _migrate(added: charities.Added) -> None:
    try:
        with one_sentence():
            migrate.apply(added.owner_url, lambda line: click.echo(line, err=True), schema=added.name)
    except Failure as failure:
        raise Failure(
            f"{failure.message}\nSchema, roles and files of {added.name} exist, and not all tables: run this again"
        ) from None


def print_all(*, as_json: bool) -> None:
    """Prints each ledger of the database, which is that of `add` where MIGRATE_DATABASE_URL is set."""
    ledger = owners_address() if set_variables(os.environ).get("MIGRATE_DATABASE_URL") else None
    found = ask(lambda database: database.fetch(load("list_ledgers")), ledger=ledger)
    for schema, owner, donations in found:
        if as_json:
            click.echo(json.dumps({"schema": schema, "owner": owner, "donations": donations}))
        else:
            click.echo(f"{schema:<24} {owner:<32} about {donations} donations")
    if not found:
        click.echo("there is no ledger in this database yet; add one: donationd charities add NAME", err=True)
