"""What `donationd tokens new` does."""

import json

import click

from daemon.runtime.operator_tokens import new_token


def print_new(name: str, scopes: str, *, as_json: bool) -> None:
    """Prints a new token, and its entry for OPERATOR_TOKENS."""
    try:
        token, entry = new_token(name, scopes)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        click.echo(json.dumps({"name": name, "scopes": scopes, "token": token, "entry": entry}))
        return
    click.echo(f"token: {token}")
    click.echo(f"entry: {entry}")
    click.echo("give the token to the operator, it is not shown again; add the entry to OPERATOR_TOKENS", err=True)
