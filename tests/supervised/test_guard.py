"""The suite itself: whatever ends it, nothing of it is left on the machine."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.instance.postgres_cluster import elsewhere
from tests.support.guard import also_remove
from tests.support.instance import eventually
from tests.support.process import Process

# A test with both of what the suite's tests start: a database in the suite's own PostgreSQL, and a whole instance.
TEST = """
import time
from pathlib import Path

def test_both(database_url, server, instance, tmp_path):
    Path({server!r}).write_text(str(server.home))
    Path({seen!r}).write_text(str(instance.state))
    instance.start()
    with Path({seen!r}).open("a") as seen:
        seen.write(" started")
    time.sleep({seconds})
"""


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for everything temporary of a run; its path is short, for those of the sockets in it are longer."""
    with tempfile.TemporaryDirectory(prefix="k", dir="/tmp") as folder:
        also_remove(Path(folder))
        Path(folder).chmod(0o711)
        yield Path(folder)


class Run:
    """pytest in a process of its own, with one test that waits."""

    def __init__(self, folder: Path, temporary: Path, seconds: float) -> None:
        self._seen, self._server = folder / "seen", folder / "server"
        test = folder / "test_inner.py"
        test.write_text(TEST.format(seen=str(self._seen), server=str(self._server), seconds=seconds))
        words = ["-q", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", "pyproject.toml", str(test)]
        self.process = Process([sys.executable, "-m", "pytest", *words], None, {"TMPDIR": str(temporary)})

    @property
    def server_home(self) -> Path:
        """The folder of its PostgreSQL server, which need not be in the folder for temporary files."""
        return Path(self._server.read_text())

    def folders(self) -> list[Path]:
        """What it has left of its folders, which need not be in the folder for temporary files."""
        state = Path(self._seen.read_text().split()[0])
        return [folder for folder in (self.server_home, elsewhere(state)) if folder.exists()]

    def seen(self) -> str:
        """What the test has noted."""
        assert self.process.poll() is None, self.process.communicate()[0]
        return self._seen.read_text() if self._seen.exists() else ""


def processes_in(folder: Path) -> list[str]:
    """The command lines of all processes that have to do with this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes()
            texts = (words, (process / "environ").read_bytes(), os.fsencode((process / "cwd").readlink()))
            if int(process.name) != os.getpid() and any(os.fsencode(folder) in text for text in texts):
                found.append(words.replace(b"\0", b" ").decode(errors="replace"))
    return found


def test_a_run_that_passes_leaves_nothing(tmp_path: Path, temporary: Path) -> None:
    """After the end of pytest no process and no folder of it is left."""
    run = Run(tmp_path, temporary, seconds=0)
    said, _ = run.process.communicate()
    assert run.process.returncode == 0, said
    assert "guard:" not in said
    assert processes_in(temporary) + processes_in(run.server_home) == []
    assert [*temporary.iterdir(), *run.folders()] == []


@pytest.mark.parametrize("moment", ["while its database is made", "in the middle of a test"])
def test_a_run_that_is_killed_leaves_nothing(tmp_path: Path, temporary: Path, moment: str) -> None:
    """After kill -9 of pytest its servers, its instance and its folders go by themselves."""
    run = Run(tmp_path, temporary, seconds=600)
    if moment == "in the middle of a test":
        eventually(lambda: run.seen().endswith(" started"), "the instance runs")
        assert len(processes_in(temporary)) > 8
    else:
        eventually(lambda: any(Path(state, "environment").exists() for state in run.seen().split()[:1]), "it starts")
    run.process.kill()
    run.process.communicate()
    eventually(lambda: processes_in(temporary) + processes_in(run.server_home) == [], "no process is left")
    eventually(lambda: [*temporary.iterdir(), *run.folders()] == [], "no folder is left")
