"""Configuration: environment variables read once into one frozen value, every mistake reported at once.

`Settings` is the part that the sidecar and the API share, `Basics` that of any process; `Config` is the sidecar's own.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

# Upper ends exist so that a unit mixed up (seconds, microseconds) is noticed at start.
_HOUR_MS = 3_600_000
# Linux's limit for a socket's address is 108 bytes with the closing zero.
_SOCKET_PATH_BYTES = 107

Milliseconds = Annotated[int, Field(gt=0, le=_HOUR_MS)]
Count = Annotated[int, Field(ge=1, le=1000)]


class ConfigError(Exception):
    """The environment can't be used; `problems` holds one sentence per mistake and never a value."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Basics(BaseModel):
    """The settings of a process without a database. A field is named like its environment variable, in lower case."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    readiness_socket: Path = Path("run/readiness.sock")
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"

    @field_validator("*", mode="before")
    @classmethod
    def _is_text(cls, value: object) -> object:
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:  # how Python gives bytes of the environment that are no text
                raise ValueError("is not UTF-8") from None
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("readiness_socket")
    @classmethod
    def _fits_an_address(cls, value: Path) -> Path:
        if len(str(value).encode()) > _SOCKET_PATH_BYTES:
            raise ValueError(f"a socket's path has at most {_SOCKET_PATH_BYTES} bytes")
        return value

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read `environ`; an empty variable counts as unset. Raises ConfigError naming every mistake at once."""
        given = {name.lower(): value for name, value in environ.items() if value != "" and name.isupper()}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            problems = [_sentence(problem) for problem in error.errors(include_input=False, include_url=False)]
        raise ConfigError(problems)


class Settings(Basics):
    """The settings that the sidecar and the API processes share."""

    database_url: SecretStr


class Config(Settings):
    """Every setting of the sidecar."""

    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = 9464
    metrics_dir: Path | None = Field(
        default=None, validation_alias=AliasChoices("metrics_dir", "prometheus_multiproc_dir")
    )
    allow_logged_statements: bool = False
    gate_attempts: Count = 3
    gate_retry_delay_ms: Milliseconds = 2000
    watchdog_interval_ms: Milliseconds = 30000
    watchdog_max_failures: Count = 3
    watchdog_retry_ms: Milliseconds = 200
    reconnect_attempts: Count = 5
    reconnect_delay_ms: Milliseconds = 5000
    db_ping_timeout_ms: Milliseconds = 5000


def _sentence(problem: Any) -> str:
    """One of pydantic's errors as `VARIABLE: what is wrong`."""
    name = str(problem["loc"][0]).upper() if problem["loc"] else "configuration"
    if problem["type"] == "missing":
        return f"{name}: not set"
    return f"{name}: {str(problem['msg']).removeprefix('Value error, ')}"
