"""The configurations of an API process and of the commands (SPEC 2)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, SecretStr

from daemon.ledger import money
from daemon.ledger.money import CURRENCY
from daemon.receipts.config import ReceiptConfig
from daemon.reports.fraud_thresholds import Thresholds
from daemon.runtime.config import Basics, Count, Milliseconds, WholeNumber
from daemon.runtime.http.addresses import ProxyAddresses, TrustedProxies
from daemon.runtime.operator_tokens import OperatorToken, parse_tokens
from daemon.stripe_api.charge_amounts import Fee, parse_fees

_MIB = 1024 * 1024
# https://www.w3.org/TR/CSP3/#grammardef-host-source, without a path
SITE = re.compile(r"https?://(?:\*\.)?[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*(?::[0-9]{1,5})?", re.ASCII)
SIGNING_SECRET = re.compile(r"whsec_[A-Za-z0-9+/=_-]{32,}", re.ASCII)  # Stripe's have 32 or 64 characters there
# What else Stripe gives out that is taken for a signing secret, by how it begins.
MISTAKEN_SECRETS = {
    **dict.fromkeys(("sk_", "rk_", "pk_"), "an API key"),
    "we_": "the id of a webhook endpoint",
}
WHERE_SECRETS_ARE = (
    "use the endpoint's signing secret, which begins with whsec_ (Stripe's dashboard shows it under Webhooks, "
    "and `stripe listen` prints its own)"
)


def _secrets(value: SecretStr) -> SecretStr:
    for secret in _parts(value):
        if not secret:
            raise ValueError("needs one or more signing secrets, comma separated, none of them empty")
        for beginning, name in MISTAKEN_SECRETS.items():
            if secret.startswith(beginning):
                raise ValueError(f"{name} (it begins with {beginning}) is not a signing secret: {WHERE_SECRETS_ARE}")
        if not SIGNING_SECRET.fullmatch(secret):
            raise ValueError(f"a signing secret is whsec_ and 32 or more letters and digits: {WHERE_SECRETS_ARE}")
    return value


def _parts(value: SecretStr) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.get_secret_value().split(","))


def _currency(value: str) -> str:
    if not CURRENCY.fullmatch(value):
        raise ValueError("needs three capital letters, such as USD")
    return value


def parse_sites(value: object) -> object:
    """Reads FRAME_ANCESTORS: sites as a Content-Security-Policy names them. Raises ValueError."""
    if not isinstance(value, str):
        return value
    sites = tuple(value.replace(",", " ").split())
    for site in sites:
        if not SITE.fullmatch(site):
            raise ValueError(
                "needs sites such as https://charity.example or https://*.charity.example, comma separated"
            )
    return sites


def _database_url(value: SecretStr) -> SecretStr:
    # It loads psycopg2, which a process without this setting may not need.
    from sql.servers import url_problem  # noqa: PLC0415

    if problem := url_problem(value.get_secret_value()):
        raise ValueError(problem)
    return value


def _fee(value: str) -> str:
    amount, _, currency = value.partition(" ")
    decimals = money.exponent(currency)
    form = rf"[0-9]{{1,9}}\.[0-9]{{{decimals}}}" if decimals else "[0-9]{1,9}"
    if not (CURRENCY.fullmatch(currency) and re.fullmatch(form, amount)):
        raise ValueError("needs an amount with all its decimals and a currency, such as 15.00 USD")
    return value


Percent = Annotated[WholeNumber, Field(ge=1, le=100)]
Secrets = Annotated[SecretStr, AfterValidator(_secrets)]


class MigrateConfig(Basics):
    """The settings of `donationd migrate`."""

    database_url: SecretStr | None = None
    migrate_database_url: SecretStr | None = None  # the role that owns the schema

    @property
    def url(self) -> str | None:
        """The database to migrate, as the role that does it."""
        url = self.migrate_database_url or self.database_url
        return url.get_secret_value() if url else None


class CommandConfig(ReceiptConfig):
    """The settings of an instance that its API processes and the commands for people read alike."""

    stripe_webhook_secret: Secrets | None = None
    host: str = "0.0.0.0"  # noqa: S104 - Stripe comes from outside
    port: WholeNumber = Field(3003, ge=1, le=65535)
    default_currency: Annotated[str, AfterValidator(_currency)] = "USD"
    # Signals of fraud; Thresholds explains each.
    fraud_hash_failures: Count = 3
    fraud_rush_hashes: Annotated[WholeNumber, Field(ge=1, le=1_000_000)] = 100
    fraud_minute_failures: Count = 10
    fraud_minute_percent: Annotated[WholeNumber, Field(ge=0, le=100)] = 30
    fraud_failed_percent: Percent = 80
    fraud_min_attempts: Count = 10
    fraud_burst_payments: Annotated[WholeNumber, Field(ge=2, le=1000)] = 5
    fraud_soon_refunds: Count = 3
    fraud_soon_refund_hours: Annotated[WholeNumber, Field(ge=1, le=24 * 30)] = 24
    fraud_soon_refund_percent: Annotated[WholeNumber, Field(ge=0, le=100)] = 20
    fraud_country_percent: Annotated[WholeNumber, Field(ge=0, le=100)] = 2
    dispute_fee: Annotated[str, AfterValidator(_fee)] | None = None  # what Stripe charges, such as 15.00 USD

    @property
    def fraud_thresholds(self) -> Thresholds:
        """From which numbers on something is a signal of fraud."""
        return Thresholds(*(getattr(self, f"fraud_{name}") for name in Thresholds._fields))

    @property
    def shown_dispute_fee(self) -> str | None:
        """The fee for a dispute, for people."""
        if self.dispute_fee is None:
            return None
        amount, _, currency = self.dispute_fee.partition(" ")
        return money.with_symbol(amount, currency)

    @property
    def signing_secrets(self) -> tuple[str, ...]:
        """Each of the webhook's signing secrets."""
        return _parts(self.stripe_webhook_secret) if self.stripe_webhook_secret else ()


