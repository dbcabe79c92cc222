"""The endpoints of the API and of the sidecar are those of deploy/docs/reference.md."""

from datetime import datetime
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry

from daemon.api.checkout import Checkout, CheckoutSettings
from daemon.api.checkout_limits import CheckoutLimits
from daemon.runtime.http.limits import Places
from daemon.runtime.readiness import Readiness
from health_sidecar.endpoints import build_app, report_routes
from sql.database import Database
from tests.support.api_application import application, follower
from tests.support.docs import endpoints
from tests.support.pages import page_routes


def routes(app: web.Application | None) -> set[tuple[str, str]]:
    """Method and path of each route; aiohttp adds HEAD to each GET."""
    assert app is not None
    found = [(route.method, route.resource) for route in app.router.routes() if route.method != "HEAD"]
    return {(method, resource.canonical) for method, resource in found if resource}


async def test_the_api_answers_what_the_reference_lists(database: Database) -> None:
    """Each row is a route of the API, and each route has a row."""
    settings = CheckoutSettings("USD", None, {})
    limits = CheckoutLimits(database, per_address=1, in_total=1, secret="")
    features = [*Checkout(database, None, settings, limits, Places("checkouts", 1)).routes(), *page_routes(database)]
    assert routes(application(database, follower(), feature_routes=features)) == endpoints(of_the_sidecar=False)


async def test_the_sidecar_answers_what_the_reference_lists() -> None:
    """Each row marked with "sidecar", and each health check, is a route of it, and each route has a row."""

    def history(_begin: datetime, _end: datetime) -> dict[str, object]:
        return {}

    async def status() -> dict[str, Any]:
        return {}

    app = build_app(lambda: Readiness(ready=True), CollectorRegistry(), report_routes(history, status))
    assert routes(app) == endpoints(of_the_sidecar=True)
