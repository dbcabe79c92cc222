"""The webhook endpoint at Stripe: made, corrected, and compared with what donationd needs.

Source: https://docs.stripe.com/api/webhook_endpoints
"""

import uuid
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import msgspec

from daemon.ledger.stripe_events import HANDLERS
from daemon.stripe_api.client import API_VERSION, Reply, StripeApi, StripeUnavailable
from daemon.stripe_api.config import WEBHOOK_PATH

EVENT_TYPES = tuple(sorted(HANDLERS))
MARK = {"donationd": "webhook"}  # the endpoint's metadata, by which it is recognized
DESCRIPTION = "Donations for donationd"
PATH = "/v1/webhook_endpoints"


class WebhookEndpoint(msgspec.Struct, kw_only=True):
    """A webhook endpoint. `secret` is in the reply to its creation only."""

    id: str
    url: str
    enabled_events: list[str]
    status: Literal["enabled", "disabled"]
    livemode: bool
    api_version: str | None = None
    metadata: dict[str, str] = {}
    secret: str | None = None


class Problem(NamedTuple):
    """What is wrong at Stripe, and what to do about it: a command, or a step in Stripe's dashboard."""

    text: str
    remedy: str


class Result(NamedTuple):
    """What `set_up` did to an endpoint: `created`, `replaced`, `corrected` or `unchanged`."""

    action: str
    endpoint: WebhookEndpoint


def endpoint_url(address: str) -> str:
    """The URL of the endpoint for an instance that Stripe reaches at this address; a path that is given is kept.

    Raises:
        ValueError: it is no address that Stripe can deliver to.
    """
    parts = urlsplit(address)
    if (
        parts.scheme not in {"https", "http"}
        or not parts.hostname
        or "@" in parts.netloc
        or parts.query
        or parts.fragment
    ):
        raise ValueError("needs an address such as https://give.example.org")
    path = parts.path if parts.path.strip("/") else WEBHOOK_PATH
    return urlunsplit((parts.scheme, parts.netloc.lower(), path, "", ""))


async def list_endpoints(stripe: StripeApi) -> list[WebhookEndpoint]:
    """All endpoints of the account in the key's mode. Raises StripeUnavailable or StripeRejected."""
    found = []
    async for page in stripe.pages(PATH):
        found += [_read(each) for each in page.objects]
    return found


def _read(text: bytes | msgspec.Raw) -> WebhookEndpoint:
    try:
        return msgspec.json.decode(text, type=WebhookEndpoint)
    except msgspec.MsgspecError:
        pass
    raise StripeUnavailable("a malformed webhook endpoint")


async def set_up(
    stripe: StripeApi,
    url: str,
    *,
    replace: bool = False,
    created: Callable[[WebhookEndpoint], None] = lambda _made: None,
) -> list[Result]:
    """Make the endpoint for this URL, or correct the one that there is (each, if there are several).

    It can be interrupted and repeated. Raises StripeUnavailable or StripeRejected.

    Args:
        replace: make a new one, with a new secret and API_VERSION, and then delete those that were there.
        created: called with a new endpoint, and its secret, before anything else is done.
    """
    present = [each for each in await list_endpoints(stripe) if each.url == url]
    if present and not replace:
        return [await _correct(stripe, each) for each in present]
    wanted = {"url": url, "enabled_events": EVENT_TYPES, "api_version": API_VERSION, **_description()}
    made = _read((await stripe.post(PATH, wanted, idempotency_key=str(uuid.uuid4()))).body)
    created(made)
    for each in present:
        await stripe.delete(f"{PATH}/{each.id}", idempotency_key=str(uuid.uuid4()))
    return [Result("replaced" if present else "created", made)]


async def _correct(stripe: StripeApi, endpoint: WebhookEndpoint) -> Result:
    if not _corrections(endpoint) and MARK.items() <= endpoint.metadata.items():
        return Result("unchanged", endpoint)
    wanted = {"enabled_events": EVENT_TYPES, "disabled": "false", **_description()}
    reply: Reply = await stripe.post(f"{PATH}/{endpoint.id}", wanted, idempotency_key=str(uuid.uuid4()))
    return Result("corrected", _read(reply.body))


def _description() -> dict[str, object]:
    return {"description": DESCRIPTION, "metadata": MARK}


def _corrections(endpoint: WebhookEndpoint) -> list[str]:
    """What `set_up` can correct without a new endpoint, a sentence each."""
    enabled = set(endpoint.enabled_events)
    found = []
    if endpoint.status == "disabled":
        found.append("is disabled: Stripe delivers nothing to it")
    if missing := sorted(set(EVENT_TYPES) - enabled) if "*" not in enabled else []:
        found.append(f"does not receive {', '.join(missing)}")
    if further := sorted(enabled - set(EVENT_TYPES)):
        found.append(f"receives events that donationd does not use: {', '.join(further)}")
    return found


def endpoint_problems(endpoints: Sequence[WebhookEndpoint], url: str | None, *, livemode: bool) -> list[Problem]:
    """What is wrong with the endpoints of this instance.

    Args:
        endpoints: all of the account.
        url: where this instance is reached; None: its endpoints are recognized by their mark.
        livemode: the mode of the ledger.
    """
    ours = [each for each in endpoints if (each.url == url if url else MARK.items() <= each.metadata.items())]
    setup = f"donationd stripe setup --url {url or 'https://YOUR-HOST'}"
    if not ours:
        return [Problem(f"there is no webhook endpoint {f'for {url}' if url else 'of donationd'}", setup)]
    found = [problem for each in ours for problem in _problems(each, livemode=livemode)]
    if len({each.url for each in ours}) < len(ours):
        ids = ", ".join(each.id for each in ours)
        remedy = "delete those in Stripe's dashboard whose secret is not in STRIPE_WEBHOOK_SECRET"
        found.append(
            Problem(f"several endpoints have the same URL, so each event is delivered several times: {ids}", remedy)
        )
    return found


def _problems(endpoint: WebhookEndpoint, *, livemode: bool) -> list[Problem]:
    setup = f"donationd stripe setup --url {endpoint.url}"
    found = [Problem(f"the webhook endpoint {endpoint.id} {text}", setup) for text in _corrections(endpoint)]
    if endpoint.api_version != API_VERSION:
        version = endpoint.api_version or "the account's default version"
        text = f"the webhook endpoint {endpoint.id} has {version} of Stripe's API, and not {API_VERSION}"
        found.append(Problem(text, f"{setup} --replace"))
    if endpoint.livemode != livemode:
        mode = "live" if endpoint.livemode else "test"
        text = f"the webhook endpoint {endpoint.id} is of {mode} mode, and STRIPE_LIVEMODE is {str(livemode).lower()}"
        found.append(Problem(text, "set STRIPE_LIVEMODE and STRIPE_API_KEY to the same mode"))
    return found
