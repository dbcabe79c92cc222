"""Environment -> one frozen Config, with every mistake reported at once (SPEC 2)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from daemon.money import CURRENCY
from health_sidecar.config import ConfigError


def _secrets(value: SecretStr) -> SecretStr:
    if not all(part.strip() for part in value.get_secret_value().split(",")):
        raise ValueError("needs one or more signing secrets, comma separated, none of them empty")
    return value


def _currency(value: str) -> str:
    if not CURRENCY.fullmatch(value):
        raise ValueError("needs three capital letters, such as USD")
    return value


def _database_url(value: SecretStr) -> SecretStr:
    if not re.match(r"postgresql://", value.get_secret_value()):
        raise ValueError("must start with postgresql://")
    return value


Milliseconds = Annotated[int, Field(gt=0, le=600_000)]


class Config(BaseModel):
    """What an API process needs to know. Names are the environment's, in lower case."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    database_url: Annotated[SecretStr, AfterValidator(_database_url)]
    stripe_webhook_secret: Annotated[SecretStr, AfterValidator(_secrets)]
    stripe_livemode: bool = True
    donor_email_hash_key: SecretStr | None = None
    host: str = "0.0.0.0"  # noqa: S104 - Stripe comes from outside
    port: int = Field(3003, ge=1, le=65535)
    readiness_socket: Path = Path("run/readiness.sock")
    default_currency: Annotated[str, AfterValidator(_currency)] = "USD"
    db_pool_size: int = Field(4, ge=1, le=100)  # reads are short; writes take turns anyway
    db_statement_timeout_ms: Milliseconds = 5000  # a batch takes milliseconds; this long means trouble
    request_deadline_ms: Milliseconds = 15_000  # Checkout waits 10 s for a reply and other senders longer
    shutdown_grace_ms: Milliseconds = 10_000  # accepted requests end well within it
    log_format: str = Field("text", pattern="^(text|json)$")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Config":
        """Reads the variables that are set and not empty. Raises ConfigError with a line per mistake."""
        names = {name.upper(): name for name in cls.model_fields}
        given = {field: environ[name] for name, field in names.items() if environ.get(name)}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise ConfigError([_mistake(e["loc"], e["msg"]) for e in error.errors()]) from None

    @property
    def signing_secrets(self) -> tuple[str, ...]:
        """Each of the webhook's signing secrets."""
        return tuple(part.strip() for part in self.stripe_webhook_secret.get_secret_value().split(","))

    @property
    def hash_key(self) -> bytes | None:
        """The key of e-mail hashes, or None."""
        return self.donor_email_hash_key.get_secret_value().encode() if self.donor_email_hash_key else None


def _mistake(place: tuple[int | str, ...], message: str) -> str:
    name = str(place[0]).upper() if place else "environment"
    return f"{name}: {'not set' if message == 'Field required' else message.removeprefix('Value error, ')}"
