"""supervisord's [program:postgres]: becomes the server that `daemon.instance.postgres` has prepared."""

import os
import pwd
import signal
import sys
import time
from pathlib import Path

from daemon.instance.postgres_cluster import load, note
from daemon.instance.postgres_lock_files import take_over_lock_files
from daemon.instance.postgres_programs import ENVIRONMENT
from daemon.runtime.core_dumps import forbid_core_dumps
from daemon.runtime.lifecycle import MIN_UPTIME_S, die_with_parent


def main() -> None:
    """Becomes the server that `prepare` noted in the state folder."""
    forbid_core_dumps()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    state = Path(os.environ["DONATIOND_STATE"])
    _pace(state / "run" / "postgres.started")
    cluster = load(state)
    if cluster is None or not cluster.socket:
        sys.exit(f"{note(state)} is missing or of an earlier release: stop and start `donationd up --embedded`")
    os.chdir("/")
    if cluster.user is not None:
        entry = pwd.getpwnam(cluster.user)
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    take_over_lock_files(cluster)
    # After the change of user, which would clear it: the database ends when supervisord ends.
    die_with_parent(signal.SIGINT)
    command = cluster.command()
    # PostgreSQL omits a line for which its log has no room; otherwise every session would wait for supervisord.
    os.set_blocking(sys.stderr.fileno(), False)
    os.execve(command[0], command, ENVIRONMENT)  # noqa: S606


def _pace(started: Path) -> None:
    """Sleeps until the last start is MIN_UPTIME_S ago: a server that can't run must be no busy loop."""
    now = time.monotonic()
    try:
        last = float(started.read_text())
    except (FileNotFoundError, ValueError):
        last = -MIN_UPTIME_S
    if last <= now < last + MIN_UPTIME_S:  # a later `last` is from before a reboot
        time.sleep(last + MIN_UPTIME_S - now)
    started.write_text(str(time.monotonic()))


if __name__ == "__main__":
    main()
