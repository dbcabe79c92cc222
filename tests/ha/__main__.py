"""`make ha`: faults of hosts under load, in a cluster as deploy/ha describes it, and the reckoning of `make chaos`.

ROUNDS says how many, SEED varies what is random in them. With THROUGH=haproxy DATABASE_URL leads to HAProxy and not to
the three hosts. LOGS names a folder for the logs of etcd and Patroni. It needs root, and a registry of packages for
Patroni.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.chaos.audit import Record, Verdict
from tests.chaos.site import SETTINGS, Site, open_site
from tests.chaos.trial import run, run_faults, say
from tests.ha.cluster import OWNER, Cluster, install_patroni
from tests.ha.faults import faults
from tests.ha.host import CannotMakeNetwork, enter_own_network
from tests.support.debian import find
from tests.support.instance import instance_of_its_own

# Programs, and Debian's packages of them.
NEEDED = {
    "etcd": "etcd-server",
    "/usr/lib/postgresql/15/bin/postgres": "postgresql-15",
    "haproxy": "haproxy",
    "openssl": "openssl",
    "ip": "iproute2",
    "nsenter": "util-linux",
}
ROUNDS = 20
# About 30 events a second: losses show at any rate, and the hosts share the processors of one machine.
PAUSE_S = 0.2
RECOMMENDED = {"RECONNECT_ATTEMPTS": "60", "RECONNECT_DELAY_MS": "1000"}  # by deploy/docs/high-availability.md
LOST = "The ledger is not the one that this host has seen"


def main() -> int:
    """Runs everything; returns the exit status."""
    if missing := {package for name, package in NEEDED.items() if not find(name)}:
        print(f"make ha: programs are missing: apt-get install {' '.join(sorted(missing))}", file=sys.stderr)
        return 2
    try:
        return run(_run, "ROUNDS", ROUNDS)
    except CannotMakeNetwork as error:
        print(f"make ha: {error}", file=sys.stderr)
    except subprocess.CalledProcessError as error:
        print(f"make ha: Patroni cannot be installed: {error.stderr.decode(errors='replace')}", file=sys.stderr)
    return 2


async def _run(rounds: int, seed: int, records: list[Record], verdict: Verdict) -> None:
    with TemporaryDirectory(prefix="donationd-ha-", ignore_cleanup_errors=True) as name:
        cluster = _prepare(Path(name))
        dealt = list(islice(cycle(faults(cluster)), rounds))
        await run_faults(_site(cluster, verdict), dealt, seed, records, verdict)


def _prepare(folder: Path) -> Cluster:
    """Installs Patroni while this process is in the machine's network, which it then leaves."""
    folder.chmod(0o711)  # PostgreSQL's user has its data in it
    say("installing Patroni")
    install_patroni(folder / "patroni")
    enter_own_network()
    logs = Path(os.environ.get("LOGS") or folder)
    return Cluster(folder, logs, through_haproxy=os.environ.get("THROUGH") == "haproxy")


@asynccontextmanager
async def _site(cluster: Cluster, verdict: Verdict) -> AsyncIterator[Site]:
    """An instance with this cluster, ready. At its end it must not have reported anything of the ledger as lost."""
    with cluster.running():
        say("waiting for the cluster")
        await cluster.await_whole()
        await asyncio.to_thread(cluster.make_database, await cluster.leader())
        environ = {
            **SETTINGS,
            **RECOMMENDED,
            "DATABASE_URL": cluster.url("donationd"),
            "STRIPE_WEBHOOK_SECRET": "whsec_" + "trial" * 8,
        }
        with instance_of_its_own(environ) as instance:
            site = Site(instance, cluster.url(OWNER), pause_s=PAUSE_S)
            await open_site(site)
            yield site
            verdict.count(
                "ledger reported as lost", [line for line in instance.log("sidecar").splitlines() if LOST in line]
            )


if __name__ == "__main__":
    sys.exit(main())
