"""The metrics files of an API process or of the jobs process, a file for each kind of metric, named after its slot.

They have the slot and not the pid in their names, so that a restart neither loses a count nor counts it twice. The
sidecar reads the files; the format is prometheus-client's. The library's own writer maps the files into memory, where a
full disk or a file that is shortened ends the process (SIGBUS), and it does not start with a damaged file. Here the
process keeps the values and writes each change at once, or those of a batch together before its replies, so that a
process that is killed has counted what it has done. A file that was removed, damaged or replaced is written again from
these values.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import values
from prometheus_client.mmap_dict import mmap_key

from daemon.runtime import files
from daemon.runtime.files import DamagedFile
from daemon.runtime.metrics_format import HEADER, MAX_BYTES, VALUE, entry, positions

log = structlog.get_logger()


class MetricsFile:
    """One file. Nothing is written before the first `keep`.

    Args:
        kind: of its metrics, as the file's name begins.
    """

    def __init__(self, folder: Path, kind: str, slot: str) -> None:
        self._path = folder / f"{kind}_{slot}.db"
        self._descriptor: int | None = None
        self._identity: tuple[int, ...] = ()
        self._damage: str | None = None  # of the file that an earlier process of the slot left
        self._content = bytearray(HEADER.pack(HEADER.size))
        self._positions: dict[str, int] = {}
        self._changed: list[int] | None = None  # positions that are not written yet, while these are collected
        try:
            content = files.read(self._path, MAX_BYTES)
            self._positions = positions(content, kind)
        except DamagedFile as damage:
            self._damage = str(damage)
            return
        if content and self._positions:
            [used] = HEADER.unpack_from(content)
            self._content = bytearray(content[:used])

    def position(self, key: str) -> int:
        """The position of this key's value; a new key is added with the value 0."""
        if key not in self._positions:
            begin, added = len(self._content), entry(key)
            end = begin + len(added)
            self._content += added
            self._content[: HEADER.size] = HEADER.pack(end)
            self._positions[key] = end - VALUE.size
            # The header is written last, so that a reader finds the whole entry or none.
            self._store(added, begin)
            self._store(HEADER.pack(end), 0)
        return self._positions[key]

    def get(self, position: int) -> float:
        """A value."""
        value: float = VALUE.unpack_from(self._content, position)[0]
        return value

    def set(self, position: int, value: float, time: float) -> None:
        """Change a value; `time` is 0 except for gauges that show the newest value."""
        VALUE.pack_into(self._content, position, value, time)
        if self._changed is None:
            self._store(self._content[position : position + VALUE.size], position)
        else:
            self._changed.append(position)

    def collect(self) -> None:
        """From now on do not write changes, until `write_collected`."""
        self._changed = []

    def write_collected(self) -> None:
        """Write what has changed since `collect`, and from now on each change at once."""
        changed, self._changed = self._changed, None
        if changed:
            begin, end = min(changed), max(changed) + VALUE.size
            self._store(self._content[begin:end], begin)

    def keep(self) -> None:
        """Write the file again if its content is not what was counted, and log why."""
        reason = self._difference() if self._descriptor is not None else self._damage
        if self._descriptor is not None and reason is None:
            return
        try:
            self._replace()
        except OSError as error:
            files.report(self._path, error.strerror)
            return
        if reason:
            log.warning("[Metrics] A file was damaged and has been written again", path=str(self._path), reason=reason)

    def _store(self, data: bytes | bytearray, position: int) -> None:
        if self._descriptor is None:
            return
        try:
            os.pwrite(self._descriptor, data, position)
        except OSError:
            return  # the next `keep` finds the difference

    def _difference(self) -> str | None:
        """What is wrong with the open file, or None."""
        assert self._descriptor is not None  # noqa: S101 - for the type checker
        try:
            if _identity(self._path.lstat()) != self._identity:
                return "it was replaced, or its permissions were changed"
            content = os.pread(self._descriptor, len(self._content) + 1, 0)
        except OSError as error:
            return error.strerror
        return None if content == self._content else "its content was changed"

    def _replace(self) -> None:
        files.write(self._path, self._content)
        descriptor = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self._identity, self._damage = descriptor, _identity(os.fstat(descriptor)), None


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_mode, status.st_uid


class Value:
    """One number of a metric, in its file."""

    def __init__(self, file: MetricsFile, key: str) -> None:
        self._file = file
        self._position = file.position(key)
        self._value = file.get(self._position)

    def inc(self, amount: float) -> None:
        """Add to it."""
        self._value += amount
        self._file.set(self._position, self._value, 0.0)

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Replace it; only gauges that show the newest value give a time."""
        self._value = value
        self._file.set(self._position, value, timestamp or 0.0)

    def get(self) -> float:
        """The number."""
        return self._value

    def set_exemplar(self, _exemplar: object) -> None:
        """Exemplars are not kept."""

    def get_exemplar(self) -> None:
        """Exemplars are not kept."""


class MetricsFiles:
    """The files of a slot, each made when its first metric is. Only one thread changes the values."""

    def __init__(self, folder: Path, slot: str) -> None:
        self._folder = folder
        self._slot = slot
        self._files: dict[str, MetricsFile] = {}

    def value(self, type_: str, *key: Any, multiprocess_mode: str = "", **_more: Any) -> Value:
        """What prometheus-client calls its ValueClass.

        Args:
            key: metric, sample, the names of the labels, their values, help.
        """
        kind = f"{type_}_{multiprocess_mode}" if type_ == "gauge" else type_
        if kind not in self._files:
            self._files[kind] = MetricsFile(self._folder, kind, self._slot)
        return Value(self._files[kind], mmap_key(*key))

    @contextmanager
    def written_together(self) -> Iterator[None]:
        """Write what changes within the block at its end, each file in one piece. The block does not wait."""
        changing = list(self._files.values())
        for file in changing:
            file.collect()
        try:
            yield
        finally:
            for file in changing:
                file.write_collected()

    def keep(self) -> None:
        """Make every file contain what was counted."""
        for file in self._files.values():
            file.keep()


def open_files(folder: Path | None, slot: str) -> MetricsFiles | None:
    """The files in which the metrics of this process are kept from now on; None, and only in memory, without a folder.

    For prometheus-client the place of all values is one global of the process, so this is called once.
    """
    if folder is None:
        return None
    files = MetricsFiles(folder, slot)
    values.ValueClass = files.value
    return files
