"""The parameters of a request, and Stripe's error object for what is wrong with them.

Sources: https://docs.stripe.com/api/pagination, https://docs.stripe.com/api/errors
"""

from collections.abc import Iterable
from typing import Any

from daemon.simulator.collection import Part
from daemon.simulator.stripe_objects import Json

LIMIT = 100  # the most objects of a page


class StripeError(Exception):
    """A request that Stripe rejects.

    Args:
        status: of the reply.
        message: for the developer who reads it.
        type_: Stripe's class of error.
        code: Stripe's code, where there is one.
        param: the parameter that is wrong.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type_: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        error = {"code": code, "message": message, "param": param, "type": type_}
        if code is not None:
            error["doc_url"] = f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}"
        self.body: Json = {"error": {name: value for name, value in error.items() if value is not None}}


def no_such(type_: str, id_: str, param: str, status: int = 404) -> StripeError:
    """The error for an id that names no object of this account and mode."""
    name = type_.replace(".", "_").replace("_", " ") if type_ != "payment_intent" else type_
    return StripeError(status, f"No such {name}: '{id_}'", code="resource_missing", param=param)


def nested(pairs: Iterable[tuple[str, str]]) -> Json:
    """Form parameters as nested objects: `a[b]=1&c[]=2&c[1]=3` gives `{"a": {"b": "1"}, "c": ["2", "3"]}`.

    Raises:
        StripeError: a name is used both for a value and for an object.
    """
    tree: Json = {}
    for name, value in pairs:
        *path, last = name.replace("]", "").split("[")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise StripeError(400, f"Invalid object: {name}", param=name)
        node[last or str(len(node))] = value
    return {name: _with_lists(value) for name, value in tree.items()}


def _with_lists(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    values = {name: _with_lists(value) for name, value in node.items()}
    return list(values.values()) if values and all(name.isdigit() for name in values) else values


def take_part(params: Json) -> Part:
    """Removes the parameters that name a part of a list. Raises StripeError for an invalid one."""
    starting_after, ending_before = params.pop("starting_after", None), params.pop("ending_before", None)
    if starting_after and ending_before:
        raise StripeError(400, "You cannot parameterize both starting_after and ending_before.", param="ending_before")
    limit = take_integer(params, "limit", 10)
    if not 1 <= limit <= LIMIT:
        raise StripeError(400, f"This value must be between 1 and {LIMIT}.", param="limit")
    created = params.pop("created", {})
    if not isinstance(created, dict):
        created = {"gte": created, "lte": created}
    first = [_second(created, "gte"), _second(created, "gt", 1)]
    end = [_second(created, "lt"), _second(created, "lte", 1)]
    check_all_known({f"created[{name}]": value for name, value in created.items()})
    return Part(
        limit,
        starting_after,
        ending_before,
        max((at for at in first if at is not None), default=None),
        min((at for at in end if at is not None), default=None),
    )


def _second(created: Json, name: str, more: int = 0) -> int | None:
    return take_integer(created, name) + more if name in created else None


def take_integer(params: Json, name: str, default: int = 0) -> int:
    """Removes a parameter that is a whole number. Raises StripeError for any other text."""
    value = params.pop(name, str(default))
    try:
        return int(value)
    except (TypeError, ValueError):
        message = f"Invalid integer: {value}"
        raise StripeError(400, message, code="parameter_invalid_integer", param=name) from None


def check_all_known(params: Json) -> None:
    """Rejects parameters that no handler has taken. Raises StripeError, as Stripe does for a misspelt name."""
    for name in params:
        raise StripeError(400, f"Received unknown parameter: {name}", code="parameter_unknown", param=name)
