"""What a PostgreSQL session's settings mean for donors' data in the server's log and for durable commits.

Decisions only: `queries/server_settings.sql` reads the settings; the startup gate and the commands that send donors'
data ask here what they mean. deploy/roles.sql makes the same settings.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """A setting that can bring statements into the server's log.

    Attributes:
        safe: the values that keep them out; the first is the one to set.
        share: the setting of the share of statements that are logged; with 0 none is, whatever the value.
        of_extension: the setting exists only where its extension is loaded.
    """

    safe: tuple[str, ...]
    share: str | None = None
    of_extension: bool = False


OFF = Rule(("off",))
# log_min_error_statement: `fatal` is not enough, because a backend that an administrator ends reports a FATAL error and
# logs its statement. log_statement: `ddl` logs no statement of donationd that has values.
LOGGED = {
    "log_min_error_statement": Rule(("panic",)),
    "log_statement": Rule(("none", "ddl")),
    "log_min_duration_statement": Rule(("-1",)),
    "log_min_duration_sample": Rule(("-1",), share="log_statement_sample_rate"),
    "log_transaction_sample_rate": Rule(("0",)),
    "debug_print_parse": OFF,
    "debug_print_rewritten": OFF,
    "debug_print_plan": OFF,
    "auto_explain.log_min_duration": Rule(("-1",), share="auto_explain.sample_rate", of_extension=True),
}
# What follows the message of an error: DETAIL and CONTEXT can quote a row or a value.
VERBOSITY = "log_error_verbosity"
NAMES = [
    *LOGGED,
    *(rule.share for rule in LOGGED.values() if rule.share),
    VERBOSITY,
    "fsync",
    "full_page_writes",
    "synchronous_commit",
]


class ServerSettings:
    """The settings of one session, as `queries/server_settings.sql` returns them for NAMES."""

    def __init__(self, rows: Iterable[tuple[Any, ...]]) -> None:
        rows = list(rows)
        self._value = {name: value for name, value, _default, _alter in rows}
        self._default = {name: default for name, _value, default, _alter in rows}
        self._alter = rows[0][3] if rows else ""

    def logged_statements(self) -> dict[str, str]:
        """The settings that let the server log statements with their values, each with a sentence that says what to do.

        A setting that cannot be read counts as one of them.
        """
        return {name: self._repair(name, rule) for name, rule in LOGGED.items() if not self._is_safe(name, rule)}

    def lost_commits(self) -> list[str]:
        """A sentence for each setting with which a commit that was reported can be lost."""
        if self._value.get("fsync") == "off":
            return ["fsync is off: a crash can lose or damage everything. Run: ALTER SYSTEM SET fsync = on"]
        return []

    def warnings(self) -> list[str]:
        """A sentence for each setting that should be changed although everything works."""
        found = []
        if self._value.get(VERBOSITY) != "terse":
            found.append(
                f"{VERBOSITY} is not 'terse': PostgreSQL's log can quote a row or a value in the DETAIL of an error. "
                f"A superuser can run: {self._alter}{VERBOSITY} = 'terse'"
            )
        if self._value.get("full_page_writes") == "off":
            found.append(
                "full_page_writes is off: unless the file system writes whole pages, a crash can damage tables. "
                "Run: ALTER SYSTEM SET full_page_writes = on"
            )
        if self._default.get("synchronous_commit") == "off":
            found.append(
                "synchronous_commit is off by default: donationd's own sessions turn it on, other programs can lose "
                f"what they have committed. Run: {self._alter}synchronous_commit = 'on'"
            )
        return found

    def _is_safe(self, name: str, rule: Rule) -> bool:
        if name not in self._value:
            return rule.of_extension
        if rule.share is not None and float(self._value.get(rule.share, "1")) == 0:
            return True
        return self._value[name] in rule.safe

    def _repair(self, name: str, rule: Rule) -> str:
        if name not in self._value:
            return f"{name} cannot be read. A superuser can run: GRANT pg_read_all_settings TO the role in DATABASE_URL"
        return f"{name} is '{self._value[name]}'. A superuser can run: {self._alter}{name} = '{rule.safe[0]}'"
