"""The address of a client behind proxies."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.runtime.http.addresses import TrustedProxies

PROXIES = TrustedProxies.parse("127.0.0.1, 10.0.0.0/24, 2001:db8::/64")
ENTRIES = st.one_of(st.ip_addresses().map(str), st.text(max_size=20))


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("127.0.0.1", ["198.51.100.7, 192.0.2.1"], "192.0.2.1"),  # the first one is the client's own claim
        ("127.0.0.1", ["198.51.100.7", "192.0.2.1, 10.0.0.9"], "192.0.2.1"),  # through two proxies
        ("127.0.0.1", ["10.0.0.8, 10.0.0.9"], "10.0.0.8"),
        ("127.0.0.1", ["192.0.2.1, unknown"], "127.0.0.1"),
        ("::ffff:127.0.0.1", ["2001:db8:0:1::7"], "2001:db8:0:1::7"),
        ("2001:db8::1", ["192.0.2.1"], "192.0.2.1"),
        ("192.0.2.9", ["198.51.100.7"], "192.0.2.9"),
    ],
)
def test_only_a_trusted_proxy_names_the_client(peer: str, forwarded_for: list[str], client: str) -> None:
    """Entries count from the nearest one on, as long as what added them is trusted."""
    assert PROXIES.client(peer, forwarded_for) == client


@given(st.lists(st.lists(ENTRIES, max_size=3).map(", ".join), max_size=3), st.ip_addresses(v=4).map(str))
def test_a_client_cannot_choose_its_address(claims: list[str], client: str) -> None:
    """Whatever a client claims, it is known by the address that the trusted proxy saw."""
    known = PROXIES.client("127.0.0.1", [*claims, client])
    trusted = client == "127.0.0.1" or client.startswith("10.0.0.")
    assert trusted or known == client


@pytest.mark.parametrize("text", ["canary", "127.0.0.1,", "10.0.0.1/24", " "])
def test_what_is_no_address_is_a_mistake(text: str) -> None:
    """A setting that cannot be read is never taken for "none"; the error does not repeat it."""
    with pytest.raises(ValueError, match=r"^needs addresses or networks"):
        TrustedProxies.parse(text)
