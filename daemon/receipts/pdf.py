"""PDFs by Typst: tagged, for archives (PDF/A-2a) and for screen readers (PDF/UA-1), with text in every script that the
machine has fonts for."""

import asyncio
import re
import threading
import unicodedata
from datetime import datetime
from functools import cache
from pathlib import Path

import typst

STANDARDS: "typst.PDFStandards" = ["a-2a", "ua-1"]
ONE_AT_A_TIME = threading.Lock()  # a compiler makes one document at a time
FONT_PACKAGES = "fonts-noto-core and fonts-noto-cjk"  # of Debian; together they have every script in use
ESCAPED = re.compile(r"\\u\{([0-9a-f]{1,6})\}")  # how Typst shows a character that it cannot print
NO_GLYPH = re.compile(r"the text `(\"(?:[^\"\\]|\\.)*\")` could not be displayed")


class CannotTypeset(Exception):
    """A document cannot be made. The text names what is wrong with the template or which fonts are missing, and nothing
    of the donor's data."""


class NoFont(CannotTypeset):
    """Only a font is missing: the same template can be used for other texts."""


async def typeset(source: str, *, created: datetime, folder: Path | None = None) -> bytes:
    """The PDF of a document in Typst. The same document, time and fonts give the same bytes.

    It is made in a thread, which takes some ten milliseconds; Typst does not hold Python's lock meanwhile.

    Args:
        folder: what `image("/logo.svg")` in the document refers to.

    Raises:
        CannotTypeset.
    """
    return await asyncio.to_thread(_compile, source, created, folder)


def _compile(source: str, created: datetime, folder: Path | None) -> bytes:
    try:
        with ONE_AT_A_TIME:
            pdf = _compiler().compile(
                source.encode(),
                root=folder,
                format="pdf",
                pdf_standards=STANDARDS,
                timestamp=int(created.timestamp()),
            )
    except typst.TypstError as error:
        problem = _problem(error)
    else:
        assert isinstance(pdf, bytes)  # noqa: S101 - without an output file, PDFs are one text of bytes
        return pdf
    raise problem  # outside of the block: Typst's own error repeats the text, which is not to be its context


@cache
def _compiler() -> typst.Compiler:
    """The one compiler of this process, with the fonts of this machine: looking for them takes 0.2 s. With a new
    compiler for each document, some 40 kB of each would never be freed."""
    return typst.Compiler(font_paths=typst.Fonts())


def _problem(error: typst.TypstError) -> CannotTypeset:
    """What is wrong, without the text of the document: of a character without a font, its script; else the line."""
    if found := NO_GLYPH.search(error.message):
        shown = ESCAPED.sub(lambda escape: chr(int(escape[1], 16)), found[1])
        scripts = sorted({_script(character) for character in shown if not character.isascii()}) or ["a script"]
        return NoFont(f"no font here has a character of {', '.join(scripts)}: install {FONT_PACKAGES}")
    line = re.search(r"typst_py_bytes__\.typ:(\d+)", error.diagnostic)
    kind = re.match(r"[a-z ]{3,60}", error.message)
    where = f" in line {line[1]} of what the template makes" if line else ""
    return CannotTypeset(f"Typst: {kind[0].strip() if kind else 'the document is wrong'}{where}")


def _script(character: str) -> str:
    """The first word of a character's name, which is nearly always its script, such as ARABIC or CJK."""
    name = unicodedata.name(character, "")
    return name.split()[0] if name else "an unknown script"
