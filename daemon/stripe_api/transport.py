"""One request of Stripe's API, by the `stripe` library over aiohttp.

Neither the library's errors nor its log lines leave this module, because both can repeat what a donor has entered.
"""

import asyncio
import logging
import re
import ssl
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import stripe

from daemon.stripe_api.client import Method, Params, Reply, StripeRejected, StripeUnavailable

CONNECT_S = 5.0
MAX_REPLY_BYTES = 16 * 1024 * 1024  # a page of 100 objects, each with others inside, has less than 2 MB
DEFAULT_PAUSE_S = 1.0  # after a 429 that does not say for how long
MAX_PAUSE_S = 3600.0

SLUG = re.compile(r"[\w.\[\]-]{1,100}", re.ASCII)  # Stripe's codes, names of parameters and ids of requests

logging.getLogger("stripe").disabled = True  # its lines contain the texts of Stripe's errors and whole replies
stripe.enable_telemetry = False


class Transport:
    """Makes requests, with a key and the version of the API, to an address such as https://api.stripe.com."""

    def __init__(self, key: str, base: str, version: str) -> None:
        self._http = _HttpClient(base)
        self._client = stripe.StripeClient(
            key,
            base_addresses={"api": base},
            stripe_version=version,
            max_network_retries=0,  # each attempt must pass the rate limit
            http_client=self._http,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close_async()

    async def attempt(
        self, timeout_s: float, method: Method, path: str, params: Params | None, **options: str | None
    ) -> Reply | StripeUnavailable | StripeRejected:
        """One request. What went wrong is returned, so that no exception that contains the reply is its context."""
        given = {"stripe_account": options.get("account"), "idempotency_key": options.get("idempotency_key")}
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._client.raw_request_async(
                    method, path, **(params or {}), **{name: value for name, value in given.items() if value}
                )
        except stripe.StripeError as error:
            return judge(error)
        except TimeoutError:
            return StripeUnavailable("timeout")
        except _ReplyTooLarge:
            return StripeUnavailable("a reply that is too large")
        except (aiohttp.ClientError, OSError):
            return StripeUnavailable("connection failed")
        except (
            UnicodeDecodeError,
            AttributeError,
        ):  # the library's: text that is not UTF-8, an error that is no object
            return StripeUnavailable("a malformed reply")
        return _reply(response)


def _reply(response: stripe.StripeResponse) -> Reply | StripeUnavailable:
    if not isinstance(response.data, dict):
        return StripeUnavailable("a malformed reply")
    try:
        date = int(parsedate_to_datetime(response.headers["Date"]).timestamp())
    except (KeyError, ValueError):
        return StripeUnavailable("a reply without its date")
    return Reply(response.body.encode(), date)


def judge(error: stripe.StripeError) -> StripeUnavailable | StripeRejected:
    """What an error of the library means; nothing of its text is kept (https://docs.stripe.com/error-low-level)."""
    status = error.http_status
    if status is None or 200 <= status < 400:
        return StripeUnavailable("a malformed reply")
    if status == 429 or error.code == "rate_limit":
        return StripeUnavailable("too many requests", _pause_s(error.headers))
    if status >= 500 or status == 409:  # 409: another request with the same key or object is in progress
        return StripeUnavailable(f"status {status}")
    return StripeRejected(status, _slug(error.code), _slug(getattr(error, "param", None)), _slug(error.request_id))


def _pause_s(headers: Mapping[str, str] | None) -> float:
    """The seconds of Retry-After; a date there, which Stripe does not send, counts as no number."""
    given = (headers or {}).get("Retry-After", "")
    return min(float(given), MAX_PAUSE_S) if re.fullmatch(r"[0-9]{1,9}", given) else DEFAULT_PAUSE_S


def _slug(text: object) -> str | None:
    return text if isinstance(text, str) and SLUG.fullmatch(text) else None


class _ReplyTooLarge(Exception):
    pass


class _HttpClient(stripe.HTTPClient):
    """One request over aiohttp: no redirection is followed, no cookie is kept and a reply's size has a limit."""

    name = "aiohttp"

    def __init__(self, base: str) -> None:
        super().__init__()
        # The library's own list of authorities, for a system that has none. Reading it takes some 10 ms.
        self._tls = ssl.create_default_context(cafile=stripe.ca_bundle_path) if base.startswith("https") else None
        self._session: aiohttp.ClientSession | None = None

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """What the library calls for each request; it returns body, status and headers."""
        self._session = self._session or aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls or True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        )
        async with self._session.request(
            method, url, headers=headers, data=post_data, allow_redirects=False
        ) as response:
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > MAX_REPLY_BYTES:
                    raise _ReplyTooLarge
            return bytes(body), response.status, response.headers

    async def close_async(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()
