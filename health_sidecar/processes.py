"""What is known of supervisord's processes: their states, starts and restarts, and the file that holds them.

`listener` writes the file as supervisord tells it; the sidecar reads it for its metrics. The file outlives both, so
that a restart of either forgets nothing.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from health_sidecar import files

FILE = "processes.json"  # beside the readiness socket
MAX_BYTES = 1024 * 1024  # thousands of processes

# http://supervisord.org/subprocess.html#process-states
STATES = ("STOPPED", "STARTING", "RUNNING", "BACKOFF", "STOPPING", "EXITED", "FATAL", "UNKNOWN")
# A start out of these follows an end that nobody asked for.
_ENDED_BY_ITSELF = ("EXITED", "BACKOFF")


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """One process. `started_s` is None while it does not run; `restarts` counts over all lives of supervisord."""

    state: str
    started_s: float | None = None
    restarts: int = 0


Processes = Mapping[str, Process]  # by supervisor's name: sidecar, api:api_00


def name(group: str, process: str) -> str:
    """The name supervisorctl shows and takes."""
    return process if group == process else f"{group}:{process}"


def seen(before: Processes, infos: Iterable[Mapping[str, Any]]) -> dict[str, Process]:
    """The processes as supervisord describes them (getAllProcessInfo); `before` knows their restarts."""
    found = {}
    for info in infos:
        key = name(info["group"], info["name"])
        runs = info["statename"] in ("RUNNING", "STARTING")
        restarts = before[key].restarts if key in before else 0
        started_s = float(info["start"]) if runs else None
        found[key] = Process(state=info["statename"], started_s=started_s, restarts=restarts)
    return found


def changed(before: Process | None, state: str, from_state: str, now_s: float) -> Process:
    """The process after a PROCESS_STATE event."""
    restarts = before.restarts if before else 0
    if state == "STARTING":
        return Process(state=state, started_s=now_s, restarts=restarts + (from_state in _ENDED_BY_ITSELF))
    started_s = before.started_s if before and state in ("RUNNING", "STOPPING") else None
    return Process(state=state, started_s=started_s, restarts=restarts)


def load(path: Path) -> dict[str, Process]:
    """What the file at `path` holds; nothing if there is none that can be used."""
    return files.read_json(path, dict[str, Process], MAX_BYTES) or {}


def save(path: Path, processes: Processes) -> None:
    """Write the file so that a reader finds it whole. Raises OSError."""
    files.write(path, msgspec.json.encode(processes))
