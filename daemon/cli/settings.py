"""The settings of the commands: one reader for all of them, which is also that of the processes."""

import os
from collections.abc import Mapping
from typing import TypeVar

import click

from daemon.cli.arguments import Failure
from daemon.instance import environment
from daemon.runtime.config import Basics, ConfigError, set_variables
from sql.servers import url_problem

Kind = TypeVar("Kind", bound=Basics)

NO_DATABASE = "DATABASE_URL: not set"
ENVIRON = "daemon.cli.settings.environ"  # in click's context: read and mentioned once per command


def read(kind: type[Kind], environ: Mapping[str, str]) -> Kind:
    """The settings in `environ`; fails with every mistake at once."""
    try:
        return kind.from_environ(environ)
    except ConfigError as error:
        problems = error.problems
    if NO_DATABASE in problems:
        problems.append("set DATABASE_URL to postgresql://user@host/database, or start `donationd up --embedded` here")
    raise Failure("\n".join(problems))


def settings(kind: type[Kind]) -> Kind:
    """The settings of this environment; without DATABASE_URL those of this folder's embedded instance fill the gaps."""
    known = click.get_current_context().meta
    if ENVIRON not in known:
        known[ENVIRON] = _environ()
    return read(kind, known[ENVIRON])


def _environ() -> dict[str, str]:
    given = set_variables(os.environ)
    if "DATABASE_URL" in given:
        return given
    embedded = environment.embedded_environ()
    if embedded:
        click.echo("(using the embedded instance of this folder)", err=True)
    return {**(embedded or environment.EMBEDDED_DEFAULTS), **given}


def check_url(url: str) -> str:
    """The URL of a database; fails, and repeats nothing of it, if it is none."""
    if problem := url_problem(url):
        raise Failure(f"the database's URL {problem}")
    return url
