"""The files with a charity's settings: one for its processes, and one for its migrations.

The second has the password of the schema's owner, which no process needs. A shell and systemd read both.
"""

import errno
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from daemon.instance.environment import DEFAULTS
from daemon.instance.installation import home_folder
from daemon.runtime import files

LOCK_WAIT_S = 10.0  # adding a charity takes a second
# Of services, which root starts. None is below another one's, such as that of a ledger in `public`: systemd links each
# to a folder that only the service's own user can enter.
STATE_FOLDERS = Path("/var/lib")
READ = {"DATABASE_URL", "MIGRATE_DATABASE_URL", "PORT", "METRICS_PORT"}
HEAD = "# The charity {name} (deploy/docs/charities.md). Special characters in a password are percent-encoded.\n"
OWNER_HEAD = "# For `donationd migrate` and `charities add` only: this role owns the schema {name}.\n"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lets no other process add a charity to the folder, which is made unless it exists. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not files.lock(descriptor, LOCK_WAIT_S):
            raise BlockingIOError(
                errno.EWOULDBLOCK, "another `donationd charities add` writes there: try again", str(folder)
            )
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class CharityFiles:
    """Where the files of the charity `name` are."""

    folder: Path
    name: str

    @property
    def environment(self) -> Path:
        """The settings of its processes."""
        return self.folder / f"{self.name}.env"

    @property
    def owner(self) -> Path:
        """The settings of its migrations."""
        return self.folder / f"{self.name}.owner.env"

    def read(self) -> dict[str, str]:
        """The variables READ of both files, as far as the files exist. Raises OSError."""
        return {**_read(self.environment), **_read(self.owner)}

    def write(self, *, url: str, owner_url: str) -> list[Path]:
        """Writes those of the two that do not exist, which only their owner can read, and returns them.

        Args:
            url, owner_url: of the database, as the role of the processes and as the schema's owner.

        Raises:
            OSError: none of them was written.
        """
        texts = {
            self.environment: HEAD.format(name=self.name) + _text(self._settings(url)),
            self.owner: OWNER_HEAD.format(name=self.name)
            + _text({"MIGRATE_DATABASE_URL": owner_url, "LEDGER_SCHEMA": self.name}),
        }
        written: list[Path] = []
        try:
            for path, text in texts.items():
                if not path.exists():
                    files.write(path, text.encode())
                    written.append(path)
        except BaseException:
            remove(written)
            raise
        return written

    def _settings(self, url: str) -> dict[str, str]:
        return {
            "DATABASE_URL": url,
            "LEDGER_SCHEMA": self.name,
            "DONATIOND_STATE": str(self._state_folder()),
            "OPERATOR_LOG": str(self._state_folder() / "operator.log"),
            "HOST": "127.0.0.1",
            "PORT": self._free_port("PORT"),
            "METRICS_PORT": self._free_port("METRICS_PORT"),
            "STRIPE_WEBHOOK_SECRET": "",
        }

    def _state_folder(self) -> Path:
        if os.geteuid() == 0:
            return STATE_FOLDERS / f"donationd-{self.name}"
        return home_folder() / f".donationd-{self.name}"

    def _free_port(self, variable: str) -> str:
        """The number after the greatest in the folder's files; the default one is for a charity without such a file."""
        used = [value for path in self.folder.glob("*.env") if (value := _read(path).get(variable, "")).isdecimal()]
        return str(max(map(int, [DEFAULTS[variable], *used])) + 1)


def remove(paths: list[Path]) -> None:
    """Removes files."""
    for path in paths:
        path.unlink(missing_ok=True)


def _text(settings: Mapping[str, str]) -> str:
    return "".join(f"{name}={shlex.quote(value) if value else ''}\n" for name, value in settings.items())


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        lines = path.read_text().splitlines()
        pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
        return {name: "".join(shlex.split(value)) for name, value in pairs if name in READ}
    except ValueError:
        raise OSError(errno.EINVAL, "it cannot be read as a shell reads it", str(path)) from None
