"""The operator API is what its OpenAPI document states: schemathesis asks a real process for all of it."""

import asyncio
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from daemon.api.operator import DOCUMENT_PATH
from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.recorder import Recorder
from daemon.ledger.stripe_events import StripeEvent
from daemon.simulator import scenarios
from sql.database import Database
from tests.support.api_application import NOW
from tests.support.api_process import Api, ready_sidecar, until
from tests.support.ledger import fill
from tests.support.operators import bearer, entry

TOKEN = "a-token-of-every-scope"
EXAMPLES = 3  # of each kind, of each endpoint
LIMIT_S = 580  # on a busy machine


@pytest.mark.timeout(LIMIT_S + 20)
async def test_schemathesis_finds_nothing(api: Api, database: Database, tmp_path: Path) -> None:
    """Whatever the document allows is answered as it says, and whatever it does not allow is rejected: no error of the
    server, no reply of another form, no endpoint without a token.
    """
    await fill(database, scenarios.generate(3, 30, ["story-1", "nowhere"], now=NOW), "story-1")
    failed = StripeEvent("evt_1", "charge.dispute.updated", NOW, False, None)
    await Recorder(database).record([ReceivedEvent(failed, "an unknown shape")])
    api.environ |= {"OPERATOR_TOKENS": entry("fuzz", "read+export+act", TOKEN), "OPERATOR_PLACES": "8"}
    async with ready_sidecar(api.socket), api.running() as process:
        await until(process, "listening on")
        run = await asyncio.to_thread(schemathesis, api.base, tmp_path)
        async with aiohttp.ClientSession(api.base) as session:
            reply = await session.get("/api/operator/actions", headers=bearer(TOKEN))
            assert reply.status == 200, run.stdout[-8000:]
    assert run.returncode == 0, run.stdout[-8000:]
    assert "Unexpected error" not in api.log.read_text()


def schemathesis(base: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs schemathesis with a token that has every scope."""
    (folder / "schemathesis.toml").write_text(SETTINGS)
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{base}{DOCUMENT_PATH}"),
        *("--header", f"Authorization: Bearer {TOKEN}", "--max-examples", str(EXAMPLES), "--no-color"),
        # Wrong tokens, which this check sends, would soon be answered 429 (test_operator_api.py sends them).
        *("--exclude-checks", "ignored_auth", "--suppress-health-check", "all"),
        *("--generation-database", "none", "--seed", "1", "--request-timeout", "60"),
    ]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder, timeout=LIMIT_S)


# A cursor, a time zone or a goal may have the form that the document states and be rejected for what it names.
SETTINGS = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 404, 409]
"""
