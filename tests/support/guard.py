"""Whatever ends a run of the tests, be it kill -9: its processes end, and its temporary folders are removed.

`guarded` gives the run a temporary folder of its own as TMPDIR, and starts this file as a guard. The guard waits at a
pipe for the end of the run. Then it ends every process that was started with that TMPDIR, every PostgreSQL that works
there, and removes the folder. An environment that a test makes for a process begins with `base_environ`.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.1
QUIET_LOOKS = 3  # without any process left, so that one that was just starting is found too
PATIENCE_S = 20.0  # for a PostgreSQL that was asked to end
LIMIT_S = 60.0
WITHOUT_RICH = Path(__file__).with_name("without_rich")
_pipes: list[int] = []  # to the guards of this process


@contextmanager
def guarded() -> Iterator[None]:
    """Everything temporary that is made in this block, here and in the processes started here, is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="donationd-"))
    folder.chmod(0o711)  # PostgreSQL's user has its data in it
    guard = subprocess.Popen([sys.executable, __file__, str(folder)], stdin=subprocess.PIPE, start_new_session=True)
    assert guard.stdin is not None
    before = tempfile.gettempdir()
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    _pipes.append(guard.stdin.fileno())
    try:
        yield
    finally:
        _pipes.pop()
        tempfile.tempdir = os.environ["TMPDIR"] = before
        guard.stdin.close()
        guard.wait()


def also_remove(folder: Path) -> None:
    """Has the guard remove one more folder at the end, which lies elsewhere and need not exist yet."""
    if _pipes:
        os.write(_pipes[-1], f"{folder}\n".encode())


def base_environ() -> dict[str, str]:
    """The least environment of a process that a test starts: with it the guard finds the process.

    Its Python starts quicker than with the whole environment. It has no certificates of authorities, because no test
    reaches another machine; no plugins of pydantic, like our own processes; and no package rich, which structlog loads
    where it is installed: for our users it is not, here schemathesis needs it.
    """
    return {
        "PATH": os.environ["PATH"],
        "TMPDIR": tempfile.gettempdir(),
        "SSL_CERT_FILE": os.devnull,
        "PYDANTIC_DISABLE_PLUGINS": "1",
        "PYTHONPATH": str(WITHOUT_RICH),
    }


def main() -> None:
    """The guard. Its input ends when the run does."""
    folders = [Path(sys.argv[1])]
    folders += [Path(line.rstrip("\n")) for line in sys.stdin]
    _end_processes(folders)
    for folder in folders:
        _unmount_below(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _end_processes(folders: list[Path]) -> None:
    """PostgreSQL is asked, so that it leaves no shared memory; all others are killed."""
    began_s, quiet = time.monotonic(), 0
    asked: set[int] = set()
    while quiet < QUIET_LOOKS and time.monotonic() < began_s + LIMIT_S:
        left = list(_left(folders))
        quiet = 0 if left else quiet + 1
        for process in left:
            pid, is_postgres = int(process.name), _is_postgres(process)
            if pid not in asked:
                _say(f"guard: ending process {pid}, left by the tests: {_words(process)}")
            with contextlib.suppress(OSError):
                if not is_postgres or time.monotonic() > began_s + PATIENCE_S:
                    os.kill(pid, signal.SIGKILL)
                elif pid not in asked:
                    os.kill(pid, signal.SIGQUIT)
            asked.add(pid)
        time.sleep(POLL_S)


def _say(line: str) -> None:
    """A terminal or a pipe that is gone keeps nothing from ending."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())


def _left(folders: list[Path]) -> Iterator[Path]:
    """The processes, as folders of /proc, that were started with the first folder as TMPDIR, or with one below it, and
    each PostgreSQL that works in any of the folders: ours start it without any variable.
    """
    mark = f"TMPDIR={folders[0]}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environ = (process / "environ").read_bytes().split(b"\0")
            if any(entry == mark or entry.startswith(mark + b"/") for entry in environ):
                yield process
                continue
        with contextlib.suppress(OSError):
            if _is_postgres(process) and any(_works_in(process, folder) for folder in folders):
                yield process


def _is_postgres(process: Path) -> bool:
    try:
        return (process / "comm").read_text() == "postgres\n"
    except OSError:
        return False


def _works_in(process: Path, folder: Path) -> bool:
    return f"{folder}/" in _words(process) or (process / "cwd").readlink().is_relative_to(folder)


def _words(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _unmount_below(folder: Path) -> None:
    """A small disk of a test's own, for one."""
    places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for place in places:
        if Path(place).is_relative_to(folder):
            subprocess.run(["umount", "--lazy", place], check=False)


if __name__ == "__main__":
    main()
