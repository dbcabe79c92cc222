"""The form of a ticket's page: it leads to the payment, or says what is wrong (SPEC 13)."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, cast

import msgspec
import pytest
from aiohttp import web

from daemon.api.checkout import Checkout, CheckoutSettings
from daemon.api.checkout_limits import CheckoutLimits
from daemon.api.config import parse_sites
from daemon.api.public_pages import begin_payment
from daemon.languages import CODES
from daemon.ledger import money
from daemon.pages.languages import language
from daemon.pages.public import CannotGive
from daemon.pages.ticket_views import Entered, parsed_amount
from daemon.runtime.http.limits import Places
from daemon.stripe_api.charge_amounts import parse_fees
from daemon.stripe_api.client import Reply, StripeApi, StripeRejected, StripeUnavailable
from sql.database import Database
from tests.support.api_application import Client, MakeClient, application, follower
from tests.support.pages import ADD_TICKET, ADDRESS, CHECKOUT, page_routes

TICKET = {"id": "story-1", "title": "A new roof", "goal": 200_000, "state": "open"}


@pytest.fixture
async def client(database: Database, aiohttp_client: MakeClient) -> Client:
    """An API with an open ticket and its pages."""
    await database.fetch(ADD_TICKET, TICKET)
    return await aiohttp_client(application(database, follower(), feature_routes=page_routes(database)))


@pytest.mark.parametrize(
    ("fields", "amount"),
    [
        ({"preset": "25"}, "25.0"),
        ({"preset": "25", "other": "12,50"}, "12.50"),
        ({"preset": "25", "other": " 1.234,5 "}, "1234.5"),
        ({"other": "1,234.50"}, "1234.50"),
        ({"other": "١٢٫٥"}, "12.5"),
        ({"other": "1\u202f000"}, "1000"),
        ({"other": "12’345.60"}, "12345.6"),
        ({"other": "1.000.000"}, "1000000"),
    ],
)
def test_amounts_as_people_write_them(fields: dict[str, str], amount: str) -> None:
    """The other amount counts if it is filled in; decimals after a point or a comma, in any digits."""
    assert Entered.of(fields, "USD", language("en")).amount == Decimal(amount)


@pytest.mark.parametrize("text", ["", "0", "-5", "1.000", "12,345", "ten", "1e9", "5.5.5", "1.2345", "9" * 13])
def test_what_is_no_amount(text: str) -> None:
    """Nothing is guessed: a thousand or one, with three digits behind one separator, is asked again."""
    assert parsed_amount(text, "USD", language("en")) is None


@pytest.mark.parametrize(
    ("text", "code", "amount"),
    [
        ("5.125", "en", "5.125"),
        ("5,125", "de", "5.125"),
        ("5.125", "de", None),
        ("5,125", "en", None),
        ("0,125", "en", "0.125"),
        ("1234.125", "de", "1234.125"),
        ("1,234.125", "de", "1234.125"),
        ("٥٫١٢٥", "ar", "5.125"),
        ("5.1255", "en", None),
    ],
)
def test_three_decimals(text: str, code: str, amount: str | None) -> None:
    """Where a currency has them they can be entered, as the language writes them; what could be a thousand is asked
    again. Every amount is exact."""
    assert parsed_amount(text, "KWD", language(code)) == (None if amount is None else Decimal(amount))


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("currency", ["USD", "KWD"])
def test_an_amount_is_read_as_it_is_shown(code: str, currency: str) -> None:
    """The number that a page shows of an amount, as its example, can be entered."""
    for minor in (1, 1_005, 12_340):
        shown = language(code).amount(minor, currency)
        number = "".join(each for each in shown if each.isdigit() or each in ".,٫").strip(".,")
        assert parsed_amount(number, currency, language(code)) == Decimal(minor).scaleb(-money.exponent(currency)), (
            shown
        )


async def test_the_form_leads_to_the_payment(client: Client) -> None:
    """By a redirection, without a script."""
    reply = await client.post("/tickets/story-1/give", data={"preset": "25"}, allow_redirects=False)
    assert (reply.status, reply.headers["Location"]) == (303, CHECKOUT)


async def test_a_form_with_a_mistake_is_shown_again(database: Database, aiohttp_client: MakeClient) -> None:
    """With what the donor entered, and with what to do, in the donor's language."""
    await database.fetch(ADD_TICKET, TICKET)

    async def begin(_request: web.Request, _ticket: str, _entered: Entered) -> str:
        raise CannotGive("error_limit", 429, {"Retry-After": "60"})

    routes = page_routes(database, begin=begin)
    client = await aiohttp_client(application(database, follower(), feature_routes=routes))
    fields = {"rhythm": "monthly", "other": "ten", "show": "on"}
    reply = await client.post("/tickets/story-1/give?lang=de", data=fields)
    page = await reply.text()
    assert (reply.status, "Bitte geben Sie einen Betrag ein" in page) == (400, True)
    assert 'value="monthly" checked' in page
    assert 'id="show" name="show" checked' in page
    assert 'value="ten"' in page
    reply = await client.post("/tickets/story-1/give?lang=en", data={"preset": "25"})
    assert (reply.status, reply.headers["Retry-After"]) == (429, "60")
    assert reply.headers["Cache-Control"] == "no-store"


