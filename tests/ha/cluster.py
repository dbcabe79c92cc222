"""Three hosts, each with etcd, Patroni and PostgreSQL, with the files of deploy/ha."""

import asyncio
import base64
import contextlib
import json
import shutil
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import psycopg2

from daemon.instance.installation import ROOT
from sql import migrate
from tests.chaos.site import NotReady
from tests.ha.host import USER, Host
from tests.support.debian import find
from tests.support.locked_programs import install_locked
from tests.support.process import Process
from tests.support.tls import certificate

FILES = ROOT / "deploy" / "ha"
HOSTS = {"db1": "10.0.0.1", "db2": "10.0.0.2", "db3": "10.0.0.3"}
HAPROXY = "127.0.0.1:5000"
PASSWORD = "trial"
OWNER = "donationd_owner"
SYSTEM_PYTHON = Path("/usr/bin/python3")  # the interpreter of these tests may be in a folder of root's
CHANGE_S = 90.0  # for a takeover, and for a host to come back: more than anything that is promised
POLL_S = 0.2
REQUEST_S = 1.0

T = TypeVar("T")


def install_patroni(folder: Path) -> None:
    """Installs Patroni as the recipe does, with an interpreter that every user can run."""
    python = SYSTEM_PYTHON if SYSTEM_PYTHON.exists() else Path(sys.executable)
    install_locked(FILES / "requirements.lock", folder, python=python)


