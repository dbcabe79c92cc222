"""The operator's commands, as a person runs them, on a real PostgreSQL."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest
from click.testing import CliRunner, Result

from daemon.cli.main import main
from daemon.ledger import privacy
from daemon.simulator import scenarios
from tests.simulator.oracle import only_donation
from tests.support.ledger import KEY, NOW, add_ticket, named_scenario, record, rows, scenario
from tests.support.postgres import Clone, MakeTemplate

DEFACED = (
    "UPDATE stripe_attributions SET {} WHERE id = (SELECT min(id) FROM stripe_attributions WHERE paid_at > '2000-1-1')"
)


@pytest.fixture
def donationd(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs `donationd …` against the test's database."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("DONOR_EMAIL_HASH_KEY", KEY)
    return lambda *arguments, stdin="": CliRunner().invoke(main, arguments, input=stdin)


TOTALS = "SELECT * FROM ticket_totals WHERE paid_minor > 0 ORDER BY ticket_id, currency"
DONORS = "SELECT donor_last_name, donor_country, donor_email_hash FROM stripe_attributions"


def test_money_without_a_ticket_is_listed_and_moved(donationd: Callable[..., Result], database_url: str) -> None:
    """A payment without a ticket is counted, listed, and moved with its later events; the operator is recorded."""
    lost, strange = scenario("no_ticket"), scenario("paid")
    record(database_url, [*lost.events[:-1], *strange.events])
    listed = donationd("unassigned")
    assert (listed.exit_code, "2 of 2 unassigned" in listed.output) == (0, True)
    assert only_donation(lost).donation in listed.output
    add_ticket(database_url, "story-1")
    ids = [json.loads(line)["id"] for line in donationd("unassigned", "--json").stdout.splitlines()]
    assert ids == [only_donation(lost).donation]
    moved = donationd("assign", only_donation(lost).donation, "story-1", "--by", "alex")
    assert (moved.exit_code, moved.output) == (0, f"assigned {only_donation(lost).donation} to story-1\n")
    record(database_url, lost.events)
    assert "0 of 0 unassigned" in donationd("unassigned").output
    assert rows(database_url, "SELECT DISTINCT ticket_id FROM stripe_attributions") == [("story-1",)]
    assert f"alex             assign  {only_donation(lost).donation} story-1" in donationd("audit").output
    assert donationd("verify").exit_code == 0


def test_an_assignment_follows_a_session_into_its_payment(donationd: Callable[..., Result], database_url: str) -> None:
    """What was said of a session holds for its PaymentIntent's donation, and the newest assignment stands."""
    add_ticket(database_url, "story-8")
    add_ticket(database_url, "story-9")
    events = scenario("paid_late").events
    session = dict(next(e for e in events if e["type"].startswith("checkout.")))
    alone = {**session, "data": {"object": {**session["data"]["object"], "payment_intent": None}}}
    record(database_url, [alone])
    session_id = session["data"]["object"]["id"]
    assert donationd("assign", session_id, "story-8").exit_code == 0
    record(database_url, events)
    assert rows(database_url, "SELECT ticket_id FROM stripe_attributions") == [("story-8",)]
    assert donationd("assign", session_id, "story-9").exit_code == 0
    assert rows(database_url, "SELECT ticket_id FROM stripe_attributions") == [("story-9",)]
    assert donationd("verify").exit_code == 0


def test_an_assignment_needs_a_known_donation_and_ticket(donationd: Callable[..., Result], database_url: str) -> None:
    """Unknown ids fail with what to do next; wrong usage has another exit status."""
    add_ticket(database_url, "story-1")
    assert donationd("assign", "pi_unknown", "story-1").exit_code == 1
    unknown = donationd("assign", "pi_unknown", "story-2")
    assert (unknown.exit_code, "donationd tickets add story-2" in unknown.output) == (1, True)
    assert donationd("assign", "pi_unknown", "no such/form").exit_code == 2
    assert donationd("erase").exit_code == 2
    assert donationd("erase", "pi_unknown", "--email").exit_code == 2


