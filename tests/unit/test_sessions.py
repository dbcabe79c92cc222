"""Sessions of operators: who can make a cookie, and when it stops being valid (SPEC 13)."""

from dataclasses import replace
from hashlib import sha256

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from daemon.runtime.http.auth import OperatorToken, Scope
from daemon.runtime.http.sessions import COOKIE, SESSION_S, Session, Sessions, is_from_own_page

ANNA = OperatorToken("anna", frozenset({Scope.READ}), sha256(b"a").hexdigest())
KIM = OperatorToken("kim", frozenset({Scope.READ, Scope.ACT}), sha256(b"k").hexdigest())
NOW = 1_760_000_000


def sessions(*tokens: OperatorToken, secrets: tuple[str, ...] = ("new", "old"), now: float = NOW) -> Sessions:
    return Sessions(tokens, secrets, lambda: now)


def begin(kept: Sessions, token: OperatorToken) -> str:
    response = web.Response()
    kept.begin(token, response)
    return response.cookies[COOKIE].value


def find(kept: Sessions, cookie: str) -> Session | None:
    return kept.find(make_mocked_request("GET", "/operator", {"Cookie": f"{COOKIE}={cookie}"}))


def test_each_session_is_that_of_its_token_and_has_a_form_token_of_its_own() -> None:
    kept = sessions(ANNA, KIM)
    found = [find(kept, begin(kept, token)) for token in (ANNA, KIM, KIM)]
    assert [each and each.token for each in found] == [ANNA, KIM, KIM]
    assert len({each.form_token for each in found if each}) == 3


def test_every_process_with_the_same_settings_knows_a_session() -> None:
    one, other = sessions(ANNA, KIM), sessions(KIM, ANNA)
    cookie = begin(one, ANNA)
    assert find(one, cookie) == find(other, cookie) is not None


def test_a_session_has_the_scopes_that_its_token_has_now() -> None:
    cookie = begin(sessions(KIM), KIM)
    found = find(sessions(replace(KIM, scopes=frozenset({Scope.READ}))), cookie)
    assert found and found.token.scopes == {Scope.READ}


def test_a_session_ends_after_twelve_hours() -> None:
    cookie = begin(sessions(ANNA), ANNA)
    assert find(sessions(ANNA, now=NOW + SESSION_S - 1), cookie)
    assert find(sessions(ANNA, now=NOW + SESSION_S), cookie) is None


def test_a_session_ends_with_its_token_and_with_the_secret_that_signed_it() -> None:
    cookie = begin(sessions(ANNA, KIM, secrets=("new", "old")), ANNA)
    assert find(sessions(KIM), cookie) is None
    assert find(sessions(replace(ANNA, sha256=KIM.sha256)), cookie) is None, "its token was replaced"
    assert find(sessions(ANNA, secrets=("newer", "new")), cookie), "secrets roll without ending sessions"
    assert find(sessions(ANNA, secrets=("newer", "old")), cookie) is None


COOKIE_OF_ANNA = begin(sessions(ANNA), ANNA)


@given(st.integers(0, len(COOKIE_OF_ANNA) - 1), st.characters(codec="ascii", categories=("L", "N", "P")))
def test_a_cookie_that_was_changed_anywhere_is_none(place: int, other: str) -> None:
    changed = COOKIE_OF_ANNA[:place] + other + COOKIE_OF_ANNA[place + 1 :]
    if changed != COOKIE_OF_ANNA:
        assert find(sessions(ANNA, KIM), changed) is None


@pytest.mark.parametrize(
    "cookie",
    ["", ".", "1..", f"{NOW + 9}.a.{'b' * 43}", COOKIE_OF_ANNA + "x", "9" * 500],
    ids=["empty", "a dot", "two dots", "another signature", "a longer signature", "only digits"],
)
def test_what_is_no_cookie_of_ours_is_no_session(cookie: str) -> None:
    assert find(sessions(ANNA), cookie) is None


@pytest.mark.parametrize(
    ("headers", "is_own"),
    [
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://a.example"}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "http://a.example"}, True),
        ({"Origin": "https://a.example:444"}, False),
        ({"Origin": "https://a.example.evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Sec-Fetch-Site": "same-site", "Origin": "https://a.example"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({}, False),
    ],
)
def test_only_a_page_of_the_same_host_is_an_own_page(headers: dict[str, str], is_own: bool) -> None:
    request = make_mocked_request("POST", "/operator", {"Host": "a.example", **headers})
    assert is_from_own_page(request) is is_own
