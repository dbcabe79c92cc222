"""The picture of a ticket's page that other sites show beside a link to it (Open Graph): a PNG, drawn by typst."""

from functools import lru_cache
from importlib import resources
from typing import NamedTuple

import msgspec

KEPT = 64  # pictures, of some 30 kB each
PIXELS_PER_INCH = 72.0  # the page is as many points wide as the picture is pixels wide
TITLE_CHARACTERS = 120
FONTS = ("DejaVu Sans", "Noto Sans", "Noto Sans Arabic", "Noto Sans CJK SC", "Libertinus Serif")


class Picture(NamedTuple):
    """What a picture shows, as texts in the reader's language; `share` is the filled part of the bar in percent, None
    without a goal."""

    language: str
    direction: str
    title: str
    amount: str
    raised: str
    goal: str
    share: int | None


@lru_cache(maxsize=KEPT)
def draw(picture: Picture) -> bytes:
    """The PNG of a picture. It takes some ten milliseconds: call it in a thread.

    typst is loaded with the first picture, because it takes 80 MB.
    """
    import typst  # noqa: PLC0415

    title = picture.title
    if len(title) > TITLE_CHARACTERS:
        title = title[: TITLE_CHARACTERS - 1].rstrip() + "…"
    shown = picture._asdict() | {
        "title": title,
        "title_size": 64 if len(title) <= 60 else 46,
        "amount_size": 110 if len(picture.amount) <= 12 else 76,
        "fonts": FONTS,
    }
    source = (resources.files(__package__) / "static" / "picture.typ").read_bytes()
    drawn = typst.compile(
        source, format="png", ppi=PIXELS_PER_INCH, sys_inputs={"shown": msgspec.json.encode(shown).decode()}
    )
    assert isinstance(drawn, bytes)  # noqa: S101 - a list only where a document has several pages
    return drawn
