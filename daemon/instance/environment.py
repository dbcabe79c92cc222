"""The environment of an instance's processes, and what the commands of the same folder may know of it."""

import fcntl
import json
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from daemon.instance.installation import IS_CHECKOUT
from daemon.instance.state_folder import environ_file, socket_folder, state_folder
from daemon.runtime import files
from daemon.runtime.config import STOP_SPARE_S, set_variables
from daemon.runtime.operator_tokens import entry_of, new_token

DEFAULTS = {
    "HOST": "0.0.0.0",  # noqa: S104 - the documented default; --embedded has 127.0.0.1
    "PORT": "3003",
    "API_PROCESSES": "1",
    "METRICS_HOST": "127.0.0.1",
    "METRICS_PORT": "9464",
    "SHUTDOWN_GRACE_MS": "10000",
}
SECRETS_KEPT = 3  # signing secrets: that of the present endpoint, of the one before, and the one that was made first
UNSHARED = {"DONATIOND_DATABASE_PASSWORD", "MIGRATE_DATABASE_URL"}  # secrets that no process of the instance needs
OPERATOR, SCOPES = "local", "read+export+act"  # of the token that an embedded instance makes
EMBEDDED_DEFAULTS = {"HOST": "127.0.0.1", "STRIPE_LIVEMODE": "false"}


def embedded_environ(home: Path | None = None) -> dict[str, str] | None:
    """The environment of the embedded instance of this folder, or None if none is running.

    Args:
        home: the folder whose `.donationd` is read, unless DONATIOND_STATE names another one.
    """
    kept = running_environ(home)
    return kept if kept and kept.get("DONATIOND_INCLUDE") else None


def running_environ(home: Path | None = None) -> dict[str, str] | None:
    """What commands may know of the instance of this folder, embedded or not; None if none is running."""
    state = state_folder(home)
    try:
        with (state / "lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                kept: dict[str, str] = json.loads(environ_file(state).read_text())
                return kept
    except (OSError, ValueError):
        return None
    return None


def complete_environ(given: Mapping[str, str], state: Path, embedded: bool) -> dict[str, str]:
    """The environment of every process: what is given wins, then what the state folder keeps, then defaults."""
    run = socket_folder(state)
    given = set_variables(given)
    environ = dict(DEFAULTS)
    if embedded:
        environ |= EMBEDDED_DEFAULTS | _kept_secrets(state)
        if "OPERATOR_TOKENS" not in given:
            environ["OPERATOR_TOKENS"] = _kept_operator_entry(state)
    environ |= {"READINESS_SOCKET": str(run / "readiness.sock"), **given}
    environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # supervisord.conf sets it, for the API processes only
    if not IS_CHECKOUT:
        environ["PYTHONSAFEPATH"] = "1"  # a module in the current folder is none of donationd's
    return environ | {
        "METRICS_DIR": str(state / "metrics"),
        "DONATIOND_STATE": str(state),
        "DONATIOND_RUN": str(run),
        "DONATIOND_PYTHON": sys.executable,
        "DONATIOND_INCLUDE": "deploy/embedded.conf" if embedded and "DATABASE_URL" not in given else "",
        "PYTHONUNBUFFERED": "1",
        "PYDANTIC_DISABLE_PLUGINS": "1",  # there are none; at each start they are looked for in all installed packages
    }


def api_stop_s(environ: Mapping[str, str]) -> int:
    """How long supervisord waits until an API process has drained; after that it kills it."""
    return int(environ["SHUTDOWN_GRACE_MS"]) // 1000 + STOP_SPARE_S


def _kept_secrets(state: Path) -> dict[str, str]:
    """The secrets of the file `environment` in the state folder; those that it lacks are made and added."""
    path = state / "environment"
    lines = path.read_text().splitlines() if path.exists() else []
    kept = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    made = {
        "STRIPE_WEBHOOK_SECRET": f"whsec_{secrets.token_urlsafe(24)}",
        "DONATIOND_DATABASE_PASSWORD": new_password(),
    }
    if made.keys() - kept.keys():
        kept = made | kept
        _write_secrets(state, kept)
    return kept


def operator_token_file(state: Path) -> Path:
    """The file with the operator token that an embedded instance makes where OPERATOR_TOKENS is not set."""
    return state / "operator-token"


def made_operator_token(environ: Mapping[str, str], state: Path) -> str | None:
    """The operator token of that file, if it is the instance's; None if OPERATOR_TOKENS was set, or is not."""
    path = operator_token_file(state)
    token = path.read_text().strip() if path.exists() else ""
    return token if environ.get("OPERATOR_TOKENS") == entry_of(token, OPERATOR, SCOPES) else None


def _kept_operator_entry(state: Path) -> str:
    """The entry of OPERATOR_TOKENS for the token in the file, which is made if it is missing."""
    path = operator_token_file(state)
    if not path.exists():
        files.write(path, f"{new_token(OPERATOR, SCOPES)[0]}\n".encode())
    return entry_of(path.read_text().strip(), OPERATOR, SCOPES)


def _write_secrets(state: Path, kept: Mapping[str, str]) -> Path:
    path = state / "environment"
    files.write(path, "".join(f"{name}={value}\n" for name, value in kept.items()).encode())
    return path


def keep_signing_secret(state: Path, secret: str) -> Path:
    """Adds a webhook's signing secret to those that the embedded instance of this state folder keeps, as the first.

    Only SECRETS_KEPT of them stay, so that an endpoint may be replaced again and again. Returns the file.
    """
    kept = _kept_secrets(state)
    others = [each for each in kept["STRIPE_WEBHOOK_SECRET"].split(",") if each != secret]
    secrets_now = ",".join([secret, *others][:SECRETS_KEPT])
    return _write_secrets(state, kept | {"STRIPE_WEBHOOK_SECRET": secrets_now})


def shared_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """What a command of the same folder needs to reach this instance and to count as it does, and nothing else.

    Secrets are shared only by an embedded instance, which makes them itself.
    """
    names = {
        *DEFAULTS,
        *EMBEDDED_DEFAULTS,
        "DEFAULT_CURRENCY",
        "DISPUTE_FEE",
        "DONATIOND_INCLUDE",
        "DONATIOND_RUN",
        "LEDGER_SCHEMA",
        "OPERATOR_LOG",
        "PUBLIC_URL",
        "READINESS_SOCKET",
        "REPORT_TIME_ZONE",
        "STRIPE_API_BASE",
    }
    if environ["DONATIOND_INCLUDE"]:
        names |= {"DATABASE_URL", "DONOR_EMAIL_HASH_KEY", "STRIPE_API_KEY", "STRIPE_WEBHOOK_SECRET"}
    return {name: value for name, value in environ.items() if name in names or name.startswith("FRAUD_")}


def new_password() -> str:
    """A password of 192 random bits."""
    return secrets.token_urlsafe(24)
