"""What happens to the ledger of a drill: payments at the fake of Stripe's API, and everything that operators can do."""

import hashlib
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from daemon.jobs.balance import read_balance
from daemon.jobs.outbox import Outbox, QueuedMail, State
from daemon.jobs.runs import RunDependencies
from daemon.ledger import audit, queues, tickets
from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.operators import MailDecision, Operators
from daemon.ledger.reader import Ledger
from daemon.ledger.tickets import TicketChange
from daemon.receipts import register
from daemon.receipts.donation import PaidDonation
from daemon.receipts.register import Receipt, Serial
from daemon.reports import closings
from daemon.reports.early_warnings import dismiss_warning, read_warnings
from daemon.reports.periods import Period
from daemon.simulator import early_warnings
from daemon.simulator.fake_stripe import checkout_sessions
from daemon.simulator.fake_stripe.fake import FakeStripe
from daemon.simulator.payment import Payment
from daemon.simulator.scenarios import Scenario, generate
from daemon.simulator.sender import encode
from daemon.simulator.state import Inputs
from daemon.simulator.stripe_objects import DAY_S, Donor, Json
from daemon.simulator.world import Event
from sql import load

ACTOR = "drill"
TICKETS = ("well", "school", "library")
EVENTS_OF_PAYMENT = 7  # about so many on average
BACKUP_AGE_S = 29 * DAY_S  # Stripe keeps events for 30 days
DELIVERED_AT_ONCE = 100
COPIES = 0.05  # the share of events that are delivered twice
MANY = 20  # donations of each kind of action
# Events that arrive after the last report was closed: what it counts is then not what Stripe says in the end.
LATE = frozenset({"refund.failed", "refund.updated", "charge.refund.updated"})
CANARY = "Qzcanary"  # how the last names of those donors begin who are erased


