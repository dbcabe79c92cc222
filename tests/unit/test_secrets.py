"""No error repeats a part of a URL that may be its password."""

import pytest
from click.testing import CliRunner

from daemon.cli.main import main

SECRET = "hunter2"
# Passwords with a URL's own characters, not encoded: the driver then takes parts of them for something else.
URLS = [
    f"postgresql://user:{SECRET}@127.0.0.1:1/ledger",
    f"postgresql://user:%zz{SECRET}@127.0.0.1:1/ledger",
    f"postgresql://user:p?{SECRET}@127.0.0.1:1/ledger",
    f"postgresql://user:p/{SECRET}@127.0.0.1:1/ledger",
    f"postgresql://user:p[{SECRET}@127.0.0.1:1/ledger",
    f"postgresql://user:p@{SECRET}@127.0.0.1:1/ledger",
    f"postgresql://user:p@127.0.0.1:1{SECRET}/ledger",
    f"{SECRET}://user@127.0.0.1:1/ledger",
]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("command", ["migrate", "migrate --status", "gate", "tickets list", "verify"])
def test_no_error_repeats_a_password(command: str, url: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A URL that can't be used fails each command with exit status 1 and no word of the URL."""
    environ = {"DATABASE_URL": url, "MIGRATE_DATABASE_URL": "", "GATE_ATTEMPTS": "1", "DB_PING_TIMEOUT_MS": "2000"}
    done = CliRunner().invoke(main, command.split(), env=environ)
    assert done.exit_code == 1
    assert SECRET not in done.output + repr(done.exception) + "".join(capfd.readouterr())
