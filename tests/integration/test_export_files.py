"""The files that `donationd export` writes, its entries in the audit log, and its errors (SPEC 11)."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg2
from click.testing import Result

from daemon.reports.accounts import Program, default_file
from tests.support.guard import base_environ
from tests.support.ledger import add_ticket, rows

Donationd = Callable[..., Result]


def test_an_interrupted_export_leaves_the_former_file(database_url: str, tmp_path: Path) -> None:
    """Ctrl-C in the middle ends with 130 at once; the file under the name is the former one, and nothing lies beside
    it.
    """
    file = tmp_path / "donations.csv"
    file.write_bytes(b"former")
    donationd = Path(sys.executable).with_name("donationd")
    with closing(psycopg2.connect(database_url)) as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLE stripe_attributions IN ACCESS EXCLUSIVE MODE")
        process = subprocess.Popen(
            [donationd, "export", "donations", "--out", file],
            env=base_environ() | {"DATABASE_URL": database_url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        waiting = (
            "SELECT 1 FROM pg_stat_activity WHERE application_name = 'donationd export' AND wait_event_type = 'Lock'"
            " AND datname = current_database()"
        )
        until(lambda: bool(rows(database_url, waiting)))
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=30)
    assert (process.returncode, complaint.strip()) == (130, b"interrupted")
    assert file.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_can_be_read_by_its_owner_only(donationd: Donationd, tmp_path: Path) -> None:
    """An export contains donors' last names."""
    file = tmp_path / "donations.csv"
    assert donationd("export", "donations", "--out", file).exit_code == 0
    assert file.stat().st_mode & 0o777 == 0o600


def test_every_export_is_on_record(donationd: Donationd, database_url: str) -> None:
    """The audit log names who exported what, before anything is written."""
    add_ticket(database_url, "story-1")
    donationd("export", "donations", "--ticket", "story-1", "--unpaid", "--by", "alex")
    donationd("export", "entries", "--format", "hledger", "--from", "2025-10-01", "--by", "berta")
    recorded = donationd("audit").stdout.splitlines()
    assert "berta" in recorded[0] and "entries, hledger, from 2025-10-01T00:00:00Z" in recorded[0]
    assert "alex" in recorded[1] and "donations, csv, ticket story-1, unpaid" in recorded[1]


def test_an_e_mail_hash_given_by_mistake_is_not_on_record(donationd: Donationd) -> None:
    """The audit log is permanent, and contains nothing about a donor."""
    email_hash = "0123456789abcdefABCDEF" + "0" * 42
    assert donationd("export", "donations", "--after", email_hash).exit_code == 0
    assert donationd("export", "donations", "--ticket", email_hash).exit_code == 1
    recorded = donationd("audit").stdout
    assert ("donations, csv, after (an e-mail hash)" in recorded, email_hash in recorded) == (True, False)


WRONG_ACCOUNTS = {
    "no TOML": "it is not TOML",
    'money = "assets"': "it does not set payment, refund, dispute, no_ticket",
    'monney = "assets"': "monney is not known",
    'money = "assets:{donor}"': "only {ticket} and {currency} are replaced",
    'fee = "expenses:{ticket}"': "some fees are of no ticket",
    'money = "assets  two spaces"': "money is not valid",
    'money = "a;b"': "money is not valid",
    "money = 1": "money is not a text",
    'tickets = "x"': "it does not set",
}


def test_a_file_of_accounts_that_cannot_be_used_is_explained(donationd: Donationd, tmp_path: Path) -> None:
    """The error says what is wrong with which line, with exit status 1."""
    accounts = tmp_path / "accounts.toml"
    for text, complaint in WRONG_ACCOUNTS.items():
        accounts.write_text(text, encoding="utf-8")
        done = donationd("export", "entries", "--format", "hledger", "--accounts", accounts)
        assert (done.exit_code, complaint in done.output) == (1, True), done.output


def test_mistakes_are_explained_and_change_nothing(donationd: Donationd, database_url: str, tmp_path: Path) -> None:
    """Each wrong option ends with 2, each file that cannot be used with 1; nothing is written or recorded."""
    accounts = tmp_path / "accounts.toml"
    accounts.write_text(default_file(Program.HLEDGER), encoding="utf-8")
    for words, status, complaint in (
        (["donations", "--profile", "lotus"], 2, "'standard', 'excel', 'excel-de'"),
        (["donations", "--profile", "excel", "--format", "jsonl"], 2, "--profile is for CSV files only"),
        (["donations", "--format", "hledger"], 2, "'csv', 'jsonl'"),
        (["donations", "--tz", "Mars/Olympus"], 2, "has no time zone of this name"),
        (["donations", "--from", "yesterday"], 2, "a day such as 2026-10-01"),
        (["donations", "--from", "2026-02-01", "--to", "2026-02-01"], 2, "--from must be before --to"),
        (["donations", "--after", "é"], 2, "not a donation's id"),
        (["entries", "--after", "pi_1"], 2, "not an entry's number"),
        (["donations", "--ticket", "a b"], 2, "a ticket id is"),
        (["donations", "--currency", "euro"], 2, "a currency is three letters"),
        (["donations", "--status", "gone"], 2, "'refunded'"),
        (["donations", "--ticket", "nosuch"], 1, "there is no ticket nosuch, and no donation names it: `donationd"),
        (["entries", "--ticket", "nosuch"], 1, "`donationd tickets list` lists the tickets"),
        (["entries", "--as-of", "99999"], 1, "there is no entry 99999 yet"),
        (["entries", "--as-of", "2999-01-01"], 1, "this time has not come yet"),
        (["entries", "--accounts", accounts], 2, "--accounts is for journals"),
        (["entries", "--format", "beancount", "--accounts", accounts], 1, "money is not valid"),
        (
            ["entries", "--format", "hledger", "--accounts", "/dev/zero"],
            1,
            "/dev/zero cannot be read: it is not a regular",
        ),
        (
            ["entries", "--format", "hledger", "--accounts", tmp_path / "no"],
            1,
            "`donationd export accounts` prints the",
        ),
        (["donations", "--out", tmp_path], 2, "is a directory"),
        (["donations", "--out", tmp_path / "no" / "file"], 1, "cannot be written: No such file or directory"),
        (["donations", "--out", "/dev/null"], 1, "is not a regular file"),
    ):
        done = donationd("export", *words)
        assert (done.exit_code, complaint in done.output) == (status, True), (words, done.output)
        assert done.stdout_bytes == b""
    assert rows(database_url, "SELECT count(*) FROM operator_acts") == [(0,)]
    assert list(tmp_path.iterdir()) == [accounts]


def until(condition: Callable[[], bool]) -> None:
    """Returns when the condition is met."""
    end_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)
