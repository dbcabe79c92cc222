"""The walk through a list of Stripe's API: whatever is added, removed or interrupted meanwhile, nothing is left out."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from daemon.jobs.list_walk import OVERLAP_S, Position, walk
from daemon.stripe_api.client import Page, StripeRejected

NOW = 1_800_000_000


@dataclass
class Turn:
    """What happens before a page is asked for: time passes, objects appear so many seconds late, others are removed,
    each named by its place in the list."""

    seconds: int
    delays: list[int]
    removed: frozenset[int] = frozenset()
    is_killed: bool = False  # after this page was processed, and before its position was saved


@dataclass
class List:
    """A list with so many objects per page, to which things happen."""

    page_size: int
    turns: list[Turn]
    now: int = NOW
    objects: dict[int, int] = field(default_factory=dict)  # id -> created
    removed: set[int] = field(default_factory=set)

    def add(self, delay: int) -> None:
        self.objects[len(self.objects)] = self.now - delay

    def happen(self) -> bool:
        """The next turn. Returns whether the process is killed after it."""
        turn = self.turns.pop(0) if self.turns else Turn(1, [])
        self.now += turn.seconds
        for delay in turn.delays:
            self.add(delay)
        self.removed |= {id_ for place, id_ in enumerate(self.newest_first()) if place in turn.removed}
        return turn.is_killed

    def newest_first(self) -> list[int]:
        there = (id_ for id_ in self.objects if id_ not in self.removed)
        return sorted(there, key=lambda id_: (self.objects[id_], id_), reverse=True)

    async def pages(
        self, _path: str, params: dict[str, dict[str, int]], *, account: str | None, starting_after: str | None
    ) -> AsyncIterator[Page]:
        while True:
            self.killed = self.happen()
            listed = [id_ for id_ in self.newest_first() if self.objects[id_] >= params["created"]["gte"]]
            if starting_after is not None:
                if int(starting_after) in self.removed:
                    raise StripeRejected(400, "resource_missing", "starting_after", None)
                last = (self.objects[int(starting_after)], int(starting_after))
                listed = [id_ for id_ in listed if (self.objects[id_], id_) < last]
            found = listed[: self.page_size]
            starting_after = str(found[-1]) if found else None
            has_more = len(listed) > self.page_size
            yield Page([Raw(str(id_).encode()) for id_ in found], starting_after, has_more, self.now)
            if not has_more:
                return


turns = st.lists(
    st.builds(
        Turn,
        seconds=st.integers(0, 900),
        delays=st.lists(st.one_of(st.just(0), st.integers(0, OVERLAP_S)), max_size=4),
        removed=st.frozensets(st.integers(0, 30), max_size=2),
        is_killed=st.sampled_from([False, False, True]),
    ),
    max_size=25,
)


@given(st.lists(st.integers(0, 5000), max_size=30), st.integers(1, 8), turns, st.integers(0, 5000))
def test_nothing_is_left_out(ages: list[int], page_size: int, turns: list[Turn], since: int) -> None:
    """Every object that is in the list while it is read once to its end is processed: those that were there when the
    walk began, and those that appear meanwhile, up to OVERLAP_S late, whatever the size of a page, and however often
    the process is killed and continues from the position that it saved last."""
    of = List(page_size, turns)
    for age in ages:
        of.add(age)
    seen, due = asyncio.run(_walk(of, Position(NOW - since)))
    assert due - of.removed <= seen


async def _walk(of: List, position: Position) -> tuple[set[int], set[int]]:
    """The objects that were processed, and those that were in the list before its head was read for the second time."""
    seen: set[int] = set()
    due: set[int] = set()
    floor = position.floor
    while not position.is_done:
        async for page in walk(of, "/v1/events", {}, position):  # type: ignore[arg-type]
            seen |= {int(bytes(each)) for each in page.objects}
            if not position.is_second:
                due = {id_ for id_, created in of.objects.items() if created >= floor}
            if of.killed:
                break
            position = page.position
    return seen, due


@given(st.integers(0, 40), st.integers(1, 8))
def test_each_page_is_asked_for_once(count: int, page_size: int) -> None:
    """Without an interruption the walk reads each page once, and then the head again."""
    of = List(page_size, [])
    for number in range(count):
        of.add(5000 + number)
    pages = []

    async def read() -> None:
        async for page in walk(of, "/v1/events", {}, Position(0)):  # type: ignore[arg-type]
            pages.append(page)

    asyncio.run(read())
    assert [len(page.objects) for page in pages[:-1]] == [
        len(range(count)[begin : begin + page_size]) for begin in range(0, count, page_size) or [0]
    ]
    assert pages[-1].objects == []
    assert pages[-1].position.is_done
