"""Releases before this one, from this repository's history: their own files, run beside today's.

They are run themselves, and not imitated: what they send to a newer schema is exactly what a rolling upgrade meets.
Releases before them whose statements were recorded are in `former_release`.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.process import ROOT

# The release before this one: its newest migration is sql.migrate.NEEDED. After a release, its commit stands here.
PREVIOUS = "445f1cfd39031b3fdb3c590e993124d57e1ab5db"
# The last one that was published, with the migrations before 0017. Its databases are migrated before they are used.
PUBLISHED = "dee2d7b6a44b9167f89792b5abce4c0fca2cd744"
PARTS = ("daemon", "sql", "health_sidecar", "deploy", "supervisord.conf")  # what a running instance reads


def unpack(commit: str, folder: Path) -> Path:
    """Writes all files of a release into a new folder. Raises LookupError where the history lacks them."""
    folder.mkdir()
    git = ["git", "-C", str(ROOT), "archive", commit]
    archive = subprocess.run(git, capture_output=True, check=False)
    if archive.returncode != 0:
        reason = archive.stderr.decode(errors="replace").strip()
        raise LookupError(f"the release {commit} is not in the history: {reason}; git fetch --unshallow brings it")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def unpack_or_skip(commit: str, folder: Path) -> Path:
    """As `unpack`. Skips the test where the history lacks the release, as in a shallow clone."""
    try:
        return unpack(commit, folder)
    except LookupError as error:
        pytest.skip(str(error))


def replace_by_todays(folder: Path) -> None:
    """Replaces the files of the release in this folder by today's, as an upgrade of a checkout does."""
    for part in PARTS:
        old, new = folder / part, ROOT / part
        if new.is_dir():
            shutil.rmtree(old)
            shutil.copytree(new, old, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(new, old)