def test_commands_that_take_an_id_say_where_ids_are_found(donationd: Callable[..., Result], database_url: str) -> None:
    """Their help and their errors name the commands that show ids, and those commands show them."""
    add_ticket(database_url, "story-1")
    record(database_url, [*scenario("paid").events, *scenario("no_ticket").events])
    for words in (["assign", "pi_unknown", "story-1"], ["erase", "pi_unknown", "--yes"], ["assign", "-", "story-1"]):
        failed = donationd(*words)
        assert failed.exit_code in (1, 2)
        for output in (failed.output, donationd(words[0], "--help").output):
            assert "donationd ledger TICKET --ids" in " ".join(output.split())
            assert "donationd unassigned" in " ".join(output.split())
    assert only_donation(scenario("paid")).donation in donationd("ledger", "story-1", "--ids").output
    assert only_donation(scenario("paid")).donation not in donationd("ledger", "story-1").output
    assert only_donation(scenario("no_ticket")).donation in donationd("unassigned").output


@pytest.mark.parametrize("ticket", ["story.1", "203.0.113.77", "123456789", "x" * 65, ""])
def test_a_ticket_id_has_no_dots_and_is_no_long_number(
    donationd: Callable[..., Result], database_url: str, ticket: str
) -> None:
    """Wrong usage, with the rule; a number of 8 digits may be one."""
    refused = donationd("tickets", "add", ticket)
    assert (refused.exit_code, "no more than 8 if all are digits" in refused.output) == (2, True)
    assert donationd("tickets", "add", "12345678").exit_code == 0
    assert rows(database_url, "SELECT id FROM recording_tickets") == [("12345678",)]


@pytest.mark.parametrize("by_email", [True, False])
def test_an_erased_donor_does_not_come_back(
    donationd: Callable[..., Result], database_url: str, by_email: bool
) -> None:
    """Three fields go, no total changes, redelivery restores nothing, and the act is on record."""
    erased = named_scenario()
    record(database_url, erased.events)
    totals = rows(database_url, TOTALS)
    assert rows(database_url, DONORS)[0][0] == "Smith"
    if by_email:
        done = donationd("erase", "--email", "--yes", stdin=" ALICE.smith@example.com \n")
    else:
        done = donationd("erase", only_donation(erased).donation, "--yes")
    assert (done.exit_code, done.output.splitlines()[-1]) == (0, "erased the donor of 1 donation(s)")
    record(database_url, erased.events)
    assert rows(database_url, DONORS) == [(None, None, None)]
    held = str(rows(database_url, "SELECT facts::text FROM stripe_attributions"))
    for form in (privacy.email_hash("alice.smith@example.com", KEY.encode()), "Smith", '"US"'):
        assert form is not None
        assert form not in held
    assert rows(database_url, TOTALS) == totals
    assert [json.loads(line)["action"] for line in donationd("audit", "--json").stdout.splitlines()] == ["erase"]
    assert donationd("verify").exit_code == 0


def test_an_email_of_no_donation_is_an_error(donationd: Callable[..., Result], database_url: str) -> None:
    """Nothing is erased, and the address is not repeated."""
    record(database_url, named_scenario().events)
    missing = donationd("erase", "--email", "--yes", stdin="nobody@example.com\n")
    assert (missing.exit_code, "nobody@" in missing.output) == (1, False)


def test_erasing_asks_first(donationd: Callable[..., Result], database_url: str) -> None:
    """Without a yes nothing happens."""
    record(database_url, named_scenario().events)
    refused = donationd("erase", only_donation(named_scenario()).donation, stdin="n\n")
    assert refused.exit_code == 1
    assert rows(database_url, DONORS)[0][0] == "Smith"


