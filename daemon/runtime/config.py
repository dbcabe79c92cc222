"""Configuration: environment variables read once into one frozen value, every mistake reported at once.

Each process and each command has a class of the settings that it reads; classes share fields by inheritance, so that a
value means the same to all of them. `Basics` is what everything reads, `Settings` what needs the database; each
process has its own class beside its code.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)

# The upper limits exist so that a wrong unit (seconds, microseconds) is noticed at start.
_HOUR_MS = 3_600_000
# Linux allows 108 bytes for the address of a socket, including the zero at its end.
_SOCKET_PATH_BYTES = 107
# A process that is still running so many seconds after SHUTDOWN_GRACE_MS is killed, by itself and by supervisord alike.
STOP_SPARE_S = 5


def _digits(value: object) -> object:
    if isinstance(value, str) and not (value.isascii() and value.isdecimal()):
        raise ValueError("must be a whole number, written in digits only")
    return value


# Other programs than pydantic read numbers too (supervisord, for one), and only pydantic would accept `1_0` and `10.0`.
WholeNumber = Annotated[int, BeforeValidator(_digits)]
Milliseconds = Annotated[WholeNumber, Field(gt=0, le=_HOUR_MS)]
Count = Annotated[WholeNumber, Field(ge=1, le=1000)]


# Names that PostgreSQL keeps as they are, quoted or not; pg_… belongs to PostgreSQL.
SCHEMA = re.compile(r"(?!pg_|information_schema$)[a-z_][a-z0-9_]{0,62}", re.ASCII)


def _schema(value: str) -> str:
    if not SCHEMA.fullmatch(value):
        raise ValueError(
            "must be the name of a schema: a-z, 0-9 and _, at most 63 of them, with no digit first, and not pg_…"
        )
    return value


SchemaName = Annotated[str, AfterValidator(_schema)]


class ConfigError(Exception):
    """The environment cannot be used; `problems` contains one sentence per mistake and never a value."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def set_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of an environment that are set; an empty one counts as unset."""
    return {name: value for name, value in environ.items() if value}


class Basics(BaseModel):
    """The settings of every process and command. A field is named like its environment variable, in lower case."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    readiness_socket: Path = Path("run/readiness.sock")
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    ledger_schema: SchemaName = "public"  # that of the ledger

    @field_validator("*", mode="before")
    @classmethod
    def _is_text(cls, value: object) -> object:
        if isinstance(value, str) and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:  # how Python represents bytes of the environment that are not text
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
            raise ValueError(f"the path of a socket may have at most {_SOCKET_PATH_BYTES} bytes")
        return value

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read `environ`; an empty variable counts as unset. Raises ConfigError naming every mistake at once."""
        given = {name.lower(): value for name, value in set_variables(environ).items() if name.isupper()}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            problems = error.errors(include_input=False, include_url=False)
        raise ConfigError([_sentence(problem) for problem in problems])


class Settings(Basics):
    """The settings that the sidecar and the API processes share."""

    database_url: SecretStr
    operator_log: Path | None = None  # the file of what Stripe cannot give back to a restored ledger
    allow_logged_statements: bool = False  # whether PostgreSQL may log statements with donors' data

    @field_validator("operator_log")
    @classmethod
    def _is_one_file(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_absolute():
            raise ValueError("must be an absolute path, because processes and commands run in different folders")
        return value


def _sentence(problem: Any) -> str:
    """One of pydantic's errors as `VARIABLE: what is wrong`."""
    name = str(problem["loc"][0]).upper() if problem["loc"] else "configuration"
    if problem["type"] == "missing":
        return f"{name}: not set"
    return f"{name}: {str(problem['msg']).removeprefix('Value error, ')}"
