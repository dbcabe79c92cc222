"""The signals that stop `up`: Stop is raised once, whatever comes at the same time."""

import subprocess
import sys

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
