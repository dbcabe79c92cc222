"""A file of JSON lines that is only appended, each with a hash of itself and of the line before it.

A line is the hash in hexadecimal digits, a space and the JSON, so that `cut -d ' ' -f 2-` leaves what other programs
read. The hash is the SHA-256 of the previous line's hash (32 bytes; zeros before the first line) and the JSON: a line
that is changed, removed or inserted later is found when the whole file is read. That the newest lines are missing
is found by comparison with a hash that was noted elsewhere.
"""

import errno
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

FIRST = bytes(32)  # the hash before the first line
HASH = re.compile(rb"[0-9a-f]{64}")  # capital letters are another text than the one that was written
FIRST_LINE = re.compile(rb"[0-9a-f]{0,64}\Z|[0-9a-f]{64} ")  # as far as it was written
BLOCK_BYTES = 1 << 16


class BrokenChain(Exception):
    """The file is not as it was written; the message says where."""


class Line(NamedTuple):
    """A line of the file: its hash and its JSON."""

    hash: bytes
    content: bytes


def read(path: Path) -> Iterator[Line]:
    """The lines of the file, each of which is compared with its hash. An incomplete last line, which the end of a
    process has left, is left out.

    Raises:
        BrokenChain: a line is not the one that was written.
        OSError: the file cannot be read.
    """
    previous = FIRST
    with _open(path, os.O_RDONLY, "rb") as file:
        for number, text in enumerate(file, 1):
            if not text.endswith(b"\n"):
                return
            line = _parsed(text)
            if line is None or line.hash != _hash(previous, line.content):
                raise BrokenChain(f"line {number} of {path} is not the one that was written after the line before it")
            yield line
            previous = line.hash


class Appender:
    """The end of an open file, which this process alone appends to. Raises BrokenChain.

    Attributes:
        last: the last complete line; None in an empty file.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._file = file
        self.last, end = _last(path, file)
        file.truncate(end)  # what was written after it is incomplete
        file.seek(end)

    def append(self, content: bytes) -> None:
        """Appends a line with this JSON, which is durable when this returns. Raises OSError."""
        hash_ = _hash(self.last.hash if self.last else FIRST, content)
        self._file.write(hash_.hex().encode() + b" " + content + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.last = Line(hash_, content)


def read_last(path: Path) -> Line | None:
    """The last complete line, compared with its hash and the line before it; None in an empty file.

    Raises:
        BrokenChain: it is not the one that was written.
        OSError: the file cannot be read.
    """
    with _open(path, os.O_RDONLY, "rb") as file:
        return _last(path, file)[0]


@contextmanager
def appending(path: Path) -> Iterator[Appender]:
    """Opens the file, which is made unless it exists, and lets no other process append to it meanwhile.

    Raises:
        BrokenChain: its last line is not the one that was written.
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        _make(path)
    with _open(path, os.O_RDWR, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(error.errno, "another process appends to it at this moment") from None
        yield Appender(path, file)


def _make(path: Path) -> None:
    """Makes an empty file that only its owner can read. What root makes belongs to the owner of the folder: that is the
    user whose processes append later. Raises OSError."""
    with _open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, "r+b") as file:
        if os.geteuid() == 0:
            folder = path.parent.stat()
            os.fchown(file.fileno(), folder.st_uid, folder.st_gid)


def _open(path: Path, flags: int, mode: Literal["rb", "r+b"]) -> BinaryIO:
    """Opens a regular file, and waits for no other process, as the ordinary opening of a FIFO does. Raises OSError."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return os.fdopen(descriptor, mode)


def _last(path: Path, file: BinaryIO) -> tuple[Line | None, int]:
    """The last complete line, and where it ends."""
    tail, begin = _tail(file)
    end = tail.rfind(b"\n") + 1
    if not end:
        if not FIRST_LINE.match(tail):
            raise BrokenChain(f"{path} is another file: it does not begin as a chained file does")
        return None, 0
    lines = [_parsed(text) for text in tail[: end - 1].split(b"\n")[-2:]]
    last, before = lines[-1], lines[0] if len(lines) > 1 else Line(FIRST, b"")
    if last is None or before is None or last.hash != _hash(before.hash, last.content):
        raise BrokenChain(f"the last line of {path} is not the one that was written after the line before it")
    return last, begin + end


def _tail(file: BinaryIO) -> tuple[bytes, int]:
    """The end of a file with at least its last two lines, whole, and where it begins."""
    size, length = file.seek(0, os.SEEK_END), BLOCK_BYTES
    while True:
        begin = max(0, size - length)
        file.seek(begin)
        tail = file.read(size - begin)
        if begin == 0 or tail.count(b"\n") > 2:
            return tail, begin
        length *= 4


def _hash(previous: bytes, content: bytes) -> bytes:
    return hashlib.sha256(previous + content).digest()


def _parsed(text: bytes) -> Line | None:
    """A line's hash and JSON; None if the text has another form."""
    digits, separator, content = text.removesuffix(b"\n").partition(b" ")
    if not HASH.fullmatch(digits) or not separator:
        return None
    return Line(bytes.fromhex(digits.decode()), content)
