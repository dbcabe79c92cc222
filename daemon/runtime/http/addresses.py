"""Which address a request comes from, also behind proxies, and how often an address has lately done something.

It imports aiohttp for its types only, so that a command reads its settings without an HTTP server.
"""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated

from pydantic import PlainValidator

if TYPE_CHECKING:
    from aiohttp import web

IPV6_HOST_PREFIX = 64  # one host can use every address of such a network (RFC 4291)
MAX_ADDRESSES = 2048  # whose attempts are remembered: less than 1.5 MB

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TrustedProxies:
    """The proxies whose X-Forwarded-For and X-Forwarded-Proto count (setting TRUSTED_PROXIES)."""

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._networks = tuple(networks)

    @classmethod
    def parse(cls, value: object) -> "TrustedProxies":
        """Reads addresses and networks, comma separated. Raises ValueError."""
        if isinstance(value, cls):
            return value
        try:
            return cls(ipaddress.ip_network(part.strip()) for part in str(value).split(","))
        except ValueError:
            raise ValueError("needs addresses or networks, comma separated, such as 127.0.0.1, 10.0.0.0/24") from None

    def __str__(self) -> str:
        """As the setting is written."""
        return ", ".join(map(str, self._networks))

    def client(self, peer: str, forwarded_for: Iterable[str]) -> str:
        """The address of the client that the nearest proxies which are trusted name.

        Args:
            peer: the address of the connection.
            forwarded_for: the headers X-Forwarded-For: each proxy adds the address of its own peer at the end, and
                anything before the entry of a proxy that is not trusted is only the client's own claim.
        """
        client = peer
        for entry in reversed([part.strip() for header in forwarded_for for part in header.split(",")]):
            if not self._trusts(client) or _address(entry) is None:
                break
            client = entry
        return client

    def resolve(self, request: "web.Request") -> "web.Request":
        """The request with the `remote` and the `scheme` that its proxy names; any other request as it is."""
        peer = request.remote
        if peer is None or not self._trusts(peer):
            return request
        client = self.client(peer, request.headers.getall("X-Forwarded-For", ()))
        scheme = request.headers.get("X-Forwarded-Proto", "")
        return request.clone(remote=client, scheme=scheme if scheme in {"http", "https"} else request.scheme)

    def _trusts(self, text: str) -> bool:
        address = _address(text) if self._networks else None
        return address is not None and any(address in network for network in self._networks)


ProxyAddresses = Annotated[TrustedProxies, PlainValidator(TrustedProxies.parse)]


class RecentAttempts:
    """The recent attempts of each address, in bounded memory: of too many addresses, those that tried last.

    Args:
        limit: of one address within `window_s` seconds.
        clock: seconds of a monotonic clock.
    """

    def __init__(self, limit: int, window_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._window_s = window_s
        self._clock = clock
        self._times: OrderedDict[str, tuple[float, ...]] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """How long `address` must wait before its next attempt; 0 if it need not wait."""
        times = self._times.get(address, ())
        if len(times) < self._limit:
            return 0.0
        return max(0.0, times[0] + self._window_s - self._clock())

    def add(self, address: str) -> None:
        """`address` has made an attempt."""
        times = (*self._times.get(address, ()), self._clock())
        self._times[address] = times[-self._limit :]
        self._times.move_to_end(address)
        if len(self._times) > MAX_ADDRESSES:
            self._times.popitem(last=False)


def client_address(client: str | None) -> str:
    """What counts as one address: an IPv4 address, or the network of which an IPv6 host may use every address."""
    address = _address(client)
    if address is None:  # a Unix socket has none
        return ""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.IPv6Network((int(address), IPV6_HOST_PREFIX), strict=False))


def _address(text: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address; one of IPv4 that is written as IPv6 as that of IPv4."""
    try:
        address = ipaddress.ip_address(text or "")
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
