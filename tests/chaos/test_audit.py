"""The reckoning of `make chaos` sees what it is there for."""

import random
import time
from email.message import EmailMessage

import pytest

from daemon.receipts.config import parse_sender
from daemon.receipts.mail import message_id
from daemon.simulator.scenarios import generate
from tests.chaos.audit import Incident, Record, Verdict, gap_s, judge_ledger, judge_replies, table
from tests.chaos.faults import FAULTS, Fault, deal
from tests.chaos.jobs import judge_jobs
from tests.chaos.load import NO_REPLY, Reply
from tests.chaos.site import MAIL_FROM, execute
from tests.support.mail_server import MailServer

KILLED = Fault("killed", FAULTS[0].inject, hangs_up=True)
DOWN = Fault("down", FAULTS[0].inject)
INCIDENTS = [Incident(KILLED, 10, 11, 12), Incident(DOWN, 20, 25, 26)]
WELL = [Reply("a", 1, 1.1, 200, False), Reply("a", 2, 2.1, 200, True), Reply("b", 21, 21.1, 503)]


def judged(*replies: Reply, incidents: list[Incident] = INCIDENTS) -> dict[str, int]:
    """What is not zero for these replies."""
    verdict = Verdict()
    judge_replies(Record(incidents, list(replies), [], [], whole=False), verdict)
    return {name: count for name, count in verdict.counts.items() if count}


def test_what_is_promised_counts_as_nothing() -> None:
    """200 at any time, 503 during a fault, no reply where the API was killed, and two deliveries at once both new."""
    silent = Reply("c", 10.5, 10.6, NO_REPLY)
    at_once = [Reply("d", 3, 3.2, 200, False), Reply("d", 3.1, 3.2, 200, False)]
    assert judged(*WELL, silent, *at_once) == {}


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        (Reply("x", 5, 5.1, 503), "unexpected replies"),
        (Reply("x", 21, 21.1, NO_REPLY), "unexpected replies"),
        (Reply("x", 21, 21.1, 500), "unexpected replies"),
        (Reply("x", 14, 23, 200, True), "replies over the deadline"),
        (Reply("a", 5, 5.1, 200, False), "new after it was acknowledged"),
    ],
)
def test_each_broken_promise_is_counted(reply: Reply, found: str) -> None:
    """A 503 without a fault, silence or an error in one, a late reply, a second time new."""
    assert judged(*WELL, reply) == {found: 1}


def test_a_fault_that_leaves_no_process_to_answer_excuses_a_late_reply() -> None:
    """What is waited for while a process is stopped does not count."""
    assert judged(Reply("x", 9, 19, 200, True), incidents=[Incident(KILLED, 10, 18, 18.5)]) == {}


def test_recovery_has_a_bound() -> None:
    """Coming back too late is counted."""
    assert judged(incidents=[Incident(DOWN, 10, 20, 50)]) == {"slow recoveries": 1}


def test_the_ledger_is_held_against_what_was_acknowledged(database_url: str) -> None:
    """An acknowledged event and donations that the ledger lacks are found; the table shows it."""
    begun = generate(1, 1, ["story-1"], now=int(time.time()))
    verdict = Verdict()
    record = Record(INCIDENTS, [Reply(begun[0].events[0]["id"], 1, 1.1, 200, False)], begun, [], whole=True)
    judge_ledger(record, database_url, verdict)
    assert verdict.counts["acknowledged and missing"] == 1
    assert verdict.counts["wrong donations"] == 1
    assert not verdict.clean
    assert "acknowledged and missing: evt_" in table([record], verdict)


def test_the_same_seed_deals_the_same_faults() -> None:
    """Every kind comes once before any comes twice."""
    assert deal(random.Random(7), 60, FAULTS) == deal(random.Random(7), 60, FAULTS)
    assert set(deal(random.Random(7), len(FAULTS), FAULTS)) == set(FAULTS)


OUTBOX = "INSERT INTO outbox (donation_id, kind, seq, state) VALUES ('pi_1', 'thanks', 0, 'sent')"
RECEIPT = """
INSERT INTO receipts (year, number, donation_id, amount_minor, currency, paid_at, issued_at, language, template,
                      pdf_sha256)
SELECT 2026, number, 'pi_1', 1, 'USD', now(), now(), 'en', repeat('a', 12), repeat('b', 64) FROM unnest(%s) AS number
"""


def judged_jobs(url: str, *ids: str) -> dict[str, int]:
    """What is not zero when mails with these ids have come."""
    server = MailServer()
    for id_ in ids:
        server.received.append(EmailMessage())
        server.received[-1]["Message-ID"] = id_
    verdict = Verdict()
    judge_jobs(url, server, verdict)
    return {name: count for name, count in verdict.counts.items() if count}


def test_each_fault_of_the_jobs_is_counted(database_url: str) -> None:
    """A mail that came twice, one that is called sent and never came, and a receipt's number that is missing."""
    id_ = message_id("pi_1", "thanks", 0, parse_sender(MAIL_FROM))
    execute(database_url, OUTBOX)
    execute(database_url, RECEIPT, [1, 2])
    assert judged_jobs(database_url, id_) == {}
    assert judged_jobs(database_url, id_, id_) == {"mails that came twice": 1}
    assert judged_jobs(database_url) == {"mails that never came": 1}
    execute(database_url, RECEIPT, [4])
    assert judged_jobs(database_url, id_) == {"gaps in receipt numbers": 1}


PAID = """
INSERT INTO stripe_attributions (id, root, facts, session_id, status, amount_minor, currency, refunded_minor,
                                 disputed_minor, created_at, paid_at)
VALUES ('pi_1', 'pi_1', '{}', 'cs_1', 'PAID', 1, 'USD', 0, 0, now(), now())
"""


def test_paid_donations_are_held_against_mails_and_receipts(database_url: str) -> None:
    """One without a mail, one with two receipts that are valid, and a mail that was given up for no reason of the
    donor's; a mail without an address is only a figure."""
    execute(database_url, PAID)
    assert judged_jobs(database_url) == {"paid donations without a mail": 1}
    execute(database_url, "INSERT INTO outbox (donation_id, kind, seq, state, reason) "
                          "VALUES ('cs_1', 'thanks', 0, 'undelivered', 'no e-mail address')")  # fmt: skip
    assert judged_jobs(database_url) == {}
    execute(database_url, RECEIPT, [1, 2])
    assert judged_jobs(database_url) == {"donations with two valid receipts": 1}
    execute(database_url, "UPDATE receipts SET voided_at = now() WHERE number = 1")
    execute(database_url, "UPDATE outbox SET reason = 'its document cannot be made'")
    assert judged_jobs(database_url) == {"mails undelivered without need": 1}


def test_the_gap_is_the_longest_time_without_a_200() -> None:
    """From the fault on: replies before it, after its consequences, and those that are no 200, do not count."""
    at = {19: 200, 20.5: 200, 22: 503, 24.5: 200, 25.5: 200, 90: 200}
    assert gap_s(INCIDENTS[1], [Reply("a", moment, moment, status) for moment, status in at.items()]) == 4
    assert gap_s(INCIDENTS[1], []) == 6
