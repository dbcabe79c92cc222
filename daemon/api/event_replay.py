"""Reads one event from Stripe's API and records it as if it were delivered now (SPEC 10, 12)."""

from dataclasses import dataclass

from daemon.ledger.changes import Outcome, ReceivedEvent
from daemon.ledger.recorder import Recorder
from daemon.stripe_api.client import StripeApi
from daemon.stripe_api.events import find_event
from sql import load
from sql.database import Database


@dataclass(frozen=True)
class EventReplay:
    """What replays events. `database` names the connected accounts whose events the ledger has."""

    stripe: StripeApi
    database: Database
    recorder: Recorder
    livemode: bool
    hash_key: bytes | None

    async def replay(self, event: str) -> Outcome | None:
        """Records the event and returns what became of it; None if Stripe does not have it any more.

        Raises:
            StripeUnavailable, StripeRejected, DatabaseUnavailable, StatementRejected: nothing was recorded.
        """
        connected = [account for (account,) in await self.database.fetch(load("connected_accounts"))]
        found = await find_event(self.stripe, event, connected)
        if found is None:
            return None
        received = ReceivedEvent.read(found.body, livemode=self.livemode, hash_key=self.hash_key, account=found.account)
        [outcome] = await self.recorder.record([received])
        return outcome
