"""The folder in which an instance keeps everything: it is made, checked, locked and cleared here."""

import contextlib
import hashlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from daemon.instance.console import CannotStart, say
from daemon.instance.installation import home_folder
from daemon.runtime import files

LOCK_WAIT_S = 2.0  # a command that checks whether an instance runs holds the lock for a moment
MAX_SOCKET_FOLDER_BYTES = 76  # a Unix address is kept below 100; `/postgres/.s.PGSQL.5432` takes 23 of them


def state_folder(home: Path | None = None) -> Path:
    """Where an instance keeps everything: DONATIOND_STATE, else `.donationd` in the folder that it belongs to."""
    return Path(os.environ.get("DONATIOND_STATE") or (home or home_folder()) / ".donationd").absolute()


def make_folders(state: Path) -> None:
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
    """Refuses a part of the state folder that another user could change: it contains secrets and sockets.

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


def warn_of_open_folders(state: Path) -> None:
    """Names the folders above the state folder in which every user can replace what belongs to others.

    This is no reason to refuse: volumes of containers have such modes, and their machine has no other users.
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
def lock(state: Path) -> Iterator[int]:
    """Holds the instance's lock; yields its descriptor. It is held while this process or supervisord runs."""
    descriptor = os.open(state / "lock", os.O_RDWR)
    try:
        if not files.lock(descriptor, LOCK_WAIT_S):
            raise CannotStart(f"an instance is already running with the state folder {state}: stop it first")
        yield descriptor
    finally:
        os.close(descriptor)


def socket_folder(state: Path) -> Path:
    """Where the Unix sockets are: in the state folder, or, where their addresses can't be that long or libpq would
    take a comma for the next host, in a folder of their own among the temporary files.
    """
    name = f"donationd-{hashlib.sha256(os.fsencode(state)).hexdigest()[:12]}"
    for folder in (state / "run", Path(tempfile.gettempdir(), name), Path("/tmp", name)):  # noqa: S108 - checked below
        if len(os.fsencode(folder)) <= MAX_SOCKET_FOLDER_BYTES and "," not in str(folder):
            break
    if folder.parent != state:
        _make_own(folder)
    return folder


def _make_own(folder: Path) -> None:
    """Makes a folder where other users may make some too. One that exists must be this user's, and closed to others."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        folder.chmod(_enterable_mode())
    found = folder.lstat()
    closed = stat.S_IMODE(found.st_mode) in (0o700, _enterable_mode())
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or not closed:
        raise CannotStart(f"{folder} must be a folder of this user's own that no other user can list: remove it")


def clear_leftovers(state: Path, environ: Mapping[str, str]) -> None:
    """Removes the sockets, metric files and settings of an earlier run. This process holds the lock and the ports are
    free, so no process uses those files any more.
    """
    for path in (state / "metrics").glob("*.db"):
        with contextlib.suppress(IsADirectoryError):  # damage, which the API process repairs
            path.unlink(missing_ok=True)
    for path in (Path(environ["DONATIOND_RUN"], "supervisor.sock"), environ_file(state)):
        path.unlink(missing_ok=True)
    Path(environ["READINESS_SOCKET"]).parent.mkdir(parents=True, exist_ok=True)


def environ_file(state: Path) -> Path:
    """The file with the settings of the running instance that commands of the same folder use (see `environment`)."""
    return state / "run" / "environ.json"
