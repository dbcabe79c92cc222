"""Finds the donations of the ledger that a list of Stripe's objects does not contain, as those of another account.

The list is read from the newest object to the oldest one. A donation's id is that of such an object, and the object was
created at the donation's `created_at` or later (a session begins before its PaymentIntent). So a donation is compared
with the page that reaches its moment (when it was paid, or created while it is not paid), waits for the following
pages, and is asked for by its id if they pass its `created_at` without it. Few donations wait at a time, however long
the list is.
"""

from daemon.stripe_api.client import StripeApi, StripeRejected
from sql import load
from sql.database import Database

NOT_FOUND = 404
SESSION_S = 2 * 86_400  # longer than a session is open, in which its PaymentIntent is created


class UnknownDonations:
    """The comparison of one list.

    Args:
        path: of the list.
        prefix: how the ids of the list's objects begin.
        account: the connected account; None: the key's own.
    """

    def __init__(self, stripe: StripeApi, database: Database, path: str, prefix: str, account: str | None) -> None:
        self._stripe, self._database, self._path = stripe, database, path
        self._prefix, self._account = prefix, account
        self._low: int | None = None  # the `created` down to which pages were compared
        self._waiting: dict[str, int] = {}  # id -> created_at
        self._early: dict[str, int] = {}  # objects before whose moment the page came, which are not paid: id -> created

    async def compare(self, ids: set[str], low: int, high: int) -> list[str]:
        """Compares the next page. Returns the ids of donations that Stripe does not know.

        Args:
            ids: of the page's objects.
            low: the `created` of its last object; on the last page where the list ends.
            high: donations that were created later are not compared: on the first page Stripe's time, then the
                `created` of the last object before, also of one that was compared before an interruption.
        """
        if self._low is None or low < self._low:
            given = {"low": low, "high": self._low, "created_until": high, "prefix": self._prefix}
            rows = await self._database.fetch(load("donations_of_moment"), {**given, "account": self._account})
            self._waiting.update((id_, created_at) for id_, created_at in rows if id_ not in self._early)
            self._low = low
        for id_ in ids:
            if self._waiting.pop(id_, None) is None:
                self._early[id_] = low
        self._early = {id_: at for id_, at in self._early.items() if at <= low + SESSION_S}
        passed = [id_ for id_, created_at in self._waiting.items() if created_at > low]
        for id_ in passed:
            del self._waiting[id_]
        return [id_ for id_ in passed if not await self._exists(id_)]

    async def _exists(self, id_: str) -> bool:
        try:
            await self._stripe.get(f"{self._path}/{id_}", account=self._account)
        except StripeRejected as rejection:
            if rejection.status != NOT_FOUND:
                raise
            return False
        return True
