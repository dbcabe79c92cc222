"""What `donationd export` does."""

import hashlib
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO
from zoneinfo import ZoneInfo

import click
import msgspec

from daemon.api.config import CommandConfig
from daemon.cli.arguments import Failure
from daemon.cli.database import LedgerAddress, ask, ledger_address
from daemon.cli.settings import settings
from daemon.ledger import audit
from daemon.ledger.donation import Status
from daemon.ledger.reader import Moment
from daemon.reports.accounts import Accounts, Program, default_file
from daemon.reports.entry_sums import MomentInFuture
from daemon.reports.export import (
    Export,
    Kind,
    Manifest,
    MomentRow,
    Selection,
    audit_detail,
    continue_fees,
    decode_manifest,
    find_last,
    parse_time,
    table_format,
)
from daemon.reports.formats import Format
from daemon.reports.journals import JOURNALS, AccountUse
from daemon.reports.tickets import UnknownTicket, check_ticket
from daemon.reports.time_zones import load_time_zone
from daemon.runtime import files
from sql.database import Database
from sql.errors import DatabaseUnavailable, StatementRejected
from sql.snapshot import Snapshot, snapshot

# While a snapshot is open, PostgreSQL removes no row that was changed or deleted since.
FETCH_S = 120.0  # for a statement; the first one may have to sort all donations
READER_S = 300.0  # for the reader of standard output to take some rows
TOTAL_S = 3600.0
PROGRESS_S = 0.5
MANIFEST_BYTES = 64 * 1024
ACCOUNTS_BYTES = 1024 * 1024
READ_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Options:
    """What a command was given; the last four belong to one kind of export only."""

    format_name: str
    profile: str | None
    out: Path | None
    manifest: Path | None
    ticket: str | None
    currency: str | None
    from_: str | None
    to: str | None
    time_zone: str | None
    after: str | None
    no_header: bool
    actor: str
    status: str | None = None
    unpaid: bool = False
    as_of: Moment | None = None
    accounts: Path | None = None

    @property
    def zone(self) -> ZoneInfo:
        """Where days begin."""
        return load_time_zone(self.time_zone or settings(CommandConfig).report_time_zone)

    @property
    def program(self) -> Program | None:
        """The program that reads the journal, if it is one."""
        return Program(self.format_name) if self.format_name in set(Program) else None

    @property
    def manifest_path(self) -> Path | None:
        """Where the manifest is written; None: nowhere."""
        return self.manifest or (_manifest_of(self.out) if self.out else None)


def run(kind: str, options: Options) -> None:
    """Writes one export, and then its manifest."""
    selection = _selection(Kind(kind), options)
    accounts = _accounts(options)
    ledger = ledger_address()
    with _opened(options.out) as file:
        try:
            selection, last = ask(partial(_begin, selection=selection, options=options), ledger=ledger)
        except (MomentInFuture, UnknownTicket) as problem:
            raise Failure(str(problem)) from None
        manifest = _write(ledger, selection, options, accounts, file, last=last)
    if options.manifest_path:
        files.write(options.manifest_path, manifest.json())
    _report(manifest, options)


async def _begin(database: Database, selection: Selection, options: Options) -> tuple[Selection, dict[str, int | None]]:
    """Records the export, and returns where it begins and ends."""
    await check_ticket(database, selection.ticket)
    if options.program:
        selection = await continue_fees(database, selection)
    last = await find_last(database, selection)
    await audit.record(database, options.actor, "export", audit_detail(selection, options.format_name))
    return selection, last


def _selection(kind: Kind, options: Options) -> Selection:
    """Which rows are asked for. Raises UsageError where two options do not fit each other."""
    if options.profile is not None and options.format_name != "csv":
        raise click.UsageError("--profile is for CSV files only")
    if options.accounts is not None and options.program is None:
        raise click.UsageError("--accounts is for journals: add --format hledger or --format beancount")
    zone = options.zone
    from_s, to_s = (None if text is None else parse_time(text, zone) for text in (options.from_, options.to))
    if from_s is not None and to_s is not None and from_s >= to_s:
        raise click.UsageError("--from must be before --to, which is the first moment after the period")
    return Selection(
        kind,
        options.ticket,
        Status(options.status) if options.status else None,
        options.currency,
        from_s,
        to_s,
        options.unpaid,
        options.after,
        options.as_of,
    )


def _accounts(options: Options) -> Accounts | None:
    """The names of a journal's accounts; None for other formats."""
    if options.program is None:
        return None
    if options.accounts is None:
        return Accounts(options.program, default_file(options.program))
    try:
        content = files.read(options.accounts, ACCOUNTS_BYTES)
        if content is None:
            raise Failure(f"there is no file {options.accounts}; `donationd export accounts` prints the default one")
        return Accounts(options.program, content.decode())
    except files.DamagedFile as problem:
        raise Failure(f"{options.accounts} cannot be read: {problem}") from None
    except ValueError as error:  # AccountsError, or what is not UTF-8
        raise Failure(f"{options.accounts} cannot be used: {error}") from None


