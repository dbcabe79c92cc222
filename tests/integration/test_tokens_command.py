"""`donationd tokens new`: a token that opens what its entry permits."""

import base64
import json

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from daemon.api.endpoints import PREFIX
from daemon.cli.main import main
from daemon.runtime.operator_tokens import TOKEN_PREFIX, Scope, new_token, parse_tokens
from sql.database import Database
from tests.support.api_application import MakeClient, application, follower
from tests.support.operators import bearer


def donationd(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["tokens", "new", *arguments])


def test_it_prints_a_token_once_and_its_entry() -> None:
    """Two lines on standard output; with --json one object. What to do with them is on standard error."""
    printed = donationd("anna", "--scopes", "read+act")
    assert printed.exit_code == 0
    token, entry = (line.partition(": ")[2] for line in printed.stdout.splitlines())
    [parsed] = parse_tokens(entry)
    assert (parsed.name, parsed.scopes) == ("anna", frozenset({Scope.READ, Scope.ACT}))
    assert token not in entry
    assert "OPERATOR_TOKENS" in printed.stderr
    again = json.loads(donationd("anna", "--scopes", "read+act", "--json").stdout)
    assert again.keys() == {"name", "scopes", "token", "entry"}
    assert again["token"] != token


async def test_the_token_opens_what_its_entry_permits(database: Database, aiohttp_client: MakeClient) -> None:
    """200 with the scope, 403 without it."""
    token, entry = new_token("anna", "read")
    client = await aiohttp_client(application(database, follower(), tokens=parse_tokens(entry)))
    assert (await client.get(f"{PREFIX}actions", headers=bearer(token))).status == 200
    assert (await client.post(f"{PREFIX}donations/pi_1/erase", headers=bearer(token))).status == 403


def test_a_token_has_256_random_bits() -> None:
    """No two are the same, and each has 32 random bytes behind its prefix."""
    tokens = {new_token("anna", "read")[0] for _ in range(1000)}
    assert len(tokens) == 1000
    assert all(token.startswith(TOKEN_PREFIX) for token in tokens)
    assert {len(base64.urlsafe_b64decode(token.removeprefix(TOKEN_PREFIX) + "=")) for token in tokens} == {32}


@pytest.mark.parametrize(
    ("name", "scopes", "words"),
    [
        ("an na", "read", "the name must have 1 to 64 letters"),
        ("", "read", "the name must have"),
        ("a" * 65, "read", "the name must have"),
        ("anna:x", "read", "the name must have"),
        ("anna\n", "read", "the name must have"),
        ("ännä", "read", "the name must have"),
        ("anna", "write", "unknown scope 'write': scopes are read, export, act"),
        ("anna", "read,act", "unknown scope 'read,act'"),
        ("anna", "read+", "unknown scope ''"),
        ("anna", "", "unknown scope ''"),
        ("anna", "READ", "unknown scope 'READ'"),
    ],
)
def test_a_wrong_name_or_scope_is_named(name: str, scopes: str, words: str) -> None:
    """Wrong usage, with the fault; no token is printed."""
    wrong = donationd(name, "--scopes", scopes)
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert words in " ".join(wrong.stderr.split())
    assert donationd("anna").exit_code == 2


@given(
    name=st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True),
    scopes=st.lists(st.sampled_from(["read", "export", "act"]), min_size=1, max_size=5),
)
def test_every_entry_is_a_right_one(name: str, scopes: list[str]) -> None:
    """What the command makes, OPERATOR_TOKENS takes, for every name and all scopes."""
    _, entry = new_token(name, "+".join(scopes))
    [token] = parse_tokens(entry)
    assert (token.name, token.scopes) == (name, frozenset(map(Scope, scopes)))
