"""The faults of hosts, done to the leader and to standbys, and a planned change of the leader.

Each ends when the cluster is whole again: both standbys are synchronous.
"""

import asyncio
import random
import time
from collections.abc import Callable

from tests.chaos.faults import Fault, Inject
from tests.chaos.site import Site
from tests.chaos.trial import say
from tests.ha.cluster import Cluster, Node

# With the next leader, before the former one comes back.
REPLACED_S = (1.0, 5.0)
# Longer than it takes until a standby is no longer waited for: wal_sender_timeout and loop_wait of patroni.yml.
AWAY_S = (15.0, 20.0)

Step = Callable[[Node], None]


def faults(cluster: Cluster) -> list[Fault]:
    """All kinds, those of the leader first."""
    killed: tuple[Step, Step] = (lambda node: node.host.kill(), lambda node: node.start())
    frozen: tuple[Step, Step] = (lambda node: node.host.freeze(), lambda node: node.host.thaw())
    cut: tuple[Step, Step] = (lambda node: node.host.cut(), lambda node: node.host.reconnect())
    # donationd still reaches it: only the leader itself can notice that it must not acknowledge anything.
    apart: tuple[Step, Step] = (
        lambda node: node.host.cut_from(cluster.addresses_besides(node)),
        lambda node: node.host.reconnect_to(cluster.addresses_besides(node)),
    )
    return [
        Fault("leader killed", _lose_leader(cluster, *killed)),
        Fault("leader cut off from the other hosts", _lose_leader(cluster, *apart)),
        Fault("switchover", _switch_over(cluster)),
        Fault("leader stopped (SIGSTOP)", _lose_leader(cluster, *frozen)),
        Fault("leader cut off from everything", _lose_leader(cluster, *cut)),
        Fault("standby killed", _lose_standby(cluster, *killed)),
        Fault("standby stopped (SIGSTOP)", _lose_standby(cluster, *frozen)),
        Fault("standby cut off", _lose_standby(cluster, *cut)),
    ]


def _lose_leader(cluster: Cluster, begin: Step, end: Step) -> Inject:
    async def inject(_site: Site, rng: random.Random) -> None:
        node = await cluster.leader()
        begun_s = time.monotonic()
        await asyncio.to_thread(begin, node)
        other = await cluster.leader(other_than=node)
        say(f"{other.host.name} leads after {time.monotonic() - begun_s:.1f} s")
        await asyncio.sleep(rng.uniform(*REPLACED_S))
        await asyncio.to_thread(end, node)
        await cluster.await_whole()

    return inject


def _lose_standby(cluster: Cluster, begin: Step, end: Step) -> Inject:
    async def inject(_site: Site, rng: random.Random) -> None:
        node = rng.choice(await cluster.standbys())
        await asyncio.to_thread(begin, node)
        await asyncio.sleep(rng.uniform(*AWAY_S))
        await asyncio.to_thread(end, node)
        await cluster.await_whole()

    return inject


def _switch_over(cluster: Cluster) -> Inject:
    async def inject(_site: Site, _rng: random.Random) -> None:
        await cluster.switch_over()
        await cluster.await_whole()

    return inject
