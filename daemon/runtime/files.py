"""Files that processes keep for each other: read without waiting, replaced as a whole, named in the log if unusable.

A file may have been damaged, emptied, made unreadable, or replaced by a folder or by a FIFO (an ordinary read of which
would wait for ever). None of that may cost more than the content of that file.
"""

import fcntl
import os
import stat
import threading
import time
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

log = structlog.get_logger()

T = TypeVar("T")


LOCK_POLL_S = 0.05


class DamagedFile(Exception):
    """A file exists and cannot be used; the text says why."""


def read(path: Path, max_bytes: int) -> bytes | None:
    """The content of a regular file, None if it does not exist. Raises DamagedFile. Never waits for another process."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedFile(error.strerror) from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DamagedFile("it is not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise DamagedFile(error.strerror) from None
    finally:
        os.close(descriptor)
    if len(content) > max_bytes:
        raise DamagedFile(f"it has more than {max_bytes} bytes")
    return content


def read_json(path: Path, type_: type[T], max_bytes: int) -> T | None:
    """The value in a JSON file; None if it does not exist or cannot be used, which is reported."""
    try:
        content = read(path, max_bytes)
        value = None if content is None else msgspec.json.decode(content, type=type_)
    except (DamagedFile, ValueError, RecursionError) as error:
        report(path, str(error))
        return None
    report(path, None)
    return value


def write(path: Path, content: bytes | bytearray) -> None:
    """Replace the file so that a reader finds the old content or the new one, whole. Raises OSError.

    A folder in its place is renamed to `….damaged`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        if path.is_dir():
            path.rename(path.with_name(path.name + ".damaged"))
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        error.filename = error.filename or str(path)  # a full disk names no file
        raise
    report(path, None)


def lock(descriptor: int, within_s: float) -> bool:
    """Take the lock of an open file or folder as soon as no other process has it; False if that takes longer.

    It ends when the descriptor is closed.
    """
    deadline_s = time.monotonic() + within_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(LOCK_POLL_S)
        else:
            return True


# --- Which files cannot be used ---------------------------------------------------------------------------------------

_reasons: dict[Path, str] = {}  # of the files that cannot be used now
_lock = threading.Lock()  # metrics are read in several threads


def report(path: Path, reason: str | None) -> None:
    """Record why a file cannot be used, or with None that it can. It is named in the log when that changes."""
    with _lock:
        before = _reasons.pop(path, None)
        if reason is not None:
            _reasons[path] = reason
    if reason is not None and reason != before:
        log.warning("[Files] ❌ A file cannot be used; its content is left out", path=str(path), reason=reason)
    elif reason is None and before is not None:
        log.info("[Files] ✅ The file can be used again", path=str(path))


def reported(folder: Path) -> set[Path]:
    """The files of this folder that cannot be used now."""
    with _lock:
        return {path for path in _reasons if path.parent == folder}
