"""Debian's programs, for the tests in which they check or run the shipped files."""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

FONTS, FONTS_CJK = Path("/usr/share/fonts/truetype/noto"), Path("/usr/share/fonts/opentype/noto")


def find(name: str) -> str | None:
    """Where a program is; an ordinary user often has no /usr/sbin in the search path."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")


def program(name: str, package: str) -> str:
    """Where a program is. Without it the test is skipped, with the reason; in CI, where it must be there, it fails."""
    if path := find(name):
        return path
    _skip(f"{name} is missing: apt-get install {package}")


def need_fonts() -> None:
    """The test needs fonts of every script; without them it is skipped, or fails in CI."""
    if not (FONTS.is_dir() and any(FONTS_CJK.glob("NotoSansCJK*"))):
        _skip("fonts are missing: apt-get install fonts-noto-core fonts-noto-cjk")


def _skip(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
