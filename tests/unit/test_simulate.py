"""The generator of payment scenarios: repeatable and consistent with itself."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.simulator.scenarios import DISTRIBUTION, KINDS, Scenario, generate, seed_example, shuffled
from daemon.simulator.sender import encode
from daemon.simulator.stripe_objects import Json
from tests.simulator.oracle import Expected, expected_donations, only_donation

NOW = 1_800_000_000


@pytest.fixture(scope="module")
def scenarios() -> list[Scenario]:
    """Six hundred scenarios over three tickets."""
    return generate(7, 600, ["story-1", "story-2", "story-3"], now=NOW)


def ends(scenarios: Sequence[Scenario]) -> list[Expected]:
    """What is expected of all donations of these scenarios."""
    return [end for scenario in scenarios for end in expected_donations(scenario)]


def rows(scenario: Scenario, prefix: str) -> list[Json]:
    """The objects of a scenario's events whose type starts with the prefix, in order."""
    return [event["data"]["object"] for event in scenario.events if event["type"].startswith(prefix)]


# --- The scenarios


def test_same_seed_same_scenarios() -> None:
    """The same arguments give the same scenarios, and fewer payments give a prefix of more."""
    assert generate(3, 40, ["a", "b"], now=NOW) == generate(3, 40, ["a", "b"], now=NOW)
    assert generate(3, 40, ["a", "b"], now=NOW)[:25] == generate(3, 25, ["a", "b"], now=NOW)
    assert generate(4, 5, ["a"], now=NOW) != generate(3, 5, ["a"], now=NOW)


@given(st.integers())
def test_every_kind_appears(seed: int) -> None:
    """Twenty payments hold every kind of scenario, whatever the seed."""
    assert len(DISTRIBUTION) == 20
    assert {scenario.kind for scenario in generate(seed, 20, ["a"], now=NOW)} == {kind.name for kind in KINDS}


def test_no_ticket_is_an_error() -> None:
    """Without a ticket to give to there are no scenarios."""
    with pytest.raises(ValueError, match="no ticket"):
        generate(1, 1, [], now=NOW)


def test_ids_are_unique(scenarios: list[Scenario]) -> None:
    """No two events, and no two donations, share an id."""
    events = [event["id"] for scenario in scenarios for event in scenario.events]
    assert len(set(events)) == len(events)
    donations = [end.donation for end in ends(scenarios)]
    assert len(set(donations)) == len(donations) > len(scenarios)


def test_events_lie_in_order_before_now(scenarios: list[Scenario]) -> None:
    """Events come in time order, within the last 30 days (a monthly donation: 62), in whole seconds, in test mode."""
    for scenario in scenarios:
        times = [event["created"] for event in scenario.events]
        assert times == sorted(times)
        days = 62 if scenario.kind == "monthly" else 30
        assert NOW - days * 86_400 <= times[0] <= times[-1] <= NOW, scenario.kind
        assert all(type(at) is int for at in times)
        assert not any(event["livemode"] or event["data"]["object"].get("livemode") for event in scenario.events)


def test_live_mode_is_said_everywhere() -> None:
    """With livemode every event and every object that names a mode names the live one."""
    for scenario in generate(1, 20, ["a"], livemode=True, now=NOW):
        assert all(event["livemode"] for event in scenario.events)
        assert all(event["data"]["object"].get("livemode", True) for event in scenario.events)


def test_today_s_shapes(scenarios: list[Scenario]) -> None:
    """PaymentIntents name their charge by id and carry no `charges`; refunds and disputes carry no metadata."""
    for scenario in scenarios:
        for intent in rows(scenario, "payment_intent."):
            assert "charges" not in intent
            assert intent["latest_charge"] is None or intent["latest_charge"].startswith("ch_")
        for linked in rows(scenario, "refund.") + rows(scenario, "charge.dispute."):
            assert linked["metadata"] == {}
            assert linked["payment_intent"] == only_donation(scenario).donation


def test_bodies_are_of_a_real_size(scenarios: list[Scenario]) -> None:
    """A charge's body has about the 3 kB of a real one."""
    sizes = [
        len(encode(event)) for scenario in scenarios for event in scenario.events if event["type"] == "charge.succeeded"
    ]
    assert 2_500 < min(sizes) <= max(sizes) < 5_000


# --- What is expected of the ledger


def test_amounts_are_consistent(scenarios: list[Scenario]) -> None:
    """Refunded and disputed money never exceeds the amount, and only paid donations have any."""
    for expected in ends(scenarios):
        amount = expected.amount_minor or 0
        assert amount > 0
        assert 0 <= expected.refunded_minor <= amount
        assert 0 <= expected.disputed_minor <= amount - expected.refunded_minor
        if expected.paid_at is None:
            assert expected.refunded_minor == expected.disputed_minor == 0
        assert (expected.refunded_at is None) == (expected.refunded_minor == 0)
        assert expected.currency != "KWD" or amount % 10 == expected.refunded_minor % 10 == 0


