"""The one module that sees a donor's name or e-mail: it turns them into what may be kept, and forgets them.

What is kept (SPEC 7): the last token of the name, the country, a hash of the e-mail. The rest of the code hands raw
JSON in and gets a `Donor` out, and has no type that could hold more.
"""

import hashlib
import hmac
import re
import unicodedata
from dataclasses import dataclass

import msgspec

LAST_NAME_LIMIT = 64
NOT_A_NAME = re.compile(r"[@/\d\x00-\x1f\x7f]")
NOT_OF_NAMES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Nd", "Nl", "No"})  # Unicode categories
JOINERS = "\u200c\u200d"  # of such a category, but Persian and Indic names need them
COUNTRY = re.compile(r"[A-Z]{2}")


@dataclass(frozen=True)
class Donor:
    """What may be kept of a donor; None where it is unknown."""

    last_name: str | None = None
    country: str | None = None
    email_hash: str | None = None


class _Address(msgspec.Struct):
    country: str | None = None


class _Details(msgspec.Struct):
    name: str | None = None
    email: str | None = None
    address: _Address | None = None


_details = msgspec.json.Decoder(_Details | None)
_text = msgspec.json.Decoder(str | None)


def reduce_details(raw: msgspec.Raw, hash_key: bytes | None) -> Donor:
    """Reduces Stripe's `billing_details` or `customer_details`, as raw JSON.

    Args:
        raw: the object, or `null`.
        hash_key: the key of e-mail hashes (DONOR_EMAIL_HASH_KEY); None for plain SHA-256.

    Raises:
        msgspec.ValidationError: another shape than Stripe's; it names the place, never the value.
    """
    details = _details.decode(raw)
    if details is None:
        return Donor()
    country = (details.address.country or "").upper() if details.address else ""
    return Donor(
        last_name=last_name(details.name),
        country=country if COUNTRY.fullmatch(country) else None,
        email_hash=email_hash(details.email, hash_key),
    )


def reduce_name(raw: msgspec.Raw) -> str | None:
    """The last name of a donor's name given as raw JSON (a string or `null`). Raises as `reduce_details`."""
    return last_name(_text.decode(raw))


def reduce_email(raw: msgspec.Raw, hash_key: bytes | None) -> str | None:
    """The hash of an e-mail given as raw JSON (a string or `null`). Raises as `reduce_details`."""
    return email_hash(_text.decode(raw), hash_key)


def last_name(name: str | None) -> str | None:
    """The last whitespace-separated token, unless it looks like something else than a name (SPEC 7)."""
    tokens = (name or "").split()
    if not tokens or not _may_be_a_name(tokens[-1]):
        return None
    return tokens[-1][:LAST_NAME_LIMIT]


def _may_be_a_name(token: str) -> bool:
    if token.isascii():
        return NOT_A_NAME.search(token) is None
    # As it would be read: a full-width @ is an @, a circled digit a digit.
    plain = unicodedata.normalize("NFKC", token)
    return NOT_A_NAME.search(plain) is None and not any(
        unicodedata.category(character) in NOT_OF_NAMES for character in plain if character not in JOINERS
    )


def email_hash(email: str | None, hash_key: bytes | None) -> str | None:
    """Hex HMAC-SHA256 (with a key) or SHA-256 of the trimmed, lower-cased e-mail; None for an empty one."""
    normal = (email or "").strip().lower().encode("utf-8", "replace")
    if not normal:
        return None
    if hash_key is None:
        return hashlib.sha256(normal).hexdigest()
    return hmac.new(hash_key, normal, hashlib.sha256).hexdigest()
