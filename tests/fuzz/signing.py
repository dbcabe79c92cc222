"""Any header, body and time -> `signature.verify`: refused in three words, or the second that Stripe signed.

An input is a line with the header, a line with the seconds since it was signed, and the body. In the header {t}, {old},
{good} and {other} stand for what only a signer can write.
"""

import contextlib
import hashlib
import hmac
import math
import random
import re

from daemon.api.signature import BadSignature, signing_state, verify
from tests.fuzz import mutation
from tests.fuzz.target import Target

NOW = 1_760_000_000
SECRETS = (b"whsec_one", b"whsec_two")
STATES = [signing_state(secret.decode()) for secret in SECRETS]
REASONS = {"malformed", "timestamp", "mismatch"}
STRIPES_OWN = re.compile(r"t=\d{10}(,v[01]=[0-9a-f]{64}){1,10}")
TOKENS = (
    *(b"{t}", b"{old}", b"{good}", b"{other}", b"t=", b"v1=", b"v0=", b",", b"=", b"t={t},v1={good}"),
    *("²".encode(), "é".encode(), "١".encode(), b"\xff", b"-1", b"1e3", b" ", b"0" * 64, b"\n", b"9" * 5000, b"\x00"),
)
SHIFTS = (b"-301", b"-300.5", b"-300", b"-1", b"0", b"299.9", b"300", b"300.5", b"301", b"1e300")
SEEDS = (
    b"t={t},v1={good}\n0\n{}",
    b"t={t},v1={other},v1={good},v0=" + b"0" * 64 + b"\n300\nbody",
    b"v1={good},t={t}\n-300\n",
    b"t={t},v1={good}\n301\nbody",
    b"t={old},v1={good}\n0\nbody",
    b"t={t},v1=" + b"0" * 64 + b"\n0\nbody",
    b"\n0\n",
)


def check(data: bytes) -> None:
    """Verifies, and does so again by other means."""
    line, _, rest = data.partition(b"\n")
    shift, _, body = rest.partition(b"\n")
    now = NOW + _seconds(shift)
    header = _signed(line, body).decode("utf-8", "surrogateescape")  # as aiohttp reads headers
    try:
        at = verify(body, header, STATES, now)
    except BadSignature as refusal:
        assert refusal.reason in REASONS
        assert str(refusal).isascii(), "a refusal that repeats the header"
        assert not (STRIPES_OWN.fullmatch(header) and _fits(header, body, now)), "Stripe's own header refused"
    else:
        assert type(at) is int
        assert re.search(r"(?:^|,)t=([^,]*)", header)[1] == str(at).zfill(len(_stamp(header))), "another time"  # type: ignore[index]
        assert _fits(header, body, now), "a forgery taken"


def _seconds(text: bytes) -> float:
    """Our own clock is no input: it shows some number."""
    with contextlib.suppress(ValueError):
        if math.isfinite(seconds := float(text[:20])):
            return seconds
    return 0.0


def _signed(line: bytes, body: bytes) -> bytes:
    """The header, with true signatures of the body where it asks for them; all are of the second NOW."""
    line = line.replace(b"{t}", b"%d" % NOW).replace(b"{old}", b"%d" % (NOW - 301))
    for name, secret in ((b"{good}", SECRETS[1]), (b"{other}", b"whsec_other")):
        if name in line:
            line = line.replace(name, _hmac(secret, str(NOW), body).encode())
    return line


def _stamp(header: str) -> str:
    found = re.search(r"(?:^|,)t=([^,]*)", header)
    return found[1] if found else ""


def _fits(header: str, body: bytes, now: float) -> bool:
    """Whether the header's first time is near, and one of its signatures is right for that time."""
    stamp = _stamp(header)
    near = re.fullmatch("[0-9]{1,12}", stamp) is not None and abs(now - int(stamp)) <= 300
    given = set(re.findall(r"(?:^|,)v1=([^,]*)", header))
    return near and bool(given & {_hmac(secret, stamp, body) for secret in SECRETS})


def _hmac(secret: bytes, stamp: str, body: bytes) -> str:
    return hmac.new(secret, f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()


def _change(data: bytes, rng: random.Random) -> bytes:
    header, _, rest = data.partition(b"\n")
    shift, _, body = rest.partition(b"\n")
    if rng.random() < 0.3:
        shift = rng.choice(SHIFTS)
    elif rng.random() < 0.8:
        header = mutation.splice(header, rng, TOKENS)
    else:
        body = mutation.splice(body, rng, TOKENS)
    return b"\n".join((header, shift, body))


TARGET = Target(check, lambda _seed: SEEDS, _change, longest=8 * 1024)
