"""Pure: a ticket's total as a small picture for other sites (SVG)."""

import unicodedata
from html import escape

HEIGHT, PADDING, FONT_SIZE = 28, 10, 13
TITLE_CHARACTERS = 40
WIDE, USUAL = 1.0, 0.56  # width of a character in units of the font's size: of Chinese, Japanese and Korean, of others
FONT = "Verdana,DejaVu Sans,Geneva,Noto Sans,sans-serif"


def badge(title: str, amount: str, label: str, direction: str) -> bytes:
    """The badge: the ticket's title, and the total beside it.

    Args:
        title: is shortened to TITLE_CHARACTERS.
        amount: as it is shown.
        label: the whole in one sentence, for readers who do not see the picture.
        direction: ltr or rtl.
    """
    shown = title if len(title) <= TITLE_CHARACTERS else title[: TITLE_CHARACTERS - 1].rstrip() + "…"
    widths = [_width(shown), _width(amount)]
    parts = [(shown, widths[0], "#2c3a33"), (amount, widths[1], "#0b6b4b")]
    if direction == "rtl":
        parts.reverse()
    boxes, texts, x = [], [], 0
    for text, width, colour in parts:
        boxes.append(f'<rect x="{x}" width="{width}" height="{HEIGHT}" fill="{colour}"/>')
        texts.append(
            f'<text x="{x + width / 2:g}" y="19" textLength="{width - 2 * PADDING}" lengthAdjust="spacingAndGlyphs" '
            f'direction="{_direction(text)}">{escape(text)}</text>'
        )
        x += width
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{x}" height="{HEIGHT}" viewBox="0 0 {x} {HEIGHT}" role="img" '
        f'aria-label="{escape(label)}"><title>{escape(label)}</title>'
        f'<clipPath id="r"><rect width="{x}" height="{HEIGHT}" rx="6"/></clipPath><g clip-path="url(#r)">'
        f"{''.join(boxes)}</g>"
        f'<g fill="#fff" font-family="{FONT}" font-size="{FONT_SIZE}" text-anchor="middle">{"".join(texts)}</g></svg>'
    ).encode()


def _width(text: str) -> int:
    """About how wide a text is, in pixels, with its padding; the picture makes it exactly so wide."""
    units = sum(WIDE if unicodedata.east_asian_width(each) in "WF" else USUAL for each in text)
    return round(units * FONT_SIZE) + 2 * PADDING


def _direction(text: str) -> str:
    """The direction of a text: that of its first letter (Unicode, UAX #9)."""
    kinds = (unicodedata.bidirectional(each) for each in text)
    return "rtl" if next((kind for kind in kinds if kind in ("L", "R", "AL")), "L") != "L" else "ltr"
