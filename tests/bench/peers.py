"""Programs of others that receive the same deliveries: `make bench PEERS=1`.

They are Node.js programs. Their packages, with the versions of peers/package-lock.json, come from npm into a temporary
folder, and the programs of this folder are copied beside them.
"""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.bench.machine import SECRET, Broken, Site, await_ready, query
from tests.support.postgres import Server
from tests.support.process import Process

EXPRESS, SYNC_ENGINE = "express", "sync_engine"
PROGRAMS = (EXPRESS, SYNC_ENGINE)
SOURCES = Path(__file__).with_name("peers")
INSTALL_TIMEOUT_S = 300
SEED_SCHEMA = [Path(__file__).with_name(f"seed_{table}.sql") for table in ("events", "attributions")]
POOL_SIZE = 10  # connections to PostgreSQL: the default of node-postgres


def wanted() -> bool:
    """Whether PEERS asks for them and they can run. If they can't, that is printed on stderr, with what to do."""
    if os.environ.get("PEERS", "") in ("", "0"):
        return False
    missing = [program for program in ("node", "npm") if not shutil.which(program)]
    if missing:
        print(
            f"bench: the rows of the peers are left out, because {' and '.join(missing)} can't be found: "
            "apt-get install nodejs npm",
            file=sys.stderr,
        )
    return not missing


def install(folder: Path) -> None:
    """Installs the packages into the folder, exactly as locked and without running any of their scripts.

    Raises:
        Broken: npm failed.
    """
    shutil.copytree(SOURCES, folder)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        run = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise Broken(f"npm ci did not end within {INSTALL_TIMEOUT_S} s; PEERS=0 leaves the peers out") from None
    if run.returncode:
        raise Broken(f"npm ci failed; PEERS=0 leaves the peers out: {run.stderr.strip()}")


@contextmanager
def peer(program: str, server: Server, folder: Path) -> Iterator[Site]:
    """One of PROGRAMS as one process, with an empty database of its own on the same PostgreSQL.

    Args:
        folder: where `install` has installed it.
    """
    url = server.url.format(name=f"peer_{program}")
    query(server.url.format(name="postgres"), f"CREATE DATABASE peer_{program}")
    if program == EXPRESS:
        query(url, "".join(path.read_text() for path in SEED_SCHEMA))
    else:  # its own migrations name this role
        query(url, "CREATE ROLE postgres")
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = int(free.getsockname()[1])
    environ = {
        "NODE_ENV": "production",
        "DATABASE_URL": url,
        "POOL_SIZE": str(POOL_SIZE),
        "STRIPE_WEBHOOK_SECRET": SECRET,
        "PORT": str(port),
    }
    with Process(["node", f"{program}.mjs"], folder / f"{program}.log", environ, cwd=folder) as process:
        started = Site(port, (process.pid,))
        await_ready(started)
        yield started