@pytest.fixture(scope="module")
def filled(make_template: MakeTemplate) -> str:
    """The payments of a simulation."""
    events = scenarios.shuffled(scenarios.generate(5, 40, ["story-1", "story-2"], now=NOW), 1)
    return make_template(lambda url: record(url, events))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (DEFACED.format("refunded_minor = 1"), "refunded is 1, should be 0"),
        (DEFACED.format("paid_at = NULL"), "paid_at is None"),
        (DEFACED.format("donor_last_name = 'Nobody'"), "last_name differs"),
        ("UPDATE ticket_totals SET paid_minor = paid_minor + 1", "paid_minor is"),
        ("UPDATE ticket_totals SET partially_refunded = 7", "partially_refunded is 7"),
        ("DELETE FROM ticket_totals", "should be"),
        ("INSERT INTO ticket_totals VALUES ('ghost', 'EUR', 5, 0, 0, 1, 0, 0, 0)", "total of ticket ghost in EUR"),
        (
            "UPDATE stripe_objects SET root = 'pi_other' WHERE starts_with(id, 'ch')",
            "kept by pi_other, should be by pi_",
        ),
        ("DELETE FROM stripe_objects WHERE starts_with(id, 're')", "kept by no row"),
        ("INSERT INTO stripe_objects VALUES ('ch_ghost', 'pi_ghost')", "Stripe objects are on record"),
    ],
)
def test_verify_finds_each_kind_of_damage(clone: Clone, filled: str, damage: str, said: str) -> None:
    """A right ledger passes; any figure, field or link that is off is named, with exit status 1."""
    with clone(filled) as url:
        verify = partial(CliRunner().invoke, main, ["verify"], env={"DATABASE_URL": url})
        right = verify()
        assert (right.exit_code, right.stdout) == (0, "the ledger and its facts agree\n")
        rows(url, damage)
        wrong = verify()
    assert wrong.exit_code == 1
    assert said in wrong.stdout
    assert "Nobody" not in wrong.output


def test_old_events_go_and_their_donations_stay(donationd: Callable[..., Result], database_url: str) -> None:
    """Only applied events older than asked for are dropped; a redelivery then changes nothing."""
    events = named_scenario().events
    record(database_url, events)
    rows(database_url, "UPDATE stripe_events SET processed_at = now() - interval '31 days'")
    rows(
        database_url,
        "UPDATE stripe_events SET error = 'scrubbed' WHERE id = (SELECT min(id) FROM stripe_events)",
    )
    before = rows(database_url, "SELECT * FROM stripe_attributions"), rows(database_url, TOTALS)
    assert donationd("prune", "--days", "32").output == "dropped 0 events older than 32 days\n"
    assert donationd("prune", "--days", "29").exit_code == 2
    done = donationd("prune", "--days", "30")
    assert (done.exit_code, done.output) == (0, f"dropped {len(events) - 1} events older than 30 days\n")
    assert rows(database_url, "SELECT error FROM stripe_events") == [("scrubbed",)]
    record(database_url, events)
    assert (rows(database_url, "SELECT * FROM stripe_attributions"), rows(database_url, TOTALS)) == before


def test_what_a_shared_row_holds_is_erased_for_good(donationd: Callable[..., Result], database_url: str) -> None:
    """A session that moves on to another PaymentIntent after its donor was erased brings no donor back."""
    found = named_scenario()
    session = next(dict(e) for e in found.events if e["type"].startswith("checkout."))
    moved = {**session["data"]["object"], "payment_intent": "pi_another"}
    later = {**session, "id": "evt_later", "created": session["created"] + 9, "data": {"object": moved}}
    record(database_url, found.events)
    assert donationd("erase", only_donation(found).donation, "--yes").exit_code == 0
    record(database_url, [later, *found.events])
    assert set(rows(database_url, DONORS)) == {(None, None, None)}
    assert donationd("verify").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("assign", "\udcff", "story-1"),
        ("assign", "pi_1", "story-1", "--by", " "),
        ("unassigned", "--limit", "99999999999999999999999"),
        ("prune", "--days", "10000000000"),
        ("erase", "no such id"),
    ],
)
def test_odd_arguments_are_wrong_usage(donationd: Callable[..., Result], arguments: tuple[str, ...]) -> None:
    """Exit status 2 and a sentence, never a trace."""
    assert donationd(*arguments).exit_code == 2


async def test_ctrl_c_ends_a_command_with_130(database_url: str) -> None:
    """Interrupted while it reads, a command ends with 130, as deploy/docs/reference.md says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "daemon.cli.main", "erase", "--email"),
        env={"PATH": os.environ["PATH"], "DATABASE_URL": database_url, "USER": "alex"},
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    await process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert b"interrupted" in await process.stderr.read()
    assert await process.wait() == 130


def test_a_reader_may_have_seen_enough() -> None:
    """`donationd … | head -1` is no failure."""
    command = f"{sys.executable} -m daemon.cli.main --help | head -1; exit ${{PIPESTATUS[0]}}"
    run = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True)
    assert (run.returncode, run.stderr, run.stdout.count("\n")) == (0, "", 1)
