"""How the tests, the benchmark and the fault harness start a process and end it."""

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.support.guard import base_environ

ROOT = Path(__file__).parents[2]
WAIT_S = 90.0  # for a line of its output, and for its end
POLL_S = 0.02


class Process(subprocess.Popen[str]):
    """A process with a clean environment, which has ended when the `with` block ends.

    It has a session of its own, so that Ctrl-C in a terminal reaches the tests only, and they end it. If they are
    killed, `guard` ends it.

    Args:
        command: the program and its arguments.
        log: the file that its output is appended to; None for a pipe, which the caller reads from `stdout`.
        environ: its environment, besides the search path and the folder for temporary files.
        stop: the signal that asks it to end.
        cwd: its working directory; the checkout, or `/` for another user.
        user: the user that it runs as, if it is another one.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path | None,
        environ: Mapping[str, str] = {},
        *,
        stop: signal.Signals = signal.SIGTERM,
        cwd: Path | None = None,
        stdin: int = subprocess.DEVNULL,
        user: str | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._stop, self._log = stop, log
        self._read_to = log.stat().st_size if log and log.exists() else 0
        output = log.open("ab") if log else subprocess.PIPE
        try:
            super().__init__(
                command,
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=cwd or (Path("/") if user else ROOT),
                env={**base_environ(), **environ},
                start_new_session=True,
                user=user,
                pass_fds=pass_fds,
            )
        finally:
            if not isinstance(output, int):
                output.close()

    def wait_for(self, words: str, timeout_s: float = WAIT_S) -> str:
        """The next line with these words, as soon as it is in the log; AssertionError if it does not come."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            has_ended = self.poll() is not None
            unread = self.unread().splitlines(keepends=True)
            for number, line in enumerate(unread, 1):
                if words in line and line.endswith("\n"):
                    self._read_to += len("".join(unread[:number]).encode())
                    return line
            assert not has_ended, f"it ended without {words!r}:\n{''.join(unread)}"
            assert time.monotonic() < deadline_s, f"no {words!r} within {timeout_s} s:\n{''.join(unread)}"
            time.sleep(POLL_S)

    def unread(self) -> str:
        """What it has written since it started, or since the line that `wait_for` returned."""
        assert self._log is not None
        with self._log.open("rb") as log:
            log.seek(self._read_to)
            return log.read().decode(errors="replace")

    def end(self, timeout_s: float = WAIT_S) -> int:
        """Asks it to end; returns its exit status. Killed, and subprocess.TimeoutExpired, if that takes too long."""
        self.send_signal(self._stop)
        try:
            return self.wait(timeout_s)
        finally:
            self.kill()
            self.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.poll() is None:
            self.end()
        super().__exit__(kind, error, trace)
