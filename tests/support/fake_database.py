"""A database of plain values, for what the sidecar asks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from health_sidecar.probe import MIGRATIONS_TABLE, REQUIRED_TABLES
from sql import load
from sql.errors import DatabaseUnavailable
from sql.migrate import discover

SAFE_SETTINGS = {
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_min_duration_sample": "-1",
    "log_statement_sample_rate": "1",
    "log_transaction_sample_rate": "0",
    "debug_print_parse": "off",
    "debug_print_rewritten": "off",
    "debug_print_plan": "off",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
}
AT = datetime(2024, 12, 16, 12, 30, 45, 123000, tzinfo=UTC)


@dataclass
class FakeDatabase:
    """Answers the sidecar's statements from plain values."""

    down: list[str] = field(default_factory=list)  # kinds of failure of the next questions
    tables: dict[str, bool] = field(
        default_factory=lambda: dict.fromkeys([*REQUIRED_TABLES, MIGRATIONS_TABLE], True)
    )  # name to readable
    applied: dict[str, str] = field(default_factory=lambda: {m.name: m.sha256 for m in discover()})
    settings: dict[str, str] = field(default_factory=lambda: dict(SAFE_SETTINGS))
    sessions: int = 0
    error: Exception | None = None
    recorded: list[Mapping[str, object]] = field(default_factory=list)
    closed: int = 0

    async def fetch(self, sql: str, params: Mapping[str, object] | Sequence[object] = ()) -> list[tuple[Any, ...]]:
        if self.down:
            raise DatabaseUnavailable(self.down.pop(0))
        if sql == load("ping"):
            return [(1,)]
        if self.error is not None:
            raise self.error
        if sql == load("has_older_rows"):
            return [(False,)]
        if sql == load("check_tables"):
            assert isinstance(params, Mapping)
            names = params["names"]
            assert isinstance(names, list)
            return [(name, name in self.tables, self.tables.get(name, False)) for name in names]
        if sql == load("applied_migrations"):
            return list(self.applied.items())
        if sql == load("server_settings"):
            return [(name, value, value, "ALTER … ") for name, value in self.settings.items()]
        if sql == load("server_process"):
            self.sessions += 1
            return [(self.sessions, AT)]
        assert sql == load("record_run")
        assert isinstance(params, Mapping)
        self.recorded.append(params)
        return []

    async def close(self) -> None:
        self.closed += 1
