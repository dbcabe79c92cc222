"""The one module that sees a donor's name or e-mail: it reduces them to what may be kept (SPEC 7).

What is kept: one token of the name, the country, a hash of the e-mail. The rest of the code hands raw
JSON in and gets a `Donor` out, and has no type that could hold more.
"""

import hashlib
import hmac
import json
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile

import msgspec

LAST_NAME_LIMIT = 64
NAME_LIMIT = 1000  # characters; a longer text is no name, and would keep the event loop busy
COUNTRY = re.compile(r"[A-Za-z]{2}")
# In a Python text surrogates stand for what is no Unicode; stripe_events.py replaces those in an event's own escapes by
# U+FFFD.
SURROGATES = re.compile("[\ud800-\udfff\ufffd]")

# The forms below are those left when full-width and half-width characters have become ordinary ones.
COMMAS = re.compile("[,\u060c\u3001\ufe50\ufe51]")  # also the Arabic and the ideographic one
OPENING, CLOSING = (
    "([{<\u3008\u300a\u300c\u300e\u3010\u3014\u3016\u27e8",
    ")]}>\u3009\u300b\u300d\u300f\u3011\u3015\u3017\u27e9",
)
HYPHENS = "-\u2010\u2011\u058a\u05be"  # the last two are Armenian and Hebrew
APOSTROPHES = "'\u2018\u2019\u05f3"  # the last one is Hebrew; others are letters to Unicode
TYPED_AS_APOSTROPHES = "`\u00b4"  # accents that keyboards have where an apostrophe is meant
JOINERS = "\u200c\u200d"  # invisible, but Persian and Indic words need them, and joined emoji
SUFFIXES = frozenset({"jr", "sr", "phd", "md", "esq"})
NUMERALS = frozenset({"II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X"})  # "Vi" and "Xi" are names

