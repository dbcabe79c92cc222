"""The setting OPERATOR_TOKENS: an instance knows only the SHA-256 hashes of its operators' tokens.

`http.auth` checks the tokens of requests; it is apart, so that a command reads its settings without an HTTP server.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from enum import StrEnum

ENTRY_FORMAT = (
    "each entry is name:scopes:sha256hex, where a name has 1 to 64 letters, digits, dots, dashes and underscores, "
    "scopes are read, export and act joined by +, and sha256hex is the token's SHA-256 in 64 hexadecimal digits"
)


class Scope(StrEnum):
    """What a token permits."""

    READ = "read"
    EXPORT = "export"
    ACT = "act"


TOKEN_BYTES = 32  # 256 random bits: it cannot be found by trying, so its plain SHA-256 is enough
TOKEN_PREFIX = "donationd_"  # noqa: S105 - so that people, and programs that look for secrets, see what it is
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_SCOPE = "|".join(Scope)
_ENTRY = re.compile(
    rf"(?P<name>[A-Za-z0-9._-]{{1,64}}):(?P<scopes>(?:{_SCOPE})(?:\+(?:{_SCOPE}))*):(?P<sha256>[0-9A-Fa-f]{{64}})"
)


@dataclass(frozen=True)
class OperatorToken:
    """One entry of OPERATOR_TOKENS. Several may have the same name, so that a token can be replaced."""

    name: str
    scopes: frozenset[Scope]
    sha256: str = field(repr=False)


def new_token(name: str, scopes: str) -> tuple[str, str]:
    """A new random token, and its entry for OPERATOR_TOKENS. Raises ValueError naming what is wrong."""
    if not _NAME.fullmatch(name):
        raise ValueError("the name must have 1 to 64 letters, digits, dots, dashes and underscores")
    unknown = [scope for scope in scopes.split("+") if scope not in list(Scope)]
    if unknown:
        raise ValueError(f"unknown scope {unknown[0]!r}: scopes are {', '.join(Scope)}, joined by +")
    token = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    return token, entry_of(token, name, scopes)


def entry_of(token: str, name: str, scopes: str) -> str:
    """The entry of OPERATOR_TOKENS for a token."""
    return f"{name}:{scopes}:{hashlib.sha256(token.encode()).hexdigest()}"


def parse_tokens(text: str) -> tuple[OperatorToken, ...]:
    """Reads OPERATOR_TOKENS. Raises ValueError naming every wrong entry by its number, never by its text."""
    entries = [_ENTRY.fullmatch(entry.strip()) for entry in text.split(",")]
    if wrong := [number for number, entry in enumerate(entries, start=1) if entry is None]:
        raise ValueError(f"{_numbers(wrong)}: {ENTRY_FORMAT}")
    tokens = tuple(_token(entry) for entry in entries if entry)
    hashes = [token.sha256 for token in tokens]
    if repeated := [number for number, each in enumerate(hashes, start=1) if hashes.count(each) > 1]:
        raise ValueError(f"{_numbers(repeated)}: these have a hash in common, but a token belongs to one entry only")
    return tokens


def _token(entry: re.Match[str]) -> OperatorToken:
    scopes = frozenset(Scope(scope) for scope in entry["scopes"].split("+"))
    return OperatorToken(entry["name"], scopes, entry["sha256"].lower())


def _numbers(numbers: list[int]) -> str:
    return f"{'entry' if len(numbers) == 1 else 'entries'} {', '.join(map(str, numbers))}"
