"""A disk so small that a test can fill it: a tmpfs where this user may mount one, else a container's /dev/shm."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.guard import also_remove

SHARED = Path("/dev/shm")  # 64 MB in a plain container
# More than this would take the machine's memory, and its time.
LARGEST_BYTES = 256 * 1024 * 1024
CHUNK = bytes(4096)


class SmallDisk:
    """Below `path` there is room until `fill`, and again after `free`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        """Takes all the room there is."""
        with self._ballast.open("ab", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(CHUNK)

    def free(self) -> None:
        """Gives the room back."""
        self._ballast.unlink(missing_ok=True)

    def folder(self, name: str, owner: str | None) -> Path:
        """A folder on it, of another user if need be."""
        folder = self.path / name
        folder.mkdir(mode=0o700)
        if owner:
            shutil.chown(folder, owner)
        return folder


@contextmanager
def small_disk(megabytes: int) -> Iterator[SmallDisk]:
    """A disk of its own. Without one the test is skipped, saying why; in CI, where there must be one, it fails."""
    with tempfile.TemporaryDirectory(prefix="donationd-disk-") as folder:
        path = Path(folder)
        path.chmod(0o711)
        if _mount(path, megabytes):
            try:
                yield SmallDisk(path)
            finally:
                subprocess.run(["umount", "--lazy", folder], check=True)
            return
    if SHARED.is_dir() and shutil.disk_usage(SHARED).total <= LARGEST_BYTES:
        with tempfile.TemporaryDirectory(prefix="donationd-disk-", dir=SHARED) as folder:
            also_remove(Path(folder))
            Path(folder).chmod(0o711)
            yield SmallDisk(Path(folder))
        return
    reason = f"no small disk: mounting one needs root, and {SHARED} is too large to be filled"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _mount(path: Path, megabytes: int) -> bool:
    options = f"size={megabytes}m,mode=711"
    command = ["mount", "-t", "tmpfs", "-o", options, "donationd-test", str(path)]
    return (
        shutil.which("mount") is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )
