"""A process that crashes leaves no image of its memory, which may hold a donor's name or a secret."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

# How each process begins. None gets what it needs, so that each ends at once; the limits are shown at its end.
STARTS = {
    "API process": "from daemon.api.__main__ import main; main({})",
    "sidecar": "from health_sidecar.__main__ import main; main({})",
    "event listener": "from health_sidecar.process_events import main; main({})",
    "embedded PostgreSQL": "from daemon.instance.postgres_process import main; main()",
    "up": "from daemon.instance.up import up; up(embedded=False)",
    "donationd up": "import sys; sys.argv = ['donationd', 'up']; from daemon.cli.main import run; run()",
    "a command": "import sys; sys.argv = ['donationd', '--version']; from daemon.cli.main import run; run()",
}
SHOW_AT_EXIT = """
import atexit, resource
from pathlib import Path
atexit.register(lambda: print(resource.getrlimit(resource.RLIMIT_CORE), Path("/proc/self/coredump_filter").read_text()))
"""


def allow_core_dumps() -> None:
    """As a machine does that is set up for them: as large as the hard limit lets them be."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_CORE)[1] == 0, reason="this machine allows no core dumps at all")
@pytest.mark.parametrize("process", STARTS)
def test_no_process_writes_core_dumps(process: str, tmp_path: Path) -> None:
    """Each process of ours gives the right up before it reads its configuration, for itself and what it starts.

    The limit does not hold where the kernel pipes the image to a program: there the image is empty.
    """
    (tmp_path / "run").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SHOW_AT_EXIT + STARTS[process]],
        env={"PATH": os.environ["PATH"], "DONATIOND_STATE": str(tmp_path)},
        preexec_fn=allow_core_dumps,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "(0, 0) 00000000" in done.stdout
