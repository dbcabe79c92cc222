"""Links by which a donor withdraws the consent to showing the name (SPEC 13).

A link contains the donation's id and a signature under a key of the ledger's own (migration 0018), so that it works on
every host and for as long as the ledger exists. Possession of the link is the right to use it.
"""

import base64
import hmac

from sql import load
from sql.database import Database

KEY_NAME = "withdrawal links"
SIGNATURE_BYTES = (
    16  # of the HMAC's 32: 128 bits cannot be guessed, and the link stays short enough for a line of a mail
)


async def withdrawal_key(database: Database) -> bytes:
    """The key of this ledger's links. Raises DatabaseUnavailable or StatementRejected as Database.fetch."""
    [(key,)] = await database.fetch(load("ledger_key"), {"name": KEY_NAME})
    return bytes(key)


def withdrawal_link(public_url: str, key: bytes, donation: str) -> str:
    """The address of the page that withdraws the consent of one donation.

    Args:
        public_url: PUBLIC_URL.
        key: the ledger's, by `withdrawal_key`.
        donation: the donation's id, or that of any of its objects.
    """
    return f"{public_url.rstrip('/')}/consent/{donation}/{signature(key, donation)}"


def signature(key: bytes, donation: str) -> str:
    """What the link of a donation ends with: the start of an HMAC-SHA256, as 22 URL-safe characters."""
    digest = hmac.digest(key, donation.encode(), "sha256")[:SIGNATURE_BYTES]
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def is_signed(key: bytes, donation: str, given: str) -> bool:
    """Whether `given` is the signature of the donation, compared in constant time."""
    return hmac.compare_digest(signature(key, donation).encode(), given.encode())
