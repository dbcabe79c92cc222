"""Which servers a URL names, by libpq's rules, and who is tried first."""

import pytest

from sql.servers import Server, Servers


def tried(servers: Servers) -> list[tuple[str, str, str, str]]:
    return [(each.host, each.address, each.port, each.session_attrs) for each in servers.in_order()]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql:///db", [("", "", "", "")]),
        ("postgresql://a/db", [("a", "", "", "")]),
        ("postgresql://a:1,b:2/db", [("a", "", "1", ""), ("b", "", "2", "")]),
        ("postgresql://a,b:2/db", [("a", "", "", ""), ("b", "", "2", "")]),
        ("postgresql:///db?host=a,b&port=7", [("a", "", "7", ""), ("b", "", "7", "")]),
        ("postgresql:///db?hostaddr=10.0.0.1,10.0.0.2", [("", "10.0.0.1", "", ""), ("", "10.0.0.2", "", "")]),
        ("postgresql://a,b/db?hostaddr=10.0.0.1,", [("a", "10.0.0.1", "", ""), ("b", "", "", "")]),
        ("postgresql:///db?host=/srv/job%402/run&port=5432", [("/srv/job@2/run", "", "5432", "")]),
        ("postgresql://a/db?target_session_attrs=read-write", [("a", "", "", "read-write")]),
        (
            "postgresql://a,b/db?target_session_attrs=prefer-standby",
            [("a", "", "", "standby"), ("b", "", "", "standby"), ("a", "", "", "any"), ("b", "", "", "any")],
        ),
    ],
)
def test_the_servers_of_a_url(url: str, expected: list[tuple[str, str, str, str]]) -> None:
    """Hosts, addresses and ports pair up; only prefer-standby takes two rounds."""
    assert tried(Servers(url)) == expected


@pytest.mark.parametrize(
    "url", ["postgresql:///?host=a,b,c&port=1,2", "postgresql:///?host=a,b&port=1,2,3", "mysql://x secret"]
)
def test_a_url_that_makes_no_sense(url: str) -> None:
    """The error repeats nothing of the URL."""
    with pytest.raises(ValueError, match=r"libpq cannot read|one port for all") as caught:
        Servers(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("server", "has_name"),
    [
        (Server("db.example", "", "1"), True),
        (Server("db.example", "10.0.0.1", "1"), False),
        (Server("10.0.0.1", "", "1"), False),
        (Server("::1", "", "1"), False),
        (Server("/run/postgresql", "", "1"), False),
        (Server("@abstract", "", "1"), False),
        (Server("", "", ""), False),
    ],
)
def test_what_must_be_looked_up(server: Server, has_name: bool) -> None:
    """Names only."""
    assert server.has_name == has_name


async def test_a_name_that_cannot_be_one() -> None:
    """It is unknown like any other."""
    with pytest.raises(OSError, match="not the name of a host"):
        await Server("a" * 64, "", "1").addresses()


def test_the_last_that_answered_is_tried_first() -> None:
    """Its address first among those of its name, and its name first among the hosts; within each round."""
    servers = Servers("postgresql://a,b:1,c/db?target_session_attrs=prefer-standby")
    servers.reached(Server("b", "10.0.0.2", "1", "any"))
    assert [each.host for each in servers.in_order()] == ["b", "a", "c", "b", "a", "c"]
    found = [Server("b", address, "1") for address in ("10.0.0.1", "10.0.0.2", "10.0.0.3")]
    assert [each.address for each in servers.good_first(found)] == ["10.0.0.2", "10.0.0.1", "10.0.0.3"]


def test_load_is_balanced_over_pools_and_steady_within_one() -> None:
    """load_balance_hosts=random: each pool draws its own order, which stays."""
    url = "postgresql://a,b,c,d/db?load_balance_hosts=random"
    pools = [Servers(url) for _ in range(100)]
    assert len({tried(pool)[0] for pool in pools}) == 4
    assert tried(pools[0]) == tried(pools[0])
    assert sorted(tried(pools[0])) == [(host, "", "", "") for host in "abcd"]
