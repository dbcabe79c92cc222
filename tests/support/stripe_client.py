"""A client of the fake of Stripe's API, with the form parameters of Stripe's customers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from daemon.simulator.fake_stripe.fake import TEST_KEY, FakeStripe
from daemon.simulator.stripe_objects import Json


@dataclass(frozen=True)
class Reply:
    """What the fake replied."""

    status: int
    headers: Mapping[str, str]
    body: Json

    @property
    def ids(self) -> list[str]:
        """The ids of a page."""
        return [each["id"] for each in self.body["data"]]

    @property
    def error(self) -> Json:
        """The error of a rejected request."""
        error: Json = self.body["error"]
        return error


class StripeClient:
    """Sends requests to the fake as a program of Stripe's customers does."""

    def __init__(self, fake: FakeStripe, http: aiohttp.ClientSession) -> None:
        self.fake, self.http = fake, http

    async def ask(
        self, path: str, data: Mapping[str, str] | None = None, *, key: str = TEST_KEY, method: str = "", **headers: str
    ) -> Reply:
        """One request: a GET, or a POST where it has `data`. Underscores in the names of headers stand for hyphens."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()} | {
            "Authorization": f"Bearer {key}"
        }
        method = method or ("GET" if data is None else "POST")
        url = f"{self.fake.base_url}/v1/{path}"
        async with self.http.request(method, url, data=data, headers=headers) as response:
            return Reply(response.status, response.headers, json.loads(await response.read()))

    async def all_of(self, path: str, limit: int = 7) -> list[str]:
        """The ids of a whole list, page after page."""
        ids: list[str] = []
        while True:
            cursor = f"&starting_after={ids[-1]}" if ids else ""
            page = await self.ask(f"{path}?limit={limit}{cursor}")
            ids += page.ids
            if not page.body["has_more"]:
                return ids

    async def control(self, action: str, **arguments: object) -> Json:
        """Makes something happen at the fake; it must succeed."""
        async with self.http.post(f"{self.fake.base_url}/_control/{action}", json=arguments) as response:
            body: Json = await response.json()
            assert response.status == 200, body
            return body
