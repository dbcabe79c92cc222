"""The settings of what calls Stripe's API, and of what makes links to this instance (SPEC 2)."""

import ipaddress
import re
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, SecretStr, ValidationInfo, field_validator

from daemon.runtime.config import Basics, Settings

WEBHOOK_PATH = "/webhooks/stripe"  # where the API receives Stripe's events

API_KEY = re.compile(r"(?:sk|rk)_(test|live)_\w{3,240}", re.ASCII)
# What else Stripe gives out that is taken for an API key, by how it begins.
MISTAKEN_KEYS = {
    "whsec_": "a webhook's signing secret (it begins with whsec_) belongs into STRIPE_WEBHOOK_SECRET",
    "pk_": "a publishable key (it begins with pk_) may not read anything",
}
WHERE_KEYS_ARE = (
    "use a restricted key (rk_…) or a secret key (sk_…) from Stripe's dashboard, under Developers, API keys"
)


def _key(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    for beginning, mistake in MISTAKEN_KEYS.items():
        if text.startswith(beginning):
            raise ValueError(f"{mistake}: {WHERE_KEYS_ARE}")
    if not API_KEY.fullmatch(text):
        raise ValueError(f"an API key is sk_ or rk_, then test_ or live_, then letters and digits: {WHERE_KEYS_ARE}")
    return value


def _api_base(value: str) -> str:
    parts = _split(value)
    if parts.scheme not in {"http", "https"} or parts.query or parts.fragment:
        raise ValueError("needs a URL such as https://api.stripe.com")
    return value.rstrip("/")


def _public_url(value: str) -> str:
    parts = _split(value)
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("needs a URL without a path, such as https://give.example.org")
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        raise ValueError("must begin with https:// (http:// is accepted for this machine only, as 127.0.0.1)")
    return value.rstrip("/")


def _split(value: str) -> SplitResult:
    """The parts of a URL that has a host, a valid port and no password."""
    try:
        parts = urlsplit(value)
        usable = bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        usable = False
    if not usable or not value.isprintable() or " " in value:
        raise ValueError("needs a URL with a host, without a user's name or password")
    return parts


def is_loopback(host: str) -> bool:
    """Whether a host, by name or address, is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _log(_value: str) -> str:
    raise ValueError("unset it: with it, Stripe's library writes whole replies, with donors' data, to the log")


class StripeAccount(Basics):
    """The settings of the account at Stripe."""

    stripe_livemode: bool = True
    stripe_api_key: Annotated[SecretStr, AfterValidator(_key)] | None = None  # without one nothing calls Stripe
    stripe_api_base: Annotated[str, AfterValidator(_api_base)] = "https://api.stripe.com"
    public_url: Annotated[str, AfterValidator(_public_url)] | None = None  # what donors and operators use
    stripe_log: Annotated[str, AfterValidator(_log)] | None = None  # read by Stripe's library

    @field_validator("stripe_api_key")
    @classmethod
    def _is_of_the_mode(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        livemode = info.data.get("stripe_livemode")
        if value is None or livemode is None:
            return value
        is_live = value.get_secret_value()[3:].startswith("live")
        if is_live != livemode:
            raise ValueError(
                f"it is a key of {'live' if is_live else 'test'} mode, and STRIPE_LIVEMODE is {str(livemode).lower()}: "
                "change one of them"
            )
        return value

    @property
    def endpoint_url(self) -> str | None:
        """Where Stripe delivers events, by PUBLIC_URL; None where that is not set, or is an address of this machine."""
        is_reachable = self.public_url is not None and self.public_url.startswith("https://")
        return f"{self.public_url}{WEBHOOK_PATH}" if is_reachable else None


class StripeApiConfig(StripeAccount, Settings):
    """The settings that an instance's processes and commands read alike."""

    donor_email_hash_key: SecretStr | None = None

    @property
    def hash_key(self) -> bytes | None:
        """The key of e-mail hashes, or None."""
        return self.donor_email_hash_key.get_secret_value().encode() if self.donor_email_hash_key else None
