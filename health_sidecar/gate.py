"""The startup gate: what must hold before the database may be used, checked in order.

URL format, then SELECT 1 with retries, then the schema, then the server's settings. The log lines are those of the
original design.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger

from daemon.runtime import chained_file
from daemon.runtime import logging as logs
from daemon.runtime.config import ConfigError
from daemon.runtime.lifecycle import report_config
from health_sidecar.config import Config
from health_sidecar.history import History, Run
from health_sidecar.ledger_position import FILE, LedgerPosition
from health_sidecar.probe import Probe, Schema
from sql import load
from sql.database import Database
from sql.errors import DatabaseUnavailable, StatementRejected
from sql.migrate import Drift
from sql.schemas import PUBLIC
from sql.servers import Server, url_problem

RULER = "=" * 60
GATE_FAILED_LINE = "🚨 DATABASE STARTUP GATE FAILED"
# Classes of error of the schema check.
OUT_OF_SYNC = "schema out of sync"
SCHEMA_REFUSED = "schema check refused"
UNSAFE_SETTINGS = "unsafe server settings"
WRONG_CONFIGURATION = "wrong configuration"
NOT_APPLIED = "operator log not applied"
# Doubling stops here, so that no longer than this passes after the database is available again.
MAX_RETRY_DELAY_S = 60.0
# The sidecar runs one check at a time; the second connection is for the history of its runs.
POOL_SIZE = 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a gate run ended.

    Attributes:
        detail: what failed, without hosts, users or driver texts.
        error: a class of error.
        reached: the database answered, so that the run can be recorded at once.
        missing_migrations: of this release; those that a gate passes without.
    """

    passed: bool
    detail: str
    error: str | None = None
    reached: bool = False
    missing_migrations: int = 0

    @property
    def outcome(self) -> str:
        """Its name in metrics and in health_check_runs."""
        return "passed" if self.passed else "failed"

    def run(self, at: datetime) -> Run:
        """The verdict as a row of health_check_runs."""
        return Run(kind="gate", ok=self.passed, state=self.outcome, detail=self.detail, at=at)


class GateClosed(Exception):
    """A check failed: `headline` is the original design's line, `reason` explains it, `error` is a class of error."""

    def __init__(self, headline: str, reason: str, error: str, *, reached: bool = False) -> None:
        super().__init__(reason)
        self.reached = reached
        self.headline = headline
        self.reason = reason
        self.error = error


def open_probe(config: Config, application_name: str) -> Probe:
    """A probe of the database in DATABASE_URL; it connects with its first query."""
    timeout_s = config.db_ping_timeout_ms / 1000
    noted: dict[Server, str] = {}

    def connect() -> Database:
        return Database(
            config.database_url.get_secret_value(),
            pool_size=POOL_SIZE,
            statement_timeout_s=timeout_s,
            connect_timeout_s=timeout_s,
            application_name=application_name,
            schema=config.ledger_schema,
            noted=noted,
        )

    return Probe(connect, timeout_s)


def check_url(url: str) -> None:
    """Raises GateClosed unless `url` starts with postgresql:// and libpq can read it. Never repeats any part of it."""
    if problem := url_problem(url):
        reason = f"DATABASE_URL {problem if url else 'not set'}"
        raise GateClosed("❌ DATABASE_URL validation failed", reason, "invalid DATABASE_URL")


async def run_gate(
    url: str,
    probe: Probe,
    *,
    attempts: int,
    retry_delay_s: float,
    allow_logged_statements: bool,
    operator_log: Path | None = None,
    schema: str = PUBLIC,
    failed_attempt: Callable[[str], None] = lambda _kind: None,
    find_loss: Callable[[], Awaitable[str]] | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    log: FilteringBoundLogger,
) -> Verdict:
    """Run all checks once, and log what they find and how the run ended.

    Args:
        attempts: how often to try to connect.
        retry_delay_s: the first pause between two attempts; each further one is twice as long.
        allow_logged_statements: a server that logs statements with donors' data is a warning and not a failure.
        operator_log: the file of OPERATOR_LOG, or None. A ledger without the actions that it has is not served: donors
            who were erased would be shown again.
        schema: that of the ledger, for the log.
        failed_attempt: is called with the class of error of each failed attempt to connect, except the last one.
        find_loss: finds and logs what the database lacks of what this host has seen. The gate passes all the same: new
            events must be recorded, and what is lost is brought back beside live traffic.
    """
    _banner(log, "🔒 DATABASE STARTUP GATE")
    try:
        check_url(url)
        log.info("[DB Startup] ✅ DATABASE_URL format valid")
        await _connect(probe, attempts, retry_delay_s, failed_attempt=failed_attempt, sleep=sleep, log=log)
        drift = await _check_schema(probe, log, schema)
        await _check_server(probe, log, allow_logged_statements=allow_logged_statements)
        await _check_pooler(probe, log)
        await _check_operator_log(probe, operator_log, log)
        loss = await find_loss() if find_loss else ""
    except GateClosed as closed:
        verdict = Verdict(passed=False, detail=closed.reason, error=closed.error, reached=closed.reached)
        headline = closed.headline
    else:
        _banner(log, "✅ DATABASE STARTUP GATE: PASSED")
        detail = "; ".join(filter(None, (drift.warning(), loss))) or "all checks passed"
        return Verdict(passed=True, detail=detail, reached=True, missing_migrations=len(drift.missing))
    log.error(headline, reason=verdict.detail)
    log.error(GATE_FAILED_LINE)
    return verdict


