"""`donationd up`: everything under supervisord, in the foreground, until it is asked to stop.

It completes the environment, starts supervisord on the one `supervisord.conf`, waits until the API is ready, says
what to open and what to try, and stops everything on SIGINT, SIGTERM or SIGHUP. Otherwise it outlives the process that
started it, unless it was asked to follow that (`make run` asks). Neighbours: `embedded` prepares the
database of `--embedded`; `cli` calls `up` and, without a DATABASE_URL, `embedded_environ`.

What keeps nothing running: supervisord gets SIGTERM when we die, its programs when supervisord dies (PDEATHSIG), and
we adopt whatever it leaves behind and wait for its end.
"""

import configparser
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import http.client
import ipaddress
import json
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

from daemon.api.config import Config
from daemon.instance.postgres import ROLE, CannotStart, new_password, prepare
from daemon.runtime.config import ConfigError
from daemon.runtime.lifecycle import die_with_parent, forbid_core_dumps
from daemon.runtime.readiness import GATE_FAILED
from health_sidecar.config import Config as SidecarConfig
from sql.errors import REMEDIES

ROOT = Path(__file__).resolve().parents[2]  # the checkout: supervisord.conf lies next to the packages
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
API_STOP_SPARE_S = 5  # beyond its SHUTDOWN_GRACE_MS
STOP_SPARE_S = 3.0  # supervisord looks once a second: to stop a group, to kill it, and to see that it has ended
PROGRAMS_SPARE_S = 10.0  # beyond the longest stopwaitsecs, for programs that end without supervisord
ORPHANS_S = 5.0  # for what is left after supervisord has ended in order
KILLED_S = 5.0  # from SIGKILL to the end, unless the disk does not answer
LOCK_WAIT_S = 2.0  # a command looking whether we run holds the lock for a moment
WORDS_KEPT = 20  # of supervisord's lines; the last says why it ended
WORDS_TIMEOUT_S = 1.0  # for the last of them, once it has ended
POLL_S = 0.1
FOLLOW_S = 0.5
PROGRESS_INTERVAL_S = 5.0
HTTP_TIMEOUT_S = 2.0
MAX_API_PROCESSES = 64
MAX_SOCKET_FOLDER_BYTES = 76  # a Unix address is kept below 100; `/postgres/.s.PGSQL.5432` takes 23 of them
PR_SET_CHILD_SUBREAPER = 36

DEFAULTS = {
    "HOST": "0.0.0.0",  # noqa: S104 - the documented default; --embedded has 127.0.0.1
    "PORT": "3003",
    "API_PROCESSES": "1",
    "METRICS_HOST": "127.0.0.1",
    "METRICS_PORT": "9464",
    "SHUTDOWN_GRACE_MS": "10000",
}
# Classes of error that stand alone otherwise, for the person who waits at the terminal.
IN_WORDS = {
    "authentication failed": "authentication failed for the database user",
    "connection refused": "connection refused by the database: is PostgreSQL running at the address in DATABASE_URL?",
    "timeout": "the database does not answer in time",
    "unknown host": "the host in DATABASE_URL is not known",
    "unreachable": "the host in DATABASE_URL cannot be reached",
}
UNSHARED = {"DONATIOND_DATABASE_PASSWORD", "MIGRATE_DATABASE_URL"}  # secrets that no process of ours needs
EMBEDDED_DEFAULTS = {"HOST": "127.0.0.1", "STRIPE_LIVEMODE": "false"}


class Stop(BaseException):
    """Somebody asked us to stop."""