SEPARATING = frozenset({"Cc", "Cf", "Cs", "Zs", "Zl", "Zp"})  # Unicode categories: control, format, space
# Of other categories, but invisible as well (Unicode's Default_Ignorable_Code_Point), and the empty Braille pattern.
INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\U000e0100-\U000e01ef]")
# A variation selector behind a Han character chooses its form and separates nothing.
FORM_OF_HAN = re.compile(r"(?<=[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
# How the Unicode names of letters begin whose names put the family name first.
FAMILY_FIRST = ("CJK ", "IDEOGRAPHIC ", "VERTICAL ", "HIRAGANA ", "HENTAIGANA ", "KATAKANA", "HANGUL ")


@dataclass(frozen=True)
class Donor:
    """What may be kept of a donor; None where it is unknown."""

    last_name: str | None = None
    country: str | None = None
    email_hash: str | None = None


def reduce_details(raw: msgspec.Raw, hash_key: bytes | None) -> Donor:
    """Reduces Stripe's `billing_details` or `customer_details`, as raw JSON.

    A field of another type than text, or whose text is no valid Unicode, counts as absent; so does an object that is
    no JSON. A donor's details never cost an event.

    Args:
        raw: the object, or `null`.
        hash_key: the key of e-mail hashes (DONOR_EMAIL_HASH_KEY); None for plain SHA-256.
    """
    details = _object(_decoded(raw))
    country = _text(_object(details.get("address")).get("country")) or ""
    return Donor(
        last_name=last_name(_text(details.get("name"))),
        country=country.upper() if COUNTRY.fullmatch(country) else None,
        email_hash=email_hash(_text(details.get("email")), hash_key),
    )


def reduce_name(raw: msgspec.Raw) -> str | None:
    """The token of a name given as raw JSON; None where that is no text."""
    return last_name(_text(_decoded(raw)))


def reduce_email(raw: msgspec.Raw, hash_key: bytes | None) -> str | None:
    """The hash of an e-mail given as raw JSON; None where that is no text."""
    return email_hash(_text(_decoded(raw)), hash_key)


def _decoded(raw: msgspec.Raw) -> object:
    """The decoded JSON; None for any other text.

    msgspec refuses a text that is no valid Unicode together with everything around it. Python's own parser, which is
    slower, makes surrogates of it.
    """
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return json.loads(bytes(raw).decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return None


def _object(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    """The value if it is a text of valid Unicode."""
    return value if isinstance(value, str) and not SURROGATES.search(value) else None


def last_name(name: str | None) -> str | None:
    """The token of a name that may be kept and shown (SPEC 7), or None if it has none."""
    if not name or len(name) > NAME_LIMIT:
        return None
    if name.isascii() and name.replace(" ", "").isalpha():  # most names: there is nothing to leave out
        return _family_name(name.split())[:LAST_NAME_LIMIT] or None
    return _reduced_name(name)


def _reduced_name(name: str) -> str | None:
    text = COMMAS.split(_without_brackets(_plain(name)))[0]
    tokens = [token for token in map(_trimmed, text.split()) if any(map(str.isalpha, token))]
    token = _trimmed(_family_name(tokens)[:LAST_NAME_LIMIT])
    return token if _is_name(token) else None


def _plain(name: str) -> str:
    """The name with a space for each character that cannot be seen, full-width forms made ordinary, and composed."""
    return unicodedata.normalize("NFC", "".join(map(_plain_character, FORM_OF_HAN.sub("", name))))


@lru_cache(maxsize=4096)
def _plain_character(character: str) -> str:
    if unicodedata.east_asian_width(character) in "FH":  # full-width, half-width
        character = unicodedata.normalize("NFKC", character)
    if character in TYPED_AS_APOSTROPHES:
        return "'"
    if character in JOINERS:
        return character
    return " " if unicodedata.category(character[0]) in SEPARATING or INVISIBLE.match(character) else character


def _without_brackets(text: str) -> str:
    """A space for all that stands in brackets; one that is not closed reaches to the end."""
    kept: list[str] = []
    opened: list[int] = []  # how much was kept before each bracket that is still open
    for character in text:
        if character in OPENING:
            opened.append(len(kept))
        elif character in CLOSING and opened:
            kept[opened.pop() :] = " "
        else:
            kept.append(character)
    return "".join(kept[: opened[0]] if opened else kept)


def _family_name(tokens: list[str]) -> str:
    """The token that names the family, of tokens that have letters; empty if there is none."""
    if tokens and all(_is_family_first(letter) for letter in filter(str.isalpha, "".join(tokens))):
        return tokens[0] if len(tokens) > 1 else _first_character(tokens[0])
    return next((token for token in reversed(tokens) if not _is_suffix(token)), "")


def _first_character(token: str) -> str:
    """The first character with the marks that belong to it."""
    return token[0] + "".join(takewhile(_is_mark, token[1:]))


@lru_cache(maxsize=4096)
def _is_family_first(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith(FAMILY_FIRST)


def _is_suffix(token: str) -> bool:
    plain = token.replace(".", "")
    return plain in NUMERALS or plain.lower() in SUFFIXES


def _trimmed(token: str) -> str:
    """The token without punctuation and joiners at its ends."""
    if token.isalpha():
        return token
    places = [place for place, character in enumerate(token) if not _is_punctuation(character)]
    return token[places[0] : places[-1] + 1] if places else ""


def _is_name(token: str) -> bool:
    return token[:1].isalpha() and all(
        character.isalpha() or character in HYPHENS + APOSTROPHES + JOINERS or _is_mark(character)
        for character in token
    )


def _is_punctuation(character: str) -> bool:
    return character in JOINERS or unicodedata.category(character)[0] == "P"


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] == "M"


def email_hash(email: str | None, hash_key: bytes | None) -> str | None:
    """Hex HMAC-SHA256 (with a key) or SHA-256 of the trimmed, lower-cased e-mail; None for an empty one."""
    normal = (email or "").strip().lower().encode("utf-8", "replace")
    if not normal:
        return None
    if hash_key is None:
        return hashlib.sha256(normal).hexdigest()
    return hmac.new(hash_key, normal, hashlib.sha256).hexdigest()
