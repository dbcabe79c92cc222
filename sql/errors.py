"""What went wrong with the database: one exception for each reaction, and the driver's errors translated into them.

`DatabaseUnavailable`: the database cannot be used at the moment; the same statement can succeed later.
`StatementRejected`: the database works and does not accept this statement; trying again is of no use.
"""

import socket

import psycopg2
from psycopg2 import errorcodes

NOT_REPLICATED = "not replicated"
SESSION_SHARED = "session shared"  # by a pooler in transaction mode
# Errors of PostgreSQL whose reasons pass: the kind of outage, by SQLSTATE or by its class (the first two characters).
# A later attempt of the same statement can succeed. With every other SQLSTATE it cannot: `StatementRejected`.
KIND_BY_SQLSTATE = {
    "08": "connection lost",
    errorcodes.READ_ONLY_SQL_TRANSACTION: "read only",
    "25P03": "connection lost",  # idle_in_transaction_session_timeout
    "25P04": "timeout",  # transaction_timeout, since PostgreSQL 17
    "28": "authentication failed",
    "3D": "no such database or role",
    "40": "conflict",
    "53": "out of resources",
    errorcodes.DISK_FULL: "disk full",
    errorcodes.TOO_MANY_CONNECTIONS: "too many connections",
    errorcodes.OBJECT_IN_USE: "lock held",
    errorcodes.LOCK_NOT_AVAILABLE: "lock held",
    "57": "connection lost",
    errorcodes.QUERY_CANCELED: "timeout",
    errorcodes.CANNOT_CONNECT_NOW: "database starting up",
    errorcodes.DATABASE_DROPPED: "no such database or role",
    "58": "system error",
    "72": "conflict",  # the snapshot is too old
    "XX": "internal error",
    errorcodes.DATA_CORRUPTED: "data corrupted",
    errorcodes.INDEX_CORRUPTED: "data corrupted",
}
# A statement is rejected for its values because of a cardinality, a value, a constraint, a view's check, a limit (such
# as an index entry that is too long), or a trigger that raises an exception. With other values it can succeed.
FOR_ITS_VALUES = ("21", "22", "23", "44", "54", "P0")
# What a connection had prepared no longer exists (after DISCARD, or with a pooler that changes servers), or exists
# already (with such a pooler). Nothing was done, and a new connection prepares it again.
PREPARATION_LOST = "prepared statement lost"
PREPARED_LOST = {errorcodes.INVALID_SQL_STATEMENT_NAME, errorcodes.DUPLICATE_PREPARED_STATEMENT}
# "cached plan must not change result type" has the SQLSTATE of every unsupported feature. Its text may be translated,
# the name of PostgreSQL's function is not.
PLAN_OUTDATED = "RevalidateCachedQuery"
# PostgreSQL's own message for these contains the name of a table or a column, and nothing else of the statement.
ABOUT_A_NAME = {errorcodes.UNDEFINED_TABLE, errorcodes.UNDEFINED_COLUMN, errorcodes.INSUFFICIENT_PRIVILEGE}
# Answers of the server to one statement that concern all connections: it ends, or another has become the primary.
SERVER_CHANGED = {
    errorcodes.ADMIN_SHUTDOWN,
    errorcodes.CRASH_SHUTDOWN,
    errorcodes.READ_ONLY_SQL_TRANSACTION,
}
# For failures to connect: psycopg2 has only libpq's text for them.
KIND_BY_TEXT = (
    ("certificate", "certificate refused"),  # before "does not exist", which a missing file of certificates does not
    ("does not support ssl", "no TLS"),
    ("no space left on device", "disk full"),  # the last message of a server that cannot write its log
    ("connection refused", "connection refused"),
    ("no such file", "connection refused"),
    ("timeout", "timeout"),
    ("timed out", "timeout"),
    ("starting up", "database starting up"),
    ("not accepting connections", "database starting up"),
    ("in recovery mode", "database starting up"),
    ("shutting down", "connection lost"),
    ("too many", "too many connections"),
    ("remaining connection slots", "too many connections"),
    ("authentication failed", "authentication failed"),
    ("no password supplied", "authentication failed"),
    ("no pg_hba.conf entry", "authentication failed"),
    ("session is read-only", "read only"),
    ("server is in hot standby", "read only"),
    ("session is not read-only", "no standby"),
    ("server is not in hot standby", "no standby"),
    ("does not exist", "no such database or role"),
    ("could not translate host name", "unknown host"),
    ("unreachable", "unreachable"),
    ("no route to host", "unreachable"),
    ("invalid port number", "invalid DATABASE_URL"),
    ("invalid integer value", "invalid DATABASE_URL"),
    (' value: "', "invalid DATABASE_URL"),
    ("closed", "connection lost"),
    ("terminat", "connection lost"),
    ("reset by peer", "connection lost"),
    ("eof detected", "connection lost"),
    ("broken pipe", "connection lost"),
    ("no message from the libpq", "connection lost"),
)
# What an operator can do about an outage of a kind, where that is known; it is tried again in any case.
REMEDIES = {
    "authentication failed": "give the role the password of DATABASE_URL, or change DATABASE_URL and start again",
    "certificate refused": "compare the server's certificate with its name in DATABASE_URL and with sslrootcert",
    "data corrupted": "restore the damaged tables or indexes from a backup; PostgreSQL's log names them",
    "disk full": "free space where PostgreSQL keeps its data",
    "internal error": "look in PostgreSQL's log",
    "lock held": "find the session that holds it: pg_blocking_pids() in pg_stat_activity",
    "no such database or role": "create it, or change DATABASE_URL and start again",
    "no TLS": "turn on ssl at the server",
    NOT_REPLICATED: "bring the synchronous standby back, or take it out of synchronous_standby_names",
    "out of resources": "look in PostgreSQL's log: its memory or a limit is used up",
    PREPARATION_LOST: "connect to PostgreSQL itself, or let the pooler work in session mode",
    SESSION_SHARED: "connect to PostgreSQL itself, or let the pooler work in session mode",
    "read only": "let DATABASE_URL lead to the primary, or find out what set default_transaction_read_only",
    "system error": "look in PostgreSQL's log: its operating system or its disk reports errors",
    "timeout": "look in pg_stat_activity for what is slow",
    "too many connections": "look in pg_stat_activity for the clients that hold them, or increase max_connections",
}
# libpq tries no further server after these: the next would answer the same, and might lock the role.
FINAL_KINDS = {"authentication failed"}


