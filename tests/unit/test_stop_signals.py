"""The signals that stop `up`, where Stop is raised once, and those that stop a process while it still loads."""

import signal
import subprocess
import sys

import pytest

# The parent seems to have ended, and the alarm that looks for it comes with the signal, as when `make` gets Ctrl-C too.
PROGRAM = """
import os, signal
from daemon.instance import stop_signals
stop_signals.catch_stop_signals()
stop_signals.follow(os.getppid())
os.getppid = lambda: 0
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGINT})
for number in (signal.SIGINT, signal.SIGALRM):
    signal.raise_signal(number)
stops = 0
try:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
except stop_signals.Stop:
    stops += 1
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
stop_signals.ignore_stop_signals()
print(stops)
"""


def test_an_alarm_that_came_with_a_stop_signal_does_not_interrupt_the_stop() -> None:
    """Otherwise supervisord would be left running, and Ctrl-C would end with a traceback."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("1\n", "")


# The signal comes when the program imports its first module of another distribution.
LOADING = """
import os, runpy, sys

class Stopping:
    def find_spec(self, name, path=None, target=None):
        if name == "structlog":
            os.kill(os.getpid(), int(sys.argv[2]))

sys.meta_path.insert(0, Stopping())
runpy.run_module(sys.argv[1], run_name="__main__")
"""


@pytest.mark.parametrize("module", ["daemon.api", "daemon.jobs", "health_sidecar", "health_sidecar.process_events"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_stopped_while_it_loads_ends_with_status_0(module: str, number: signal.Signals) -> None:
    """So supervisord reports that its end was expected, and `supervisord_process_restarts_total` does not count it."""
    command = [sys.executable, "-c", LOADING, module, str(int(number))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