class Stripe:
    """Answers every call with `answer`: the address of a session, or an error."""

    answer: str | Exception = CHECKOUT

    def __init__(self) -> None:
        self.sessions: list[Mapping[str, Any]] = []

    async def post(self, _path: str, params: Mapping[str, Any], **_options: str) -> Reply:
        self.sessions.append(params)
        if isinstance(self.answer, Exception):
            raise self.answer
        return Reply(msgspec.json.encode({"url": self.answer}), 0)


@pytest.fixture
async def stripe(database: Database) -> Stripe:
    await database.fetch(ADD_TICKET, TICKET)
    return Stripe()


@pytest.fixture
async def giving(database: Database, aiohttp_client: MakeClient, stripe: Stripe) -> Client:
    """An API whose form begins checkouts; one address may begin three in an hour."""
    settings = CheckoutSettings("USD", ADDRESS, parse_fees("USD 2.9% + 0.30"))
    limits = CheckoutLimits(database, per_address=3, in_total=300, secret="whsec_1")
    checkout = Checkout(database, cast(StripeApi, stripe), settings, limits, Places("checkouts", 2))
    routes = page_routes(database, begin=begin_payment(checkout))
    return await aiohttp_client(application(database, follower(), feature_routes=routes))


async def give(client: Client, fields: Mapping[str, str], headers: Mapping[str, str] = {}) -> tuple[int, str]:
    """The status, and where the donor is sent, or the page."""
    path = "/tickets/story-1/give?lang=en"
    reply = await client.post(path, data=fields, headers=headers, allow_redirects=False)
    return reply.status, reply.headers.get("Location") or await reply.text()


async def test_what_the_donor_chose_is_in_the_session(giving: Client, stripe: Stripe) -> None:
    """Amount, month, fee and consent, for this ticket in its currency."""
    chosen = {"rhythm": "monthly", "preset": "25", "cover": "on", "show": "on"}
    assert await give(giving, chosen) == (303, CHECKOUT)
    [session] = stripe.sessions
    [item] = session["line_items"]
    assert (session["mode"], session["metadata"]) == ("subscription", {"ticketId": "story-1"})
    assert (item["price_data"]["currency"], item["price_data"]["unit_amount"]) == ("usd", 2606)
    assert session["custom_fields"][0]["dropdown"]["default_value"] == "yes"


@pytest.mark.parametrize(
    ("answer", "other", "status"),
    [
        (CHECKOUT, "0.10", 400),
        (StripeRejected(400, "amount_too_small", None, None), "5", 400),
        (StripeRejected(401, None, None, None), "5", 502),
        (StripeUnavailable("it did not answer"), "5", 503),
    ],
)
async def test_a_donor_reads_why_no_payment_begins(
    giving: Client, stripe: Stripe, answer: str | Exception, other: str, status: int
) -> None:
    """In the form, which keeps what was entered; nothing of Stripe's own error is shown."""
    stripe.answer = answer
    text = "This amount cannot be paid here" if status == 400 else "The payment page cannot be reached"
    shown, page = await give(giving, {"other": other})
    assert (shown, text in page, f'value="{other}"' in page) == (status, True, True)


async def test_an_address_and_other_sites_are_limited(giving: Client, stripe: Stripe) -> None:
    """The fourth payment of an address in an hour is refused with what to do, a form on another site always."""
    assert [(await give(giving, {"preset": "10"}))[0] for _ in range(4)] == [303, 303, 303, 429]
    assert "many payments from your network" in (await give(giving, {"preset": "10"}))[1]
    status, page = await give(giving, {"preset": "10"}, {"Sec-Fetch-Site": "cross-site"})
    assert (status, "This request is not complete" in page, len(stripe.sessions)) == (403, True, 3)


@pytest.mark.parametrize(
    ("text", "sites"),
    [
        ("https://a.example, https://*.b.example:8443", ("https://a.example", "https://*.b.example:8443")),
        ("http://127.0.0.1:8000 https://a.example", ("http://127.0.0.1:8000", "https://a.example")),
    ],
)
def test_sites_that_may_frame_the_small_page(text: str, sites: tuple[str, ...]) -> None:
    """Separated by commas or spaces, as a Content-Security-Policy names them."""
    assert parse_sites(text) == sites


@pytest.mark.parametrize(
    "text", ["example.org", "*", "https://a.example/path", "'self'", "https://a.example;script-src *"]
)
def test_what_names_no_site(text: str) -> None:
    """Nothing else gets into the header of a reply."""
    with pytest.raises(ValueError, match="needs sites"):
        parse_sites(text)
