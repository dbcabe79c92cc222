"""Our lists of Stripe's values agree with those of the locked `stripe` library, which describes the present API."""

import ast
import inspect
import re
from types import ModuleType
from typing import get_args

import pytest
import stripe
from stripe.params import WebhookEndpointCreateParams

from daemon.ledger import facts, stripe_events
from daemon.ledger.events import reversals

# Sent by API versions before 2014-11-20 only: https://docs.stripe.com/changelog
RETIRED_DISPUTE_STATUSES = {"charge_refunded"}


def literals(annotation: object) -> set[str]:
    """The texts that a type names, at any depth."""
    inner = get_args(annotation)
    return {each for each in inner if isinstance(each, str)}.union(*map(literals, inner))


def described(of: type, field: str) -> set[str]:
    """The values that the text below a field names, for a field that the library types as any text."""
    body = ast.parse(inspect.getsource(of)).body[0]
    assert isinstance(body, ast.ClassDef)
    for statement, text in zip(body.body, body.body[1:], strict=False):
        is_field = isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == field
        if is_field and isinstance(text, ast.Expr):
            return set(re.findall(r"`([a-z_]+)`", ast.unparse(text).partition(". Learn")[0]))
    return set()


DISPUTE_STATUSES = literals(stripe.Dispute.__annotations__["status"])
REFUND_STATUSES = described(stripe.Refund, "status")
EVENT_TYPES = literals(WebhookEndpointCreateParams.__annotations__["enabled_events"])


def test_the_librarys_lists_are_found() -> None:
    """A library that writes its lists in another way makes this fail, and not the comparison pass."""
    assert {"lost", "won", "needs_response"} <= DISPUTE_STATUSES
    assert {"pending", "succeeded", "failed"} <= REFUND_STATUSES
    assert {"charge.succeeded", "refund.created"} <= EVENT_TYPES


@pytest.mark.parametrize(
    ("module", "name", "known", "retired"),
    [
        (facts, "DISPUTE_STAGES", DISPUTE_STATUSES, RETIRED_DISPUTE_STATUSES),
        (reversals, "REFUND_STATUSES", REFUND_STATUSES, set[str]()),
    ],
)
def test_every_status_of_the_library_is_in_our_list(
    module: ModuleType, name: str, known: set[str], retired: set[str]
) -> None:
    """A status that Stripe adds is noticed with the library's next version; one that is misspelt here at once."""
    listed = set(getattr(module, name))
    unlisted, unknown = sorted(known - listed), sorted(listed - known - retired)
    assert not unlisted, (
        f"stripe {stripe.VERSION} has statuses that {module.__name__}.{name} does not list: {unlisted}. "
        f"Decide what each means for the money (https://docs.stripe.com/changelog), then add it to the list and "
        f"to its rule"
    )
    assert not unknown, f"{module.__name__}.{name} lists statuses that stripe {stripe.VERSION} does not have: {unknown}"


def test_every_handled_type_can_be_subscribed_to() -> None:
    """A type that Stripe never sends, because it is misspelt or was removed, is no type that is handled."""
    unknown = sorted(stripe_events.HANDLERS.keys() - EVENT_TYPES)
    assert not unknown, (
        f"daemon.ledger.stripe_events.HANDLERS has types that stripe {stripe.VERSION} does not have: {unknown}"
    )
