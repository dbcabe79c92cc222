"""The faults of the jobs: their process ends in the middle of each kind of work, or Stripe does not answer. Afterwards
nothing is missing and nothing was done twice, and meanwhile every webhook got its 200.
"""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

from daemon.ledger.balance_verification import balance_differences
from daemon.receipts.config import parse_sender
from daemon.receipts.mail import message_id
from daemon.simulator.fake_stripe.failures import Failure
from sql.connection import Row
from sql.snapshot import snapshot
from tests.chaos.audit import Verdict
from tests.chaos.faults import POLL_S, Fault, Inject, hangs
from tests.chaos.site import MAIL_FROM, NotReady, Site, execute, send
from tests.support.mail_server import MailServer

AT_WORK_S = 40.0  # until a job is in the middle of its work
DONE_S = 120.0  # after the last fault without a job that succeeds or a mail that is settled
SAY_S = 10.0  # between two lines that say how much is left
SLOW_S = 0.6  # the reply in whose middle the process ends
PASSES = "SELECT job, outcome, detail FROM job_runs WHERE outcome <> 'succeeded' OR succeeded_at IS NULL"
WAITING = "SELECT count(*) FROM outbox WHERE state IN ('queued', 'sending')"
SENT = "SELECT donation_id, kind, seq FROM outbox WHERE state = 'sent'"
GAPS = "SELECT year FROM receipts GROUP BY year HAVING count(*) <> max(number)"
# A donation's mail and receipt may be of an id that it had before.
UNTHANKED = """
SELECT d.id FROM stripe_attributions d
WHERE d.paid_at IS NOT NULL AND d.amount_minor > 0
  AND NOT EXISTS (SELECT FROM outbox o WHERE o.kind = 'thanks' AND o.donation_id IN (d.id, d.session_id, d.charge_id))
"""
VALID_TWICE = """
SELECT d.id FROM stripe_attributions d JOIN receipts r ON r.donation_id IN (d.id, d.session_id, d.charge_id)
WHERE r.voided_at IS NULL GROUP BY d.id HAVING count(*) > 1
"""
FOR_A_PERSON = "SELECT state, reason, count(*) FROM outbox WHERE state IN ('uncertain', 'undelivered') GROUP BY 1, 2"
# Why a mail is not delivered where Stripe and the mail server accept everything in the end.
EXPECTED_REASONS = {"perhaps sent", "no e-mail address", "the e-mail address is not usable"}


async def _make_due(site: Site, job: str) -> None:
    """The job's next pass begins at once, in a new process."""
    await asyncio.to_thread(execute, site.url, "UPDATE job_runs SET succeeded_at = NULL WHERE job = %s", job)
    send(signal.SIGTERM, [await site.pid("jobs")])


async def _asks(site: Site, path: str) -> None:
    """Returns when a request with this method and path is on its way."""
    assert site.stripe
    failure = Failure("slow", path, seconds=SLOW_S)
    site.stripe.failures.add(failure)
    while failure.times:  # noqa: ASYNC110 - of another process
        await asyncio.sleep(POLL_S)


async def _sends_mail(site: Site) -> None:
    """Returns when the mail server has all of a mail, and has not answered yet."""
    assert site.mail
    received = asyncio.Event()

    async def wait() -> None:
        if not received.is_set():
            received.set()
            await asyncio.sleep(SLOW_S)

    site.mail.on_data = wait
    await received.wait()


def _ended_while(job: str | None, at_work: Callable[[Site], Awaitable[None]], number: signal.Signals) -> Inject:
    async def inject(site: Site, rng: random.Random) -> None:
        if job:
            await _make_due(site, job)
        try:
            async with asyncio.timeout(AT_WORK_S):
                await at_work(site)
        except TimeoutError:
            raise NotReady(f"the work did not begin within {AT_WORK_S:.0f} s") from None
        await asyncio.sleep(rng.uniform(0, 1.2 * SLOW_S))
        send(number, [await site.pid("jobs")])

    return inject


def _stripe_fails(**failure: object) -> Inject:
    """Every request of the jobs fails for a while."""

    async def inject(site: Site, rng: random.Random) -> None:
        assert site.stripe
        site.stripe.failures.add(Failure(times=None, **failure))  # type: ignore[arg-type]
        try:
            await _make_due(site, "read_balance")
            await asyncio.sleep(rng.uniform(2, 6))
        finally:
            site.stripe.failures.clear()

    return inject


def _asking(path: str) -> Callable[[Site], Awaitable[None]]:
    return lambda site: _asks(site, path)