def test_statuses_follow_the_kinds(scenarios: list[Scenario]) -> None:
    """Each kind ends in the status its name says."""
    statuses: dict[str, set[str]] = {}
    for scenario in scenarios:
        statuses.setdefault(scenario.kind, set()).update(end.status for end in expected_donations(scenario))
    assert statuses == {
        "paid": {"PAID"},
        "paid_late": {"PAID"},
        "refunded": {"REFUNDED"},
        "partially_refunded": {"PAID"},
        "dispute_won": {"PAID"},
        "dispute_lost": {"DISPUTED"},
        "dispute_open": {"DISPUTED"},
        "inquiry": {"PAID", "DISPUTED"},
        "expired": {"EXPIRED"},
        "failed_then_paid": {"PAID"},
        "no_ticket": {"PAID"},
        "refund_failed": {"PAID"},
        "debit_failed": {"FAILED"},
        "debit_returned": {"FAILED"},
        "monthly": {"PAID"},
    }


def test_money_follows_the_kinds(scenarios: list[Scenario]) -> None:
    """Refunds and disputes move what their kind says; a failed refund and a won dispute move nothing."""
    for kind, end in [(scenario.kind, end) for scenario in scenarios for end in expected_donations(scenario)]:
        amount, refunded, disputed = end.amount_minor or 0, end.refunded_minor, end.disputed_minor
        match kind:
            case "refunded":
                assert (refunded, disputed) == (amount, 0)
            case "partially_refunded":
                assert 0 < refunded < amount
                assert disputed == 0
            case "dispute_lost" | "dispute_open":
                assert (refunded, disputed) == (0, amount)
            case "inquiry":
                assert (refunded, disputed) in {(0, 0), (0, amount)}
            case _:
                assert (refunded, disputed) == (0, 0)


def test_charge_snapshots_agree(scenarios: list[Scenario]) -> None:
    """The last charge.refunded before any failure says the sum of the refunds that were created."""
    for scenario in scenarios:
        snapshots = rows(scenario, "charge.refunded")
        if snapshots:
            assert snapshots[-1]["amount_refunded"] == sum(r["amount"] for r in rows(scenario, "refund.created"))


def test_ticket_is_found_where_the_scenario_names_it(scenarios: list[Scenario]) -> None:
    """A scenario with a ticket names it in metadata or in client_reference_id; one without names none anywhere."""
    ways: Counter[str] = Counter()
    for scenario in scenarios:
        objects = [event["data"]["object"] for event in scenario.events]
        metadata = {each.get("metadata", {}).get("ticketId") for each in objects} - {None}
        reference = {each.get("client_reference_id") for each in objects} - {None}
        assert metadata | reference == ({end.ticket for end in expected_donations(scenario)} - {None})
        ways["metadata" if metadata else "reference" if reference else "none"] += 1
    assert set(ways) == {"metadata", "reference", "none"}


def test_donors_are_of_every_sort(scenarios: list[Scenario]) -> None:
    """Named and nameless donors appear, and a name is only ever expected if some event carried it."""
    for scenario in scenarios:
        text = json.dumps(scenario.events, ensure_ascii=False)
        for donor in (end.donor or "" for end in expected_donations(scenario)):
            assert donor in text
            assert "@" not in donor
    assert {None, "Smith", "López", "O'Neill", "山田"} <= {end.donor for end in ends(scenarios)}


def test_seed_example() -> None:
    """The four donations of the original ledger view: 350.00 paid, 100.00 of it refunded."""
    four = ends(seed_example())
    assert [(e.donor, e.country, e.amount_minor, e.status) for e in four] == [
        ("Smith", "US", 5000, "PAID"),
        ("Johnson", "CA", 10_000, "REFUNDED"),
        (None, None, 7500, "PAID"),
        ("Garcia", "MX", 12_500, "PAID"),
    ]
    assert {e.ticket for e in four} == {"ticket_abc123"}
    assert [e.refunded_at for e in four] == [None, 1_734_339_600, None, None]


# --- Out of order


def test_shuffled_keeps_every_event() -> None:
    """Shuffling loses nothing, repeats a tenth, and is repeatable."""
    some = generate(5, 30, ["a"], now=NOW)
    events = [event for scenario in some for event in scenario.events]
    mixed = shuffled(some, 9)
    assert {event["id"] for event in mixed} == {event["id"] for event in events}
    assert len(mixed) == len(events) + round(len(events) * 0.1)
    assert [event["created"] for event in mixed] != sorted(event["created"] for event in mixed)
    assert mixed == shuffled(some, 9)
    assert shuffled([], 9) == []


def test_the_simulator_is_independent() -> None:
    """The simulator imports nothing of ours."""
    code = "import sys, daemon.simulator.sender, daemon.simulator.scenarios; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    ours = {name for name in modules if name.split(".")[0] in ("daemon", "health_sidecar", "sql", "tests")}
    assert "daemon.simulator.scenarios" in ours
    assert {name for name in ours if not name.startswith("daemon.simulator")} == {"daemon"}
