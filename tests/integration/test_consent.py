"""Consent to showing a donor's name (SPEC 3): where it comes from, and that a withdrawal always wins."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from daemon.cli.main import main
from daemon.ledger import kept_facts, operator_actions, projection
from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.consent import is_signed, signature, withdrawal_key, withdrawal_link
from daemon.ledger.facts import FactName, Facts, Family, merge
from daemon.ledger.operators import Operators, UnknownDonation
from daemon.ledger.rebuild import rebuild
from daemon.ledger.recorder import Recorder
from daemon.ledger.stripe_events import read
from daemon.ledger.verification import verify
from daemon.simulator.sender import encode
from sql.database import Database
from sql.snapshot import snapshot
from tests.support.former_release import ReleaseBeforeConsent
from tests.support.ledger import ask, rows
from tests.support.model_ledger import TOTALS

AT = 1_793_000_000
TICKET = {"ticketId": "story-1"}
DONOR = {"name": "Ada Example", "email": "ada@example.org", "address": {"country": "US"}}
SHOWN = "SELECT id, consent, donor_last_name FROM stripe_attributions ORDER BY id"
Json = dict[str, Any]


def event(event_type: str, created: int, stripe_object: Json) -> ReceivedEvent:
    """An event as the webhook reduces it."""
    id_ = f"evt_{event_type}_{created}_{stripe_object['id']}".replace(".", "_")
    body = {"id": id_, "type": event_type, "created": created, "livemode": False, "data": {"object": stripe_object}}
    return ReceivedEvent(read(encode(body), livemode=False, hash_key=None))


def field(value: object, key: object = "showName") -> Json:
    """The custom field as a session contains it."""
    return {"key": key, "type": "dropdown", "optional": True, "dropdown": {"value": value, "options": []}}


def session(custom_fields: object, at: int = AT, id_: str = "cs_1", **more: object) -> ReceivedEvent:
    """A completed session of a single donation."""
    body: Json = {"id": id_, "mode": "payment", "created": AT, "payment_status": "paid", "metadata": TICKET}
    body |= {"payment_intent": "pi_1", "customer_details": DONOR, "amount_total": 5000, "currency": "usd"}
    return event("checkout.session.completed", at, body | {"custom_fields": custom_fields} | more)


def charge(intent: str = "pi_1", at: int = AT, **more: object) -> ReceivedEvent:
    """A charge that took the money."""
    body: Json = {"id": f"ch_{intent}", "amount": 5000, "amount_captured": 5000, "captured": True, "paid": True}
    body |= {"status": "succeeded", "currency": "usd", "created": at, "payment_intent": intent, "metadata": TICKET}
    return event("charge.succeeded", at, body | {"billing_details": DONOR} | more)


def monthly(consent: str) -> list[ReceivedEvent]:
    """The session that began a subscription, and its first two months."""
    begun = session([field(consent)], mode="subscription", subscription="sub_1", payment_intent=None)
    months = []
    for n in (1, 2):
        at = AT + n
        invoice = {"id": f"in_{n}", "payment_intent": f"pi_{n}", "subscription": "sub_1"}
        months += [event("invoice.paid", at, invoice), charge(f"pi_{n}", at, invoice=f"in_{n}")]
    return [begun, *months]


def consents(facts: Sequence[Facts]) -> set[bool]:
    """Whether the one donation of these facts shows its name, in every order of the facts."""
    found = set()
    for order in itertools.permutations(facts):
        [donation] = projection.donations(kept_facts.redact(merge({}, *order)))
        found.add(donation.consent)
    return found


def differences(url: str) -> list[str]:
    """What `donationd verify` reports."""
    with snapshot(url, "donationd test") as moment:
        return list(verify(moment, lambda _done: None))


# --- Where it comes from


@pytest.mark.parametrize(
    ("custom_fields", "consent"),
    [
        ([field("yes")], True),
        ([field("no")], False),
        ([field(None)], False),
        ([field("yes", "newsletter")], False),
        ([{"key": "name", "type": "text", "text": {"value": "Ada"}}, field("yes")], True),
        ([], False),
        (None, False),
    ],
)
def test_a_name_is_shown_only_if_the_donor_chose_so(custom_fields: object, consent: bool) -> None:
    """The field `showName` decides; without it, without a choice, and for other fields it stays no."""
    assert consents([session(custom_fields).facts, charge().facts]) == {consent}


@pytest.mark.parametrize(
    "custom_fields", ["yes", {}, [1], [{"key": 5}], [field(7)], [{"key": "showName", "dropdown": "yes"}]]
)
def test_a_malformed_field_costs_no_payment(custom_fields: object) -> None:
    """What a site asks beside the payment counts as absent if it has another shape; the event is applied."""
    facts = session(custom_fields).facts
    assert FactName.SHOW_NAME not in facts[Family.SESSION]["cs_1"]
    assert consents([facts]) == {False}


def test_the_newest_choice_counts_whatever_arrives_first() -> None:
    """Two snapshots of one session: the newer one decides."""
    assert consents([session([field("yes")]).facts, session([field("no")], AT + 9).facts]) == {False}
    assert consents([session([field("no")]).facts, session([field("yes")], AT + 9).facts]) == {True}


# --- A withdrawal


@given(st.permutations(range(4)), st.booleans())
def test_a_withdrawal_wins_in_any_order(order: list[int], erased: bool) -> None:
    """Whatever arrives before or after it, also the consent itself; erasing the donor ends it as well."""
    stated = [session([field("yes")]).facts, charge().facts, session([field("yes")], AT + 9).facts]
    act = operator_actions.erase if erased else operator_actions.withdraw_consent
    stated.append(act(stated[1], "pi_1", actor="anna", at_us=1).facts)
    [donation] = projection.donations(kept_facts.redact(merge({}, *(stated[n] for n in order), *stated)))
    assert not donation.consent
    [before] = projection.donations(merge({}, *stated[:3]))
    assert before.consent
    assert (donation.amount, donation.paid_at, donation.status) == (before.amount, before.paid_at, before.status)


def test_a_withdrawal_stays_with_a_failed_charge() -> None:
    """It was made when only the charge was known; later the charge is a failed attempt of a PaymentIntent, of those
    that are otherwise kept apart from their donation."""
    failed: dict[str, Any] = {"status": "failed", "paid": False, "amount_captured": 0, "captured": False}
    direct = charge(payment_intent=None, **failed).facts
    act = operator_actions.withdraw_consent(direct, "ch_pi_1", actor="anna", at_us=1)
    attempts = [charge(**failed).facts, charge("pi_1", AT + 9, id="ch_later", **failed).facts]
    assert kept_facts.split_attempts(merge({}, direct, *attempts))[1].keys() == {"ch_pi_1"}
    facts, apart = kept_facts.split_attempts(merge({}, direct, act.facts, *attempts))
    assert apart == {}
    [donation] = projection.donations(merge(facts, session([field("yes")]).facts))
    assert not donation.consent


async def test_a_monthly_donation_is_withdrawn_for_all_months(database: Database, database_url: str) -> None:
    """The session of the subscription consents for every month, and one withdrawal ends it for those to come too; no
    figure changes, and `verify` agrees."""
    events = monthly("yes")
    await Recorder(database).record(events[1:3])
    assert await database.fetch(SHOWN) == [("pi_1", False, "Example")]
    await Recorder(database).record([events[0]])
    await Recorder(database).record(events[3:])
    assert await database.fetch(SHOWN) == [("pi_1", True, "Example"), ("pi_2", True, "Example")]
    before = await database.fetch(TOTALS)
    action = await Operators(database, Recorder(database)).withdraw_consent("ch_pi_2", actor="anna")
    assert (action.action, action.donation) == ("withdraw", "pi_2")
    third = charge("pi_3", AT + 3, invoice="in_3")
    invoice = event("invoice.paid", AT + 3, {"id": "in_3", "payment_intent": "pi_3", "subscription": "sub_1"})
    await Recorder(database).record([third, invoice, *events])
    assert [consent for _, consent, _ in await database.fetch(SHOWN)] == [False, False, False]
    assert [
        (*row[:2], row[2] - 5000, *row[3:5], row[5] - 1, *row[6:]) for row in await database.fetch(TOTALS)
    ] == before
    assert await database.fetch("SELECT action, donation_id FROM operator_acts") == [("withdraw", "pi_2")]
    assert differences(database_url) == []


async def test_an_unknown_donation_is_named(database: Database) -> None:
    """Nothing is recorded for what no event has named."""
    with pytest.raises(UnknownDonation):
        await Operators(database, Recorder(database)).withdraw_consent("pi_9", actor="anna")
    assert await database.fetch("SELECT count(*) FROM operator_acts") == [(0,)]


async def test_what_the_release_before_writes_shows_no_name_until_it_is_derived_again(
    database: Database, database_url: str
) -> None:
    """During an upgrade the release before works on the new schema: the donation that it makes of a session's facts
    stays anonymous, and `rebuild` shows the name."""
    await Recorder(database).record([session([field("yes")], payment_intent=None)])
    former = ReleaseBeforeConsent(
        database_url, pool_size=1, statement_timeout_s=10, connect_timeout_s=5, application_name="donationd test"
    )
    await Recorder(former).record([session([], AT + 1), charge()])
    await former.close()
    assert await database.fetch(SHOWN) == [("pi_1", False, "Example")]
    assert await rebuild(database, lambda _done: None) == 1
    assert await database.fetch(SHOWN) == [("pi_1", True, "Example")]
    assert differences(database_url) == []


def test_the_command_withdraws(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`donationd withdraw-consent` by any id of the donation; an unknown one is exit status 1."""
    ask(database_url, lambda database: Recorder(database).record([session([field("yes")]), charge()]))
    monkeypatch.setenv("DATABASE_URL", database_url)
    done = CliRunner().invoke(main, ["withdraw-consent", "cs_1", "--by", "alex", "--json"])
    assert (done.exit_code, json.loads(done.stdout)["donation"]) == (0, "pi_1")
    assert rows(database_url, SHOWN) == [("pi_1", False, "Example")]
    assert CliRunner().invoke(main, ["withdraw-consent", "pi_9"]).exit_code == 1


# --- The links


@given(
    st.from_regex(r"pi_[A-Za-z0-9]{1,30}", fullmatch=True), st.binary(min_size=32, max_size=32), st.text(max_size=30)
)
def test_only_its_own_signature_opens_a_link(donation: str, key: bytes, other: str) -> None:
    """A link ends with the signature of its donation; another text, another donation and another key are refused."""
    link = withdrawal_link("https://give.example.org/", key, donation)
    address, _, given_ = link.rpartition("/")
    assert address == f"https://give.example.org/consent/{donation}"
    assert is_signed(key, donation, given_)
    assert is_signed(key, donation, other) == (other == given_)
    assert not is_signed(key, donation + "x", given_)
    assert not is_signed(key[::-1] + b"x", donation, given_)


async def test_the_key_is_the_ledgers(database: Database) -> None:
    """The migration made 32 random bytes, which every host reads."""
    key = await withdrawal_key(database)
    assert (len(key), len(set(key)) > 8, len(signature(key, "pi_1"))) == (32, True, 22)
    assert key == await withdrawal_key(database)