class Work:
    """The work on one ledger.

    Args:
        deps: the ledger, and the API of the fake.
        now: the present time in Unix seconds.
    """

    def __init__(self, fake: FakeStripe, deps: RunDependencies, now: int) -> None:
        self._fake, self._now = fake, now
        self.continue_with(deps)
        self._rng = random.Random(1)  # noqa: S311 - invented payments, nothing secret
        self._delivered: set[str] = set()
        self._waiting: list[Json] = []
        self._scenarios: list[Scenario] = []
        self._to_erase: list[Payment] = []

    def continue_with(self, deps: RunDependencies) -> None:
        """Goes on with the same ledger, whose server was started again."""
        self._deps, self._database = deps, deps.database
        self._operators = Operators(deps.database, deps.recorder)

    @property
    def backup_at(self) -> int:
        """The Unix second until which the backup has events."""
        return self._now - BACKUP_AGE_S

    @property
    def canaries(self) -> list[str]:
        """What no restored ledger may contain: the last names and e-mail hashes of the donors who were erased."""
        donors = [payment.inputs.customer for payment in self._to_erase]
        return [text for each in donors for text in (each.last_name or "", _sha256(each.email or ""))]

    async def before_the_backup(self, events: int) -> None:
        """So many events, and some actions of each kind."""
        for ticket in TICKETS:
            change = TicketChange(title=f"For the {ticket}", currency="USD", goal=Decimal(5000))
            await tickets.put(self._database, ticket, change, actor=ACTOR, default_currency="USD")
        self._add(generate(1, max(20, events // EVENTS_OF_PAYMENT), TICKETS, now=self.backup_at))
        self._to_erase += [self._pay(number, self.backup_at) for number in range(MANY // 2)]
        await self._deliver(self._undelivered())
        await self._act(MANY // 4)
        await self._close_month(2)

    async def after_the_backup(self, events: int) -> None:
        """So many events more, of new and of earlier payments; a third of them arrive, and donors are thanked for the
        first time."""
        began_at = datetime.fromtimestamp(self.backup_at, UTC).isoformat()
        await self._database.fetch(
            load("apply_mail_start"), {"rows": f'[{{"started_at": "{began_at}", "is_only": true}}]'}
        )
        made = generate(2, max(20, events // EVENTS_OF_PAYMENT * 2), TICKETS, now=self._now)
        since = [each for each in made if each.events[0]["created"] > self.backup_at]
        self._change_earlier_payments()
        self._add(since[: max(20, events // EVENTS_OF_PAYMENT)])
        self._to_erase += [self._pay(number, self._now - DAY_S) for number in range(MANY // 2, MANY)]
        self._break_an_event()
        self._waiting = sorted(self._undelivered(), key=lambda event: event["type"] in LATE)
        await self._deliver(self._next_waiting(1 / 3))
        await self._send_mails(MANY)
        await self._close_month(1)

    async def until_the_loss(self) -> None:
        """The rest arrives, and operators do everything that they can do."""
        await self._deliver(self._next_waiting(1 / 2))
        await self._act(MANY)
        await self._erase()
        await self._send_mails(2 * MANY)
        await self._decide_mails()
        await read_balance(self._deps.stripe, self._database)
        await self._close_month(1)
        await self._deliver(self._next_waiting(1))  # no closed report counts these
        await self._dismiss()
        await read_balance(self._deps.stripe, self._database)

    # --- Payments

    def _add(self, scenarios: Sequence[Scenario]) -> None:
        self._fake.add(scenarios)
        self._scenarios += scenarios

    def _pay(self, number: int, at: int) -> Payment:
        """A donor with a last name of its own pays by Checkout, and consents to showing it."""
        letter = chr(ord("a") + number % 26) * 2
        donor = Donor(f"Ann {CANARY}{letter}", f"{CANARY}{letter}", "US", f"{letter}@canary.example", *[None] * 4)
        metadata = {"ticketId": TICKETS[0]}
        inputs = Inputs(
            donor, donor, None, metadata, TICKETS[0], metadata, metadata, asks_consent=True, shows_name=True
        )
        payment = self._fake.world.begin(inputs, amount=2500, currency="usd", at=at)
        with self._fake.world.step(payment, at):
            session = payment.open_session()
            payment.create_intent()
            charge = payment.succeed()
            payment.complete_session(session)
            payment.settle(charge)
        return payment

    def _change_earlier_payments(self) -> None:
        """Refunds, disputes and further months of payments that the backup has."""
        world, at = self._fake.world, self._now - 2 * DAY_S
        paid = [each.states[0].charges[0] for each in self._scenarios if each.kind == "paid"]
        for number, charge in enumerate(paid[: 3 * MANY]):
            with world.step(world.resume(charge.id), at) as payment:
                if number % 3 == 0:
                    payment.refund(charge, charge.amount)
                elif number % 3 == 1:
                    payment.change_refund(payment.refund(charge, charge.amount // 2), "failed")
                else:
                    payment.change_dispute(payment.dispute(charge, charge.amount), "lost")
        with world.step(world.resume(paid[-1].id), at) as payment:
            early_warnings.warn(payment.state, paid[-1])
        monthly = [each.states[1].subscription for each in self._scenarios if each.kind == "monthly"]
        for subscription in filter(None, monthly[:MANY]):
            checkout_sessions.bill(world, subscription.id, at)

    def _break_an_event(self) -> None:
        """Two events that cannot be applied."""
        for number in range(2):
            shown: Json = {
                **{"id": f"evt_drill{number}", "object": "event", "type": "charge.succeeded", "livemode": False},
                **{"created": self._now - DAY_S, "api_version": self._fake.api.version},
                "data": {"object": {"id": f"ch_drill{number}", "object": "charge", "amount": "much"}},
            }
            self._fake.world.collections["event"].add(Event(shown))

    def _undelivered(self) -> list[Json]:
        """The events that were not delivered yet, out of order, some of them twice."""
        new = [each.shown for each in self._fake.world.collections["event"] if each.id not in self._delivered]
        self._delivered.update(each["id"] for each in new)
        new += self._rng.choices(new, k=int(len(new) * COPIES)) if new else []
        self._rng.shuffle(new)
        return new

    def _next_waiting(self, share: float) -> list[Json]:
        """This share of the events that wait, which then wait no more."""
        count = round(len(self._waiting) * share)
        events, self._waiting = self._waiting[:count], self._waiting[count:]
        return events

    async def _deliver(self, events: Sequence[Json]) -> None:
        for begin in range(0, len(events), DELIVERED_AT_ONCE):
            bodies = map(encode, events[begin : begin + DELIVERED_AT_ONCE])
            received = [ReceivedEvent.read(body, livemode=False, hash_key=self._deps.hash_key) for body in bodies]
            await self._deps.recorder.record(received)

    # --- Operators

    async def _act(self, count: int) -> None:
        """Tickets, assignments, withdrawals of consent, and what only the audit log keeps."""
        change = TicketChange(title="A roof", state=tickets.State.CLOSED)
        await tickets.put(self._database, TICKETS[1], change, actor=ACTOR, default_currency="USD")
        await tickets.put(
            self._database, f"new-{count}", TicketChange(title="New"), actor=ACTOR, default_currency="USD"
        )
        for donation in await queues.unassigned(self._database, count):
            await self._operators.assign(donation.id, TICKETS[2], actor=ACTOR)
        for scenario in self._of_kinds("paid_late", "monthly")[-count:]:
            for state in scenario.states[-1:]:
                if state.intent is not None:
                    await self._operators.withdraw_consent(state.intent.id, actor=ACTOR)
                    await self._operators.assign(state.intent.id, TICKETS[1], actor=ACTOR)
        await audit.record(self._database, ACTOR, "search", "by hash")
        await audit.record(self._database, ACTOR, "export", "donations")

    async def _erase(self) -> None:
        for payment in self._to_erase:
            assert payment.state.intent is not None  # noqa: S101 - they are paid
            id_ = payment.state.intent.id
            await self._operators.erase({id_: await self._operators.facts_of(id_)}, actor=ACTOR)

    async def _dismiss(self) -> None:
        """An event that cannot be applied is read again and dismissed; so is an early fraud warning."""
        first, *_ = await queues.failed_events(self._database, 2)
        await self._operators.begin_replay(first.id, actor=ACTOR)
        await self._operators.dismiss(first.id, actor=ACTOR)
        for warning in await read_warnings(self._database):
            await dismiss_warning(self._database, warning, actor=ACTOR)

    async def _close_month(self, ago: int) -> None:
        """Closes the report of a month that has ended."""
        day = datetime.fromtimestamp(self._now, UTC).date()
        for _ in range(ago):
            day = day.replace(day=1) - timedelta(days=1)
        await closings.close(self._database, Period.parse(f"{day:%Y-%m}", "UTC"), ACTOR)

    def _of_kinds(self, *kinds: str) -> list[Scenario]:
        return [each for each in self._scenarios if each.kind in kinds]

    # --- Mails

    async def _send_mails(self, count: int) -> None:
        """What the jobs do, without a mail server: receipts are issued and mails are sent; some are not delivered."""
        outbox = Outbox(self._database)
        for number, mail in enumerate((await outbox.due())[:count]):
            donation = await self._donation_of(mail)
            if donation is None or not donation.kept_minor or mail.kind != "thanks":
                await outbox.settle(mail, State.NOT_NEEDED, "no receipt is wrong")
                continue
            await self._issue(donation, mail.id)
            await outbox.begin_sending(mail, template="0" * 12, pdf_sha256=_sha256("sent"))
            undelivered = number % 5 == 4
            await outbox.settle(mail, State.UNDELIVERED if undelivered else State.SENT, *["no answer"] * undelivered)

    async def _donation_of(self, mail: QueuedMail) -> PaidDonation | None:
        facts = await Ledger(self._database).facts_of(mail.donation)
        return PaidDonation.of(facts, mail.donation) if facts else None

    async def _issue(self, donation: PaidDonation, mail: int | None, replaced: Serial | None = None) -> None:
        async def typeset(receipt: Receipt) -> bytes:
            return str(receipt.serial).encode()

        at = datetime.now(UTC)
        of = (donation.id, donation.kept_minor, donation.currency, donation.paid_at or at, at)
        draft = Receipt(Serial(at.year, 0), *of, "en", "0" * 12, "", replaced, None)
        await register.issue(self._database, donation, typeset, draft, mail=mail)

    async def _decide_mails(self) -> None:
        """An operator decides about mails that were not delivered; a receipt is replaced, and one is voided."""
        for number, waiting in enumerate(await queues.undelivered_mail(self._database, 4)):
            decision = MailDecision.DISMISS if number % 2 else MailDecision.RETRY
            await self._operators.decide_mail(waiting.id, decision, actor=ACTOR)
        replaced, voided, *_ = await register.list_receipts(self._database, None, limit=2)
        facts = await Ledger(self._database).facts_of(replaced.receipt.donation)
        donation = facts and PaidDonation.of(facts, replaced.receipt.donation)
        if donation:
            await self._issue(donation, None, replaced.receipt.serial)
        await register.void(self._database, voided.receipt.serial, datetime.now(UTC), mail=1)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