@dataclass
class Node:
    """One of the hosts, and its files."""

    host: Host
    folder: Path
    patroni: Path

    def prepare(self, authorities: Path) -> None:
        """Makes its certificate and its files, with the paths of the trial."""
        self.folder.mkdir(mode=0o711)
        certificate(self.folder, self.host.address)
        (self.folder / "key.pem").rename(self.folder / "server.key")
        own = (self.folder / "chain.pem").rename(self.folder / "server.crt")
        with authorities.open("a") as file:
            file.write(own.read_text())
        text = (FILES / "patroni.yml").read_text().replace("/etc/patroni/ca.crt", str(authorities))
        for place in ("/etc/patroni", "/run/postgresql", "/var/lib/postgresql"):
            text = text.replace(place, str(self.folder))
        (self.folder / "patroni.yml").write_text(text)
        (self.folder / "server.key").chmod(0o600)
        for path in (self.folder, *self.folder.iterdir()):
            shutil.chown(path, USER)

    def start(self) -> None:
        """Starts what a host starts when it boots."""
        etcd = self._environ("etcd.example") | {"ETCD_DATA_DIR": str(self.folder / "etcd")}
        self.host.start(["/usr/bin/etcd"], etcd)
        self.host.start(
            [self.patroni / "bin" / "patroni", self.folder / "patroni.yml"], self._environ("environment.example")
        )

    def _environ(self, example: str) -> dict[str, str]:
        """The variables of an example for db1, changed for this host as the example says."""
        found = {}
        for line in (FILES / example).read_text().splitlines():
            if line[:1].isupper():
                name, value = line.split("=", 1)
                if "," not in value:
                    value = value.replace("db1", self.host.name).replace(HOSTS["db1"], self.host.address)
                found[name] = value.replace("PASSWORD", PASSWORD)
        return found

    def ask(self, path: str, body: dict[str, str] | None = None) -> tuple[int, bytes]:
        """Status and reply of Patroni on this host; status 0 if there is none."""
        credentials = base64.b64encode(f"patroni:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(
            f"http://{self.host.address}:8008{path}",
            data=json.dumps(body).encode() if body else None,
            headers={"Authorization": f"Basic {credentials}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=CHANGE_S if body else REQUEST_S) as reply:  # noqa: S310
                return reply.status, reply.read()
        except urllib.error.HTTPError as reply:
            with reply:
                return reply.code, reply.read()
        except OSError:
            return 0, b""

    @property
    def leads(self) -> bool:
        """Whether it says that it is the leader."""
        return self.ask("/primary")[0] == HTTPStatus.OK

    def members(self) -> list[dict[str, Any]]:
        """The cluster's members as it knows them; none if it does not answer."""
        status, reply = self.ask("/cluster")
        found: list[dict[str, Any]] = json.loads(reply)["members"] if status == HTTPStatus.OK else []
        return found


class Cluster:
    """The three hosts.

    Args:
        folder: contains Patroni, in `patroni`, and gets the hosts' files.
        logs: where the logs of their programs are written.
        through_haproxy: whether HAProxy leads to the database.
    """

    def __init__(self, folder: Path, logs: Path, *, through_haproxy: bool) -> None:
        self.authorities = folder / "ca.crt"
        self._logs = logs
        self._entrances = [HAPROXY] if through_haproxy else [f"{address}:5432" for address in HOSTS.values()]
        self.nodes = [Node(Host(name, at, logs), folder / name, folder / "patroni") for name, at in HOSTS.items()]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The hosts are there, with everything started, while the block lasts."""
        with ExitStack() as stack:
            for node in self.nodes:
                stack.enter_context(node.host.connected())
                node.prepare(self.authorities)
            for node in self.nodes:
                node.start()
            if self._entrances == [HAPROXY]:
                command = [find("haproxy") or "haproxy", "-db", "-f", str(FILES / "haproxy.cfg")]
                stack.enter_context(Process(command, self._logs / "haproxy.log", stop=signal.SIGKILL))
            yield

    def url(self, user: str, database: str = "donationd", at: Node | None = None) -> str:
        """The address of the database, as an operator writes it; or of the database at one host."""
        hosts = f"{at.host.address}:5432" if at else ",".join(self._entrances)
        options = f"target_session_attrs=read-write&sslmode=verify-full&sslrootcert={self.authorities}"
        return f"postgresql://{user}:{PASSWORD}@{hosts}/{database}?{options}"

    def make_database(self, leader: Node) -> None:
        """The ledger's database and roles, as deploy/docs/operations.md says."""
        _execute(
            self.url("postgres", "postgres", leader),
            f"CREATE ROLE {OWNER} LOGIN PASSWORD '{PASSWORD}'",
            f"CREATE DATABASE donationd OWNER {OWNER}",
        )
        roles = (ROOT / "deploy" / "roles.sql").read_text()
        _execute(self.url("postgres", at=leader), roles, f"ALTER ROLE donationd PASSWORD '{PASSWORD}'")
        migrate.apply(self.url(OWNER, at=leader))

    async def leader(self, other_than: Node | None = None) -> Node:
        """The leader, as soon as there is one. Raises NotReady: it takes too long."""
        candidates = [node for node in self.nodes if node is not other_than]

        def find() -> Node | None:
            return next((node for node in candidates if node.leads), None)

        return await _eventually(find, "no leader")

    def addresses_besides(self, node: Node) -> list[str]:
        """The addresses of the other hosts."""
        return [other.host.address for other in self.nodes if other is not node]

    async def standbys(self) -> list[Node]:
        """The hosts that do not lead."""
        leader = await self.leader()
        return [node for node in self.nodes if node is not leader]

    async def await_whole(self) -> None:
        """Returns once both standbys are synchronous. Raises NotReady: it takes too long."""

        def is_whole() -> bool:
            members = next((node.members() for node in self.nodes if node.leads), [])
            roles = sorted(member["role"] for member in members)
            states = {member["state"] for member in members}
            return roles == ["leader", "sync_standby", "sync_standby"] and states <= {"running", "streaming"}

        await _eventually(is_whole, "the cluster is not whole")

    async def switch_over(self) -> None:
        """Asks for another leader; returns when there is one."""
        leader = await self.leader()
        status, reply = await asyncio.to_thread(leader.ask, "/switchover", {"leader": leader.host.name})
        if status != HTTPStatus.OK:
            raise NotReady(f"switchover: {status} {reply!r}")
        await self.leader(other_than=leader)


async def _eventually(find: Callable[[], T | None], what: str) -> T:
    """The first result that is true. Raises NotReady: there is none for too long."""
    deadline = time.monotonic() + CHANGE_S
    while time.monotonic() < deadline:
        if found := await asyncio.to_thread(find):
            return found
        await asyncio.sleep(POLL_S)
    raise NotReady(f"{what} after {CHANGE_S:.0f} s")


def _execute(url: str, *statements: str) -> None:
    with contextlib.closing(psycopg2.connect(url)) as database, database.cursor() as cursor:
        database.autocommit = True
        for statement in statements:
            cursor.execute(statement)