class Config(CommandConfig):
    """Every setting of an API process."""

    prometheus_multiproc_dir: Path | None = None  # these two are set by supervisord.conf
    api_slot: WholeNumber = Field(0, ge=0)
    api_processes: WholeNumber = Field(1, ge=1)  # they share the socket; `up` checks the number
    stripe_webhook_secret: Secrets
    read_database_url: Annotated[SecretStr, AfterValidator(_database_url)] | None = None  # a replica, for reads
    operator_tokens: Annotated[tuple[OperatorToken, ...], BeforeValidator(parse_tokens)] = ()
    public_ledger: bool = True
    trusted_proxies: ProxyAddresses = TrustedProxies()
    db_pool_size: WholeNumber = Field(4, ge=1, le=100)  # for reads, which are short; events have two connections more
    # Some tenths of a second's work; more get 503 at once. As they stand, the places are the nearer limit.
    webhook_queue_limit: WholeNumber = Field(1000, ge=1, le=100_000)
    webhook_places: WholeNumber = Field(256, ge=1, le=100_000)  # a quarter keeps the writer busy: more only wait longer
    page_places: WholeNumber = Field(64, ge=1, le=1000)  # one query answers many
    large_page_places: WholeNumber = Field(2, ge=1, le=1000)  # each takes some milliseconds and 250 kB
    read_places: WholeNumber = Field(256, ge=1, le=1000)
    # Each has a connection of its own. Few operators work at the same time; an export may take minutes.
    operator_places: WholeNumber = Field(2, ge=1, le=100)
    export_places: WholeNumber = Field(2, ge=1, le=100)
    # Checkout: what Stripe charges in each currency, for donors who cover it; sessions that one address may begin in an
    # hour, and all together in a minute; and how many are begun at once: each waits for Stripe for half a second.
    checkout_fees: Annotated[Mapping[str, Fee], PlainValidator(parse_fees)] = {}
    checkouts_per_address: Count = 10
    checkouts_in_total: Annotated[WholeNumber, Field(ge=1, le=10_000)] = 300
    checkout_places: WholeNumber = Field(16, ge=1, le=1000)
    # The public pages of tickets: readers at the same time, and their own connections and limit of the database's time.
    public_page_places: WholeNumber = Field(64, ge=1, le=1000)
    public_page_connections: WholeNumber = Field(2, ge=1, le=100)
    public_page_timeout_ms: Milliseconds = 2000
    frame_ancestors: Annotated[tuple[str, ...], BeforeValidator(parse_sites)] = ()  # may show a ticket in a frame
    body_memory_limit: WholeNumber = Field(32 * _MIB, ge=2 * _MIB, le=64 * 1024 * _MIB)  # 10,000 of Stripe's events
    max_connections: WholeNumber = Field(3000, ge=10, le=100_000)  # each takes 25 kB
    header_timeout_ms: Milliseconds = 10_000  # a head is one packet; the rest is for lost ones
    body_timeout_ms: Milliseconds = 10_000  # even 1 MiB, at 100 kB/s; Stripe's events have a few kB
    write_timeout_ms: Milliseconds = 30_000  # a page of 1,000 donations at 15 kB/s
    idle_timeout_ms: Milliseconds = 75_000  # longer than a proxy keeps its connections (a minute), so that it closes
    db_statement_timeout_ms: Milliseconds = 5000  # a batch takes milliseconds; this long means trouble
    request_deadline_ms: Milliseconds = 15_000  # a connection, a statement and a retry fit in
    shutdown_grace_ms: Milliseconds = 10_000  # accepted requests end well within it
