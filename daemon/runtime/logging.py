"""Log lines for people (text) and for machines (json), one per line.

The event's text comes first, unchanged, then key=value pairs. What other libraries log is written in the same way.
"""

import atexit
import io
import logging
import sys
from typing import BinaryIO, Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from daemon.runtime.log_output import LogOutput

Format = Literal["text", "json"]

# Written to a log where lines are missing.
DROPPED = "[Log] {} lines are missing here: the log was not read or its disk was full, and requests do not wait for it"
DROPPED_HELP = "Log lines that were dropped because the log was not read or its disk was full"
EXIT_WAIT_S = 1.0  # for a log that is read slowly; one that is not read at all must not keep a process from ending

_outputs: list[LogOutput] = []  # of this process: none, or one


def dropped_lines() -> int:
    """How many lines of this process's log were dropped since its start."""
    return sum(output.dropped for output in _outputs)


def configure_serving(fmt: Format, level: str, *, stdout_is_protocol: bool = False) -> None:
    """As `configure`, for a process that must not wait for its log: see `log_output`.

    Everything that Python writes to standard output and error goes there; with `stdout_is_protocol` standard output is
    not changed.
    """
    standard = sys.stderr if stdout_is_protocol else sys.stdout
    standard.flush()
    output = LogOutput(standard.fileno(), _dropped_line)
    stream = io.TextIOWrapper(cast("BinaryIO", output), standard.encoding, line_buffering=True)
    sys.stderr = stream
    if not stdout_is_protocol:
        sys.stdout = stream
    configure(fmt, level, stream=stream)
    _outputs.append(output)
    atexit.register(output.finish, EXIT_WAIT_S)


def _dropped_line(count: int) -> bytes:
    """The line, formatted like every other; it is not logged as the others are, because the output's lock is held."""
    record = logging.LogRecord(__name__, logging.WARNING, "", 0, DROPPED.format(count), None, None)
    return f"{logging.getLogger().handlers[0].format(record)}\n".encode()


def configure(fmt: Format, level: str, *, timestamps: bool = True, stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's logging for this process.

    `level` is a name as in logging (INFO); `timestamps=False` suits commands whose reader is a person at a terminal;
    `stream` is where lines go, standard output by default.
    """
    stream = stream or sys.stdout
    logging.raiseExceptions = False  # a line that cannot be written is lost; its traceback could not be read either
    if isinstance(stream, io.TextIOWrapper):
        # A terminal that cannot show a symbol must not end a process that reports something worse.
        stream.reconfigure(errors="backslashreplace", line_buffering=True)
    numeric_level = logging.getLevelNamesMapping()[level.upper()]
    before = _before(fmt, timestamps)
    structlog.configure(
        processors=[*before, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(numeric_level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=before,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_render(fmt)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(numeric_level)


def _before(fmt: Format, timestamps: bool) -> list[Processor]:
    """What happens to each event before it becomes text."""
    chain: list[Processor] = [structlog.stdlib.add_log_level]
    if timestamps:
        chain.append(structlog.processors.TimeStamper(fmt="iso", utc=True))
    if fmt == "json":
        chain.append(_drop_rulers)
    return chain


def _render(fmt: Format) -> list[Processor]:
    """The last steps: an event becomes one line."""
    if fmt == "json":
        return [
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ]
    return [structlog.processors.format_exc_info, _as_text]


def _drop_rulers(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Leave out the lines that only underline a banner."""
    if not str(event["event"]).strip("="):
        raise structlog.DropEvent
    return event


def _as_text(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """`time LEVEL message key=value …`, with the level only where it is worse than info."""
    time = event.pop("timestamp", "")
    level = str(event.pop("level", "info")).upper()
    message = str(event.pop("event", ""))
    trace = event.pop("exception", None)
    parts = [str(time)] if time else []
    if time and level not in {"INFO", "DEBUG"}:
        parts.append(level)
    parts.append(message)
    parts.extend(f"{key}={_value(value)}" for key, value in event.items() if not key.startswith("_"))
    return " ".join(parts) + (f"\n{trace}" if trace else "")


def _value(value: object) -> str:
    """A value for the place after `=`: quoted where it contains a space or a line break."""
    text = str(value)
    return repr(text) if any(mark in text for mark in " \n\r\t") else text
