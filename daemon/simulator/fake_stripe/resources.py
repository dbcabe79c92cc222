"""The lists and the single objects that Stripe's API gives, as handlers of the server."""

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any

from daemon.simulator.api_versions import Api
from daemon.simulator.balance import failure_transaction_id, of_dispute
from daemon.simulator.collection import Collection, Stored
from daemon.simulator.copies import Copy, attribute
from daemon.simulator.fake_stripe.parameters import StripeError, check_all_known, no_such, take_part
from daemon.simulator.stripe_invoices import Invoice, InvoicePayment
from daemon.simulator.stripe_objects import DAY_S, Charge, Dispute, Json, Refund
from daemon.simulator.world import World

EVENTS_KEPT_S = 30 * DAY_S  # https://docs.stripe.com/api/events/list
EXPANDED_DEPTH = 4


@dataclass(frozen=True)
class Request:
    """A request that was checked: what it asks for, and of which objects.

    Attributes:
        path: the path below `/v1/`.
        params: the nested parameters; a handler removes those that it knows.
        world: the objects of the key's mode, and of the account that the request names.
        api: the version whose shapes the reply has.
        now: Unix seconds.
        hidden: ids of objects that are treated as if they did not exist.
        base_url: where the fake is reached.
    """

    method: str
    path: str
    params: Json
    world: World
    api: Api
    now: int
    hidden: Set[str] = frozenset()
    base_url: str = ""


@dataclass(frozen=True)
class Route:
    """What answers the requests of a method and path.

    Attributes:
        path: the path below `/v1/`; its groups are passed to the handler.
        permission: what a restricted key needs, such as `charge_read`.
        handler: raises StripeError for what Stripe would reject.
    """

    method: str
    path: re.Pattern[str]
    permission: str
    handler: Callable[..., Json]


@dataclass(frozen=True)
class Resource:
    """A type of objects that can be listed and read.

    Attributes:
        type: the objects' type.
        permission: what a restricted key needs, such as `charge` for `rak_charge_read`.
        filters: the parameters that restrict the list, each with the objects' own value.
    """

    type: str
    permission: str
    filters: Mapping[str, Callable[[Any], object]] = field(default_factory=dict)


def _of_charge(thing: Refund | Dispute) -> object:
    return thing.charge.id if thing.charge else None


def _intent_of_charge(thing: Refund | Dispute) -> object:
    return thing.charge.payment_intent if thing.charge else None


def _subscription(invoice: Invoice) -> object:
    return invoice.subscription.id if invoice.subscription else None


def _payment(of: InvoicePayment) -> object:
    return {"payment_intent": of.invoice.payment_intent, "type": "payment_intent"}


_LINKS = {"charge": _of_charge, "payment_intent": _intent_of_charge}
RESOURCES = {
    "payment_intents": Resource("payment_intent", "payment_intent"),
    "charges": Resource("charge", "charge", {"payment_intent": attrgetter("payment_intent")}),
    "refunds": Resource("refund", "charge", _LINKS),
    "disputes": Resource("dispute", "dispute", _LINKS),
    "checkout/sessions": Resource(
        "checkout.session",
        "checkout_session",
        {name: attrgetter(name) for name in ("payment_intent", "subscription", "status")},
    ),
    "customers": Resource("customer", "customer", {"email": attrgetter("donor.email")}),
    "subscriptions": Resource("subscription", "subscription", {"status": attrgetter("status")}),
    "radar/early_fraud_warnings": Resource("radar.early_fraud_warning", "radar"),
    "invoices": Resource("invoice", "invoice", {"subscription": _subscription, "status": attrgetter("status")}),
    "invoice_payments": Resource(
        "invoice_payment",
        "invoice",
        {"invoice": attrgetter("invoice.id"), "status": attrgetter("invoice.status"), "payment": _payment},
    ),
    "balance_transactions": Resource(
        "balance_transaction", "balance", {name: attrgetter(name) for name in ("source", "type")}
    ),
    "payouts": Resource("payout", "payout", {"status": attrgetter("status")}),
    "events": Resource("event", "event", {"type": attrgetter("type"), "types": attrgetter("type")}),
}


def list_objects(resource: Resource, request: Request) -> Json:
    """A page of a list, the newest first. Raises StripeError for parameters that Stripe would reject."""
    params = request.params
    part, paths = take_part(params), params.pop("expand", [])
    collection = _collection(request, resource)
    if resource.type == "subscription" and params.get("status") == "all":
        del params["status"]
    wanted = {name: params.pop(name) for name in resource.filters if name in params}
    check_all_known(params)

    def keep(thing: Stored) -> bool:
        return _is_visible(request, resource, thing) and all(
            _matches(value, attribute(thing, resource.filters[name])) for name, value in wanted.items()
        )

    try:
        found, has_more = collection.part(part, keep)
    except KeyError as error:
        param = "starting_after" if part.starting_after else "ending_before"
        raise no_such(resource.type, error.args[0], param, status=400) from None
    shown = [_shown(request, thing) for thing in found]
    reply = {"object": "list", "data": shown, "has_more": has_more, "url": f"/v1/{request.path}"}
    return expanded(request, reply, paths)


