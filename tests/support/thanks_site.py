"""A charity that sends thanks and receipts: a ledger, Stripe's fake and a real SMTP server, and donors who pay."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from daemon.jobs.config import JobsConfig
from daemon.jobs.schedule import JobDependencies, not_reported
from daemon.jobs.thanks import SendDueMails
from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.recorder import Recorder
from daemon.ledger.stripe_events import read
from daemon.simulator import sender
from daemon.simulator.fake_stripe.fake import TEST_KEY, FakeStripe
from daemon.simulator.fake_stripe.server import serving
from daemon.simulator.payment import Payment
from daemon.simulator.state import Inputs
from daemon.simulator.stripe_objects import Charge, Donor, Json
from daemon.stripe_api.client import StripeApi
from sql.database import Database
from tests.support.mail_server import MailServer, mail_server

ANN = Donor("Ann Ångström", "Ångström", "SE", "ann@example.com", None, "1 High Street", "Lund", "222 22")
SINCE = "INSERT INTO mail_start (started_at) VALUES ('2020-01-01')"


@dataclass
class ThanksSite:
    """Donors pay by `pay`; `run` is one pass of the job."""

    database: Database
    fake: FakeStripe
    smtp: MailServer
    environ: dict[str, str]
    events: list[Json] = field(default_factory=list)

    async def pay(self, donor: Donor = ANN, amount: int = 5000, currency: str = "usd", **inputs: Any) -> Payment:
        """A payment by Checkout, whose events the ledger has when this returns."""
        given = Inputs(customer=donor, billing=donor, intent_metadata={"ticketId": "story-1"}, **inputs)
        payment = self.fake.world.begin(given, amount=amount, currency=currency, at=int(time.time()) - 3600)
        with self.fake.world.step(payment, payment.at):
            session = payment.open_session()
            payment.create_intent()
            payment.succeed()
            payment.complete_session(session)
        await self.record()
        return payment

    async def refund(self, payment: Payment, amount: int) -> None:
        """A refund, whose events the ledger has when this returns."""
        with self.fake.world.step(payment, payment.at + 60):
            payment.refund(charge_of(payment), amount)
        await self.record()

    async def record(self) -> None:
        """Records the events since the last time."""
        events, self.events[:] = list(self.events), []
        received = [ReceivedEvent(read(sender.encode(each), livemode=False, hash_key=None)) for each in events]
        await Recorder(self.database).record(received)

    async def run(
        self,
        job: SendDueMails | None = None,
        database: Database | None = None,
        report: Callable[[str], Awaitable[None]] = not_reported,
    ) -> None:
        """One pass of the job."""
        config = JobsConfig.from_environ(self.environ)
        stripe = StripeApi(config)
        database = database or self.database
        registry = CollectorRegistry()
        try:
            await (job or SendDueMails())(
                JobDependencies(
                    config=config,
                    database=database,
                    recorder=Recorder(database),
                    stripe_api=stripe,
                    metrics=registry,
                    report=report,
                )
            )
        finally:
            await stripe.close()

    async def mails(self) -> list[tuple[str, str, str | None, str | None]]:
        """Of each mail in the outbox: kind, state, reason and code."""
        rows = await self.database.fetch("SELECT kind, state, reason, smtp_code FROM outbox ORDER BY id")
        return [(str(kind), str(state), reason, code) for kind, state, reason, code in rows]

    async def receipts(self) -> list[tuple[int, int, bool, int | None]]:
        """Of each receipt: number, amount, whether it is valid, and the number that it replaces."""
        rows = await self.database.fetch(
            "SELECT number, amount_minor, voided_at IS NULL, replaced_number FROM receipts ORDER BY year, number"
        )
        return [(row[0], row[1], row[2], row[3]) for row in rows]

    def subjects(self) -> list[str]:
        """The subjects of the mails that the server has."""
        return [str(mail["Subject"]).strip() for mail in self.smtp.received]


def charge_of(payment: Payment) -> Charge:
    """A payment's charge."""
    return payment.state.charges[-1]


@asynccontextmanager
async def thanks_site(database: Database, database_url: str) -> AsyncIterator[ThanksSite]:
    """A charity whose ledger thanks for all payments."""
    await database.fetch(SINCE)
    fake = FakeStripe()
    async with serving(fake), mail_server() as smtp:
        environ = {
            "DATABASE_URL": database_url,
            "STRIPE_API_KEY": TEST_KEY,
            "STRIPE_API_BASE": fake.base_url,
            "STRIPE_LIVEMODE": "false",
            "CHARITY_NAME": "Example Charity",
            "CHARITY_COUNTRY": "GB",
            "MAIL_FROM": "thanks@charity.example",
            "SMTP_URL": f"smtp://127.0.0.1:{smtp.port}",
            "PUBLIC_URL": "https://give.example.org",
        }
        site = ThanksSite(database, fake, smtp, environ)
        fake.world.on_events = site.events.extend
        yield site


def id_of(payment: Payment) -> str:
    """The donation's id."""
    assert payment.state.intent is not None
    return payment.state.intent.id
