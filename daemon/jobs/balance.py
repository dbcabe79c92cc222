"""The job that reads fees and payouts: Stripe's balance transactions, and the payouts that they were part of (SPEC 11).

Both lists come newest first. A list has been read when its end was reached; until then the last recorded object is
kept, and a pass that was interrupted goes on behind it. So no object is skipped, and none is counted twice, because
recording it again adds nothing. One page is in memory at a time.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec
import structlog

from daemon.jobs.config import JobsConfig
from daemon.jobs.schedule import Job, JobDependencies, ProblemsFound, not_reported
from daemon.ledger.balance import BalanceStore, BalanceTransaction, Payout, Reading, StripeList
from daemon.stripe_api.client import Page, StripeApi, StripeRejected, StripeUnavailable
from sql.database import Database

log = structlog.get_logger()

EVERY_S = 3600
# Objects created so many seconds before the end of the last reading are read again: transactions, because Stripe could
# list one a little late; payouts, because their status changes until they have arrived.
AGAIN_S = {StripeList.TRANSACTIONS: 3600, StripeList.PAYOUTS: 35 * 86400}
WITH_SOURCES = {"expand": ["data.source"]}  # of transactions: a source states its payment
SHOWN = 5  # payouts that do not add up; the report has all of them

T = TypeVar("T", BalanceTransaction, Payout)


def job(_config: JobsConfig) -> Job:
    """The job; every hour."""

    async def run(deps: JobDependencies) -> None:
        await read_balance(deps.stripe, deps.database, deps.report)

    return Job("read_balance", EVERY_S, run)


async def read_balance(
    stripe: StripeApi, database: Database, report: Callable[[str], Awaitable[None]] = not_reported
) -> None:
    """One pass: records new transactions and payouts, and ties transactions to donations that became known.

    Args:
        report: is called with how far the pass is.

    Raises:
        StripeUnavailable, StripeRejected, DatabaseUnavailable: the next pass goes on where this one ended.
        ProblemsFound: all was read, and a payout of the last weeks is not the sum of its transactions.
    """
    store = BalanceStore(database)
    added = 0
    async for transactions in _pages(stripe, store, StripeList.TRANSACTIONS, BalanceTransaction):
        added += await store.record_transactions(transactions)
        await report(f"reading balance transactions, {added} new rows")
    async for payouts in _pages(stripe, store, StripeList.PAYOUTS, Payout):
        added += await _record_payouts(stripe, store, payouts)
        await report(f"reading payouts, {added} new rows")
    added += await store.tie()
    if added:
        log.info("[Jobs] Fees and payouts recorded", rows=added)
    until = (await store.reading(StripeList.PAYOUTS)).complete_until or 0
    if wrong := await store.wrong_sums(until - AGAIN_S[StripeList.PAYOUTS]):
        raise ProblemsFound([f"{each}; donationd report payouts shows them" for each in wrong[:SHOWN]])


async def _record_payouts(stripe: StripeApi, store: BalanceStore, payouts: Sequence[Payout]) -> int:
    """Records the transactions of each payout that is new or has changed, and then the payout."""
    settled = await store.settled(payouts)
    added = await store.record_payouts([payout for payout in payouts if payout.id in settled])
    for payout in payouts:
        if payout.id not in settled:
            if payout.is_attributed:
                async for page in stripe.pages("/v1/balance_transactions", {"payout": payout.id, **WITH_SOURCES}):
                    added += await store.record_transactions(_read(page, BalanceTransaction), payout.id)
            added += await store.record_payouts([payout])
    return added


async def _pages(stripe: StripeApi, store: BalanceStore, of: StripeList, kind: type[T]) -> AsyncIterator[Sequence[T]]:
    """The pages of a list that are to be recorded; a page counts as recorded when the next one is asked for."""
    reading = await store.reading(of)
    params: dict[str, object] = dict(WITH_SOURCES) if of is StripeList.TRANSACTIONS else {}
    if reading.complete_until:
        params["created"] = {"gte": reading.complete_until - AGAIN_S[of]}
    until = reading.reading_until
    try:
        async for page in stripe.pages(f"/v1/{of}", params, starting_after=reading.cursor):
            found = _read(page, kind)
            until = until or (found[0].created if found else page.date)
            yield found
            await store.store_reading(of, Reading(reading.complete_until, until, page.last_id))
    except StripeRejected as problem:
        if problem.param == "starting_after":  # that object is gone: the list is read again from its beginning
            await store.store_reading(of, Reading(reading.complete_until))
        raise
    await store.store_reading(of, Reading(until))


def _read(page: Page, kind: type[T]) -> list[T]:
    """The objects of a page. Raises StripeUnavailable if one is not as Stripe describes it."""
    try:
        return [msgspec.json.decode(each, type=kind) for each in page.objects]
    except msgspec.MsgspecError:
        malformed = True
    if malformed:
        raise StripeUnavailable("a malformed object of the balance")
    return []
