"""The memory of ended connections: when it is searched for reference cycles, which stops the process for a while."""

import gc
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.runtime.http.garbage import Garbage

LIMIT = 1_000_000


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mock]:
    """Stands for the search, and counts it."""
    search = Mock()
    monkeypatch.setattr(gc, "collect", search)
    yield search


@pytest.mark.parametrize("size", [1, LIMIT])
def test_what_reference_counts_free_is_not_searched_for(searches: Mock, size: int) -> None:
    """Nothing is left of such connections, however many and however large these were."""
    kept = Garbage(LIMIT)
    for _ in range(1000):
        kept.connection_ended(size)
        kept.connection_freed(size)
        kept.collect()
    kept.connection_ended(2 * LIMIT)
    kept.collect()  # it has just ended, and what refers to it may end at any moment
    kept.connection_freed(2 * LIMIT)
    kept.collect()
    assert not searches.called


def test_what_is_still_in_use_is_searched_for_once(searches: Mock) -> None:
    """A handler may outlive its connection for long; its memory is counted again when more has come."""
    kept = Garbage(LIMIT)
    kept.connection_ended(LIMIT + 1)
    for _ in range(5):
        kept.collect()
    assert searches.call_count == 1
    kept.connection_freed(LIMIT + 1)
    kept.collect()
    kept.connection_ended(LIMIT + 1)
    for _ in range(5):
        kept.collect()
    assert searches.call_count == 2


@given(st.lists(st.integers(0, LIMIT // 3), max_size=40))
def test_cycles_take_no_more_than_the_limit(sizes: list[int]) -> None:
    """Connections that only a search frees: whatever their sizes, no more than the limit is left of those that ended
    before the check before."""
    with pytest.MonkeyPatch.context() as patch:
        left = list[int]()
        kept = Garbage(LIMIT)

        def search() -> None:
            for size in left:
                kept.connection_freed(size)
            left.clear()

        patch.setattr(gc, "collect", search)
        for size in sizes:
            left.append(size)
            kept.connection_ended(size)
            kept.collect()
            assert sum(left[:-1]) <= LIMIT