WORK: dict[str, tuple[str | None, Callable[[Site], Awaitable[None]]]] = {
    "check the account": ("check_account", _asking("GET /v1/webhook_endpoints")),
    "read transactions": ("read_balance", _asking("GET /v1/balance_transactions")),
    "read payouts": ("read_balance", _asking("GET /v1/payouts")),
    "replay events": ("reconcile", _asking("GET /v1/events")),
    "reconcile payments": ("reconcile", _asking("GET /v1/payment_intents$")),
    "reconcile charges": ("reconcile", _asking("GET /v1/charges$")),
    "fetch a donor": (None, _asking("GET /v1/(payment_intents|charges)/")),
    "send a mail": (None, _sends_mail),
}
FAULTS = (
    *(
        Fault(f"jobs killed: {name}", _ended_while(job, at_work, signal.SIGKILL), is_apart=True)
        for name, (job, at_work) in WORK.items()
    ),
    *(
        Fault(f"jobs get SIGTERM: {name}", _ended_while(job, at_work, signal.SIGTERM), is_apart=True)
        for name, (job, at_work) in WORK.items()
    ),
    Fault("jobs hang until they are replaced", hangs("jobs"), is_apart=True),
    Fault("Stripe answers 429", _stripe_fails(status=429, retry_after=1), is_apart=True),
    Fault("Stripe answers 500", _stripe_fails(status=500), is_apart=True),
    Fault("Stripe answers 401: the key is wrong", _stripe_fails(status=401), is_apart=True),
    Fault("Stripe answers 403: no permission", _stripe_fails(status=403), is_apart=True),
    Fault("Stripe's replies are half of their JSON", _stripe_fails(kind="malformed"), is_apart=True),
    Fault("Stripe's replies are cut off", _stripe_fails(kind="truncated"), is_apart=True),
    Fault("Stripe does not answer", _stripe_fails(kind="hang", seconds=60.0), is_apart=True),
)


async def finish_jobs(site: Site, say: Callable[[str], None]) -> None:
    """Returns when each job has succeeded again, and no mail waits. Raises NotReady if none gets on for DONE_S."""
    clock = asyncio.get_running_loop().time
    least: tuple[int, int] | None = None
    progress_s = said_s = clock()
    await asyncio.to_thread(execute, site.url, "UPDATE job_runs SET succeeded_at = NULL")
    send(signal.SIGTERM, [await site.pid("jobs")])
    while True:
        passes = await asyncio.to_thread(execute, site.url, PASSES)
        [(mails,)] = await asyncio.to_thread(execute, site.url, WAITING)
        if not passes and not mails:
            return
        if least is None or (len(passes), mails) < least:
            least, progress_s = (len(passes), mails), clock()
        if clock() > progress_s + DONE_S:
            raise NotReady(f"{mails} mails wait, and these jobs have not succeeded: {passes}")
        if clock() > said_s + SAY_S:
            said_s = clock()
            say(f"{mails} mails wait, and {len(passes)} jobs have not succeeded yet")
        await asyncio.sleep(1)


def judge_jobs(url: str, server: MailServer, verdict: Verdict) -> None:
    """What the jobs did, against what they had to do once.

    Args:
        url: the ledger's.
        server: has the mails.
    """
    sent = execute(url, SENT)  # first, because the jobs may still send
    received = Counter(str(mail["Message-ID"]) for mail in server.received)
    verdict.count("mails that came twice", (id_ for id_, times in received.items() if times > 1))
    verdict.count("mails that never came", _missing(sent, received))
    verdict.count("gaps in receipt numbers", map(str, execute(url, GAPS)))
    verdict.count("paid donations without a mail", (id_ for (id_,) in execute(url, UNTHANKED)))
    verdict.count("donations with two valid receipts", (id_ for (id_,) in execute(url, VALID_TWICE)))
    for state, reason, mails in execute(url, FOR_A_PERSON):
        verdict.figures[f"mails {state}: {reason}"] += mails
        if reason not in EXPECTED_REASONS:
            verdict.count("mails undelivered without need", [f"{mails}: {reason}"])
    with snapshot(url, "donationd chaos") as seen:
        verdict.count("payouts that do not add up", balance_differences(seen))


def _missing(sent: list[Row], received: Counter[str]) -> Iterator[str]:
    sender = parse_sender(MAIL_FROM)
    for donation, kind, seq in sent:
        if not received[message_id(donation, kind, seq, sender)]:
            yield f"{kind} for {donation}"
