"""Sends the thanks for donations with their receipts, and corrects receipts after refunds (SPEC 12).

Of each mail: read the donation -> decide -> fetch the donor -> issue or void the receipt -> offer the mail to the
server -> note that it is being sent -> send it -> note that it was sent. `outbox.py` has the states. A receipt that was
issued for a mail is found again by the next attempt, so that no attempt takes a second number.
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

import structlog
from prometheus_client import CollectorRegistry, Counter

from daemon.jobs.config import JobsConfig
from daemon.jobs.outbox import GIVEN_UP_S, NOTHING_LEFT, Outbox, QueuedMail, State
from daemon.jobs.schedule import Job, JobDependencies, ProblemsFound
from daemon.ledger.consent import withdrawal_key, withdrawal_link
from daemon.ledger.reader import Ledger
from daemon.receipts import register
from daemon.receipts.documents import Documents, check
from daemon.receipts.donation import PaidDonation
from daemon.receipts.donor import Donor, DonorUnreadable, fetch_donor
from daemon.receipts.language import known_language
from daemon.receipts.mail import Attachment, compose, message_id, usable_address
from daemon.receipts.pdf import CannotTypeset
from daemon.receipts.register import Receipt, Serial
from daemon.receipts.smtp import DeliveryUnknown, MailRefused, MailServerUnavailable, Transmission
from daemon.receipts.templates import MailText, TemplateError
from daemon.stripe_api.client import StripeRejected
from sql.errors import DatabaseUnavailable

log = structlog.get_logger()

EVERY_S = 10
ERASED = "the donor was erased"
KINDS = ("thanks", "correction")
OUTCOMES = (State.SENT, State.QUEUED, State.UNDELIVERED, State.UNCERTAIN, State.NOT_NEEDED)  # of an attempt
# What became of a mail that the server has is known in this process only, until it is noted: that is tried again.
NOTE_WAITS_S = (0.5, 1, 2, 4, 8, 15)
STOPPING_S = 5.0  # for the mail that is being sent when the process is to end


@dataclass(frozen=True)
class NotNeeded:
    """No mail is sent, for this reason."""

    reason: str


@dataclass(frozen=True)
class Issue:
    """A receipt is to be issued, which may replace another one."""

    replaced: Receipt | None = None


@dataclass(frozen=True)
class Void:
    """A receipt is to be voided."""

    receipt: Receipt


@dataclass(frozen=True)
class Send:
    """A mail about a receipt: `thanks`, `replacement` or `void`."""

    kind: str
    receipt: Receipt


@dataclass(frozen=True)
class ThanksAgain:
    """The thanks are decided again, if nothing was left of the donation when they were."""


Decision = NotNeeded | Issue | Void | Send | ThanksAgain


class _Undeliverable(Exception):
    """The mail waits for a person; the reason is one of a few phrases."""


def decide(mail: QueuedMail, donation: PaidDonation, receipts: list[Receipt], *, is_thanked: bool) -> Decision:
    """What a mail of the outbox asks for now.

    Args:
        receipts: of the donation, the newest first.
        is_thanked: whether the donation was thanked for under another id.
    """
    valid = next((receipt for receipt in receipts if receipt.voided_at is None), None)
    if mail.serial:
        return NotNeeded(ERASED) if donation.is_erased else _resumed(mail, receipts, valid)
    if donation.id != mail.donation:
        return NotNeeded("it is queued under another id")
    if mail.kind == "correction":
        return _corrected(donation, receipts, valid)
    if donation.is_erased:
        return NotNeeded(ERASED)
    if is_thanked or donation.kept_minor == 0:
        return NotNeeded("it was sent for another id" if is_thanked else NOTHING_LEFT)
    return Send("thanks", valid) if valid else Issue()


def _corrected(donation: PaidDonation, receipts: list[Receipt], valid: Receipt | None) -> Decision:
    """What a change of the donation asks for. A donor who was erased gets no receipt any more. A refund that failed and
    a dispute that was won give back what the thanks have missed."""
    if not receipts and donation.kept_minor:
        return ThanksAgain()
    if not receipts or (valid and valid.covers(donation)):
        return NotNeeded("no receipt is wrong")
    if donation.kept_minor and not donation.is_erased:
        return Issue(valid or receipts[0])
    return Void(valid) if valid else NotNeeded("no receipt is valid")


def _resumed(mail: QueuedMail, receipts: list[Receipt], valid: Receipt | None) -> Decision:
    """What an attempt that was not finished asks for. Its receipt may have been corrected since then."""
    noted = next(receipt for receipt in receipts if receipt.serial == mail.serial)
    if mail.kind == "thanks":
        return Send("thanks", valid) if valid else NotNeeded(NOTHING_LEFT)
    if noted.voided_at is None:
        return Send("replacement", noted)
    is_replaced = any(receipt.replaced == noted.serial for receipt in receipts)
    return NotNeeded("its receipt was replaced") if is_replaced else Send("void", noted)


class Delivery:
    """Delivers mails of the outbox, one at a time.

    Args:
        now: the present time.
    """

    def __init__(
        self,
        deps: JobDependencies,
        documents: Documents,
        transmission: Transmission,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._deps = deps
        self._ledger = Ledger(deps.database)
        self._outbox = Outbox(deps.database)
        self._documents = documents
        self._transmission = transmission
        self._now = now
        self._mails = mail_counter(deps.metrics)
        self.is_sending = False  # whether the server may have a mail whose end is not noted yet

    async def deliver(self, mail: QueuedMail) -> None:
        """Delivers a mail, or notes why it is not delivered.

        Raises:
            MailServerUnavailable, StripeUnavailable, StripeRejected, DatabaseUnavailable: no mail can be delivered now.
        """
        try:
            await self._attempt(mail)
        except _Undeliverable as problem:
            await self._settle(mail, State.UNDELIVERED, str(problem))
        except register.CannotIssue:
            await self._settle(mail, State.UNDELIVERED, "its receipt cannot be issued")
        except (TemplateError, CannotTypeset) as problem:
            log.warning("[Thanks] A document cannot be made", mail=mail.id, problem=str(problem))
            await self._settle(mail, State.UNDELIVERED, "its document cannot be made")
        except DeliveryUnknown:
            await self._settle(mail, State.UNCERTAIN, "perhaps sent")
        except MailRefused as refused:
            may_wait = refused.is_temporary and mail.age_s < GIVEN_UP_S
            await self._settle(mail, State.QUEUED if may_wait else State.UNDELIVERED, refused.reason, refused.code)

    async def _attempt(self, mail: QueuedMail) -> None:
        """One attempt, from the donation to the note that the mail was sent."""
        facts = await self._ledger.facts_of(mail.donation)
        donation = facts and PaidDonation.of(facts, mail.donation)
        if not donation:
            raise _Undeliverable("the donation is not in the ledger")
        receipts = await register.receipts_of(self._deps.database, donation.ids | {mail.donation})
        is_thanked = mail.kind == "thanks" and await self._outbox.is_thanked(mail, donation.ids)
        decision = decide(mail, donation, receipts, is_thanked=is_thanked)
        if isinstance(decision, Void):
            await register.void(self._deps.database, decision.receipt.serial, self._now(), mail=mail.id)
            decision = NotNeeded(ERASED) if donation.is_erased else Send("void", decision.receipt)
        if isinstance(decision, ThanksAgain):
            await self._outbox.queue_thanks_again(donation.ids)
            decision = NotNeeded("no receipt is wrong")
        if isinstance(decision, NotNeeded):
            await self._settle(mail, State.NOT_NEEDED, decision.reason)
        else:
            await self._send(mail, donation, decision)

    async def _send(self, mail: QueuedMail, donation: PaidDonation, decision: Issue | Send) -> None:
        """Issues the receipt if need be, and sends the mail."""
        donor = await self._donor(donation)
        if mail.kind == "thanks":
            _recipient(donor)  # without an address no number is used
        if isinstance(decision, Issue):
            receipt, pdf = await self._issue(mail, donation, donor, decision.replaced)
            kind = "replacement" if mail.kind == "correction" else "thanks"
        else:
            kind, receipt = decision.kind, decision.receipt
            pdf = b"" if kind == "void" else await self._documents.receipt(receipt, donor)
        recipient = _recipient(donor)
        link = await self._withdrawal_link(donation) if kind == "thanks" else None
        text = self._documents.mail(kind, receipt, donor, withdrawal_link=link)
        message = self._message(mail, recipient, receipt, text, pdf)
        await self._transmission.offer(recipient)
        version = self._documents.version(self._documents.language(receipt.language))
        sha256 = hashlib.sha256(pdf).hexdigest()
        self.is_sending = await self._outbox.begin_sending(mail, template=version, pdf_sha256=sha256)
        if self.is_sending:
            await self._transmission.send(message)
            await self._settle(mail, State.SENT)

    async def _donor(self, donation: PaidDonation) -> Donor:
        try:
            return await fetch_donor(self._deps.stripe, donation)
        except DonorUnreadable:
            problem = "Stripe's reply cannot be read"
        except StripeRejected as rejected:
            if rejected.status in {401, 403}:  # the key is wrong: no donor can be fetched
                raise
            problem = "Stripe does not have the payment"
        raise _Undeliverable(problem)

    async def _withdrawal_link(self, donation: PaidDonation) -> str | None:
        """The link that withdraws the consent to showing the donor's name, if there is a consent."""
        public_url = self._deps.config.public_url
        if not donation.has_consent or not public_url:
            return None
        return withdrawal_link(public_url, await withdrawal_key(self._deps.database), donation.id)

    async def _issue(
        self, mail: QueuedMail, donation: PaidDonation, donor: Donor, replaced: Receipt | None
    ) -> tuple[Receipt, bytes]:
        """Issues the receipt for what is left of the donation, in the language of the one that it replaces."""
        at = self._now()
        code = replaced.language if replaced else known_language(donor.language)
        paid_at = donation.paid_at or at
        draft = Receipt(
            Serial(at.astimezone(self._documents.zone).year, 0),
            *(donation.id, donation.kept_minor, donation.currency, paid_at, at, code),
            *(self._documents.version(self._documents.language(code)), "", replaced and replaced.serial, None),
        )
        return await register.issue(
            self._deps.database,
            donation,
            lambda receipt: self._documents.receipt(receipt, donor),
            draft,
            mail=mail.id,
        )

    def _message(self, mail: QueuedMail, recipient: str, receipt: Receipt, text: MailText, pdf: bytes) -> bytes:
        config = self._deps.config
        return compose(
            text,
            config.sender,
            recipient,
            id_=message_id(mail.donation, mail.kind, mail.seq, config.sender),
            at=self._now(),
            language=receipt.language,
            attachment=Attachment(f"{receipt.serial}.pdf", pdf) if pdf else None,
        )

    async def _settle(self, mail: QueuedMail, state: State, reason: str | None = None, code: str | None = None) -> None:
        for wait_s in NOTE_WAITS_S if self.is_sending else ():
            try:
                await self._outbox.settle(mail, state, reason, code)
                break
            except DatabaseUnavailable:
                await asyncio.sleep(wait_s)
        else:
            await self._outbox.settle(mail, state, reason, code)
        self.is_sending = False
        self._mails.labels(mail.kind, state).inc()
        log.info("[Thanks] A mail was settled", mail=mail.id, kind=mail.kind, state=state, reason=reason, code=code)


