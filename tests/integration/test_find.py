"""`donationd find`: the donations of a Stripe object or of a donor, as a support person runs it."""

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from daemon.cli.main import main
from daemon.ledger import privacy
from daemon.simulator import scenarios
from tests.simulator.oracle import only_donation
from tests.support.ledger import KEY, NOW, named_scenario, record, rows, scenario

Donationd = Callable[..., Result]
SMITH = "alice.smith@example.com"


@pytest.fixture
def donationd(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Donationd:
    """Runs `donationd …` against the test's database."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("DONOR_EMAIL_HASH_KEY", KEY)
    return lambda *arguments, stdin="": CliRunner().invoke(main, arguments, input=stdin)


def found_ids(done: Result) -> list[str]:
    assert done.exit_code == 0, done.output
    return [json.loads(line)["id"] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("kind", ["refunded", "dispute_lost", "paid_late"])
def test_any_object_of_a_donation_finds_it(donationd: Donationd, database_url: str, kind: str) -> None:
    """PaymentIntent, session, charge, refund and dispute lead to the same donation; nothing is on record."""
    one = scenario(kind)
    record(database_url, [*one.events, *scenario("paid").events])
    ids = {event["data"]["object"]["id"] for event in one.events}
    assert len(ids) > 2
    for id_ in ids:
        assert found_ids(donationd("find", id_, "--json")) == [only_donation(one).donation]
    assert donationd("audit").stdout == ""


def test_a_line_answers_whether_it_was_refunded(donationd: Donationd, database_url: str) -> None:
    """It is that of `donationd ledger`, with the ticket and the id."""
    refunded = scenario("refunded")
    record(database_url, refunded.events)
    line = donationd("find", only_donation(refunded).donation).stdout
    [listed] = donationd("ledger", only_donation(refunded).ticket or "", "--ids").stdout.splitlines()[3:4] or [""]
    assert " - REFUNDED (refund: " in line
    assert line.endswith(f" - ticket {only_donation(refunded).ticket} - {only_donation(refunded).donation}\n")
    assert not listed or listed.split(" - pi_")[0] in line


def test_an_e_mail_finds_every_donation_of_its_donor(donationd: Donationd, database_url: str) -> None:
    """It is read from the terminal in any spelling, also where a hash was made without the key; the newest donation
    comes first, and the search is on record, without e-mail and hash.
    """
    several = scenarios.generate(5, 60, ["story-1"], now=NOW)
    record(database_url, [event for each in several for event in each.events])
    hash_ = privacy.email_hash(SMITH, KEY.encode())
    order = "SELECT id, donor_email_hash FROM stripe_attributions ORDER BY coalesce(paid_at, created_at) DESC, id"
    stored = [id_ for id_, stored_hash in rows(database_url, order) if stored_hash == hash_]
    assert len(stored) > 3
    by_email = donationd("find", "--email", "--json", "--by", "alex", stdin=f" {SMITH.upper()} \n")
    assert found_ids(by_email) == stored
    assert found_ids(donationd("find", str(hash_).upper(), "--json")) == stored
    without_key = f"'{privacy.email_hash(SMITH, None)}'"
    rows(database_url, f"UPDATE stripe_attributions SET donor_email_hash = {without_key} WHERE id = '{stored[0]}'")  # noqa: S608
    assert found_ids(donationd("find", "--email", "--json", stdin=SMITH)) == stored
    limited = donationd("find", "--email", "--limit", "2", "--json", stdin=SMITH)
    assert found_ids(limited) == stored[:2]
    assert "there are more than these 2" in limited.stderr
    actions = [json.loads(line) for line in donationd("audit", "--json").stdout.splitlines()]
    assert [(each["action"], each["detail"]) for each in actions] == [("search", "e-mail hash")] * 4
    assert actions[-1]["by"] == "alex"
    assert str(hash_) not in donationd("audit", "--json").stdout
    assert SMITH not in by_email.output.lower()


def test_what_is_not_found_is_a_sentence(donationd: Donationd, database_url: str) -> None:
    """Exit status 1 where nothing has the id or the hash; 2 for what cannot be searched for, an e-mail among it."""
    record(database_url, named_scenario().events)
    for words, stdin, sentence in (
        (["pi_unknown"], "", "no donation has the id"),
        (["evt_1"], "", "no donation has the id"),
        (["f" * 64], "", "no donation has this e-mail"),
        (["--email"], "nobody@example.com", "no donation has this e-mail"),
    ):
        done = donationd("find", *words, stdin=stdin)
        assert (done.exit_code, done.stdout) == (1, "")
        assert sentence in done.stderr
    for words, sentence in (
        ([], "give an id or a hash, or --email"),
        (["pi_1", "--email"], "give an id or a hash, or --email"),
        ([SMITH], "use --email"),
        (["pi 1"], "neither the id of a Stripe object"),
        (["pi_1", "--limit", "0"], "limit"),
    ):
        done = donationd("find", *words)
        assert (done.exit_code, sentence in done.stderr) == (2, True), done.stderr
    for stdin in ("\n", "x" * 1_000_000):
        assert donationd("find", "--email", stdin=stdin).exit_code == 2
