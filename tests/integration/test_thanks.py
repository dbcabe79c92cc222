"""Donors are thanked once, get receipts, and corrections after refunds (SPEC 12)."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from email.message import EmailMessage

import pytest

from daemon.jobs.schedule import ProblemsFound
from daemon.ledger import operator_actions
from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.reader import Ledger
from daemon.ledger.recorder import Recorder
from daemon.ledger.stripe_events import read
from daemon.receipts import register
from daemon.receipts.donation import PaidDonation
from daemon.receipts.register import Receipt, Serial
from daemon.simulator import scenarios, sender
from daemon.simulator.payment import Payment
from daemon.simulator.stripe_objects import NO_DONOR
from sql import load
from sql.database import Database
from tests.support.thanks_site import ANN, ThanksSite, charge_of, id_of, thanks_site

SENT, QUEUED = ("thanks", "sent", None, None), ("thanks", "queued", None, None)
CORRECTED = ("correction", "sent", None, None)


@pytest.fixture
async def site(database: Database, database_url: str) -> AsyncIterator[ThanksSite]:
    async with thanks_site(database, database_url) as site:
        yield site


def pdf_of(mail: EmailMessage) -> bytes:
    """The PDF in a mail."""
    [attachment] = mail.iter_attachments()
    content = attachment.get_content()
    assert isinstance(content, bytes)
    return content


# --- what is sent -------------------------------------------------------------------------------------------------


async def test_a_payment_is_thanked_for_once(site: ThanksSite) -> None:
    """The mail has the receipt, whose number and hash are stored, and the link that withdraws the consent; another pass
    sends nothing."""
    payment = await site.pay(asks_consent=True, shows_name=True)
    await site.run()
    await site.run()
    [mail] = site.smtp.received
    assert site.smtp.envelopes == [("thanks@charity.example", ["ann@example.com"])]
    assert (mail["From"], mail["To"]) == ("Example Charity <thanks@charity.example>", "ann@example.com")
    assert (mail["Auto-Submitted"], mail["Content-Language"]) == ("auto-generated", "en")
    assert mail["Subject"] == "Thank you for your donation to Example Charity"
    for form in ("plain", "html"):
        body = mail.get_body((form,))
        assert body is not None
        text = body.get_content()
        assert "Dear Ann Ångström," in text
        assert "US$50.00" in text
        assert f"https://give.example.org/consent/{id_of(payment)}/" in text
    [(number, sha256, donation)] = await site.database.fetch("SELECT number, pdf_sha256, donation_id FROM receipts")
    assert (number, donation) == (1, id_of(payment))
    assert hashlib.sha256(pdf_of(mail)).hexdigest() == sha256
    assert await site.mails() == [SENT]


async def test_a_pass_shows_how_far_it_is(site: ThanksSite) -> None:
    """Otherwise `donationd status` shows why an earlier pass failed until the last mail is sent."""
    progress: list[str] = []

    async def report(text: str) -> None:
        progress.append(text)

    await site.pay()
    await site.pay()
    await site.run(report=report)
    assert progress == ["2 mails tried"]


async def test_only_what_is_paid_since_the_start_is_thanked_for(database: Database, database_url: str) -> None:
    """A payment of before the first pass is not queued, even when later events change it; one of after it is."""
    async with thanks_site(database, database_url) as site:
        await database.fetch("DELETE FROM mail_start")
        before = await site.pay()
        await site.run()
        await site.refund(before, 1000)
        assert await site.mails() == []
        await database.fetch("UPDATE mail_start SET started_at = now() - interval '2 hours'")
        await site.pay()
        assert await site.mails() == [QUEUED]


async def test_no_mail_is_sent_while_a_restored_ledger_may_lack_something(site: ThanksSite) -> None:
    """An operator reads why. A comparison with Stripe's objects that began before the restore, or that did not reach 30
    days back, does not end it."""
    now, day = int(time.time()), 86_400
    await site.pay()
    await site.database.fetch(load("begin_restore"))
    for begun_at, since in ((now - 60, 0), (now + 1, now - 20 * day)):
        await site.database.fetch(load("end_restore"), {"begun_at": begun_at, "since": since})
        with pytest.raises(ProblemsFound, match="donationd reconcile"):
            await site.run()
    assert (await site.mails(), site.smtp.received) == ([QUEUED], [])
    await site.database.fetch(load("end_restore"), {"begun_at": now + 1, "since": now - 40 * day})
    await site.run()
    assert await site.mails() == [SENT]


async def test_an_api_without_mail_queues_nothing(site: ThanksSite) -> None:
    """Its recorder leaves that part of the statement out, in the short and in the long form."""
    for donor in (ANN, NO_DONOR):
        events = scenarios.generate(5, 6, ["story-1"], now=int(time.time()))[0 if donor is ANN else 5].events
        received = [ReceivedEvent(read(sender.encode(each), livemode=False, hash_key=None)) for each in events]
        await Recorder(site.database, queues_mail=False).record(received)
    assert await site.database.fetch("SELECT 1 FROM stripe_attributions WHERE paid_at IS NOT NULL")
    assert await site.mails() == []


async def test_copies_of_events_and_months_of_a_subscription(site: ThanksSite) -> None:
    """Each payment is thanked for once, however often its events come; each month of a subscription is a payment."""
    generated = scenarios.generate(3, 20, ["story-1"], now=int(time.time()))
    site.fake.add(generated)
    received = [
        ReceivedEvent(read(sender.encode(each), livemode=False, hash_key=None))
        for each in scenarios.shuffled(generated, seed=3, duplicates=0.3)
    ]
    for begin in range(0, len(received), 30):
        await Recorder(site.database).record(received[begin : begin + 30])
    await site.run()
    rows = await site.database.fetch(
        "SELECT a.id, a.amount_minor - a.refunded_minor - a.disputed_minor, a.subscription_id, r.amount_minor"
        " FROM stripe_attributions a LEFT JOIN receipts r ON r.donation_id = a.id AND r.voided_at IS NULL"
        " WHERE a.paid_at IS NOT NULL"
    )
    assert [row for row in rows if (row[1] or None) != row[3]] == []
    assert len({row[0] for row in rows if row[2]}) > len({row[2] for row in rows if row[2]}) > 0
    thanked = [mail["Message-ID"] for mail in site.smtp.received if "Thank you" in mail["Subject"]]
    assert len(thanked) == len(set(thanked)) == sum(mail[:2] == ("thanks", "sent") for mail in await site.mails())


# --- corrections --------------------------------------------------------------------------------------------------


async def test_a_refund_of_a_part_replaces_the_receipt(site: ThanksSite) -> None:
    """The new receipt names the former one, which is no longer valid; when the refund fails, it is replaced again."""
    payment = await site.pay()
    await site.run()
    await site.refund(payment, 1500)
    await site.run()
    [refund] = payment.state.refunds
    with site.fake.world.step(payment, payment.at + 60):
        payment.change_refund(refund, "failed")
    await site.record()
    await site.run()
    assert await site.receipts() == [(1, 5000, False, None), (2, 3500, False, 1), (3, 5000, True, 2)]
    assert await site.mails() == [SENT, CORRECTED, CORRECTED]
    year = time.gmtime().tm_year
    assert site.subjects()[1:] == [
        f"Example Charity: your receipt {year}-000002 replaces receipt {year}-000001",
        f"Example Charity: your receipt {year}-000003 replaces receipt {year}-000002",
    ]
    hashes = await site.database.fetch("SELECT pdf_sha256 FROM receipts ORDER BY number")
    assert [hashlib.sha256(pdf_of(mail)).hexdigest() for mail in site.smtp.received] == [each for (each,) in hashes]


async def test_a_full_refund_voids_the_receipt(site: ThanksSite) -> None:
    """The donor is informed, without a new receipt; no number is used."""
    payment = await site.pay()
    await site.run()
    await site.refund(payment, 5000)
    await site.run()
    assert await site.receipts() == [(1, 5000, False, None)]
    assert site.subjects()[1] == f"Example Charity: your receipt {time.gmtime().tm_year}-000001 is no longer valid"
    assert list(site.smtp.received[1].iter_attachments()) == []


async def test_what_changes_before_the_mail_needs_no_correction(site: ThanksSite) -> None:
    """The receipt is for what is left when it is issued; where nothing is left there is none."""
    part, whole = await site.pay(), await site.pay()
    await site.refund(part, 1500)
    await site.refund(whole, 5000)
    await site.run()
    assert await site.receipts() == [(1, 3500, True, None)]
    assert [mail[:2] for mail in await site.mails()] == [
        ("thanks", "sent"),
        ("thanks", "not needed"),
        ("correction", "not needed"),
        ("correction", "not needed"),
    ]


@pytest.mark.parametrize("is_dispute", [False, True])
@pytest.mark.parametrize("is_decided_between", [True, False])
async def test_a_donation_that_comes_back_is_thanked_for_once(
    site: ThanksSite, *, is_dispute: bool, is_decided_between: bool
) -> None:
    """Nothing was left of it when its thanks were decided; then the refund failed, or the dispute was won."""
    payment = await site.pay()
    with site.fake.world.step(payment, payment.at + 60):
        dispute = payment.dispute(charge_of(payment), 5000) if is_dispute else None
        refund = None if is_dispute else payment.refund(charge_of(payment), 5000)
    await site.record()
    if is_decided_between:
        await site.run()
        assert (site.smtp.received, await site.receipts()) == ([], [])
    with site.fake.world.step(payment, payment.at + 120):
        if dispute:
            payment.change_dispute(dispute, "won")
        if refund:
            payment.change_refund(refund, "failed")
    await site.record()
    await site.run()
    await site.run()
    assert site.subjects() == ["Thank you for your donation to Example Charity"]
    assert await site.receipts() == [(1, 5000, True, None)]


async def test_a_dispute_voids_the_receipt_and_a_won_one_replaces_it(site: ThanksSite) -> None:
    """While the bank has taken the money back, no receipt is valid."""
    payment = await site.pay()
    await site.run()
    with site.fake.world.step(payment, payment.at + 60):
        dispute = payment.dispute(charge_of(payment), 5000)
    await site.record()
    await site.run()
    assert await site.receipts() == [(1, 5000, False, None)]
    with site.fake.world.step(payment, payment.at + 60):
        payment.change_dispute(dispute, "won")
    await site.record()
    await site.run()
    assert await site.receipts() == [(1, 5000, False, None), (2, 5000, True, 1)]
    assert len(site.smtp.received) == 3


async def erase(site: ThanksSite, payment: Payment) -> None:
    """An operator erases the donor of a payment."""
    facts = await Ledger(site.database).facts_of(id_of(payment))
    assert facts is not None
    action = operator_actions.erase(facts, id_of(payment), actor="ann", at_us=time.time_ns() // 1000)
    await Recorder(site.database).record([action])


async def test_an_erased_donor_is_sent_nothing(site: ThanksSite) -> None:
    """Neither thanks nor the mail that the receipt is void; the receipt is void all the same."""
    thanked = await site.pay()
    await site.run()
    new = await site.pay()
    for payment in (thanked, new):
        await erase(site, payment)
    await site.refund(thanked, 1500)
    await site.run()
    assert len(site.smtp.received) == 1
    assert await site.receipts() == [(1, 5000, False, None)]


async def test_a_donor_who_is_erased_between_two_attempts_is_sent_nothing(site: ThanksSite) -> None:
    """At first the server did not take the thanks of one and the correction of another: their receipts are issued."""
    corrected = await site.pay()
    await site.run()
    await site.refund(corrected, 1500)
    new = await site.pay()
    site.smtp.answer_data = lambda: "451 4.7.1 greylisted"
    await site.run()
    assert [mail[:2] for mail in await site.mails()] == [
        ("thanks", "sent"),
        ("correction", "queued"),
        ("thanks", "queued"),
    ]
    for payment in (corrected, new):
        await erase(site, payment)
    site.smtp.answer_data = lambda: "250 OK"
    await site.database.fetch("UPDATE outbox SET due_at = now()")
    await site.run()
    erased = ("not needed", "the donor was erased", None)
    assert await site.mails() == [SENT, ("correction", *erased), ("thanks", *erased)]


# --- numbers ------------------------------------------------------------------------------------------------------


async def test_numbers_have_no_gaps(site: ThanksSite) -> None:
    """Eight writers at the same time: every receipt has a number, all numbers are there, and each PDF has its own."""
    payments = [await site.pay() for _ in range(24)]
    donations = []
    for payment in payments:
        facts = await Ledger(site.database).facts_of(id_of(payment))
        assert facts is not None
        donation = PaidDonation.of(facts, id_of(payment))
        assert donation is not None
        donations.append(donation)

    async def issue(donation: PaidDonation) -> tuple[Receipt, bytes]:
        async def typeset(receipt: Receipt) -> bytes:
            await asyncio.sleep(0)
            return str(receipt.serial).encode()

        at = donation.paid_at
        assert at is not None
        draft = Receipt(Serial(2026, 0), donation.id, 5000, "USD", at, at, "en", "0" * 12, "", None, None)
        return await register.issue(site.database, donation, typeset, draft, mail=None)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(issue(donation)) for donation in donations]
    issued = [task.result() for task in tasks]
    assert sorted(receipt.serial.number for receipt, _ in issued) == list(range(1, 25))
    assert all(pdf == str(receipt.serial).encode() for receipt, pdf in issued)
