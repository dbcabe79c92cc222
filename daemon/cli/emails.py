"""Reads a donor's e-mail from the terminal: what a command keeps of it are its hashes."""

import sys

import click

from daemon.api.config import CommandConfig
from daemon.cli.settings import settings
from daemon.ledger import privacy

EMAIL_BYTES = 4096  # Stripe's e-mails have at most 512 characters


def read_email_hashes() -> list[str]:
    """Both hashes of an e-mail: with the key, and without it as in rows that were written before there was a key."""
    key = settings(CommandConfig).hash_key
    if not key:
        click.echo("(DONOR_EMAIL_HASH_KEY is not set here: only hashes made without it can be found)", err=True)
    if sys.stdin.isatty():
        email = click.prompt("E-mail", hide_input=True, err=True)
    else:
        line = sys.stdin.buffer.readline(EMAIL_BYTES + 1)
        if len(line) > EMAIL_BYTES:
            raise click.UsageError("the first line of standard input is too long for an e-mail")
        email = line.decode("utf-8", "replace")
    hashes = {privacy.email_hash(email, key), privacy.email_hash(email, None)}
    known = sorted(each for each in hashes if each)
    if not known:
        raise click.UsageError("no e-mail was given")
    return known
