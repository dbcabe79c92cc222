"""`donationd report`: what the ledger adds up to, for accountants and analysts."""

import click


@click.group()
def report() -> None:
    """Add up the ledger for accountants and analysts.

    Currencies are never added together. Days, weeks and months begin at midnight in the time zone REPORT_TIME_ZONE.
    """
