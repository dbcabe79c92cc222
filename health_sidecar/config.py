"""The configuration of the sidecar."""

from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field

from daemon.runtime.config import Basics, Count, Milliseconds, Settings, WholeNumber


class SidecarAddress(Basics):
    """Where the sidecar listens."""

    metrics_host: str = "127.0.0.1"
    metrics_port: Annotated[WholeNumber, Field(ge=0, le=65535)] = 9464


class Config(SidecarAddress, Settings):
    """Every setting of the sidecar."""

    metrics_dir: Path | None = Field(
        default=None, validation_alias=AliasChoices("metrics_dir", "prometheus_multiproc_dir")
    )
    gate_attempts: Count = 3
    gate_retry_delay_ms: Milliseconds = 2000
    watchdog_interval_ms: Milliseconds = 30000
    watchdog_max_failures: Count = 3
    watchdog_retry_ms: Milliseconds = 200
    reconnect_attempts: Count = 5
    reconnect_delay_ms: Milliseconds = 5000
    db_ping_timeout_ms: Milliseconds = 5000
