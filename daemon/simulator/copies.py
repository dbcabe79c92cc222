"""Copies of payments that have been played, for large worlds: a copy differs in its ids only, and is rendered from the
original.

The ids of the originals end with MARKER (`scenarios.generate(…, id_end=MARKER)`), and in each copy its number stands in
that place. Times are those of the original.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from daemon.simulator.api_versions import Api
from daemon.simulator.collection import Stored
from daemon.simulator.stripe_objects import Json

MARKER = "Original"


class Copy:
    """An object of a world that is rendered from another one."""

    __slots__ = ("_mark", "created", "id", "original")

    def __init__(self, original: Stored, number: int) -> None:
        self.original, self._mark = original, f"{number:0{len(MARKER)}}"
        self.id, self.created = self.named(original.id), original.created

    def named(self, text: str) -> str:
        """The text of the original with the ids of the copy."""
        return text.replace(MARKER, self._mark)

    def render(self, api: Api) -> Json:
        """The object as this API version shows it."""
        return self.of(self.original.render(api))

    def of(self, shown: Json) -> Json:
        """What was rendered of the original, with the ids of the copy."""
        text = msgspec.json.encode(shown).replace(MARKER.encode(), self._mark.encode())
        copied: Json = msgspec.json.decode(text)
        return copied


def attribute(thing: Stored, of: Callable[[Any], object]) -> object:
    """A value of an object, or of a copy."""
    if not isinstance(thing, Copy):
        return of(thing)
    value = of(thing.original)
    return thing.named(value) if isinstance(value, str) else value