def up(embedded: bool, stop_with: int | None = None) -> int:
    """Runs everything until SIGINT, SIGTERM or SIGHUP; returns the exit status.

    Args:
        embedded: bring PostgreSQL along, and fill in what a first try needs.
        stop_with: the pid of our parent; its end, or its hang-up, is a stop signal too.

    Returns:
        0 after a requested stop; 1 if it could not start, or supervisord ended by itself.
    """
    forbid_core_dumps()  # of everything: children inherit it
    _catch_stop_signals()
    supervisord: subprocess.Popen[bytes] | None = None
    try:
        if stop_with is not None:
            _follow(stop_with)
        state = state_folder(ROOT)
        _make_folders(state)
        _warn_of_open_folders(state)
        os.umask(0o077)  # whatever we and our children make from now on is its owner's alone
        with _lock(state) as lock:
            environ = _complete(os.environ, state, embedded)
            _check(environ)
            _clear_leftovers(state, environ)
            if environ["DONATIOND_INCLUDE"]:
                _bring_database(environ, state)
            _write_private(_note(state), json.dumps(_shared(environ)))
            supervisord = _start(environ, state, lock)
            _await_ready(supervisord, _Words(supervisord), environ)
            _welcome(environ, state)
            status = _collect(supervisord, until_it_ends=True)
            raise CannotStart(f"supervisord ended by itself (status {status}); {state}/logs/supervisord.log says why")
    except CannotStart as error:
        for line in str(error).splitlines():
            say(f"donationd: {line}", sys.stderr.fileno())
        return 1
    except OSError as error:  # a full disk, a file that turned unreadable: nothing to mend from here
        say(f"donationd: {error}", sys.stderr.fileno())
        return 1
    except Stop:
        say("stopping")
        return 0
    finally:
        if supervisord is not None:
            _stop(supervisord, stop_limits(environ))


def embedded_environ(root: Path = ROOT) -> dict[str, str] | None:
    """The environment of the embedded instance of this folder, or None if none is running.

    Args:
        root: the checkout whose `.donationd` is looked at, unless DONATIOND_STATE names another folder.
    """
    kept = running_environ(root)
    return kept if kept and kept.get("DONATIOND_INCLUDE") else None


