"""The API process: webhooks, ledgers and totals."""
