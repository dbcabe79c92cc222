"""The faults. Each begins when it is called and is over when it returns; what it stopped goes on by then."""

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemon.instance.reload import reload
from tests.chaos.proxy import Proxy
from tests.chaos.site import API_PROCESSES, NotReady, Site, family, new_postgres, send

REPLACED_S = 150.0  # one that hangs before its first heartbeat is killed after more than a minute
POLL_S = 0.05

Inject = Callable[[Site, random.Random], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    `hangs_up`: connections to the API may be refused, reset or left without an answer, because it kills or stops what
    serves them. In all other faults every request has an honest answer.
    """

    name: str
    inject: Inject
    hangs_up: bool = False
    embedded: bool = False  # can be done to the embedded site as well
    is_apart: bool = False  # done to what no webhook needs: every request gets a 200 meanwhile


def _program(name: str, number: signal.Signals) -> Inject:
    async def inject(site: Site, rng: random.Random) -> None:
        send(number, [await site.pid(name.format(rng.randrange(API_PROCESSES)))])

    return inject


async def _all_api_killed(site: Site, _rng: random.Random) -> None:
    pids = [await site.pid(f"api:api_{slot:02}") for slot in range(API_PROCESSES)]
    send(signal.SIGKILL, pids)


async def _pause(pids: list[int], seconds: float) -> None:
    """Stops processes and has them go on."""
    try:
        send(signal.SIGSTOP, pids)
        await asyncio.sleep(seconds)
    finally:
        send(signal.SIGCONT, pids)


async def _api_stopped(site: Site, rng: random.Random) -> None:
    await _pause([await site.pid(f"api:api_{rng.randrange(API_PROCESSES):02}")], _length(rng))


async def _sidecar_stopped(site: Site, rng: random.Random) -> None:
    await _pause([await site.pid("sidecar")], _length(rng))


async def _reloaded(site: Site, _rng: random.Random) -> None:
    await asyncio.to_thread(reload, site.instance.environ, lambda _line: None)


async def _reload_interrupted(site: Site, rng: random.Random) -> None:
    """kill -9 of `donationd reload` at some moment of its two or three seconds."""
    environ = {**os.environ, "DONATIOND_STATE": str(site.instance.state)}
    reloading = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "daemon.cli.main", "reload"), env=environ, stdout=asyncio.subprocess.DEVNULL
    )
    await asyncio.sleep(rng.uniform(0.3, 3))
    with contextlib.suppress(ProcessLookupError):
        reloading.kill()
    await reloading.wait()


def hangs(name: str) -> Inject:
    """SIGSTOP, and no more: lasts until the process has been killed for it."""

    async def inject(site: Site, rng: random.Random) -> None:
        pid = await site.pid(name.format(rng.randrange(API_PROCESSES)))
        send(signal.SIGSTOP, [pid])
        try:
            async with asyncio.timeout(REPLACED_S):
                while Path(f"/proc/{pid}").exists():  # noqa: ASYNC110, ASYNC240 - no event, and no time
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise NotReady(f"the process that hangs was not replaced within {REPLACED_S:.0f} s") from None

    return inject


async def _supervisord_socket_lost(site: Site, rng: random.Random) -> None:
    """supervisord's socket is moved away for a while in which the sidecar is killed."""
    path = Path(site.instance.environ["DONATIOND_RUN"], "supervisor.sock")
    sidecar = await site.pid("sidecar")
    aside = path.rename(path.with_name("aside"))  # noqa: ASYNC240 - takes no time
    try:
        send(signal.SIGKILL, [sidecar])
        await asyncio.sleep(_length(rng))
    finally:
        aside.rename(path)


async def _postgres_killed(site: Site, rng: random.Random) -> None:
    """kill -9 of the postmaster; its backends end as soon as they notice."""
    send(signal.SIGKILL, [await site.postmaster()])
    if site.postgres:
        await asyncio.sleep(_length(rng))
        await site.postgres.start()


async def _backend_killed(site: Site, rng: random.Random) -> None:
    """kill -9 of one of the server's processes: it ends all connections and recovers."""
    send(signal.SIGKILL, [rng.choice(family(await site.postmaster())[1:])])


async def _postgres_stopped(site: Site, rng: random.Random) -> None:
    await _pause(family(await site.postmaster()), _length(rng))


async def _postgres_restarted(site: Site, _rng: random.Random) -> None:
    assert site.postgres
    await site.postgres.stop("fast")
    await site.postgres.start()


async def _postgres_down(site: Site, rng: random.Random) -> None:
    """A longer outage: the watchdog gives up its short interval, and perhaps itself."""
    assert site.postgres
    await site.postgres.stop("immediate")
    await asyncio.sleep(rng.uniform(6, 12))
    await site.postgres.start()


async def _failover(site: Site, rng: random.Random) -> None:
    """The primary dies; its standby, which the second host leads to, is promoted after a while."""
    assert site.postgres
    one, other = site.proxies
    standby = await new_postgres(site.stack)
    await standby.follow(site.postgres)
    other.target = standby.socket
    other.reset()
    send(signal.SIGKILL, [site.postgres.pid])
    await asyncio.sleep(rng.uniform(0, 2))
    await standby.promote()
    site.postgres, site.url = standby, standby.url
    one.target = standby.socket


async def _supervisord_killed(site: Site, _rng: random.Random) -> None:
    """kill -9 of supervisord: everything ends with it, and `up` is started again, as systemd would."""
    send(signal.SIGKILL, [site.supervisord])
    await site.end()
    await site.start()


async def _supervisord_stopped(site: Site, rng: random.Random) -> None:
    await _pause([site.supervisord], _length(rng))


async def _supervisord_restarted(site: Site, _rng: random.Random) -> None:
    """SIGHUP: supervisord ends all programs, reads its configuration and starts them."""
    send(signal.SIGHUP, [site.supervisord])


async def _up_restarted(site: Site, _rng: random.Random) -> None:
    assert site.instance.up is not None
    site.instance.up.terminate()
    await site.end()
    await site.start()


async def _logs_full(site: Site, rng: random.Random) -> None:
    """supervisord reads no log for a while, and the pipes to it have no room for another line."""
    pids = [pid for name, pid in (await asyncio.to_thread(site.instance.pids)).items() if name != "postgres"]
    send(signal.SIGSTOP, [site.supervisord])
    try:
        await asyncio.to_thread(_fill_logs, pids)
        await asyncio.sleep(_length(rng))
    finally:
        send(signal.SIGCONT, [site.supervisord])


def _fill_logs(pids: list[int]) -> None:
    """Writes into the pipe of each process's log until it has no more room."""
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/fd/2", "wb", 0, opener=_without_waiting) as pipe:
            while pipe.write(b"." * 4095 + b"\n"):
                pass


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


async def _metrics_damaged(site: Site, rng: random.Random) -> None:
    """A file of counts holds no counts any more, and the process that writes it starts anew."""
    await asyncio.to_thread(_damage_file, site.instance.state / "metrics", rng)
    await _program("api:api_{:02}", signal.SIGKILL)(site, rng)


def _damage_file(folder: Path, rng: random.Random) -> None:
    rng.choice(sorted(folder.glob("*.db"))).write_bytes(rng.randbytes(rng.choice((0, 7, 4096))))


async def _socket_removed(site: Site, _rng: random.Random) -> None:
    Path(site.instance.environ["READINESS_SOCKET"]).unlink(missing_ok=True)  # noqa: ASYNC240 - takes no time


async def _socket_removed_and_api_killed(site: Site, rng: random.Random) -> None:
    """The new process finds no socket until the sidecar has made it anew."""
    await _socket_removed(site, rng)
    await _program("api:api_{:02}", signal.SIGKILL)(site, rng)


def _network(spoil: Callable[[Proxy, random.Random], None], hosts: int) -> Inject:
    """Spoils the way to so many of the hosts for a while; where it is one, that in use."""

    async def inject(site: Site, rng: random.Random) -> None:
        proxies = sorted(site.proxies, key=lambda proxy: proxy.open, reverse=True)[:hosts]
        try:
            for proxy in proxies:
                spoil(proxy, rng)
            await asyncio.sleep(_length(rng))
        finally:
            for proxy in proxies:
                proxy.heal()
                await proxy.listen()

    return inject


def _delay(proxy: Proxy, rng: random.Random) -> None:
    proxy.delay(rng.uniform(0.02, 0.4))


def _reset(proxy: Proxy, _rng: random.Random) -> None:
    proxy.reset()


def _black_hole(proxy: Proxy, _rng: random.Random) -> None:
    proxy.black_hole()


def _refuse(proxy: Proxy, _rng: random.Random) -> None:
    proxy.refuse()
    proxy.reset()


def _length(rng: random.Random) -> float:
    """Seconds: mostly short of the sidecar's three of silence, at times well beyond."""
    return rng.uniform(0.2, 2.5) if rng.random() < 0.7 else rng.uniform(3.5, 8)


FAULTS = (
    Fault("API process killed", _program("api:api_{:02}", signal.SIGKILL), hangs_up=True),
    Fault("all API processes killed", _all_api_killed, hangs_up=True),
    Fault("API process stopped (SIGSTOP)", _api_stopped, hangs_up=True),
    Fault("API process gets SIGTERM", _program("api:api_{:02}", signal.SIGTERM)),
    Fault("API reloaded", _reloaded),
    Fault("reload killed", _reload_interrupted),
    Fault("API process hangs until it is replaced", hangs("api:api_{:02}"), hangs_up=True),
    Fault("sidecar hangs until it is replaced", hangs("sidecar")),
    Fault("listener hangs until it is replaced", hangs("listener")),
    Fault("supervisord's socket lost, sidecar killed", _supervisord_socket_lost),
    Fault("sidecar killed", _program("sidecar", signal.SIGKILL)),
    Fault("sidecar stopped (SIGSTOP)", _sidecar_stopped),
    Fault("sidecar gets SIGTERM", _program("sidecar", signal.SIGTERM)),
    Fault("socket removed", _socket_removed),
    Fault("socket removed, API process killed", _socket_removed_and_api_killed, hangs_up=True),
    Fault("supervisord stopped, logs full", _logs_full),
    Fault("metrics file damaged, API process killed", _metrics_damaged, hangs_up=True),
    Fault("PostgreSQL killed", _postgres_killed, embedded=True),
    Fault("PostgreSQL backend killed", _backend_killed, embedded=True),
    Fault("PostgreSQL stopped (SIGSTOP)", _postgres_stopped, embedded=True),
    Fault("PostgreSQL restarted", _postgres_restarted),
    Fault("PostgreSQL down 6 to 12 s", _postgres_down),
    Fault("supervisord killed, up again", _supervisord_killed, hangs_up=True, embedded=True),
    Fault("supervisord stopped (SIGSTOP)", _supervisord_stopped),
    Fault("supervisord restarts all (SIGHUP)", _supervisord_restarted, hangs_up=True),
    Fault("up gets SIGTERM, up again", _up_restarted, hangs_up=True),
    Fault("network delays", _network(_delay, 2)),
    Fault("network resets", _network(_reset, 2)),
    Fault("network black hole", _network(_black_hole, 2)),
    Fault("network refuses", _network(_refuse, 2)),
    Fault("failover: standby promoted", _failover),
    Fault("failover: host in use is gone", _network(_refuse, 1)),
    Fault("failover: host in use is silent", _network(_black_hole, 1)),
)
EMBEDDED_FAULTS = tuple(fault for fault in FAULTS if fault.embedded)


def deal(rng: random.Random, count: int, kinds: Sequence[Fault]) -> list[Fault]:
    """So many faults: all kinds, shuffled, then all again."""
    dealt: list[Fault] = []
    while len(dealt) < count:
        dealt += rng.sample(kinds, len(kinds))
    return dealt[:count]
