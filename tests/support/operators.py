"""Operators of the tests: a token for each set of scopes, and clients that have one."""

from hashlib import sha256

from daemon.runtime.http.auth import OperatorToken, parse_tokens

READER, ACTOR, EXPORTER, WRONG = "reader-token", "actor-token", "exporter-token", "wrong-token"


def entry(name: str, scopes: str, token: str) -> str:
    """An entry of OPERATOR_TOKENS."""
    return f"{name}:{scopes}:{sha256(token.encode()).hexdigest()}"


ENTRIES = ",".join(
    [entry("rita", "read", READER), entry("anna", "read+act", ACTOR), entry("books", "export", EXPORTER)]
)
TOKENS: tuple[OperatorToken, ...] = parse_tokens(ENTRIES)


def bearer(token: str, **headers: str) -> dict[str, str]:
    """The headers of a request with a token."""
    return {"Authorization": f"Bearer {token}", **headers}