def _banner(log: FilteringBoundLogger, text: str) -> None:
    for line in (RULER, text, RULER):
        log.info(line)


async def _connect(
    probe: Probe,
    attempts: int,
    retry_delay_s: float,
    *,
    failed_attempt: Callable[[str], None],
    sleep: Callable[[float], Awaitable[None]],
    log: FilteringBoundLogger,
) -> None:
    """SELECT 1, up to `attempts` times. Raises GateClosed."""

    for number in range(1, attempts + 1):
        log.info(f"[DB Startup] Attempting connection (attempt {number}/{attempts})...")
        try:
            await probe.ping()
            break
        except DatabaseUnavailable as error:
            if number == attempts:
                raise GateClosed("❌ Database connection failed", error.kind, error.kind) from None
            failed_attempt(error.kind)
            pause_s = min(retry_delay_s * 2 ** (number - 1), max(MAX_RETRY_DELAY_S, retry_delay_s))
            log.warning(
                f"[DB Startup] ❌ Connection failed, retrying in {round(pause_s * 1000)}ms...", error=error.kind
            )
            await sleep(pause_s)
    log.info("[DB Startup] ✅ Connection successful")


async def _check_schema(probe: Probe, log: FilteringBoundLogger, name: str) -> Drift:
    """Tables and migrations. Returns how they differ from this release's. Raises GateClosed."""
    log.info("[DB Startup] Verifying schema integrity...")
    headline = "❌ Schema integrity check failed"
    try:
        schema: Schema = await probe.schema()
    except DatabaseUnavailable as down:
        raise GateClosed(headline, down.kind, down.kind) from None
    except StatementRejected as refusal:
        reason = f"Integrity check failed: {refusal}"
        raise GateClosed(headline, reason, SCHEMA_REFUSED, reached=True) from None
    if schema.drift.unknown:
        log.warning(
            "[DB Startup] ⚠️ The database has migrations that this version does not know; the gate goes on",
            migrations=", ".join(schema.drift.unknown),
        )
    problems = schema.problems()
    finding = "Schema out of sync" if name == PUBLIC else f"Schema {name} out of sync"
    for problem in problems:
        log.error(f"[DB Startup] ❌ {finding}: {problem}")
    if problems:
        raise GateClosed(headline, f"{finding}: " + "; ".join(problems), OUT_OF_SYNC, reached=True)
    log.info("[DB Startup] ✅ Schema integrity verified")
    if late := schema.drift.warning():
        log.warning(f"[DB Startup] ⚠️ Schema not up to date: {late}")
    if await probe.has_older_rows():
        log.warning(
            "[DB Startup] ⚠️ An older release derived rows by other rules. "
            "When all processes run this release, run: donationd rebuild"
        )
    return schema.drift


async def _check_server(probe: Probe, log: FilteringBoundLogger, *, allow_logged_statements: bool) -> None:
    """The settings that decide about donors' data in PostgreSQL's log and about durable commits. Raises GateClosed.

    The reason that is recorded names the settings; the commands, which name role and database, are only in the log.
    """
    headline = "❌ Server settings check failed"
    try:
        settings = await probe.server_settings()
    except DatabaseUnavailable as down:
        raise GateClosed(headline, down.kind, down.kind) from None
    except StatementRejected as refusal:
        raise GateClosed(headline, f"Settings check failed: {refusal}", UNSAFE_SETTINGS, reached=True) from None
    for warning in settings.warnings():
        log.warning(f"[DB Startup] ⚠️ {warning}")
    logged = settings.logged_statements()
    if allow_logged_statements and logged:
        log.warning(
            "[DB Startup] ⚠️ PostgreSQL logs statements with donors' data; ALLOW_LOGGED_STATEMENTS permits it",
            settings=", ".join(logged),
        )
        logged = {}
    reasons = settings.lost_commits()
    for problem in [*reasons, *logged.values()]:
        log.error(f"[DB Startup] ❌ {problem}")
    if logged:
        reasons.append(
            f"PostgreSQL's log would contain statements with donors' data, because of {', '.join(logged)}. Run "
            "deploy/roles.sql as a superuser in this database; ALLOW_LOGGED_STATEMENTS=true starts without it"
        )
    if reasons:
        raise GateClosed(headline, "; ".join(reasons), UNSAFE_SETTINGS, reached=True)


