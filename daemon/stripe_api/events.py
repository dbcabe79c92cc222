"""Single events of Stripe's API."""

from collections.abc import Sequence
from typing import NamedTuple

from daemon.stripe_api.client import StripeApi, StripeRejected

PATH = "/v1/events"
NOT_FOUND = 404


class FoundEvent(NamedTuple):
    """An event's JSON, and the connected account that has it; None for the key's own."""

    body: bytes
    account: str | None


async def find_event(stripe: StripeApi, event: str, connected: Sequence[str]) -> FoundEvent | None:
    """The event with this id, of the key's own account or of a connected one. None if none has it: Stripe keeps events
    for 30 days (https://docs.stripe.com/api/events).

    Raises:
        StripeUnavailable, StripeRejected: as StripeApi.get.
    """
    for account in (None, *connected):
        try:
            reply = await stripe.get(f"{PATH}/{event}", account=account)
        except StripeRejected as rejection:
            if rejection.status != NOT_FOUND:
                raise
        else:
            return FoundEvent(reply.body, account)
    return None