def running_environ(root: Path = ROOT) -> dict[str, str] | None:
    """What commands may know of the instance of this folder, embedded or not; None if none is running."""
    state = state_folder(root)
    try:
        with (state / "lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                kept: dict[str, str] = json.loads(_note(state).read_text())
                return kept
    except (OSError, ValueError):
        return None
    return None


def state_folder(root: Path) -> Path:
    """Where an instance keeps everything: DONATIOND_STATE, else `.donationd` in the checkout."""
    return Path(os.environ.get("DONATIOND_STATE") or root / ".donationd").absolute()


# --- before the start --------------------------------------------------------------------------------------------


def _make_folders(state: Path) -> None:
    """Makes the state folder and its parts; everything in them is for its owner only."""
    try:
        if not state.exists():
            state.mkdir(parents=True)
            state.chmod(_enterable_mode())
        _check_private(state)
        if not (state / "run").exists():
            (state / "run").mkdir(mode=0o700)
            (state / "run").chmod(_enterable_mode())
        for name in ("run", "logs", "metrics"):
            (state / name).mkdir(mode=0o700, exist_ok=True)
            _check_private(state / name)
        (state / "lock").touch(mode=0o600)
        (state / "lock").open("r+").close()
        if (state / "environment").exists():
            (state / "environment").read_bytes()
    except OSError as error:
        raise CannotStart(
            f"the state folder {state} can't be used ({error.strerror}: {error.filename}): "
            "give it to the user who starts this, or let DONATIOND_STATE name another"
        ) from error


def _check_private(folder: Path) -> None:
    """Refuses a part of the state folder that another user could change: it holds secrets and sockets.

    Raises:
        CannotStart: with what to do about it.
    """
    found = folder.stat()
    if found.st_uid != os.geteuid():
        raise CannotStart(
            f"the state folder {folder} belongs to another user (uid {found.st_uid}): start as that user, give the "
            "folder to the user who starts this (chown), or let DONATIOND_STATE name another"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise CannotStart(
            f"the state folder {folder} can be written by other users: make sure that everything in it is yours and "
            f"run `chmod go-w {folder}`, or let DONATIOND_STATE name another"
        )


def _warn_of_open_folders(state: Path) -> None:
    """Names the folders above the state folder in which every user can replace what belongs to others.

    No reason to refuse: volumes of containers are like this, and have no other users.
    """
    path = state.resolve()
    for child, folder in zip((path, *path.parents), path.parents, strict=False):
        mode = folder.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            say(
                f"donationd: warning: every user can replace {child}, because all can write {folder}: "
                f"run `chmod +t {folder}`, unless this machine has no other users",
                sys.stderr.fileno(),
            )


def _enterable_mode() -> int:
    """The mode of the state folder and the run folder. As root they may be entered (not listed) by every user:
    PostgreSQL's data and socket below them belong to another one.
    """
    return 0o711 if os.geteuid() == 0 else 0o700


@contextmanager
def _lock(state: Path) -> Iterator[int]:
    """Holds the instance's lock; yields its descriptor. It is held as long as we or supervisord live."""
    descriptor = os.open(state / "lock", os.O_RDWR)
    try:
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise CannotStart(
                        f"an instance is already running with the state folder {state}: stop it first"
                    ) from None
                time.sleep(POLL_S)
        yield descriptor
    finally:
        os.close(descriptor)


def _complete(given: Mapping[str, str], state: Path, embedded: bool) -> dict[str, str]:
    """The environment of every process: what is given wins, then what the state folder keeps, then defaults."""
    run = _socket_folder(state)
    environ = dict(DEFAULTS)
    if embedded:
        environ |= EMBEDDED_DEFAULTS | _kept_secrets(state)
    environ |= {"READINESS_SOCKET": str(run / "readiness.sock")}
    environ |= {name: value for name, value in given.items() if value}  # an empty variable counts as unset
    environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # supervisord.conf sets it, for the API processes alone
    return environ | {
        "METRICS_DIR": str(state / "metrics"),
        "DONATIOND_STATE": str(state),
        "DONATIOND_RUN": str(run),
        "DONATIOND_PYTHON": sys.executable,
        "DONATIOND_API_STOP_SECONDS": str(_api_stop_s(environ)),
        "DONATIOND_INCLUDE": "deploy/embedded.conf" if embedded and not given.get("DATABASE_URL") else "",
        "PYTHONUNBUFFERED": "1",
    }


def _socket_folder(state: Path) -> Path:
    """Where the Unix sockets are: in the state folder, or, where their addresses can't be that long or libpq would
    take a comma for the next host, in a folder of our own among the temporary files.
    """
    name = f"donationd-{hashlib.sha256(os.fsencode(state)).hexdigest()[:12]}"
    for folder in (state / "run", Path(tempfile.gettempdir(), name), Path("/tmp", name)):  # noqa: S108 - checked below
        if len(os.fsencode(folder)) <= MAX_SOCKET_FOLDER_BYTES and "," not in str(folder):
            break
    if folder.parent != state:
        _make_own(folder)
    return folder


def _make_own(folder: Path) -> None:
    """Makes a folder where others may make some too; one that is there must be ours, and closed to all others."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        folder.chmod(_enterable_mode())
    found = folder.lstat()
    closed = stat.S_IMODE(found.st_mode) in (0o700, _enterable_mode())
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or not closed:
        raise CannotStart(f"{folder} must be a folder of this user's own that no other user can list: remove it")


def _api_stop_s(environ: Mapping[str, str]) -> int:
    """How long supervisord waits for an API process to drain before it kills it; config refuses what is no number."""
    grace_ms = environ["SHUTDOWN_GRACE_MS"]
    return (int(grace_ms) // 1000 if _is_number(grace_ms) else 0) + API_STOP_SPARE_S


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _kept_secrets(state: Path) -> dict[str, str]:
    """The secrets of the file `environment` in the state folder; those it lacks are made and added."""
    path = state / "environment"
    lines = path.read_text().splitlines() if path.exists() else []
    kept = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    made = {
        "STRIPE_WEBHOOK_SECRET": f"whsec_{secrets.token_urlsafe(24)}",
        "DONATIOND_DATABASE_PASSWORD": new_password(),
    }
    if made.keys() - kept.keys():
        kept = made | kept
        _write_private(path, "".join(f"{name}={value}\n" for name, value in kept.items()))
    return kept


def _write_private(path: Path, text: str) -> None:
    """Writes a file of mode 0600 so that it is either whole or not there."""
    partly = path.with_name(path.name + ".partly")
    partly.unlink(missing_ok=True)
    descriptor = os.open(partly, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partly.rename(path)


def _check(environ: Mapping[str, str]) -> None:
    """Refuses here, in one go, what supervisord and the programs would refuse one after the other in their logs.

    Raises:
        CannotStart: with every mistake, one a line.
    """
    if not (ROOT / "supervisord.conf").is_file():
        raise CannotStart(f"{ROOT}/supervisord.conf is missing: `up` works from a checkout (pip install -e .)")
    if mistakes := _wrong_settings(environ) or _ports_in_use(environ):
        raise CannotStart("\n".join(mistakes))


def _wrong_settings(environ: Mapping[str, str]) -> list[str]:
    """What the programs' own configurations say, once per variable, and the limits of supervisord on top."""
    mistakes = []
    if environ["DONATIOND_INCLUDE"]:  # the database will be brought along: its URL is known later
        environ = {**environ, "DATABASE_URL": "postgresql://"}
    for config in (SidecarConfig, Config):
        try:
            config.from_environ(environ)
        except ConfigError as error:
            mistakes += error.problems
    for name, highest in (("PORT", 65535), ("METRICS_PORT", 65535), ("API_PROCESSES", MAX_API_PROCESSES)):
        if not (_is_number(environ[name]) and 1 <= int(environ[name]) <= highest):
            mistakes.append(f"{name}: must be a whole number from 1 to {highest}")
    if ":" in environ["HOST"]:
        mistakes.append("HOST: must be a name or an IPv4 address, because supervisord can't listen on IPv6")
    return sorted({mistake.split(":")[0]: mistake for mistake in mistakes}.values())


def _ports_in_use(environ: Mapping[str, str]) -> list[str]:
    pairs = (("HOST", "PORT"), ("METRICS_HOST", "METRICS_PORT"))
    return [trouble for host, port in pairs if (trouble := _port_trouble(environ, host, port))]


def _port_trouble(environ: Mapping[str, str], host: str, port: str) -> str | None:
    """Why nobody could listen at the address of these two variables; None if somebody could."""
    address = (environ[host], int(environ[port]))
    try:
        family, kind, protocol, _, resolved = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        with closing(socket.socket(family, kind, protocol)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(resolved)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"port {address[1]} on {address[0]} is in use: stop what listens there, or set {port} to another"
        return (
            f"nobody can listen on {address[0]} port {address[1]} ({error.strerror}): set {host} or {port} differently"
        )
    return None


def _bring_database(environ: dict[str, str], state: Path) -> None:
    """Prepares the embedded database and adds its URL to `environ`."""
    say("starting the embedded PostgreSQL")
    role_password = environ["DONATIOND_DATABASE_PASSWORD"]
    run = Path(environ["DONATIOND_RUN"])
    cluster = prepare(state, run, role_password=role_password, report=lambda line: say(f"  {line}"))
    environ["DATABASE_URL"] = cluster.url(ROLE, role_password)


def _clear_leftovers(state: Path, environ: Mapping[str, str]) -> None:
    """Removes the sockets, metric files and note of a former life. The lock is ours and the ports are free, so that
    no process lives that still counts in those files.
    """
    for path in (state / "metrics").glob("*.db"):
        with contextlib.suppress(IsADirectoryError):  # damage, which the API process repairs
            path.unlink(missing_ok=True)
    for path in (Path(environ["DONATIOND_RUN"], "supervisor.sock"), _note(state)):
        path.unlink(missing_ok=True)
    Path(environ["READINESS_SOCKET"]).parent.mkdir(parents=True, exist_ok=True)


def _note(state: Path) -> Path:
    return state / "run" / "environ.json"


def _shared(environ: Mapping[str, str]) -> dict[str, str]:
    """What a command of the same folder needs to reach this instance, and nothing else of our environment.

    Secrets only of an embedded instance, where they are made here anyway.
    """
    names = {
        *DEFAULTS,
        *EMBEDDED_DEFAULTS,
        "DEFAULT_CURRENCY",
        "DONATIOND_INCLUDE",
        "DONATIOND_RUN",
        "READINESS_SOCKET",
    }
    if environ["DONATIOND_INCLUDE"]:
        names |= {"DATABASE_URL", "DONOR_EMAIL_HASH_KEY", "STRIPE_WEBHOOK_SECRET"}
    return {name: value for name, value in environ.items() if name in names}


def _start(environ: Mapping[str, str], state: Path, lock: int) -> subprocess.Popen[bytes]:
    """Starts supervisord in a session of its own, out of Ctrl-C's reach; it keeps the lock open while it lives."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    user = ["-u", "root"] if os.geteuid() == 0 else []  # else its log opens with a warning about root
    say("starting supervisord")
    return subprocess.Popen(
        [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(ROOT / "supervisord.conf"), *user],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env={name: value for name, value in environ.items() if name not in UNSHARED},
        start_new_session=True,
        pass_fds=[lock],
        preexec_fn=partial(die_with_parent, signal.SIGTERM),  # noqa: PLW1509 - we have no threads yet
    )


class _Words:
    """The last lines that supervisord prints, besides its log; they are read all the time.

    It prints what it can't write to its log. If it printed to a file, a full disk would refuse that too, and end it.
    """

    def __init__(self, supervisord: subprocess.Popen[bytes]) -> None:
        self._lines: deque[str] = deque(maxlen=WORDS_KEPT)
        assert supervisord.stdout is not None  # noqa: S101 - for the type checker
        self._reader = threading.Thread(target=self._read, args=(supervisord.stdout,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                text = line.decode(errors="replace").strip()
                if text and not text.startswith("For help"):
                    self._lines.append(text)

    def last(self) -> str | None:
        """The last line, once it has ended."""
        self._reader.join(WORDS_TIMEOUT_S)
        return self._lines[-1][:500] if self._lines else None


def _await_ready(supervisord: subprocess.Popen[bytes], words: _Words, environ: Mapping[str, str]) -> None:
    """Waits, for as long as it takes, until the API says it is ready; says what it waits for."""
    said, said_at = "", time.monotonic()
    while True:
        status, api_says = health(environ)
        if status == http.client.OK:
            return
        if _collect(supervisord) is not None:
            reason = words.last() or f"{environ['DONATIOND_STATE']}/logs/supervisord.log says why"
            raise CannotStart(f"supervisord ended at start: {reason}")
        # Between two process runs of the sidecar no process can say why: the reason is still the one before.
        waiting = _waiting_for(environ, api_says) or said or f"the sidecar starts (see {_log(environ, 'sidecar')})"
        if waiting != said or time.monotonic() > said_at + PROGRESS_INTERVAL_S:
            said, said_at = waiting, time.monotonic()
            say(f"  waiting: {waiting}")
        time.sleep(POLL_S)


def _waiting_for(environ: Mapping[str, str], api_says: Mapping[str, Any]) -> str | None:
    """What keeps the API from being ready, as the API or the sidecar says it; None if neither can."""
    report = health(environ, "METRICS_", "/health/status")[1]
    readiness = api_says or report.get("readiness", {})
    if readiness.get("ready"):
        return f"the API starts (see {_log(environ, 'api_00')})"
    if readiness.get("lastError"):
        return f"{_reason(readiness, report.get('runs', []))} (see {_log(environ, 'sidecar')})"
    return api_says.get("message")


def _reason(readiness: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> str:
    """Why the database cannot be used, with what to do about it.

    Args:
        readiness: as GET /health/db has it, with a class of error.
        runs: the sidecar's last gate runs and changes of state, newest last: where the gate failed for more than the
            connection, its run says what is missing, and the command that repairs it.
    """
    error = readiness["lastError"]
    if readiness["message"] == GATE_FAILED and runs and runs[-1]["detail"] != error:
        return f"{error}: {runs[-1]['detail']}"
    reason = IN_WORDS.get(error, error)
    return f"{reason}; {REMEDIES[error]}" if error in REMEDIES else reason


def _log(environ: Mapping[str, str], program: str) -> str:
    return f"{environ['DONATIOND_STATE']}/logs/{program}.log"


def health(environ: Mapping[str, str], service: str = "", path: str = "/health") -> tuple[int, dict[str, Any]]:
    """What a health endpoint answers, on a new connection: status and JSON; 0 and nothing if no process answers.

    Args:
        service: "" for the API, "METRICS_" for the sidecar.
    """
    host, port = _reachable(environ[f"{service}HOST"]), int(environ[f"{service}PORT"])
    with closing(http.client.HTTPConnection(host, port, timeout=HTTP_TIMEOUT_S)) as connection:
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            return 0, {}
    return (response.status, body) if isinstance(body, dict) else (0, {})


def _reachable(host: str) -> str:
    """Where to connect for something that listens on `host`: the wildcard address is everywhere, so here too."""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified:
            return "127.0.0.1" if "." in host else "::1"
    return host


def _welcome(environ: Mapping[str, str], state: Path) -> None:
    api = f"{_reachable(environ['HOST'])}:{environ['PORT']}"
    metrics = f"{_reachable(environ['METRICS_HOST'])}:{environ['METRICS_PORT']}"
    donationd, supervisorctl = _command("donationd"), _command("supervisorctl")
    say(f"""
donationd is ready.

  API        http://{api}/health
  metrics    http://{metrics}/metrics
  logs       {state}/logs
  processes  {supervisorctl} -s unix://{environ["DONATIOND_RUN"]}/supervisor.sock status

{_real_steps(donationd, api) if Config.from_environ(environ).stripe_livemode else _trial_steps(donationd, api)}

Ctrl-C stops everything.""")


def _trial_steps(donationd: str, api: str) -> str:
    return f"""Try next, in another terminal:

  {donationd} tickets add story-1 --title "A well for the village"
  {donationd} simulate --payments 20
  {donationd} ledger story-1

With a Stripe account (set STRIPE_WEBHOOK_SECRET to the secret it prints, and start again):

  stripe listen --forward-to {api}/webhooks/stripe"""


def _real_steps(donationd: str, api: str) -> str:
    return f"""The ledger is in live mode. Next, in another terminal:

  {donationd} tickets add story-1 --title "A well for the village"
  {donationd} ledger story-1

Stripe delivers to your webhook endpoint, https://YOUR-HOST/webhooks/stripe: a proxy with TLS passes it on to
http://{api}/webhooks/stripe (deploy/docs/stripe-account.md)."""


def _command(name: str) -> str:
    """How to type one of this environment's commands here: its name if PATH finds it, else its path."""
    command = Path(sys.executable).with_name(name)
    if shutil.which(name) == str(command):
        return name
    with contextlib.suppress(ValueError):
        return str(command.relative_to(Path.cwd()))
    return str(command)


# --- the end -----------------------------------------------------------------------------------------------------


def _catch_stop_signals() -> None:
    """From now on the first of the stop signals raises Stop; a SIGHUP ignored from outside (nohup) stays ignored."""
    for number in STOP_SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _raise_stop)


def _raise_stop(_number: int, _frame: FrameType | None) -> NoReturn:
    _ignore_stop_signals()
    raise Stop


def _follow(parent: int) -> None:
    """From now on looks at our parent twice a second, and raises Stop when it has ended or is about to."""

    def look(number: int = signal.SIGALRM, frame: FrameType | None = None) -> None:
        if os.getppid() != parent or _waits_to_end(parent):
            _raise_stop(number, frame)

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, FOLLOW_S, FOLLOW_S)
    look()


def _waits_to_end(pid: int) -> bool:
    """Whether a process has received a stop signal and waits for its children before it ends by it.

    GNU make does that after a hang-up, which the system sends to the leader of the terminal's session only: it passes
    nothing on, and would wait for ever. It has the signal blocked then, and no handler for it any more.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    fields = dict(line.split(":\t", 1) for line in lines if line.startswith("Sig"))
    blocked, ignored, caught = (int(fields[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt"))
    return any(blocked & ~ignored & ~caught & 1 << (number - 1) for number in STOP_SIGNALS)


def _ignore_stop_signals() -> None:
    """Stopping is bounded; a second Ctrl-C must not cut it short and leave processes running."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in STOP_SIGNALS:
        signal.signal(number, _already_stopping)


def _already_stopping(_number: int, _frame: FrameType | None) -> None:
    """A handler and not SIG_IGN: a signal that came in between would raise in the middle of the stop."""


@dataclass(frozen=True)
class StopLimits:
    """How long each step of a stop may take. Their sum is the longest time from a stop signal to the end of `up`.

    Attributes:
        supervisord_s: supervisord ends its programs, one group after the other.
        programs_s: after the end of a supervisord that did not end them, they all end by themselves.
        killed_s: what was still running after that has been killed.
    """

    supervisord_s: float
    programs_s: float
    killed_s: float = KILLED_S

    @property
    def total_s(self) -> float:
        """The sum."""
        return self.supervisord_s + self.programs_s + self.killed_s


def stop_limits(environ: Mapping[str, str]) -> StopLimits:
    """The limits that follow from the `stopwaitsecs` of every program in the configuration.

    Args:
        environ: SHUTDOWN_GRACE_MS and DONATIOND_INCLUDE are read.
    """
    files = [ROOT / name for name in ("supervisord.conf", environ["DONATIOND_INCLUDE"]) if name]
    configuration = configparser.RawConfigParser()
    configuration.read(files)
    known = {"ENV_DONATIOND_API_STOP_SECONDS": str(_api_stop_s(environ))}
    programs = [section for section in configuration.values() if "command" in section]
    waits_s = [int(program["stopwaitsecs"] % known) for program in programs]
    return StopLimits(
        supervisord_s=sum(waits_s) + STOP_SPARE_S * len(waits_s), programs_s=max(waits_s) + PROGRAMS_SPARE_S
    )


def _stop(supervisord: subprocess.Popen[bytes], limits: StopLimits) -> None:
    """Stops supervisord and waits for the end of it and of everything it started, no longer than the limits say."""
    _ignore_stop_signals()
    supervisord.terminate()
    try:
        in_order = supervisord.wait(limits.supervisord_s) == 0
    except subprocess.TimeoutExpired:
        supervisord.kill()
        in_order = False
    # Its death told them already, but for one so young that it had not asked for that yet.
    _signal_children(signal.SIGTERM)
    patience_s = ORPHANS_S if in_order else limits.programs_s
    since_s = time.monotonic()
    while _reap():
        waited_s = time.monotonic() - since_s
        if waited_s > patience_s + limits.killed_s:
            say(f"these processes can't be ended, as if their disk did not answer: {', '.join(map(str, _children()))}")
            return
        if waited_s > patience_s:
            _signal_children(signal.SIGKILL)
        time.sleep(POLL_S)


def _collect(supervisord: subprocess.Popen[bytes], *, until_it_ends: bool = False) -> int | None:
    """Collects adopted processes that have ended, so that none stays a zombie.

    Returns:
        supervisord's exit status once it has ended; None before, at once or, with `until_it_ends`, never.
    """
    wait = 0 if until_it_ends else os.WNOHANG
    while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | wait):
        if ended.si_pid == supervisord.pid:
            return supervisord.wait()
        os.waitpid(ended.si_pid, 0)
    return None


def _reap() -> bool:
    """Collects children that have ended, supervisord's orphans included; whether any still live."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _signal_children(number: signal.Signals) -> None:
    for pid in _children():
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def _children() -> list[int]:
    """Every child of ours, adopted ones included."""
    ours = f"PPid:\t{os.getpid()}\n"
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            if ours in status.read_text():
                found.append(int(status.parent.name))
    return found


def say(line: str, descriptor: int = 1) -> None:
    """Prints a line at once. A terminal that is gone stops nothing: the rest goes nowhere."""
    try:
        os.write(descriptor, f"{line}\n".encode())
    except OSError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
