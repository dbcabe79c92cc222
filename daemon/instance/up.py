"""`donationd up`: everything under supervisord, in the foreground, until it is asked to stop.

It completes the environment, starts supervisord on the one `supervisord.conf`, waits until the API is ready, says
what to open and what to try, and stops everything on SIGINT, SIGTERM or SIGHUP. When the process that started it ends,
it continues, unless it was asked to follow that process (`make run` asks).

What ensures that nothing keeps running: supervisord gets SIGTERM when this process ends, its programs when supervisord
ends (PDEATHSIG), and this process adopts what supervisord leaves behind and waits until it has ended.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from daemon.instance import postgres, preflight, state_folder, supervisord
from daemon.instance.console import CannotStart, say
from daemon.instance.environment import api_stop_s, complete, shared
from daemon.instance.startup import wait_until_ready
from daemon.instance.stop_signals import Stop, catch_stop_signals, follow, ignore_stop_signals
from daemon.instance.welcome import welcome
from daemon.runtime import files
from daemon.runtime.core_dumps import forbid_core_dumps


def up(embedded: bool, stop_with: int | None = None) -> int:
    """Runs everything until SIGINT, SIGTERM or SIGHUP; returns the exit status.

    Args:
        embedded: bring PostgreSQL too, and fill in what a first trial needs.
        stop_with: the pid of our parent; its end, or its hang-up, is a stop signal too.

    Returns:
        0 after a requested stop; 1 if it could not start, or supervisord ended by itself.
    """
    forbid_core_dumps()  # for the children too
    catch_stop_signals()
    process: subprocess.Popen[bytes] | None = None
    try:
        if stop_with is not None:
            follow(stop_with)
        state = state_folder.state_folder()
        state_folder.make_folders(state)
        state_folder.warn_of_open_folders(state)
        os.umask(0o077)  # what this process and its children make from now on is for its owner only
        with state_folder.lock(state) as lock:
            environ = _prepare(state, embedded)
            process = supervisord.start(environ, state, lock)
            wait_until_ready(process, supervisord.Output(process), environ)
            welcome(environ, state)
            status = supervisord.collect(process, until_it_ends=True)
            raise CannotStart(f"supervisord ended by itself (status {status}); {state}/logs/supervisord.log says why")
    except (CannotStart, OSError) as error:  # OSError: a full disk, or a file that can't be read any more
        for line in str(error).splitlines():
            say(f"donationd: {line}", sys.stderr.fileno())
        return 1
    except Stop:
        say("stopping")
        return 0
    finally:
        if process is not None:
            ignore_stop_signals()
            supervisord.stop(process, supervisord.stop_limits(environ))


def _prepare(state: Path, embedded: bool) -> dict[str, str]:
    """Everything before the start of supervisord; returns the environment of all processes.

    Raises:
        CannotStart: the settings, the ports or the embedded database can't be used.
    """
    environ = complete(os.environ, state, embedded)
    preflight.check(environ)
    environ["DONATIOND_API_STOP_SECONDS"] = str(api_stop_s(environ))
    state_folder.clear_leftovers(state, environ)
    if environ["DONATIOND_INCLUDE"]:
        _prepare_database(environ, state)
    files.write(state_folder.note(state), json.dumps(shared(environ)).encode())
    return environ


def _prepare_database(environ: dict[str, str], state: Path) -> None:
    """Prepares the embedded database and adds its URL to `environ`."""
    say("starting the embedded PostgreSQL")
    role_password = environ["DONATIOND_DATABASE_PASSWORD"]
    run = Path(environ["DONATIOND_RUN"])
    cluster = postgres.prepare(state, run, role_password=role_password, report=lambda line: say(f"  {line}"))
    environ["DATABASE_URL"] = cluster.url(postgres.ROLE, role_password)
