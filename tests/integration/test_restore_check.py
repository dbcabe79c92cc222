"""The restore drill: it finds the restored ledger equal, and it can fail."""

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from psycopg2.extensions import connection as Connection

from daemon.cli.main import main
from daemon.jobs.reconcile import Reconciled
from daemon.operator_log import apply as applying
from daemon.restore_check import drill
from sql.database import Database

KINDS = {
    *("audit chain", "closed reports", "dismissed warnings", "donations", "events", "facts", "fees", "filed entries"),
    *("filed fees", "keys", "mails"),
    *("objects", "operator actions", "payouts", "receipts", "sums by time", "tickets", "totals"),
}
_numbers = itertools.count(1)


def restore_check() -> Result:
    return CliRunner().invoke(main, ["restore-check", "--events", "100", "--json"])


def test_a_ledger_that_was_lost_is_back() -> None:
    """With a PostgreSQL of its own, of which nothing is left: every kind of row is equal, and some of each."""
    ran = restore_check()
    found = json.loads(ran.stdout)
    assert (ran.exit_code, found["isEqual"], found["problems"]) == (0, True, [])
    assert {each["kind"] for each in found["compared"] if each["rows"] and not each["differing"]} == KINDS


# --- It can fail; on a database of the tests' server, which is quicker


@pytest.fixture
def ledger_of_tests(
    postgres: str, administrator: Connection, template: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The drill's ledger is a database of the tests' server."""
    name, cursor = f"drill_{next(_numbers)}", administrator.cursor()

    class TestLedger:
        def __init__(self, _folder: Path, _report: Callable[[str], None]) -> None:
            self.url = postgres.format(name=name)
            cursor.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")

        def running(self) -> AbstractContextManager[None]:
            return nullcontext()

        def back_up(self) -> None:
            cursor.execute(f"CREATE DATABASE {name}_backup TEMPLATE {name} STRATEGY FILE_COPY")

        def destroy(self) -> None:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")

        def restore(self) -> None:
            cursor.execute(f"ALTER DATABASE {name}_backup RENAME TO {name}")

    monkeypatch.setattr(drill, "ScratchLedger", TestLedger)
    yield
    cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    cursor.execute(f"DROP DATABASE IF EXISTS {name}_backup WITH (FORCE)")


async def nothing(*_arguments: object, **_named: object) -> None: ...


async def apply_without_mail_start(database: Database, path: Path) -> None:
    """The operator log is applied, but for the time since when donors are thanked."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delitem(applying.KEYS, "mail_start")
        await applying.apply(database, path)


async def no_reconciliation(*_arguments: object, **_named: object) -> Reconciled:
    return Reconciled()


BROKEN = {
    "no replay": ({"replay": nothing}, {"facts"}, "differed from Stripe's objects"),
    "nothing from Stripe": (
        {"replay": nothing, "reconcile": no_reconciliation},
        {"donations", "events", "facts", "objects", "sums by time", "totals"},
        "",
    ),
    "no reconciliation, and no time since when donors are thanked": (
        {"reconcile": no_reconciliation, "apply": apply_without_mail_start},
        {"mails"},
        "mails still wait",
    ),
    "no operator log": (
        {"apply": nothing},
        {
            "operator actions",
            "audit chain",
            "closed reports",
            "filed fees",
            "tickets",
            "receipts",
            "mails",
            "donations",
        },
        "contain data of erased donors",
    ),
}


@pytest.mark.usefixtures("ledger_of_tests")
@pytest.mark.parametrize(("broken", "kinds", "problem"), BROKEN.values(), ids=BROKEN)
def test_what_is_not_back_is_found(
    broken: dict[str, object], kinds: set[str], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that does not do its work makes the drill fail, with the kinds of rows that differ."""
    for name, step in broken.items():
        monkeypatch.setattr(drill, name, step)
    ran = restore_check()
    found = json.loads(ran.stdout)
    assert (ran.exit_code, found["isEqual"]) == (1, False)
    assert {each["kind"] for each in found["compared"] if each["differing"]} >= kinds
    assert any(problem in each for each in found["problems"]) or not problem
