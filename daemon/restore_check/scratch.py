"""A PostgreSQL of the embedded package in a folder of its own, which is backed up, destroyed and restored."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from daemon.instance import postgres
from daemon.instance.environment import new_password
from daemon.instance.postgres_cluster import Cluster, elsewhere
from sql.schemas import PUBLIC


class ScratchLedger:
    """An empty ledger, whose server runs only within `running`.

    Attributes:
        url: how the role of the API reaches it.
    """

    def __init__(self, folder: Path, report: Callable[[str], None]) -> None:
        for name in ("logs", "run"):
            (folder / name).mkdir()
        password = new_password()
        self.cluster: Cluster = postgres.prepare(
            folder, folder / "run", role_password=password, schema=PUBLIC, report=report
        )
        self.url = self.cluster.url(postgres.ROLE, password)
        self._log = folder / "logs" / "postgres.log"
        self._data = Path(self.cluster.data)
        self._backup = self._data.with_name("backup")

    def running(self) -> AbstractContextManager[None]:
        """Runs the server for the time of the block."""
        return postgres.running(self.cluster, self._log)

    def back_up(self) -> None:
        """Copies the files of the server, which has stopped, so that the copy is consistent."""
        subprocess.run(["cp", "-a", self._data, self._backup], check=True)

    def destroy(self) -> None:
        """Deletes the files of the server, which has stopped."""
        shutil.rmtree(self._data)

    def restore(self) -> None:
        """Puts the copy in their place."""
        self._backup.rename(self._data)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that is deleted at the end, with what the server keeps elsewhere where its user cannot enter it."""
    with tempfile.TemporaryDirectory(prefix="donationd-restore-check-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # PostgreSQL does not run as root; its own folders are closed to other users
        try:
            yield folder
        finally:
            if os.geteuid() == 0:
                shutil.rmtree(elsewhere(folder), ignore_errors=True)
