"""supervisord's processes: their states, starts and restarts, and the file that contains them.

`process_events` writes the file as supervisord reports changes; the sidecar reads it for its metrics. The file
remains when either of them is restarted, so that no count is lost.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from daemon.runtime import files
from daemon.runtime.supervisor_rpc import process_name

FILE = "processes.json"  # beside the readiness socket
MAX_BYTES = 1024 * 1024  # thousands of processes

# http://supervisord.org/subprocess.html#process-states
STATES = ("STOPPED", "STARTING", "RUNNING", "BACKOFF", "STOPPING", "EXITED", "FATAL", "UNKNOWN")


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """One process.

    `started_s` is None while it does not run; `restarts` and `hangs` count over all runs of supervisord.
    `was_asked`: it exited with status 0, as donationd's processes do after SIGTERM and not otherwise.
    """

    state: str
    started_s: float | None = None
    restarts: int = 0
    hangs: int = 0
    was_asked: bool = False


Processes = Mapping[str, Process]  # by supervisor's name: sidecar, api:api_00


def seen(before: Processes, infos: Iterable[Mapping[str, Any]]) -> dict[str, Process]:
    """The processes as supervisord describes them (getAllProcessInfo); `before` knows their counts."""
    found = {}
    for info in infos:
        key = process_name(info["group"], info["name"])
        runs = info["statename"] in ("RUNNING", "STARTING")
        started_s = float(info["start"]) if runs else None
        found[key] = replace(before.get(key) or Process(state="UNKNOWN"), state=info["statename"], started_s=started_s)
    return found


def changed(before: Process | None, state: str, from_state: str, now_s: float, *, expected: bool = False) -> Process:
    """The process after a PROCESS_STATE event; `expected` is the event's: an EXITED with status 0."""
    before = before or Process(state=from_state)
    if state == "STARTING":
        ended_by_itself = from_state == "BACKOFF" or (from_state == "EXITED" and not before.was_asked)
        return replace(
            before, state=state, started_s=now_s, restarts=before.restarts + ended_by_itself, was_asked=False
        )
    started_s = before.started_s if state in ("RUNNING", "STOPPING") else None
    return replace(before, state=state, started_s=started_s, was_asked=expected)


def hung(before: Process | None) -> Process:
    """The process after it hung and was killed."""
    before = before or Process(state="RUNNING")
    return replace(before, hangs=before.hangs + 1)


def load(path: Path) -> dict[str, Process]:
    """What the file at `path` holds; nothing if there is none that can be used."""
    return files.read_json(path, dict[str, Process], MAX_BYTES) or {}


def save(path: Path, processes: Processes) -> None:
    """Write the file so that a reader finds it whole. Raises OSError."""
    files.write(path, msgspec.json.encode(processes))