def remedy(kind: str) -> dict[str, str]:
    """What an operator can do about an outage of this kind, for a log line; empty where nothing is known."""
    return {"remedy": REMEDIES[kind]} if kind in REMEDIES else {}


class DatabaseUnavailable(Exception):
    """The database could not be used; what was sent is not known to be durable, and may be sent again.

    `kind` is a class of failure such as "timeout". Neither it nor `str()` contains a host, user, value or driver text:
    both may be shown to every client.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(f"database unavailable: {kind}")
        self.kind = kind


class StatementRejected(Exception):
    """The database does not accept this statement.

    The message contains the class of the error and what is wrong with the schema, never a value.
    """

    def __init__(self, error: psycopg2.Error) -> None:
        self.sqlstate = error.pgcode or ""
        about = error.diag.message_primary if self.sqlstate in ABOUT_A_NAME else error.diag.constraint_name
        super().__init__(f"the database refused it: {_name(self.sqlstate)}{f' ({about})' if about else ''}")

    @property
    def for_its_values(self) -> bool:
        """Whether the values are at fault, not the schema or a permission."""
        return self.sqlstate[:2] in FOR_ITS_VALUES


def _name(sqlstate: str) -> str:
    """A SQLSTATE's name, such as "check violation"."""
    try:
        return errorcodes.lookup(sqlstate).lower().replace("_", " ")
    except KeyError:
        return f"SQLSTATE {sqlstate}" if sqlstate else "unknown error"


def classify(error: BaseException) -> str:
    """The kind of outage that a driver's error means, as one of a few fixed phrases."""
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, socket.gaierror):
        return "unknown host"
    if kind := _kind_by_sqlstate(error):
        return kind
    text = str(error).lower()
    return next((kind for part, kind in KIND_BY_TEXT if part in text), "other")


def judge(error: Exception) -> DatabaseUnavailable | StatementRejected:
    """What a driver's error means for the caller of the statement."""
    is_driver_s_own = isinstance(error, OSError | psycopg2.OperationalError | psycopg2.InterfaceError)
    if not isinstance(error, psycopg2.Error) or _kind_by_sqlstate(error) or (is_driver_s_own and not error.pgcode):
        return DatabaseUnavailable(classify(error))
    return StatementRejected(error)


def _kind_by_sqlstate(error: BaseException) -> str | None:
    state = getattr(error, "pgcode", None) or ""
    return KIND_BY_SQLSTATE.get(state) or KIND_BY_SQLSTATE.get(state[:2])


def is_preparation_lost(error: Exception) -> bool:
    """Whether what was prepared on the connection can no longer be executed there."""
    if not isinstance(error, psycopg2.Error):
        return False
    return error.pgcode in PREPARED_LOST or error.diag.source_function == PLAN_OUTDATED
