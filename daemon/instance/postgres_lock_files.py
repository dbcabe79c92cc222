"""The lock files that PostgreSQL servers leave behind when they are killed."""

import os
import time
from contextlib import suppress
from pathlib import Path

from daemon.instance.console import CannotStart
from daemon.instance.postgres_cluster import PORT, Cluster

STOP_TIMEOUT_S = 30.0
POLL_S = 0.02


def wait_for_former_server(data: Path) -> None:
    """Waits for a server of an earlier start that still shuts down, because its supervisord was killed just now."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while (pid := server_pid(data / "postmaster.pid")) and _is_server(pid, data):
        if time.monotonic() > deadline:
            raise CannotStart(f"PostgreSQL already runs on {data} (process {pid}): stop it first")
        time.sleep(POLL_S)


def take_over_lock_files(cluster: Cluster) -> None:
    """Lets the next server start although a lock file of an earlier one names a process that runs.

    A server that was killed leaves its lock files, and after a reboot another process of the same user can have the
    number in them: PostgreSQL then refuses to start. It makes an exception for its own number and its parent's, so that
    of this process is written there. PostgreSQL still checks what else the file names: the shared memory, which
    remaining child processes of a killed server would share with the new one. The caller holds the instance's lock.
    """
    data = Path(cluster.data)
    for path in (data / "postmaster.pid", Path(cluster.socket, f".s.PGSQL.{PORT}.lock")):
        pid = server_pid(path)
        if pid is None:
            path.unlink(missing_ok=True)  # incomplete, because the machine stopped
        elif not _is_server(pid, data):
            _replace_pid(path)


def _replace_pid(lock_file: Path) -> None:
    """Replaces the pid in the file by this process's; the file keeps its owner. No link is followed, as by root."""
    with os.fdopen(os.open(lock_file, os.O_RDWR | os.O_NOFOLLOW), "r+") as file:
        _, *lines = file
        file.seek(0)
        file.truncate()
        file.writelines([f"{os.getpid()}\n", *lines])


def server_pid(lock_file: Path) -> int | None:
    """The pid in a lock file, which PostgreSQL writes at start and removes when it has stopped."""
    try:
        return abs(int(lock_file.read_text().splitlines()[0]))  # negative in single-user mode
    except (FileNotFoundError, IndexError, ValueError):
        return None


def _is_server(pid: int, data: Path) -> bool:
    """Whether process `pid` is a postgres of `data`, its working directory."""
    process = Path(f"/proc/{pid}")
    with suppress(OSError):  # it has ended meanwhile
        if (process / "comm").read_text() == "postgres\n":
            try:
                return (process / "cwd").samefile(data)
            except PermissionError:  # root without the capability to read it; every user may read the arguments
                return str(data).encode() in (process / "cmdline").read_bytes().split(b"\0")
    return False