def _recipient(donor: Donor) -> str:
    """The donor's address. Raises _Undeliverable."""
    if not donor.email:
        raise _Undeliverable("no e-mail address")
    if not (address := usable_address(donor.email)):
        raise _Undeliverable("the e-mail address is not usable")
    return address


async def _finish(delivery: Delivery, mail: QueuedMail) -> None:
    """Delivers a mail. Where the process is to end while it is being sent, this waits for a short time: otherwise an
    ordinary restart could leave a mail that was perhaps sent."""
    task = asyncio.create_task(delivery.deliver(mail))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        if delivery.is_sending:
            await asyncio.wait([task], timeout=STOPPING_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise


@cache
def mail_counter(registry: CollectorRegistry) -> Counter:
    """The mails by kind and by what became of them, with zeros for what has not happened yet."""
    counter = Counter(
        "mails", "Mails to donors, by kind and by what became of them", ["kind", "state"], registry=registry
    )
    for kind in KINDS:
        for state in OUTCOMES:
            counter.labels(kind, state)
    return counter


class SendDueMails:
    """One pass sends all mails that are due. The templates are checked once, before the first mail."""

    def __init__(self) -> None:
        self._documents: Documents | None = None

    async def __call__(self, deps: JobDependencies) -> None:
        """One pass. Raises ProblemsFound where a template or the mail server must be corrected, or where a restored
        ledger may still lack what a mail depends on."""
        outbox = Outbox(deps.database)
        await outbox.start()
        if await outbox.is_held():
            raise ProblemsFound(
                ["no mail is sent: the ledger was restored, and was not compared with Stripe yet: donationd reconcile"]
            )
        if interrupted := await outbox.mark_interrupted():
            log.warning("[Thanks] Mails were interrupted while they were sent: perhaps sent", mails=interrupted)
        transmission = Transmission(deps.config.smtp_server, deps.config.sender.address)
        tried = 0
        try:
            while mails := await outbox.due():
                delivery = Delivery(deps, await self._checked(deps.config), transmission)
                for mail in mails:
                    await _finish(delivery, mail)
                tried += len(mails)
                await deps.report(f"{tried} mails tried")
        except MailServerUnavailable as unavailable:
            problem = ProblemsFound([f"{unavailable}: see SMTP_URL and the server's log"])
        else:
            return
        finally:
            await transmission.close()
        raise problem

    async def _checked(self, config: JobsConfig) -> Documents:
        """The documents, if every template works; they are read again until they do."""
        if self._documents is None:
            if problems := await check(config, with_fonts=False):
                raise ProblemsFound([*problems, "no mail is sent before `donationd receipts check` finds no problem"])
            self._documents = Documents.of(config)
        return self._documents


def job(config: JobsConfig) -> Job | None:
    """The job that sends mails to donors, if mail is configured."""
    return Job("thanks", EVERY_S, SendDueMails()) if config.sends_mail else None
