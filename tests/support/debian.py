"""Debian's programs, for the tests in which they check or run the shipped files."""

import os
import shutil

import pytest


def find(name: str) -> str | None:
    """Where a program is; an ordinary user often has no /usr/sbin in the search path."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")


def program(name: str, package: str) -> str:
    """Where a program is. Without it the test is skipped, with the reason; in CI, where it must be there, it fails."""
    if path := find(name):
        return path
    reason = f"{name} is missing: apt-get install {package}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
