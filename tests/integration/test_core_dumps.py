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
# Each is a process of its own, made by one that has imported everything once.
RUN_EACH = f"""
import atexit, os, resource, sys
from pathlib import Path
import daemon.api.__main__, daemon.cli.main, daemon.instance.postgres_process, daemon.instance.up
import health_sidecar.__main__, health_sidecar.process_events

def show(name):
    print(name, resource.getrlimit(resource.RLIMIT_CORE), Path("/proc/self/coredump_filter").read_text())

for name, start in {STARTS!r}.items():
    if os.fork() == 0:
        atexit.register(show, name)
        exec(start)
        sys.exit()
    os.wait()
"""


def allow_core_dumps() -> None:
    """As a machine does that is set up for them: as large as the hard limit lets them be."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_CORE)[1] == 0, reason="this machine allows no core dumps at all")
def test_no_process_writes_core_dumps(tmp_path: Path) -> None:
    """Each process of ours gives the right up before it reads its configuration, for itself and what it starts.

    The limit does not hold where the kernel pipes the image to a program: there the image is empty.
    """
    (tmp_path / "run").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", RUN_EACH],
        env={"PATH": os.environ["PATH"], "DONATIOND_STATE": str(tmp_path)},
        preexec_fn=allow_core_dumps,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    shown = {line for line in done.stdout.splitlines() if line.endswith("(0, 0) 00000000")}
    assert {f"{name} (0, 0) 00000000" for name in STARTS} - shown == set(), done.stdout + done.stderr
