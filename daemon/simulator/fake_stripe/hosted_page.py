"""The page at which a donor pays a Checkout Session of the fake: a form in place of Stripe's own page."""

from html import escape

from aiohttp import web

from daemon.simulator.fake_stripe import checkout_sessions
from daemon.simulator.stripe_objects import Donor, Json
from daemon.simulator.stripe_sessions import Session
from daemon.simulator.world import World

PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Fake of Stripe Checkout</title>
<style>body {{ font: 1rem/1.5 sans-serif; max-width: 30rem; margin: 2rem auto }} label {{ display: block }}</style>
<h1>{amount} {currency} (minor units){monthly}</h1>
<p>This is a fake of Stripe Checkout: no money moves.</p>
<form method="post">
<label>Name <input name="name" value="Ada Example"></label>
<label>E-mail <input name="email" value="ada@example.org"></label>
<label>Country <input name="country" value="US" maxlength="2"></label>
{fields}
<button name="outcome" value="paid">Pay by card</button>
<button name="outcome" value="declined">Pay with a card that is declined</button>
<button name="outcome" value="debit">Pay by bank debit, which takes days</button>
<button name="outcome" value="back">Go back</button>
</form>
"""


def show(session: Session) -> web.Response:
    """The form of an open session; for another one a sentence that says so."""
    if session.status != "open":
        return web.Response(status=410, text=f"This Checkout Session is {session.status}.")
    page = PAGE.format(
        amount=session.amount,
        currency=escape(session.currency.upper()),
        monthly=" each month" if session.mode == "subscription" else "",
        fields="\n".join(map(_field, session.requested.get("custom_fields", []))),
    )
    return web.Response(text=page, content_type="text/html")


def _field(field: Json) -> str:
    label, name = escape(field["label"]["custom"]), escape(f"answer {field['key']}")
    detail = field[field["type"]]
    if field["type"] != "dropdown":
        return f'<label>{label} <input name="{name}" value="{escape(detail["default_value"] or "")}"></label>'
    options = "".join(
        f'<option value="{escape(option["value"])}"{" selected" if option["value"] == detail["default_value"] else ""}>'
        f"{escape(option['label'])}</option>"
        for option in detail["options"]
    )
    return f'<label>{label} <select name="{name}">{options}</select></label>'


async def submit(request: web.Request, world: World, session: Session, now: int) -> web.Response:
    """Does what the donor chose, and sends the browser where the session says."""
    if session.status != "open":
        return show(session)
    form = {name: str(value) for name, value in (await request.post()).items()}
    outcome = form.get("outcome")
    donor = Donor(form.get("name"), None, form.get("country"), form.get("email"), None, None, None, None)
    answers = {name.removeprefix("answer "): value for name, value in form.items() if name.startswith("answer ")}
    shown = session.render(world.api)
    target = shown["success_url"].replace("{CHECKOUT_SESSION_ID}", session.id)
    if outcome == "paid":
        checkout_sessions.pay(world, session.id, donor, now, answers=answers)
    elif outcome == "debit":
        checkout_sessions.pay(world, session.id, donor, now, answers=answers, method="us_bank_account")
    elif outcome == "declined":
        checkout_sessions.decline(world, session.id, donor, now)
        target = f"/pay/{session.id}"
    else:
        target = shown["cancel_url"] or target
    return web.Response(status=303, headers={"Location": target})
