"""`donationd charities`: the ledgers of several charities in one database."""

from pathlib import Path

import click

from daemon.cli.arguments import check_charity, json_lines_option, json_option


@click.group()
def charities() -> None:
    """Add a charity with a ledger of its own, or list charities.

    \b
    Examples:
      donationd charities add helpers --folder /etc/donationd
      donationd charities list
    """


@charities.command("add")
@click.argument("name", callback=check_charity)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    show_default="the current folder",
    help="Where the environment files are written.",
)
@json_option
def _add(name: str, folder: Path, as_json: bool) -> None:
    """Give a charity a schema, roles and environment files of its own.

    The schema and a role for the processes are named NAME; the role NAME_owner owns the schema. Their passwords are
    generated, and are in NAME.env (for the processes) and NAME.owner.env (for `donationd migrate`), which only the
    owner of the files can read. Ports are the next ones that no other file of the folder has.

    It uses MIGRATE_DATABASE_URL or DATABASE_URL, whose role must have CREATEROLE, and CREATE on the database. If it
    fails, what was made is removed again, or the error says what exists. It can be repeated: what exists stays.

    \b
    Examples:
      MIGRATE_DATABASE_URL=postgresql://… donationd charities add helpers --folder /etc/donationd
      donationd charities add helpers --json | jq .environment
    """
    from daemon.cli import charities

    charities.add(name, folder, as_json=as_json)


@charities.command("list")
@json_lines_option
def _list(as_json: bool) -> None:
    """List the ledgers of the database, with their schemas and owners.

    It uses MIGRATE_DATABASE_URL or DATABASE_URL. The number of donations is PostgreSQL's own estimate.

    \b
    Examples:
      donationd charities list
      donationd charities list --json | jq .schema
    """
    from daemon.cli import charities

    charities.print_all(as_json=as_json)
