"""The format of the metrics files: prometheus-client's (its `mmap_dict`), checked before it is trusted.

With a damaged file the library reads a part of it, raises errors of many kinds, or never returns. It can read what
passes here. `daemon.runtime.metrics_files` writes the files.

A file is a header (the number of bytes in use, and four of padding) and entries: the length of a key, the key and its
padding to a multiple of eight bytes, a value and a time. A key is JSON: metric, sample, labels, help.
"""

import math
import re
from pathlib import Path
from struct import Struct

import msgspec

from daemon.runtime import files
from daemon.runtime.files import DamagedFile

HEADER = Struct("i4x")
LENGTH = Struct("i")
VALUE = Struct("dd")  # and the time it was set, for the gauges that show the newest
ALIGNMENT = 8
MAX_BYTES = 16 * 1024 * 1024  # hundreds of times what all labels need

_FILE_NAME = re.compile(r"(counter|histogram|summary|gauge_(?:live)?(?:all|min|max|sum|mostrecent))_[^_]+\.db")
_METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

_Key = tuple[str, str, dict[str, str], str]


def check_file(path: Path) -> str | None:
    """Why the library could not read this file, or None."""
    name = _FILE_NAME.fullmatch(path.name)
    if name is None:
        return "its name is not that of a metrics file"
    try:
        positions(files.read(path, MAX_BYTES), name[1])
    except DamagedFile as error:
        return str(error)
    return None


def positions(content: bytes | None, kind: str) -> dict[str, int]:
    """The position of each key's value; `content` None means that there is no file. Raises DamagedFile.

    Args:
        kind: of the metrics, as the file's name begins.
    """
    if content is None:
        return {}
    if len(content) < HEADER.size:
        raise DamagedFile("it is empty" if not content else "it is cut off")
    [used] = HEADER.unpack_from(content)
    if used == 0:
        return {}
    if not HEADER.size <= used <= len(content) or used % ALIGNMENT:
        raise DamagedFile("it is cut off, or its length is wrong")
    found = {}
    position = HEADER.size
    while position < used:
        key, position = _read_key(content, position, used)
        _check_value(content, position, kind)
        found[key] = position
        position += VALUE.size
    return found


def entry(key: str) -> bytes:
    """A new entry, of value 0."""
    encoded = key.encode()
    return LENGTH.pack(len(encoded)) + encoded + b" " * _padding(len(encoded)) + VALUE.pack(0.0, 0.0)


def _padding(length: int) -> int:
    return ALIGNMENT - (LENGTH.size + length) % ALIGNMENT


def _read_key(content: bytes, position: int, used: int) -> tuple[str, int]:
    """The key at this position, and the position of its value."""
    [length] = LENGTH.unpack_from(content, position)
    begin = position + LENGTH.size
    end = begin + length
    value_at = end + _padding(length)
    if length <= 0 or value_at + VALUE.size > used:
        raise DamagedFile("the length of one of its entries is wrong")
    try:
        key = content[begin:end].decode()
        metric, sample, labels, _help = msgspec.json.decode(key, type=_Key)
        float(labels.get("le", "0"))
    except (ValueError, RecursionError):
        raise DamagedFile("one of its keys cannot be read") from None
    names_are_right = sample.startswith(metric) and _METRIC_NAME.fullmatch(metric) and _METRIC_NAME.fullmatch(sample)
    if not names_are_right or not all(map(_LABEL_NAME.fullmatch, labels)):
        raise DamagedFile("one of its keys is not that of a metric")
    return key, value_at


def _check_value(content: bytes, position: int, kind: str) -> None:
    value, time = VALUE.unpack_from(content, position)
    if not math.isfinite(value) or not math.isfinite(time) or (value < 0 and not kind.startswith("gauge")):
        raise DamagedFile("one of its values is impossible")
