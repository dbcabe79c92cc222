"""`donationd tokens`: the tokens of operators."""

import click

from daemon.cli.arguments import json_option


@click.group()
def tokens() -> None:
    """Make tokens for the operator API.

    \b
    Example:
      donationd tokens new anna --scopes read+act
    """


@tokens.command("new")
@click.argument("name")
@click.option("--scopes", required=True, help="What it permits: read, export and act, joined by +.")
@json_option
def _new(name: str, scopes: str, as_json: bool) -> None:
    """Print a new token once, and its entry for OPERATOR_TOKENS.

    The token is for the operator, who sends it as `Authorization: Bearer TOKEN`; it is stored nowhere. The entry, which
    contains only the token's hash, is added to OPERATOR_TOKENS after a comma, and counts from the next start of the
    API. NAME is what the audit log shows. A name may have several tokens, so that one can be replaced.

    \b
    Examples:
      donationd tokens new anna --scopes read+act
      donationd tokens new books --scopes export --json
    """
    from daemon.cli import tokens

    tokens.print_new(name, scopes, as_json=as_json)
