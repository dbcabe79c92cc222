"""A chained file: what was appended is read again, whatever ended the writer, and no line can be changed unnoticed."""

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.runtime.chained_file import BLOCK_BYTES, BrokenChain, appending, read, read_last

CONTENTS = st.lists(
    st.binary(min_size=1, max_size=40).map(lambda raw: raw.replace(b"\n", b" ")), min_size=1, max_size=6
)

PLACES = st.integers(0, 100_000)  # in a file, modulo its size: nothing is drawn after a disk was waited for


def append(path: Path, contents: list[bytes]) -> None:
    with appending(path) as log:
        for content in contents:
            log.append(content)


def contents(path: Path) -> list[bytes]:
    return [line.content for line in read(path)]


@settings(max_examples=40)
@given(CONTENTS, CONTENTS, PLACES)
def test_an_append_that_was_interrupted_costs_its_last_line_only(
    first: list[bytes], more: list[bytes], place: int
) -> None:
    """Wherever the writer ended, the complete lines remain, and the next append continues after them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "log")
        append(path, first)
        size = place % (path.stat().st_size + 1)
        complete = path.read_bytes()[:size].count(b"\n")
        os.truncate(path, size)
        assert contents(path) == first[:complete]
        append(path, more)
        assert contents(path) == first[:complete] + more
        last = read_last(path)
        assert last is not None
        assert last.content == more[-1]


@settings(max_examples=40)
@given(CONTENTS, PLACES, st.just(0x20) | st.integers(1, 255))
def test_a_changed_byte_is_found(written: list[bytes], place: int, change: int) -> None:
    """Reading the file shows it, wherever the byte is, and if a digit `a` of a hash becomes `A` (a change of 0x20);
    only the end of the last line makes that one incomplete.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "log")
        append(path, written)
        text = bytearray(path.read_bytes())
        place %= len(text)
        text[place] ^= change
        path.write_bytes(text)
        with suppress(BrokenChain):
            assert contents(path) == written[:-1]
            assert place == len(text) - 1


@pytest.mark.parametrize("change", ["removed", "inserted", "exchanged"])
def test_lines_keep_their_places(change: str, tmp_path: Path) -> None:
    """A line that is missing, that is there twice, or that has another place does not follow the one before it."""
    path = tmp_path / "log"
    append(path, [b"1", b"2", b"3", b"4"])
    lines = path.read_bytes().splitlines(keepends=True)
    changed = {
        "removed": [lines[0], *lines[2:]],
        "inserted": [lines[0], lines[0], *lines[1:]],
        "exchanged": [lines[0], lines[2], lines[1], lines[3]],
    }
    path.write_bytes(b"".join(changed[change]))
    with pytest.raises(BrokenChain, match="line 2 of"):
        contents(path)


def test_the_end_of_a_long_file(tmp_path: Path) -> None:
    """Only the end is read to continue a file, also where its last lines are longer than what is read at first; a last
    line that was changed is not continued."""
    path = tmp_path / "log"
    append(path, [b"1" * BLOCK_BYTES, b"2" * BLOCK_BYTES * 3, b"3" * BLOCK_BYTES * 3])
    append(path, [b"4"])
    assert [content[:1] for content in contents(path)] == [b"1", b"2", b"3", b"4"]
    path.write_bytes(path.read_bytes()[:-2] + b"5\n")
    with pytest.raises(BrokenChain), appending(path):
        pass


@pytest.mark.parametrize("text", [b"sk_test_1", b"{}", b"sk_test_1\n", b"A=1\nB=2"])
def test_another_file_is_left_as_it_is(text: bytes, tmp_path: Path) -> None:
    """Nothing is appended to it, and nothing is cut off, also where it is one line without an end."""
    path = tmp_path / "secret"
    path.write_bytes(text)
    with pytest.raises(BrokenChain), appending(path):
        pass
    assert path.read_bytes() == text


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_at_once(make: Callable[[Path], None], tmp_path: Path) -> None:
    """Also a FIFO, on which an ordinary reader, such as the startup gate, would wait for ever."""
    path = tmp_path / "log"
    make(path)
    with pytest.raises(OSError, match=r"directory|regular"), appending(path):
        pass
    for opened in (read_last, contents):
        with pytest.raises(OSError, match="regular"):
            opened(path)


def test_one_process_appends_at_a_time(tmp_path: Path) -> None:
    """Another one fails at once; the file can be read by its owner only."""
    path = tmp_path / "log"
    with appending(path), pytest.raises(BlockingIOError, match="another process"), appending(path):
        pass
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of other users")
def test_what_root_makes_belongs_to_the_owner_of_its_folder(tmp_path: Path) -> None:
    """The processes, which run as that user, append to it later. What exists stays as it is."""
    os.chown(tmp_path, 12_345, 23_456)
    path = tmp_path / "log"
    append(path, [b"1"])
    assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode & 0o777) == (12_345, 23_456, 0o600)
    os.chown(path, 0, 0)
    append(path, [b"2"])
    assert path.stat().st_uid == 0
