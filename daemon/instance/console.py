"""How `up` reports to the operator: a line on the terminal, or the sentence that says why something cannot be done."""

import contextlib
import os


class CannotStart(Exception):
    """What keeps an instance from starting, as one sentence for the operator."""


def os_problem(error: OSError) -> str:
    """What the system reports, for people: `/var/lib/donationd/state: No space left on device`."""
    return ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)


def say(line: str, descriptor: int = 1) -> None:
    """Prints a line at once. If the terminal is gone, nothing stops: all further output goes to /dev/null."""
    try:
        os.write(descriptor, f"{line}\n".encode(errors="backslashreplace"))
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