def get_object(resource: Resource, request: Request, id_: str) -> Json:
    """One object. Raises StripeError if this account has none with this id."""
    paths = request.params.pop("expand", [])
    check_all_known(request.params)
    return expanded(request, _shown(request, find(request, resource, id_)), paths)


def find(request: Request, resource: Resource, id_: str) -> Any:
    """The object with this id. Raises StripeError if this account has none."""
    thing = _collection(request, resource).get(id_)
    if thing is None or not _is_visible(request, resource, thing):
        raise no_such(resource.type, id_, "id")
    return thing


def expanded(request: Request, reply: Json, paths: list[str]) -> Json:
    """The reply with whole objects in place of ids, as `expand[]` asks.

    Raises:
        StripeError: a path names no field of the reply, or goes too deep.
    """
    if not paths:
        return reply
    reply = copy.deepcopy(reply)  # an event keeps its objects
    for path in paths:
        names = path.split(".")
        if len(names) > EXPANDED_DEPTH + 1:
            raise StripeError(
                400, f"You cannot expand more than {EXPANDED_DEPTH} levels of a property.", param="expand"
            )
        _expand(request, reply, names)
    return reply


def _expand(request: Request, thing: Json, names: list[str]) -> None:
    name, *rest = names
    if name == "refunds" and thing.get("object") == "charge":
        thing[name] = _refunds(request, thing["id"])
    value = thing.get(name, 0)
    if isinstance(value, str):
        request.world.settle(request.now)
        found = request.world.find(value)
        value = thing[name] = None if found is None else _shown(request, found)
    elif value is not None and not isinstance(value, dict | list):
        raise StripeError(400, f"This property cannot be expanded ({name}).", param="expand")
    for inner in value if isinstance(value, list) else [value]:
        if rest and inner is not None:
            _expand(request, inner, rest)


def _refunds(request: Request, charge: str) -> Json:
    """The refunds of a charge, which contains them only where a request asks for them."""
    found = request.world.collections["charge"].get(charge)
    original: Any = found.original if isinstance(found, Copy) else found
    refunds = [_shown(request, refund) for refund in original.refunds[::-1]] if original else []
    shown = {"object": "list", "data": refunds, "has_more": False, "url": f"/v1/charges/{charge}/refunds"}
    return found.of(shown) if isinstance(found, Copy) else shown


def _shown(request: Request, thing: Stored) -> Json:
    """The object as the API gives it: with the balance transactions of a dispute, and of what failed."""
    if isinstance(thing, Copy):
        return thing.of(_shown(request, thing.original))
    shown = thing.render(request.api)
    if isinstance(thing, Dispute):
        moved = of_dispute(thing, request.world.balance.currency)
        shown["balance_transactions"] = [each.render(request.api) for each in moved]
    elif isinstance(thing, Charge | Refund):
        shown["failure_balance_transaction"] = failure_transaction_id(thing)
    return shown


def _collection(request: Request, resource: Resource) -> Collection[Any]:
    """The objects that are listed; of the balance, also those of one payout."""
    world = request.world
    if resource.type in {"balance_transaction", "payout"}:
        world.settle(request.now)
    payout = request.params.pop("payout", None) if resource.type == "balance_transaction" else None
    if payout is None:
        return world.collections[resource.type]
    if payout not in world.balance.parts:
        raise no_such("payout", payout, "payout", status=400)
    return world.balance.parts[payout]


def _is_visible(request: Request, resource: Resource, thing: Stored) -> bool:
    """Whether the API gives this object: events for 30 days only."""
    if resource.type == "event" and thing.created < request.now - EVENTS_KEPT_S:
        return False
    return thing.id not in request.hidden


def _matches(wanted: Any, value: Any) -> bool:
    if isinstance(wanted, list):
        return value in wanted
    if isinstance(wanted, dict):  # such as payment[payment_intent]
        return all(isinstance(value, dict) and value.get(name) == text for name, text in wanted.items())
    return bool(value == wanted) or (isinstance(wanted, str) and wanted.endswith("*") and _starts(value, wanted[:-1]))


def _starts(value: Any, beginning: str) -> bool:
    return isinstance(value, str) and value.startswith(beginning)


def get_account(request: Request) -> Json:
    """The account that the key belongs to, or that the request names."""
    check_all_known(request.params)
    account = request.world.account or "acct_1Fake"
    return {
        "id": account,
        "object": "account",
        "business_profile": {"name": "A charity that does not exist", "support_email": None, "url": None},
        "business_type": "non_profit",
        "capabilities": {"card_payments": "active", "transfers": "active"},
        "charges_enabled": True,
        "country": "US",
        "default_currency": request.world.balance.currency,
        "details_submitted": True,
        "email": None,
        "metadata": {},
        "payouts_enabled": True,
        "settings": {"dashboard": {"display_name": "Fake", "timezone": "Etc/UTC"}},
        "type": "standard",
    }


def _routes() -> Iterator[Route]:
    yield Route("GET", re.compile("account"), "account_read", get_account)
    for path, resource in RESOURCES.items():
        permission = f"{resource.permission}_read"
        yield Route("GET", re.compile(path), permission, partial(list_objects, resource))
        yield Route("GET", re.compile(rf"{path}/(\w+)"), permission, partial(get_object, resource))


ROUTES = tuple(_routes())
