"""Lists of objects as Stripe's API has them: the newest first, in parts that begin after or end before an object."""

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, Protocol, TypeVar

from daemon.simulator.api_versions import Api
from daemon.simulator.stripe_objects import Json


class Stored(Protocol):
    """An object of a world."""

    @property
    def id(self) -> str:
        """Stripe's id."""
        ...

    @property
    def created(self) -> int:
        """Unix seconds."""
        ...

    def render(self, api: Api) -> Json:
        """The object as this API version shows it."""
        ...


@dataclass(frozen=True)
class Part:
    """Which part of a list is asked for.

    Attributes:
        limit: the most objects, from 1.
        starting_after: the id of the object after which the part begins, on the way to older ones.
        ending_before: the id of the object before which the part ends.
        created_from, created_before: the objects created at or after, and before these seconds.
    """

    limit: int = 10
    starting_after: str | None = None
    ending_before: str | None = None
    created_from: int | None = None
    created_before: int | None = None


T = TypeVar("T", bound=Stored)


class Collection(Generic[T]):
    """The objects of one type."""

    def __init__(self) -> None:
        self._by_id: dict[str, T] = {}
        self._order: list[tuple[int, str]] = []  # the oldest first
        self._is_sorted = True

    def add(self, thing: T) -> None:
        """Adds an object, unless it is in the collection already."""
        if thing.id not in self._by_id:
            self._by_id[thing.id] = thing
            self._order.append((thing.created, thing.id))
            self._is_sorted = False

    def remove(self, id_: str) -> None:
        """Removes an object. Raises KeyError if it is not in the collection."""
        thing = self._by_id.pop(id_)
        self._order.remove((thing.created, id_))

    def get(self, id_: str) -> T | None:
        """The object with this id, or None."""
        return self._by_id.get(id_)

    def __getitem__(self, id_: str) -> T:
        """The object with this id. Raises KeyError if there is none."""
        return self._by_id[id_]

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[T]:
        """All objects, the oldest first."""
        return (self._by_id[id_] for _, id_ in self._sorted())

    def part(self, part: Part, keep: Callable[[T], bool] = lambda _: True) -> tuple[list[T], bool]:
        """A part of the list, the newest first, and whether the list goes on in that direction.

        Args:
            keep: which objects are in the list.

        Raises:
            KeyError: `starting_after` or `ending_before` names no object of this collection.
        """
        order = self._sorted()
        low = bisect_left(order, (part.created_from, "")) if part.created_from is not None else 0
        high = bisect_left(order, (part.created_before, "")) if part.created_before is not None else len(order)
        if part.starting_after is not None:
            high = min(high, self._place(part.starting_after))
        if part.ending_before is not None:
            low = max(low, self._place(part.ending_before) + 1)
        oldest_first = part.ending_before is not None
        places = range(low, high) if oldest_first else range(high - 1, low - 1, -1)
        kept = filter(keep, (self._by_id[order[place][1]] for place in places))
        found = list(islice(kept, part.limit + 1))
        has_more, found = len(found) > part.limit, found[: part.limit]
        return (found[::-1] if oldest_first else found), has_more

    def _place(self, id_: str) -> int:
        return bisect_left(self._sorted(), (self._by_id[id_].created, id_))

    def _sorted(self) -> list[tuple[int, str]]:
        if not self._is_sorted:
            self._order.sort()
            self._is_sorted = True
        return self._order
