"""An operator's browser as a client of tests, and what the console shows there.

The client keeps the cookie, and sends forms as browsers do.
"""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Self

from aiohttp import ClientResponse, hdrs

from daemon.ledger.changes import ReceivedEvent
from daemon.ledger.recorder import Recorder
from daemon.ledger.stripe_events import read
from daemon.runtime.http.sessions import COOKIE
from daemon.simulator import scenarios, sender
from sql.database import Database
from tests.support.api_application import Client
from tests.support.ledger import NOW, put_ticket

FORM_TOKEN = re.compile(r'name="form_token" value="([^"]+)"')

# A form that can be posted, and what is entered in it.
ONE_FORM = "/operator/tickets"
FIELDS = {"id": "story-9", "title": "A well", "currency": "", "goal": "", "state": "open"}


class Visitor:
    """A client with at most one cookie."""

    def __init__(self, client: Client, cookie: str = "") -> None:
        self.client = client
        self.cookie = cookie
        self.form_token = ""

    async def sign_in(self, token: str) -> Self:
        """Signs in, and reads the token of this session's forms from a page."""
        reply = await self.post("/operator/sign-in", {"token": token})
        assert reply.status == HTTPStatus.SEE_OTHER, await reply.text()
        self.cookie = reply.cookies[COOKIE].value
        page = await (await self.get("/operator")).text()
        self.form_token = FORM_TOKEN.findall(page)[0]
        return self

    async def get(self, path: str, **headers: str) -> ClientResponse:
        return await self.client.get(path, headers={**self._cookies(), **headers}, allow_redirects=False)

    async def page(self, path: str) -> str:
        """The text of a page that there is."""
        reply = await self.get(path)
        text = await reply.text()
        assert reply.status == HTTPStatus.OK, text
        return text

    async def post(
        self, path: str, fields: Mapping[str, str] = {}, *, form_token: str | None = None, **headers: str
    ) -> ClientResponse:
        """Sends a form of this session; `form_token` in place of the session's, headers in place of the browser's."""
        own = {"Sec-Fetch-Site": "same-origin", hdrs.ORIGIN: str(self.client.make_url("/")).rstrip("/")}
        sent = {name: text for name, text in (own | self._cookies() | headers).items() if text}
        token = self.form_token if form_token is None else form_token
        return await self.client.post(
            path, data={**({"form_token": token} if token else {}), **fields}, headers=sent, allow_redirects=False
        )

    def _cookies(self) -> dict[str, str]:
        return {hdrs.COOKIE: f"{COOKIE}={self.cookie}"} if self.cookie else {}


async def record_payments(database: Database, count: int = 30) -> list[str]:
    """Records payments; returns the ids of their donations."""
    await put_ticket(database, "story-1")
    found = scenarios.generate(3, count, ["story-1"], now=NOW)
    events = [event for each in found for event in each.events]
    received = [ReceivedEvent(read(sender.encode(event), livemode=False, hash_key=None)) for event in events]
    await Recorder(database).record(received)
    return [str(id_) for (id_,) in await database.fetch("SELECT id FROM stripe_attributions ORDER BY id")]
