"""Which servers a libpq URL names, and in which order to try them: libpq's rules, for one server at a time.

libpq itself would try one server after another, but without regard to an event loop: it changes sockets meanwhile,
resolves names while everything waits, and lets one silent server use all of the time.
"""

import asyncio
import ipaddress
import random
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import psycopg2
from psycopg2.extensions import parse_dsn

SCHEME = "postgresql://"
# libpq goes through the list twice for this one; here it gets one server at a time, so the rounds are made here.
ROUNDS = {"prefer-standby": ("standby", "any")}


@dataclass(frozen=True)
class Server:
    """One server, named as libpq's options name it; empty means libpq's default."""

    host: str
    address: str
    port: str
    session_attrs: str = field(default="", compare=False)

    @property
    def has_name(self) -> bool:
        """Whether its name must be resolved first: it is neither an address nor a Unix socket."""
        if self.address or not self.host or self.host.startswith(("/", "@")):
            return False
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return True
        return False

    @property
    def options(self) -> dict[str, str]:
        """What to connect with; the host's name stays, for certificates and password files."""
        options = {"host": self.host, "hostaddr": self.address, "port": self.port}
        return options | ({"target_session_attrs": self.session_attrs} if self.session_attrs else {})

    async def addresses(self) -> list["Server"]:
        """The server once for each address of its name. Raises OSError: the name is unknown."""
        try:
            found = await asyncio.get_running_loop().getaddrinfo(self.host, None, type=socket.SOCK_STREAM)
        except UnicodeError:  # a part of it is empty or over 63 characters
            raise socket.gaierror(socket.EAI_NONAME, "not the name of a host") from None
        return [replace(self, address=str(where[0])) for *_, where in found]


class Servers:
    """All servers of one URL, the last that answered first.

    Args:
        url: a libpq URL. Its `connect_timeout` is not used: the caller has a limit for all servers together.

    Raises:
        ValueError: libpq could not read the URL. The message repeats no part of it.
    """

    def __init__(self, url: str) -> None:
        try:
            options = parse_dsn(url)
        except psycopg2.ProgrammingError:
            raise ValueError("libpq cannot read this URL") from None
        self._rounds = _rounds(options.pop("target_session_attrs", ""))
        balance = options.pop("load_balance_hosts", "") == "random"
        hosts, addresses, ports = (options.pop(name, "").split(",") for name in ("host", "hostaddr", "port"))
        # These are parts of an unencoded password and must not reach a log. A Unix socket's folder may contain @.
        names = [host for host in hosts if not host.startswith("/")]
        if any("@" in name[1:] for name in names) or not all(port.strip().isdigit() for port in ports if port):
            raise ValueError("a host or a port is not valid")
        servers = _pair(hosts, addresses, ports)
        # Each process and pool draws a random order once, and then prefers the server that works.
        self._servers = random.sample(servers, len(servers)) if balance else servers
        self._last_good: Server | None = None
        self.options: dict[str, str] = options  # what is the same for all of them

    def in_order(self) -> list[Server]:
        """The servers in the order in which to try them."""
        servers = self.good_first(self._servers)
        return [replace(server, session_attrs=attrs) for attrs in self._rounds for server in servers]

    def good_first(self, servers: Iterable[Server]) -> list[Server]:
        """The one that answered last, or whose address did, before the others."""
        good = self._last_good
        return sorted(servers, key=lambda server: good is None or server not in (good, replace(good, address="")))

    def reached(self, server: Server) -> None:
        """Remembers that this one answered."""
        self._last_good = server


def url_problem(url: str) -> str | None:
    """What is wrong with a database's URL, without any part of it; None if it can be used."""
    if not url.startswith(SCHEME):
        return f"must start with {SCHEME}"
    try:
        Servers(url)
    except ValueError:
        return (
            "is not a URL that libpq can read: check for unescaped characters in the password, "
            "and for ports that do not match the hosts"
        )
    return None


def _rounds(session_attrs: str) -> tuple[str, ...]:
    return ROUNDS.get(session_attrs, (session_attrs,))


def _pair(hosts: list[str], addresses: list[str], ports: list[str]) -> list[Server]:
    """One server per host or address; a single port is for all of them, as in libpq."""
    count = max(len(hosts), len(addresses))
    hosts, addresses, ports = (
        each * count if each == [""] or (each is ports and len(each) == 1) else each
        for each in (hosts, addresses, ports)
    )
    try:
        return [Server(*each) for each in zip(hosts, addresses, ports, strict=True)]
    except ValueError:
        raise ValueError("there must be as many ports and addresses as hosts, or one port for all") from None
