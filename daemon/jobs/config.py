"""The configuration of the jobs process."""

from pathlib import Path

from daemon.receipts.config import ReceiptConfig
from daemon.runtime.config import Milliseconds


class JobsConfig(ReceiptConfig):
    """Every setting of the jobs process."""

    prometheus_multiproc_dir: Path | None = None  # set by supervisord.conf
    db_statement_timeout_ms: Milliseconds = 5000

    @property
    def has_jobs(self) -> bool:
        """Whether a job can run: all but the export of the operator log call Stripe."""
        return self.stripe_api_key is not None or self.operator_log is not None
