"""`donationd failed`, as an operator runs it, on a real PostgreSQL."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import psycopg2
import pytest
from click.testing import CliRunner, Result

from daemon.cli.main import main
from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.recorder import Recorder
from daemon.ledger.stripe_events import StripeEvent
from sql import load
from tests.support.instance import eventually
from tests.support.ledger import NOW, ask, rows

REASON = "an unknown dispute status - at `$.status`"


@pytest.fixture
def donationd(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `donationd …` against the test's database."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    return lambda *arguments: CliRunner().invoke(main, arguments)


def record(url: str, event_id: str, error: str | None) -> None:
    """Records a delivery of an event, which could not be applied if there is an error."""
    event = StripeEvent(event_id, "charge.dispute.updated", NOW, False, None)
    ask(url, lambda database: Recorder(database).record([ReceivedEvent(event, error)]))


def waiting(url: str) -> int:
    """How many failed events `donationd status` and the metric count."""
    [(_unassigned, failed, *_others)] = rows(url, load("count_backlog"))
    return int(failed)


def listed(donationd: Callable[..., Result], *options: str) -> list[str]:
    return [json.loads(line)["id"] for line in donationd("failed", "list", "--json", *options).stdout.splitlines()]


def test_failed_events_are_listed_with_their_reason(donationd: Callable[..., Result], database_url: str) -> None:
    """Only events that failed, received last first, as a table or as JSON; an empty list is no error."""
    empty = donationd("failed", "list")
    assert (empty.exit_code, empty.stdout, empty.stderr) == (0, "", "0 of 0 events that could not be applied\n")
    for event_id, error in (("evt_old", REASON), ("evt_applied", None), ("evt_new", REASON)):
        record(database_url, event_id, error)
    rows(database_url, "UPDATE stripe_events SET processed_at = '2025-10-09T09:00Z' WHERE id = 'evt_old'")
    titles, new, old = donationd("failed", "list").stdout.splitlines()
    assert titles.split() == ["EVENT", "TYPE", "CREATED", "RECEIVED", "REASON"]
    assert new.startswith("evt_new  charge.dispute.updated  2025-10-09 08:53")
    assert old == f"evt_old  charge.dispute.updated  2025-10-09 08:53  2025-10-09 09:00  {REASON}"
    limited = donationd("failed", "list", "--json", "--limit", "1")
    assert json.loads(limited.stdout)["id"] == "evt_new"
    assert "1 of 2 events" in limited.stderr
    assert json.loads(donationd("failed", "list", "--json").stdout.splitlines()[1]) == {
        **{"id": "evt_old", "type": "charge.dispute.updated", "error": REASON, "dismissedAt": None},
        **{"createdAt": "2025-10-09T08:53:20Z", "receivedAt": "2025-10-09T09:00:00Z"},
    }


def test_a_dismissed_event_waits_no_more(donationd: Callable[..., Result], database_url: str) -> None:
    """It is neither counted nor listed, keeps its reason, and who dismissed it is on record; others still wait."""
    for event_id in ("evt_1", "evt_2"):
        record(database_url, event_id, REASON)
    done = donationd("failed", "dismiss", "evt_1", "--by", "alex")
    assert (done.exit_code, done.stdout) == (0, "dismissed evt_1\n")
    assert waiting(database_url) == 1
    assert listed(donationd) == ["evt_2"]
    assert sorted(listed(donationd, "--all")) == ["evt_1", "evt_2"]
    titles, *_ = donationd("failed", "list", "--all").stdout.splitlines()
    assert titles.split() == ["EVENT", "TYPE", "CREATED", "RECEIVED", "DISMISSED", "REASON"]
    assert rows(database_url, "SELECT error FROM stripe_events WHERE dismissed_at IS NOT NULL") == [(REASON,)]
    assert donationd("audit").stdout.endswith("alex             dismiss evt_1\n")
    [act] = map(json.loads, donationd("audit", "--json").stdout.splitlines())
    assert (act["by"], act["action"], act["donation"], act["event"]) == ("alex", "dismiss", None, "evt_1")
    assert donationd("failed", "dismiss", "evt_2").exit_code == 0
    assert waiting(database_url) == 0


@pytest.mark.parametrize(
    ("event_id", "said"),
    [
        ("evt_unknown", "there is no event evt_unknown"),
        ("evt_applied", "event evt_applied did not fail"),
        ("evt_dismissed", "event evt_dismissed was dismissed before, at 20"),
    ],
)
def test_only_a_failed_event_can_be_dismissed_once(
    donationd: Callable[..., Result], database_url: str, event_id: str, said: str
) -> None:
    """An unknown event, one that did not fail, and one dismissed before: a sentence, exit status 1, nothing changed."""
    record(database_url, "evt_applied", None)
    record(database_url, "evt_dismissed", REASON)
    assert donationd("failed", "dismiss", "evt_dismissed").exit_code == 0
    before = rows(database_url, "SELECT * FROM stripe_events ORDER BY id")
    refused = donationd("failed", "dismiss", event_id)
    assert (refused.exit_code, said in refused.stderr) == (1, True)
    assert rows(database_url, "SELECT * FROM stripe_events ORDER BY id") == before
    assert rows(database_url, "SELECT count(*) FROM operator_acts") == [(1,)]


def test_what_is_no_event_id_is_wrong_usage(donationd: Callable[..., Result]) -> None:
    """Exit status 2 and an example of an id."""
    wrong = donationd("failed", "dismiss", "evt 1; DROP TABLE")
    assert (wrong.exit_code, "evt_1PqXb2Lkd" in wrong.stderr) == (2, True)


def test_a_dismissed_event_stays_dismissed_while_it_fails(donationd: Callable[..., Result], database_url: str) -> None:
    """Stripe delivers it again for three days: that does not bring it back, but applying it clears its reason."""
    record(database_url, "evt_1", REASON)
    assert donationd("failed", "dismiss", "evt_1").exit_code == 0
    record(database_url, "evt_1", REASON)
    assert (waiting(database_url), listed(donationd)) == (0, [])
    record(database_url, "evt_1", None)
    assert listed(donationd, "--all") == []
    assert donationd("failed", "dismiss", "evt_1").exit_code == 1


def test_two_operators_dismiss_an_event_at_once(donationd: Callable[..., Result], database_url: str) -> None:
    """One of them dismisses it; the other one is shown that it changed meanwhile, and no second act is recorded."""
    record(database_url, "evt_1", REASON)
    with ThreadPoolExecutor() as threads, closing(psycopg2.connect(database_url)) as first, first.cursor() as cursor:
        cursor.execute(load("dismiss_event"), {"id": "evt_1", "actor": "alex"})
        second = threads.submit(donationd, "failed", "dismiss", "evt_1")
        waits = (
            "SELECT application_name FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        eventually(lambda: rows(database_url, waits) == [("donationd cli",)], "the second one waits for the first")
        first.commit()
        refused = second.result()
    assert (refused.exit_code, "changed at this moment" in refused.stderr) == (1, True)
    assert rows(database_url, "SELECT actor FROM operator_acts") == [("alex",)]
