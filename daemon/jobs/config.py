"""The configuration of the jobs process."""

from pathlib import Path

from daemon.runtime.config import Milliseconds
from daemon.stripe_api.config import StripeApiConfig


class JobsConfig(StripeApiConfig):
    """Every setting of the jobs process."""

    prometheus_multiproc_dir: Path | None = None  # set by supervisord.conf
    db_statement_timeout_ms: Milliseconds = 5000
