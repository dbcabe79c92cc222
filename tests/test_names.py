"""What may be kept of a donor's name (SPEC 7)."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.privacy import LAST_NAME_LIMIT, last_name


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("Alice Smith", "Smith"),
        ("  Zoë   O'Neill ", "O'Neill"),
        ("山田 太郎", "太郎"),
        ("Anna-Lena Müller-Lüdenscheidt", "Müller-Lüdenscheidt"),
        ("حسین علی\u200cنژاد", "علی\u200cنژاد"),
        ("jane@example.com", None),
        ("jane＠example.com", None),
        ("Agent 007", None),
        ("Agent ①②③", None),
        ("Agent ٣٤", None),
        ("a/b", None),
        ("Smith\u202e", None),
        ("Smith\u200b", None),
        ("   ", None),
        ("", None),
        (None, None),
    ],
)
def test_the_last_token_if_it_may_be_a_name(name: str | None, kept: str | None) -> None:
    """Addresses, numbers and what can't be seen are no names."""
    assert last_name(name) == kept


@given(st.text())
def test_what_is_kept_is_short_and_plain(name: str) -> None:
    """At most 64 characters of the last token; no @, no digit, no control character, however it is written."""
    kept = last_name(name)
    if kept is not None:
        assert len(kept) <= LAST_NAME_LIMIT
        assert name.rsplit(maxsplit=1)[-1].startswith(kept)
        plain = unicodedata.normalize("NFKC", kept)
        assert not any(c in "@/" or c.isdigit() or unicodedata.category(c) == "Cc" for c in plain)
