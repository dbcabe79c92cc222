"""How an API process writes the files of its metrics."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.runtime.metrics_files import MetricsFiles, Value


def values(folder: Path) -> tuple[MetricsFiles, list[Value]]:
    files = MetricsFiles(folder, "0")
    made = [files.value("counter", f"metric_{n}", f"metric_{n}", (), (), "help") for n in range(6)]
    files.keep()
    return files, made


def read(folder: Path) -> bytes:
    return (folder / "counter_0.db").read_bytes()


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 9)), max_size=20))
def test_changes_written_together_are_those_written_at_once(changes: list[tuple[int, float]]) -> None:
    """The file has the same content afterwards, and nothing of it before."""
    with TemporaryDirectory() as one, TemporaryDirectory() as two:
        (files, together), (_, at_once) = values(Path(one)), values(Path(two))
        before = read(Path(one))
        with files.written_together():
            for number, amount in changes:
                together[number].inc(amount)
                at_once[number].inc(amount)
            assert read(Path(one)) == before
        assert read(Path(one)) == read(Path(two))


def test_changes_written_together_need_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many values change, and as often as they do; without a change there is none."""
    files, made = values(tmp_path)
    writes: list[int] = []
    pwrite = os.pwrite

    def write(descriptor: int, data: bytes, position: int) -> int:
        writes.append(1)
        return pwrite(descriptor, data, position)

    monkeypatch.setattr(os, "pwrite", write)
    with files.written_together():
        pass
    assert writes == []
    with files.written_together():
        for value in made * 3:
            value.inc(1)
    assert writes == [1]
    made[0].inc(1)
    assert writes == [1, 1]