async def _check_pooler(probe: Probe, log: FilteringBoundLogger) -> None:
    """Warn of a pooler that shares a session among clients; whether there is one may remain unknown."""
    with contextlib.suppress(DatabaseUnavailable, StatementRejected):
        if await probe.shares_sessions():
            log.warning(
                "[DB Startup] ⚠️ DATABASE_URL leads to a pooler in transaction mode, which loses prepared statements "
                "and settings: connect to PostgreSQL itself, or set pool_mode = session"
            )


async def _check_operator_log(probe: Probe, path: Path | None, log: FilteringBoundLogger) -> None:
    """Whether the ledger has the operators' actions and the mails that the operator log has. Raises GateClosed if it
    lacks some, or if this process may not read the file, as after a restore in which root has put it in its place.

    A damaged log is only reported: it shows nothing about the ledger.
    """
    headline = "❌ Operator log check failed"
    try:
        line = chained_file.read_last(path) if path else None
        known = None if line is None else msgspec.json.decode(line.content, type=LoggedActions).position
    except FileNotFoundError:
        return  # it is made by the first export
    except PermissionError:
        reason = (
            "OPERATOR_LOG cannot be read: permission denied. It may have erasures of donors that a restored database "
            "lacks. Give the file to the user of donationd; after a restore run: donationd operator-log apply"
        )
        raise GateClosed(headline, reason, NOT_APPLIED, reached=True) from None
    except (OSError, chained_file.BrokenChain, msgspec.MsgspecError) as error:
        log.warning("[DB Startup] ⚠️ OPERATOR_LOG cannot be read", path=str(path), reason=str(error))
        return
    if known is None:
        return
    try:
        asked_about = {"number": known.actions, "mail": known.mails}
        [(_, hash_, _, mails, mail, _)] = await probe.fetch(load("log_state"), asked_about)
    except DatabaseUnavailable as down:
        raise GateClosed(headline, down.kind, down.kind) from None
    except StatementRejected as refusal:
        raise GateClosed(headline, f"Operator log check failed: {refusal}", SCHEMA_REFUSED, reached=True) from None
    if known.actions and hash_ != known.actions_hash:
        lacking = f"operators' actions up to number {known.actions}, such as erasures of donors"
    elif mails < known.mails or known.newest_mail not in {"", mail}:
        lacking = "mails, which donors would get again, with receipts whose numbers were given before"
    else:
        return
    reason = f"the database lacks what OPERATOR_LOG has: {lacking}. Run: donationd operator-log apply"
    raise GateClosed(headline, reason, NOT_APPLIED, reached=True)


class LoggedPosition(msgspec.Struct):
    """The last action in the operator log, by its number and hash in the audit chain, and the newest mail."""

    actions: int
    actions_hash: str
    mails: int = 0
    newest_mail: str = ""


class LoggedActions(msgspec.Struct):
    """The part of a line of the operator log that the gate reads."""

    position: LoggedPosition


def run_once(environ: Mapping[str, str], *, as_json: bool = False) -> int:
    """`donationd gate`: run the gate in the foreground and record it. Returns the exit status, 0 or 1.

    With `as_json` the verdict is an object on standard output, and the log goes to standard error.
    """
    stream = sys.stderr if as_json else sys.stdout
    try:
        config = Config.from_environ(environ)
    except ConfigError as error:
        logs.configure("text", "INFO", timestamps=False, stream=stream)
        report_config(error, GATE_FAILED_LINE)
        verdict = Verdict(passed=False, detail=str(error), error=WRONG_CONFIGURATION)
    else:
        logs.configure(config.log_format, config.log_level, timestamps=config.log_format == "json", stream=stream)
        verdict = asyncio.run(_once(config))
    if as_json:
        sys.stdout.write(
            json.dumps({"passed": verdict.passed, "error": verdict.error, "detail": verdict.detail}) + "\n"
        )
    return 0 if verdict.passed else 1


async def _once(config: Config) -> Verdict:
    probe = open_probe(config, "donationd gate")
    position = LedgerPosition(config.readiness_socket.with_name(FILE), probe.fetch)
    try:
        verdict = await run_gate(
            config.database_url.get_secret_value(),
            probe,
            attempts=config.gate_attempts,
            retry_delay_s=config.gate_retry_delay_ms / 1000,
            allow_logged_statements=config.allow_logged_statements,
            operator_log=config.operator_log,
            schema=config.ledger_schema,
            find_loss=partial(position.check, remember=False),  # the file belongs to the sidecar
            log=structlog.get_logger(),
        )
        # The file of unwritten rows belongs to the sidecar: this run is written now or not at all.
        if verdict.reached:
            history = History(None, probe.fetch)
            history.record(verdict.run(datetime.now(UTC)))
            await history.drain()
    finally:
        await probe.close()
    return verdict
