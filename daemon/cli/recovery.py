"""What `donationd replay` and `reconcile` do."""

import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click
import msgspec

from daemon.api.config import CommandConfig
from daemon.cli.arguments import Failure
from daemon.cli.database import LONG_S, ask
from daemon.cli.settings import settings
from daemon.jobs import reconcile as reconciling
from daemon.jobs import replay as replaying
from daemon.jobs.object_comparison import Failure as ObjectFailure
from daemon.jobs.reconcile import Options, Reconciled, Reports
from daemon.jobs.replay import Failed, Replayed
from daemon.jobs.runs import RunDependencies
from daemon.ledger.comparison import Difference
from daemon.ledger.recorder import Recorder
from daemon.stripe_api.client import StripeApi, StripeRejected, StripeUnavailable
from sql.database import Database
from sql.rate_limit import SharedRateLimit

EVENTS_KEPT_S = 30 * 86_400  # https://docs.stripe.com/api/events/list

T = TypeVar("T")


def replay(event: str | None, since: int | None, *, only_failed: bool, as_json: bool) -> None:
    """Records events that Stripe has, and prints how many; fails if one could not be applied."""

    async def work(deps: RunDependencies) -> Replayed:
        if event is not None:
            return await replaying.replay_events(deps, [event], _print_failed)
        if only_failed:
            return await replaying.replay_failed(deps, _show_replayed, _print_failed)
        begin = int(time.time()) - EVENTS_KEPT_S if since is None else since
        return await replaying.replay(deps, begin, progress=_show_replayed, on_failure=_print_failed)

    replayed = _with_stripe(work)
    _end_progress()
    if as_json:
        click.echo(msgspec.json.encode(replayed))
    else:
        click.echo(
            f"{replayed.total} events: {replayed.applied} applied, {replayed.seen_before} recorded before, "
            f"{replayed.ignored} that change nothing, {replayed.failed} that could not be applied"
        )
    if replayed.failed:
        raise Failure("not all events could be applied; see: donationd failed list")


def reconcile(since: int | None, *, dry_run: bool, rehash: bool, as_json: bool) -> None:
    """Prints each difference between the ledger and Stripe's objects, and corrects it."""
    options = Options(since or 0, dry_run, rehash)
    reports = _PrintedReports(as_json=as_json)
    found = _with_stripe(lambda deps: reconciling.reconcile(deps, options, reports))
    _end_progress()
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        _print_summary(found, dry_run=dry_run)
    if found.failed:
        raise Failure(f"{found.failed} objects could not be compared or recorded")
    if dry_run and found.differences:
        raise Failure(f"{found.differences} differences")


def _print_summary(found: Reconciled, *, dry_run: bool) -> None:
    done = "found" if dry_run else "corrected"
    click.echo(f"{found.objects} objects read, {found.differences} differences {done}", err=True)
    if found.completed:
        click.echo(f"{found.completed} facts that change no figure were {'missing' if dry_run else 'added'}", err=True)
    if found.unknown:
        click.echo(f"{found.unknown} donations that Stripe does not know: of another account or mode?", err=True)


class _PrintedReports(Reports):
    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def difference(self, difference: Difference) -> None:
        self._print(msgspec.json.encode(difference).decode() if self._as_json else difference.text())

    def unknown(self, donation: str) -> None:
        line = f"donation {donation} is not known to Stripe"
        self._print(json.dumps({"unknown": donation}) if self._as_json else line)

    def failure(self, failure: ObjectFailure) -> None:
        line = f"object {failure.object_id} cannot be compared: {failure.reason}"
        self._print(json.dumps({"failed": failure.object_id, "reason": failure.reason}) if self._as_json else line)

    async def progress(self, name: str, found: Reconciled) -> None:
        _show(f"{name}: {found.objects} objects read, {found.differences} differences")

    def _print(self, line: str) -> None:
        _end_progress()
        click.echo(line)


async def _show_replayed(replayed: Replayed) -> None:
    _show(f"{replayed.total} events read, {replayed.applied} applied")


def _print_failed(failed: Failed) -> None:
    _end_progress()
    click.echo(f"event {failed.event} could not be applied: {failed.reason}", err=True)


def _show(progress: str) -> None:
    """Replaces the line of progress on a terminal."""
    if sys.stderr.isatty():
        click.echo(f"\r{progress}\x1b[K", nl=False, err=True)


def _end_progress() -> None:
    """Clears that line, so that another one can stand there."""
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)


def _with_stripe(work: Callable[[RunDependencies], Awaitable[T]]) -> T:
    """Does work with Stripe's API and the database."""
    config = settings(CommandConfig)
    if config.stripe_api_key is None:
        raise Failure("STRIPE_API_KEY: not set, and without it nothing can be read from Stripe")

    async def connected(database: Database) -> T:
        stripe = StripeApi(config, shared=SharedRateLimit(database))
        try:
            return await work(
                RunDependencies(
                    stripe=stripe,
                    database=database,
                    recorder=Recorder(database),
                    livemode=config.stripe_livemode,
                    hash_key=config.hash_key,
                )
            )
        finally:
            await stripe.close()

    try:
        return ask(connected, timeout_s=LONG_S, sends_donor_data=True)
    except (StripeUnavailable, StripeRejected) as error:
        notes = ", ".join(getattr(error, "__notes__", ()))
        continues = "it is not complete; what was done stays, and the same command continues (a dry run begins again)"
        raise Failure(f"{error}{f' ({notes})' if notes else ''}; {continues}") from None
