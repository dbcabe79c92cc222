"""What `donationd operator-log export`, `verify` and `apply` do."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from daemon.api.config import CommandConfig
from daemon.cli.arguments import Failure
from daemon.cli.database import LONG_S, ask
from daemon.cli.settings import settings
from daemon.operator_log import apply as applying
from daemon.operator_log import export as exporting
from daemon.operator_log.batches import Batch
from daemon.runtime import chained_file
from daemon.runtime.chained_file import BrokenChain


def export(file: Path | None, *, as_json: bool) -> None:
    """Appends to the log and prints what was appended."""
    path = file or _configured()
    with _one_sentence(path):
        found = ask(lambda database: exporting.export(database, path), timeout_s=LONG_S, connections=2)
    if as_json:
        click.echo(msgspec.json.encode(found._asdict()))
    else:
        click.echo(f"{found.rows} rows appended to {path}; it has {found.position.actions} actions")
        click.echo(f"the hash of its last line: {found.hash}")


def verify(file: Path | None, known_hash: str | None, *, as_json: bool) -> None:
    """Checks every line and prints what the log contains; fails if no line has the hash that is known."""
    path = file or _configured()
    lines, rows, hash_, is_known = 0, 0, None, known_hash is None
    with _one_sentence(path):
        for line in chained_file.read(path):
            lines += 1
            rows += sum(map(len, Batch.decode(line).rows.values()))
            hash_ = line.hash.hex()
            is_known = is_known or hash_ == (known_hash or "").lower()
    if not is_known:
        raise Failure(f"no line of {path} has the hash {known_hash}: its newest lines are missing")
    if as_json:
        click.echo(msgspec.json.encode({"lines": lines, "rows": rows, "hash": hash_}))
    else:
        click.echo(
            f"{path}: {lines} lines with {rows} rows, each as it was written\nthe hash of its last line: {hash_}"
        )


def apply(file: Path | None, audit_hash: str | None, *, as_json: bool) -> None:
    """Applies the log and prints what it has brought."""
    path = file or _configured()
    with _one_sentence(path):
        found = ask(
            lambda database: applying.apply(database, path, audit_hash=audit_hash, progress=_show),
            timeout_s=LONG_S,
            sends_donor_data=True,
        )
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    click.echo(f"{found.actions} actions were missing; {found.decisions} decisions about donations hold again")
    click.echo("next: start donationd, then run donationd replay and donationd reconcile", err=True)


def _configured() -> Path:
    """OPERATOR_LOG. Raises Failure if it is not set."""
    path = settings(CommandConfig).operator_log
    if path is None:
        raise Failure("name the file of the log, or set OPERATOR_LOG")
    return path


def _show(progress: str) -> None:
    if sys.stderr.isatty():
        click.echo(progress, err=True)


@contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    """Makes one sentence of an error."""
    try:
        yield
    except (BrokenChain, exporting.CannotExport, applying.CannotApply) as problem:
        raise Failure(str(problem)) from None
    except OSError as error:
        raise Failure(f"{path} cannot be used: {error.strerror}") from None
