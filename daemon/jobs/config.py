"""The configuration of the jobs process."""

from pathlib import Path

from daemon.receipts.config import ReceiptConfig
from daemon.runtime.config import Milliseconds


class JobsConfig(ReceiptConfig):
    """Every setting of the jobs process."""

    prometheus_multiproc_dir: Path | None = None  # set by supervisord.conf
    db_statement_timeout_ms: Milliseconds = 5000
