"""`donationd up`: everything under supervisord, in the foreground, until it is asked to stop.

It completes the environment, starts supervisord with `supervisord.conf`, waits until the API is ready, prints addresses
and first commands, and stops everything on SIGINT, SIGTERM or SIGHUP. When the process that started it ends, it
continues, unless `--stop-with` names that process (`make run` does this).

No process keeps running after it: supervisord receives SIGTERM when this process ends, and so do the programs when
supervisord ends (PDEATHSIG). Processes that outlive supervisord become children of this process, which waits for them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from daemon.instance import postgres, preflight, state_folder, supervisord
from daemon.instance.console import CannotStart, os_problem, say
from daemon.instance.environment import api_stop_s, complete_environ, shared_environ
from daemon.instance.fake_stripe import with_fake_stripe
from daemon.instance.startup import wait_until_ready
from daemon.instance.stop_signals import Stop, catch_stop_signals, follow, ignore_stop_signals
from daemon.instance.welcome import welcome
from daemon.runtime import files
from daemon.runtime.config import Basics
from daemon.runtime.core_dumps import forbid_core_dumps

WhenReady = Callable[[Mapping[str, str], Path], None]


def up(
    embedded: bool,
    stop_with: int | None = None,
    *,
    fake_stripe: bool = False,
    when_ready: WhenReady = welcome,
) -> int:
    """Runs all processes until SIGINT, SIGTERM or SIGHUP; returns the exit status.

    Args:
        embedded: also run a PostgreSQL server, and set what a first trial needs.
        fake_stripe: also run a fake of Stripe's API, in the place of Stripe.
        stop_with: the pid of the parent process: stop also when it ends, or when its terminal is closed.
        when_ready: called once the API is ready, with the environment of all processes and the state folder.

    Returns:
        0 after a requested stop; 1 if it could not start, or supervisord ended by itself.
    """
    forbid_core_dumps()  # of the children too: they inherit the limit
    catch_stop_signals()
    process: subprocess.Popen[bytes] | None = None
    try:
        if stop_with is not None:
            follow(stop_with)
        state = state_folder.state_folder()
        state_folder.make_folders(state)
        state_folder.warn_of_open_folders(state)
        os.umask(0o077)  # only the owner can read the files that this process and its children create
        with state_folder.lock(state) as lock:
            environ = _prepare(state, embedded, fake_stripe)
            process = supervisord.start(environ, state, lock)
            wait_until_ready(process, supervisord.Output(process), environ)
            when_ready(environ, state)
            status = supervisord.collect(process, until_it_ends=True)
            raise CannotStart(f"supervisord ended by itself (status {status}); {state}/logs/supervisord.log says why")
    except (CannotStart, OSError) as error:  # OSError: the disk is full, or a file cannot be read
        for line in (os_problem(error) if isinstance(error, OSError) else str(error)).splitlines():
            say(f"donationd: {line}", sys.stderr.fileno())
        return 1
    except Stop:
        say("stopping")
        return 0
    finally:
        if process is not None:
            ignore_stop_signals()
            supervisord.stop(process, supervisord.stop_limits(environ))


def _prepare(state: Path, embedded: bool, fake_stripe: bool) -> dict[str, str]:
    """Does everything that comes before the start of supervisord; returns the environment of all processes.

    Raises:
        CannotStart: the settings, the ports or the embedded database cannot be used.
    """
    environ = complete_environ(os.environ, state, embedded)
    if fake_stripe:
        environ = with_fake_stripe(environ)
    preflight.check(environ)
    environ["DONATIOND_API_STOP_SECONDS"] = str(api_stop_s(environ))
    state_folder.clear_leftovers(state, environ)
    if environ["DONATIOND_INCLUDE"]:
        _prepare_database(environ, state)
    files.write(state_folder.environ_file(state), json.dumps(shared_environ(environ)).encode())
    return environ


def _prepare_database(environ: dict[str, str], state: Path) -> None:
    """Prepares the embedded database and adds its URL to `environ`."""
    say("starting the embedded PostgreSQL")
    role_password = environ["DONATIOND_DATABASE_PASSWORD"]
    run = Path(environ["DONATIOND_RUN"])
    cluster = postgres.prepare(
        state,
        run,
        role_password=role_password,
        schema=Basics.from_environ(environ).ledger_schema,
        report=lambda line: say(f"  {line}"),
    )
    environ["DATABASE_URL"] = cluster.url(postgres.ROLE, role_password)
