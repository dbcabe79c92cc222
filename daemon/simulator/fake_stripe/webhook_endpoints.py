"""Webhook endpoints, as handlers of the server. Source: https://docs.stripe.com/api/webhook_endpoints"""

import re
import secrets
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

from daemon.simulator.api_versions import Api
from daemon.simulator.fake_stripe.parameters import StripeError, check_all_known
from daemon.simulator.fake_stripe.resources import Request, Resource, Route, find, get_object, list_objects
from daemon.simulator.stripe_objects import Json, Metadata

MOST = 16  # endpoints of an account in one mode
EVENT_TYPE = re.compile(r"\*|[a-z0-9_]+(\.[a-z0-9_]+)+", re.ASCII)
RESOURCE = Resource("webhook_endpoint", "webhook")
FALSE_TRUE = {"false": False, "true": True}


@dataclass
class WebhookEndpoint:
    """An address that receives events."""

    id: str
    created: int
    url: str
    enabled_events: list[str]
    api_version: str | None
    livemode: bool
    secret: str
    is_connect: bool = False
    description: str | None = None
    metadata: Metadata = field(default_factory=dict)
    status: str = "enabled"

    def receives(self, event: Json) -> bool:
        """Whether an event is delivered to it."""
        is_connected = event.get("account") is not None
        return (
            self.status == "enabled"
            and is_connected == self.is_connect
            and ("*" in self.enabled_events or event["type"] in self.enabled_events)
        )

    def render(self, _api: Api) -> Json:
        """The object without its secret, which only the reply to its creation has."""
        return {
            "id": self.id,
            "object": "webhook_endpoint",
            "api_version": self.api_version,
            "application": None,
            "created": self.created,
            "description": self.description,
            "enabled_events": list(self.enabled_events),
            "livemode": self.livemode,
            "metadata": dict(self.metadata),
            "status": self.status,
            "url": self.url,
        }


def create(request: Request) -> Json:
    """Makes an endpoint; the reply alone contains its secret. Raises StripeError for parameters that are wrong."""
    params, world = request.params, request.world
    for name in ("enabled_events", "url"):
        if not params.get(name):
            raise StripeError(400, f"Missing required param: {name}.", code="parameter_missing", param=name)
    endpoints = world.collections[RESOURCE.type]
    if len(endpoints) >= MOST:
        raise StripeError(400, f"You have reached the maximum of {MOST} webhook endpoints.")
    endpoint = WebhookEndpoint(
        world.new_id("we_1"),
        request.now,
        _url(params.pop("url"), world.livemode),
        _event_types(params.pop("enabled_events")),
        params.pop("api_version", None),
        world.livemode,
        f"whsec_{secrets.token_hex(16)}",
        FALSE_TRUE.get(params.pop("connect", "false"), False),
        params.pop("description", None),
        params.pop("metadata", {}),
    )
    check_all_known(params)
    endpoints.add(endpoint)
    return endpoint.render(request.api) | {"secret": endpoint.secret}


def update(request: Request, id_: str) -> Json:
    """Changes an endpoint; its version stays. Raises StripeError for parameters that are wrong."""
    endpoint: WebhookEndpoint = find(request, RESOURCE, id_)
    params = request.params
    if "url" in params:
        endpoint.url = _url(params.pop("url"), endpoint.livemode)
    if "enabled_events" in params:
        endpoint.enabled_events = _event_types(params.pop("enabled_events"))
    if "disabled" in params:
        endpoint.status = "disabled" if FALSE_TRUE.get(params.pop("disabled")) else "enabled"
    endpoint.description = params.pop("description", endpoint.description)
    endpoint.metadata = endpoint.metadata | params.pop("metadata", {})
    check_all_known(params)
    return endpoint.render(request.api)


def delete(request: Request, id_: str) -> Json:
    """Removes an endpoint. Raises StripeError if there is none with this id."""
    endpoint: WebhookEndpoint = find(request, RESOURCE, id_)
    request.world.collections[RESOURCE.type].remove(endpoint.id)
    return {"id": endpoint.id, "object": RESOURCE.type, "deleted": True}


def _url(text: str, livemode: bool) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise StripeError(400, "Invalid URL: An explicit scheme (such as https) must be provided.", param="url")
    if livemode and parts.scheme != "https":
        raise StripeError(400, "Invalid URL: Only secure (https) URLs are accepted in live mode.", param="url")
    return text


def _event_types(types: object) -> list[str]:
    if not isinstance(types, list):
        raise StripeError(400, "Invalid array", param="enabled_events")
    for each in types:
        if not isinstance(each, str) or not EVENT_TYPE.fullmatch(each):
            raise StripeError(400, f"Invalid enabled_events[]: {each}", param="enabled_events")
    return types


ROUTES = (
    Route("GET", re.compile("webhook_endpoints"), "webhook_read", partial(list_objects, RESOURCE)),
    Route("POST", re.compile("webhook_endpoints"), "webhook_write", create),
    Route("GET", re.compile(r"webhook_endpoints/(\w+)"), "webhook_read", partial(get_object, RESOURCE)),
    Route("POST", re.compile(r"webhook_endpoints/(\w+)"), "webhook_write", update),
    Route("DELETE", re.compile(r"webhook_endpoints/(\w+)"), "webhook_write", delete),
)
