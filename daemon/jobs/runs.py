"""Runs through Stripe's lists: what they read and write, and where they keep how far they are."""

from dataclasses import dataclass
from typing import TypeVar

import msgspec

from daemon.jobs.schedule import JobDependencies
from daemon.ledger.recorder import Recorder
from daemon.stripe_api.client import StripeApi
from sql import load
from sql.database import Database

State = TypeVar("State")


@dataclass(frozen=True, kw_only=True)
class RunDependencies:
    """What a run works with, in the jobs process and in a command alike."""

    stripe: StripeApi
    database: Database
    recorder: Recorder
    livemode: bool
    hash_key: bytes | None

    @classmethod
    def of(cls, deps: JobDependencies) -> "RunDependencies":
        """Those of a job."""
        return cls(
            stripe=deps.stripe,
            database=deps.database,
            recorder=deps.recorder,
            livemode=deps.config.stripe_livemode,
            hash_key=deps.config.hash_key,
        )

    async def connected_accounts(self) -> list[str]:
        """The connected accounts that the ledger has donations of."""
        return [account for (account,) in await self.database.fetch(load("connected_accounts"))]


async def load_state(database: Database, kind: str, type_: type[State]) -> State | None:
    """How far the run of this kind is; None if there is none, or if another release wrote it in another form."""
    rows = await database.fetch(load("load_run"), {"kind": kind})
    try:
        return msgspec.json.decode(rows[0][0], type=type_) if rows else None
    except msgspec.ValidationError:
        return None


async def save_state(database: Database, kind: str, state: msgspec.Struct) -> None:
    """Saves how far the run of this kind is."""
    await database.fetch(load("save_run"), {"kind": kind, "state": msgspec.json.encode(state).decode()})
