"""The settings of receipts and of the mails to donors (SPEC 2, 12): all of them or none."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from pydantic import AfterValidator, SecretStr, ValidationInfo, field_validator, model_validator

from daemon.reports.time_zones import load_time_zone
from daemon.stripe_api.config import StripeApiConfig, is_loopback

TOGETHER = frozenset({"charity_name", "charity_country", "mail_from", "smtp_url"})
NAME_LENGTH = 100
ADDRESS = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,10}", re.ASCII
)
SENDER = re.compile(r'(?P<name>[^<>"@]{1,100})<(?P<address>[^<>]+)>')
URL_EXAMPLE = "smtp://user:password@mail.example.org:587, or smtps:// for TLS from the first byte"
PORTS = {"smtp": 587, "smtps": 465}


class Sender(NamedTuple):
    """Who the mails come from; the name may be empty."""

    name: str
    address: str


class SmtpServer(NamedTuple):
    """The server that takes the mails."""

    host: str
    port: int
    tls: Literal["implicit", "starttls", "none"]
    username: str | None
    password: str | None


def _name(value: str) -> str:
    if len(value) > NAME_LENGTH or not value.isprintable():
        raise ValueError(f"a name has at most {NAME_LENGTH} characters, and none of them is a control character")
    return value


def _country(value: str) -> str:
    if not re.fullmatch(r"[A-Z]{2}", value, re.ASCII):
        raise ValueError("a country is two capital letters (ISO 3166-1), such as DE")
    return value


def parse_sender(value: str) -> Sender:
    """Who MAIL_FROM names. Raises ValueError."""
    named = SENDER.fullmatch(value)
    sender = Sender(named["name"].strip(), named["address"]) if named else Sender("", value)
    if not ADDRESS.fullmatch(sender.address) or not sender.name.isprintable():
        raise ValueError("needs an address such as thanks@example.org, or Example Charity <thanks@example.org>")
    return sender


def parse_server(value: str) -> SmtpServer:
    """The server that SMTP_URL names. Raises ValueError, which repeats nothing of it."""
    parts = _split(value)
    options = parse_qs(parts.query, keep_blank_values=True)
    [tls] = options.pop("tls", [""])
    if parts.scheme not in PORTS or parts.path.strip("/") or parts.fragment or options:
        raise ValueError(f"needs a URL such as {URL_EXAMPLE}; the only option is ?tls=none or ?tls=starttls")
    if tls not in ({"", "none", "starttls"} if parts.scheme == "smtp" else {""}):
        raise ValueError("with smtp:// the option tls is none or starttls; smtps:// has no option")
    is_local = is_loopback(parts.hostname or "")
    return SmtpServer(
        parts.hostname or "",
        parts.port or PORTS[parts.scheme],
        "implicit" if parts.scheme == "smtps" else _chosen(tls, is_local=is_local),
        unquote(parts.username) if parts.username else None,
        unquote(parts.password) if parts.password else None,
    )


def _chosen(tls: str, *, is_local: bool) -> Literal["starttls", "none"]:
    """Without an option, only a server on this machine is sent mail without TLS."""
    return "none" if tls == "none" or (is_local and not tls) else "starttls"


def _split(value: str) -> SplitResult:
    try:
        parts = urlsplit(value)
        usable = bool(parts.hostname) and parts.port != 0 and bool(parts.username) == bool(parts.password)
    except ValueError:
        usable = False
    if not usable or not value.isprintable() or " " in value:
        raise ValueError(f"needs a URL such as {URL_EXAMPLE}")
    return parts


def _time_zone(value: str) -> str:
    load_time_zone(value)
    return value


class ReceiptConfig(StripeApiConfig):
    """What receipts and mails need; nothing is sent where the four settings of TOGETHER are not set."""

    report_time_zone: Annotated[str, AfterValidator(_time_zone)] = "UTC"  # of the days and years on receipts
    charity_name: Annotated[str, AfterValidator(_name)] | None = None
    charity_country: Annotated[str, AfterValidator(_country)] | None = None
    mail_from: str | None = None
    smtp_url: SecretStr | None = None
    mail_templates: Path | None = None  # a folder whose files replace those of this package

    @model_validator(mode="before")
    @classmethod
    def _mark_missing(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Gives those that are missing beside others an empty value, so that each is named as a mistake of its own."""
        return given | dict.fromkeys(TOGETHER - given.keys(), "") if TOGETHER & given.keys() else given

    @field_validator(*TOGETHER, mode="before")
    @classmethod
    def _is_set(cls, value: object) -> object:
        if value == "":
            raise ValueError(f"not set; mail needs {', '.join(sorted(name.upper() for name in TOGETHER))} together")
        return value

    @field_validator("mail_from")
    @classmethod
    def _is_sender(cls, value: str | None) -> str | None:
        if value is not None:
            parse_sender(value)
        return value

    @field_validator("smtp_url")
    @classmethod
    def _is_server(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None:
            parse_server(value.get_secret_value())
            if info.data.get("stripe_api_key", "wrong") is None:
                raise ValueError("mail needs STRIPE_API_KEY too: the donors' addresses are fetched from Stripe")
        return value

    @field_validator("mail_templates")
    @classmethod
    def _is_folder(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_dir():
            raise ValueError("there is no such folder")
        return value

    @property
    def sends_mail(self) -> bool:
        """Whether mail is configured."""
        return self.smtp_url is not None

    @property
    def charity(self) -> "Charity":
        """The charity, as templates show it. Only where mail is configured."""
        assert self.charity_name and self.charity_country and self.mail_from  # noqa: S101 - all or none
        return Charity(self.charity_name, self.charity_country, parse_sender(self.mail_from).address)

    @property
    def sender(self) -> Sender:
        """Who the mails come from: by default in the charity's name. Only where mail is configured."""
        assert self.charity_name and self.mail_from  # noqa: S101 - all or none
        name, address = parse_sender(self.mail_from)
        return Sender(name or self.charity_name, address)

    @property
    def smtp_server(self) -> SmtpServer:
        """The server that takes the mails. Only where mail is configured."""
        assert self.smtp_url  # noqa: S101 - all or none
        return parse_server(self.smtp_url.get_secret_value())


class Charity(NamedTuple):
    """The charity, as templates show it; `country` is two letters."""

    name: str
    country: str
    address: str  # of its mail
