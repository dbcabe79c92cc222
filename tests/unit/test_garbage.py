"""The memory of ended connections: when it is searched for reference cycles, which stops the process for a while."""

import gc
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.runtime.http.garbage import LEAST_BYTES, TRANSPORT_BYTES, Garbage

LIMIT = 1000 * TRANSPORT_BYTES
MANY = 1000  # open connections: a search takes long


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mock]:
    """Stands for the search, and counts it."""
    search = Mock()
    monkeypatch.setattr(gc, "collect", search)
    yield search


@pytest.mark.parametrize("size", [0, LIMIT])
def test_what_reference_counts_free_is_not_searched_for(searches: Mock, size: int) -> None:
    """Only asyncio's transports are left of such connections, however large these were."""
    kept = Garbage(LIMIT)
    for _ in range(1000):
        kept.connection_ended(size)
        kept.connection_freed(size)
        kept.collect(MANY)
    assert not searches.called
    kept.connection_ended(0)
    kept.collect(MANY)
    assert searches.call_count == 1


def test_what_is_still_in_use_is_searched_for_once(searches: Mock) -> None:
    """A handler may outlive its connection for long; its memory is counted again when more has come."""
    kept = Garbage(LIMIT)
    kept.connection_ended(LIMIT)
    for _ in range(5):
        kept.collect(MANY)
    assert searches.call_count == 1
    kept.connection_freed(LIMIT)
    kept.collect(MANY)
    kept.connection_ended(LIMIT)
    kept.collect(MANY)
    assert searches.call_count == 2


def test_a_search_is_due_sooner_beside_few_connections(searches: Mock) -> None:
    """Then it takes little time, and a process that was never busy does not keep what it need not keep."""
    kept = Garbage(100 * LEAST_BYTES)
    for _ in range(LEAST_BYTES // TRANSPORT_BYTES + 1):
        kept.connection_ended(0)
    kept.collect(MANY)
    assert not searches.called
    kept.collect(0)
    assert searches.call_count == 1


@given(st.lists(st.integers(0, LIMIT // 3), max_size=40), st.integers(0, MANY))
def test_cycles_take_no_more_than_the_limit(sizes: list[int], open_connections: int) -> None:
    """Connections that only a search frees: after each check less than the limit is left, whatever their sizes."""
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
            kept.collect(open_connections)
            assert sum(left) <= LIMIT