@contextmanager
def _opened(path: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a new file, which only its owner can read, in the place of `path` once it is complete."""
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if path.exists() and not path.is_file():
        raise Failure(f"{path} is not a regular file; without --out the export is written to standard output")
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise Failure(f"{path} cannot be written: {error.strerror}; it is as it was before") from None
        raise


def _write(
    ledger: LedgerAddress,
    selection: Selection,
    options: Options,
    accounts: Accounts | None,
    file: BinaryIO,
    *,
    last: dict[str, int | None],
) -> Manifest:
    """Writes the rows, and returns the manifest."""
    export = None
    try:
        with snapshot(
            ledger.url,
            "donationd export",
            schema=ledger.schema,
            statement_timeout_s=FETCH_S,
            idle_timeout_s=READER_S,
        ) as moment:
            at = MomentRow._make(moment.rows("export_moment", last)[0])
            format_ = _format(moment, selection, options, accounts)
            has_fees = options.program is not None
            export = Export(format_, at, selection, with_head=not options.no_header, has_fees=has_fees)
            _copy(_parts(moment, selection, export, at, has_fees=has_fees), export, file)
    except (DatabaseUnavailable, StatementRejected) as error:
        raise Failure(f"{error}{_how_to_continue(export, options)}; `donationd gate` says more") from None
    return export.manifest(
        options.format_name,
        profile=(options.profile or "standard") if options.format_name == "csv" else None,
        zone=options.zone,
        continue_with=_next_command(selection, options, export),
    )


def _format(moment: Snapshot, selection: Selection, options: Options, accounts: Accounts | None) -> Format:
    if accounts is None or options.program is None:
        profile = (options.profile or "standard") if options.format_name == "csv" else None
        return table_format(selection.kind, profile, options.zone)
    declared = None
    if not options.no_header:
        declared = map(AccountUse._make, moment.stream("export_declared", selection.declared_params()))
    return JOURNALS[options.program](accounts, options.zone, declared)


def _parts(moment: Snapshot, selection: Selection, export: Export, at: MomentRow, *, has_fees: bool) -> Iterator[bytes]:
    yield export.head()
    for rows in moment.batches(selection.query, selection.params(at.seq)):
        yield export.batch(rows)
    if has_fees:
        for rows in moment.batches("export_fees", selection.fee_params(at.fees_seq)):
            yield export.fees(rows)


def _copy(parts: Iterator[bytes], export: Export, file: BinaryIO) -> None:
    """Writes the parts of a file, with progress on a terminal."""
    begun_s = shown_s = time.monotonic()
    for part in parts:
        file.write(part)
        now_s = time.monotonic()
        if now_s - begun_s > TOTAL_S:
            raise Failure(f"the export took longer than an hour; continue with --after {export.last}")
        if now_s - shown_s > PROGRESS_S and sys.stderr.isatty():
            click.echo(f"\r{export.rows} rows ", nl=False, err=True)
            shown_s = now_s
    if shown_s != begun_s:
        click.echo("\r", nl=False, err=True)


def _how_to_continue(export: Export | None, options: Options) -> str:
    """What is left after an export to standard output has failed."""
    if export is None or not export.rows or options.out:
        return ""
    return f" after {export.rows} rows, the last of which is {export.last} (continue with --after)"


def _next_command(selection: Selection, options: Options, export: Export) -> str | None:
    """The command that exports what comes after this file."""
    last = export.last or selection.after
    if last is None:
        return None
    values = {
        "--format": options.format_name,
        "--profile": options.profile,
        "--accounts": options.accounts,
        "--ticket": options.ticket,
        "--status": options.status,
        "--currency": options.currency,
        "--from": options.from_,
        "--to": options.to,
        "--tz": options.time_zone,
        "--after": last,
    }
    given = [part for name, value in values.items() if value is not None for part in (name, str(value))]
    return shlex.join(["donationd", "export", selection.kind, *given, *(["--unpaid"] if options.unpaid else [])])


def _report(manifest: Manifest, options: Options) -> None:
    rows = f"{manifest.rows} row{'' if manifest.rows == 1 else 's'}, as of entry {manifest.seq}"
    if options.out:
        click.echo(f"wrote {options.out}: {rows}")
    else:
        click.echo(rows, err=True)
    if options.manifest_path:
        click.echo(f"its manifest is {options.manifest_path}", err=options.out is None)


# --- Account names, and the check -------------------------------------------------------------------------------------


def print_accounts(program: str) -> None:
    """Prints the default names of a journal's accounts."""
    click.echo(default_file(Program(program)), nl=False)


def _manifest_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.manifest.json")


def check(file: Path, manifest: Path | None) -> None:
    """Compares a file with its manifest; fails if it is not complete, or not the same."""
    expected = _read_manifest(manifest or _manifest_of(file))
    size, sha256 = _measure(file, expected.size)
    if size < expected.size:
        raise Failure(f"{file} is not complete: it has {size} of {expected.size} bytes; export it again")
    if size > expected.size or sha256 != expected.sha256:
        raise Failure(f"{file} was changed after it was exported: its SHA-256 differs")
    click.echo(f"{file} is complete: {expected.rows} rows, as of entry {expected.seq}")
    if expected.continue_with:
        click.echo(f"next: {expected.continue_with}")


def _read_manifest(path: Path) -> Manifest:
    try:
        content = files.read(path, MANIFEST_BYTES)
        if content is None:
            raise Failure(f"there is no manifest {path}; name it with --manifest")
        return decode_manifest(content)
    except (files.DamagedFile, msgspec.DecodeError) as error:
        raise Failure(f"{path} is not a manifest: {error}") from None


def _measure(path: Path, most: int) -> tuple[int, str]:
    """Size and SHA-256 of a file, of which no more is read once it is larger than `most`."""
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while size <= most and (part := file.read(READ_BYTES)):
                digest.update(part)
                size += len(part)
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}") from None
    return size, digest.hexdigest()
