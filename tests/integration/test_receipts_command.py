"""`donationd receipts` and the operator API's list of undelivered mails, after donors have been thanked."""

import asyncio
import csv
import json
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from daemon.api.endpoints import PREFIX
from daemon.cli.main import main
from daemon.ledger import privacy
from daemon.runtime.operator_tokens import new_token, parse_tokens
from sql.database import Database
from tests.support.api_application import MakeClient, application, follower
from tests.support.debian import need_fonts, program
from tests.support.operators import bearer
from tests.support.thanks_site import ANN, ThanksSite, id_of, thanks_site

YEAR = time.gmtime().tm_year


@pytest.fixture
async def site(database: Database, database_url: str) -> AsyncIterator[ThanksSite]:
    async with thanks_site(database, database_url) as site:
        yield site


async def donationd(site: ThanksSite, *arguments: str, text: str | None = None) -> Result:
    """Runs `donationd receipts …` while Stripe's fake and the mail server answer in this event loop."""
    command = ["receipts", *arguments]
    return await asyncio.to_thread(CliRunner().invoke, main, command, env=site.environ, input=text)


def text_of(file: Path) -> str:
    return subprocess.run(
        [program("pdftotext", "poppler-utils"), str(file), "-"], capture_output=True, check=True, text=True
    ).stdout


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder, by name."""
    return {file.name: file.read_bytes() for file in folder.glob("*.pdf")}


async def test_check_makes_every_document_and_signs_in(site: ThanksSite, tmp_path: Path) -> None:
    """It sends nothing; a server that is away is named, with exit status 1."""
    need_fonts()
    checked = await donationd(site, "check", "--out", str(tmp_path / "samples"))
    assert (checked.exit_code, site.smtp.received) == (0, [])
    assert "Spendenquittung" in text_of(tmp_path / "samples" / "receipt-de.pdf")
    site.environ["SMTP_URL"] = "smtp://127.0.0.1:1"
    failed = await donationd(site, "check")
    assert (failed.exit_code, failed.stderr) == (1, "Error: the mail server cannot be used: connection failed\n")


async def test_the_register_is_listed_for_the_accountant(site: ThanksSite) -> None:
    """As text, CSV and JSON: number, amount, state and hash; no donor is named."""
    payment = await site.pay()
    await site.pay(amount=700)
    await site.run()
    await site.refund(payment, 1500)
    await site.run()
    first, second, third = ((await donationd(site, "list")).stdout).splitlines()
    assert first.endswith(f"{id_of(payment):<30} replaced by {YEAR}-000003")
    assert second.endswith("valid")
    assert third.endswith("valid")
    rows = list(csv.DictReader((await donationd(site, "list", "--year", str(YEAR), "--csv")).stdout.splitlines()))
    assert [(row["number"], row["state"], row["amount"], row["currency"], row["replaces"]) for row in rows] == [
        (f"{YEAR}-000001", "replaced", "50.00", "USD", ""),
        (f"{YEAR}-000002", "valid", "7.00", "USD", ""),
        (f"{YEAR}-000003", "valid", "35.00", "USD", f"{YEAR}-000001"),
    ]
    objects = [json.loads(line) for line in (await donationd(site, "list", "--json")).stdout.splitlines()]
    assert [each["sha256"] for each in objects] == [row["sha256"] for row in rows]
    assert "Ann" not in json.dumps(objects)
    assert (await donationd(site, "list", "--year", "2001")).stdout == ""


async def test_a_reprint_is_marked_and_on_record(site: ThanksSite, tmp_path: Path) -> None:
    """The duplicate has today's name and address; whether the original can be made again is said."""
    payment = await site.pay()
    await site.run()
    out = tmp_path / "receipt.pdf"
    printed = await donationd(site, "reprint", f"{YEAR}-000001", "--out", str(out), "--by", "alex")
    assert printed.exit_code == 0, printed.output
    assert "byte for byte" in printed.stderr
    text = text_of(out)
    assert "DUPLICATE" in text
    assert "Ann Ångström" in text
    assert out.stat().st_mode & 0o077 == 0
    payment.state.charges[-1].billing = ANN.__class__(**{**ANN.__dict__, "name": "Ann Smith"})
    printed = await donationd(site, "reprint", f"{YEAR}-000001", "--out", str(out), "--by", "alex")
    assert "cannot be made again" in printed.stderr
    assert "Ann Smith" in text_of(out)
    [(actor, detail)] = await site.database.fetch("SELECT DISTINCT actor, detail FROM operator_acts")
    assert (actor, detail) == ("alex", f"reprint {YEAR}-000001")
    unknown = await donationd(site, "reprint", f"{YEAR}-000009", "--out", str(out))
    assert (unknown.exit_code, "there is no receipt" in unknown.stderr) == (1, True)


async def test_yearly_statements(site: ThanksSite, tmp_path: Path) -> None:
    """One PDF a donor, named by hash, with what is left of each donation; a file that is there already stays."""
    for amount in (5000, 700):
        await site.pay(amount=amount)
    refunded = await site.pay(amount=900)
    await site.refund(refunded, 900)
    await site.pay(ANN.__class__(**{**ANN.__dict__, "email": "bo@example.com", "name": "Bo"}))
    await site.run()
    made = await donationd(site, "yearly", str(YEAR), "--out", str(tmp_path), "--by", "alex")
    assert made.exit_code == 0, made.output
    hashes = (str(privacy.email_hash(email, None)) for email in ("ann@example.com", "bo@example.com"))
    names = [f"{YEAR}-{each[:16]}.pdf" for each in hashes]
    assert sorted(contents(tmp_path)) == sorted(names)
    text = text_of(tmp_path / names[0])
    assert [part for part in ("Ann Ångström", "US$50.00", "US$7.00", "US$57.00") if part not in text] == []
    assert "US$9.00" not in text
    (tmp_path / names[0]).write_bytes(b"kept")
    one = await donationd(site, "yearly", str(YEAR), "--out", str(tmp_path / "one"), "--email", text="Bo@example.com\n")
    assert one.exit_code == 0, one.output
    assert list(contents(tmp_path / "one")) == [names[1]]
    await donationd(site, "yearly", str(YEAR), "--out", str(tmp_path))
    assert contents(tmp_path)[names[0]] == b"kept"
    assert (await donationd(site, "yearly", "2001", "--out", str(tmp_path))).exit_code == 1


async def test_a_statement_that_cannot_be_made_prevents_no_other(site: ThanksSite, tmp_path: Path) -> None:
    """Stripe does not have the payment of one donor any more, which is named; with a wrong key nothing is made."""
    lost = await site.pay()
    for name in ("bo", "cy"):
        await site.pay(replace(ANN, email=f"{name}@example.com"))
    site.fake.world.collections["payment_intent"].remove(id_of(lost))
    made = await donationd(site, "yearly", str(YEAR), "--out", str(tmp_path))
    assert (made.exit_code, len(contents(tmp_path))) == (1, 2)
    assert f"no statement for the donor of {id_of(lost)}: " in made.stderr
    site.environ["STRIPE_API_KEY"] = "sk_test_wrong"
    wrong = await donationd(site, "yearly", str(YEAR), "--out", str(tmp_path / "new"))
    assert (wrong.exit_code, "status 401" in wrong.stderr, contents(tmp_path / "new")) == (1, True, {})


async def test_an_undelivered_mail_is_sent_again_or_dismissed(site: ThanksSite, aiohttp_client: MakeClient) -> None:
    """By command or over HTTP; both are on record. It is sent with the receipt that was issued, if one was."""
    site.smtp.answer_data = lambda: "554 5.6.0 canary@example.com"
    for _ in range(3):
        await site.pay()
    await site.run()
    token, entry = new_token("anna", "read+act")
    client = await aiohttp_client(application(site.database, follower(), tokens=parse_tokens(entry)))
    reply = await client.get(f"{PREFIX}undelivered-mail?limit=2", headers=bearer(token))
    page = await reply.json()
    assert [mail["smtpCode"] for mail in page["mails"]] == ["554 5.6.0"] * 2
    reply = await client.get(f"{PREFIX}undelivered-mail?cursor={page['nextCursor']}", headers=bearer(token))
    [last] = (await reply.json())["mails"]
    listed = await donationd(site, "undelivered", "--json")
    ids = [json.loads(line)["id"] for line in listed.stdout.splitlines()]
    assert ids == [mail["id"] for mail in [*page["mails"], last]]
    assert ("canary" in listed.stdout, listed.stderr) == (False, "3 mails wait for a person\n")
    site.smtp.answer_data = lambda: "250 OK"
    assert (await client.post(f"{PREFIX}undelivered-mail/{ids[0]}/retry", headers=bearer(token), json={})).status == 200
    assert (await client.post(f"{PREFIX}undelivered-mail/{ids[0]}/retry", headers=bearer(token), json={})).status == 409
    assert (await client.post(f"{PREFIX}undelivered-mail/999/dismiss", headers=bearer(token), json={})).status == 404
    assert (await donationd(site, "retry", str(ids[1]), "--by", "alex")).exit_code == 0
    assert (await donationd(site, "dismiss", str(ids[2]), "--by", "alex")).exit_code == 0
    assert (await donationd(site, "dismiss", str(ids[2]))).exit_code == 1
    await site.run()
    assert len(site.smtp.received) == 2
    assert sorted(state for _, state, *_ in await site.mails()) == ["dismissed", "sent", "sent"]
    assert [number for number, *_ in await site.receipts()] == [1, 2, 3]
    acts = await site.database.fetch("SELECT actor, action, detail FROM operator_acts ORDER BY id")
    assert acts == [
        ("anna", "mail", f"send again {ids[0]}"),
        ("alex", "mail", f"send again {ids[1]}"),
        ("alex", "mail", f"dismiss {ids[2]}"),
    ]


def test_without_mail_it_says_what_to_set(database_url: str) -> None:
    """What needs no mail works all the same."""
    environ = {"DATABASE_URL": database_url}
    assert CliRunner().invoke(main, ["receipts", "list"], env=environ).exit_code == 0
    failed = CliRunner().invoke(main, ["receipts", "check"], env=environ)
    assert (failed.exit_code, "CHARITY_NAME" in failed.stderr) == (1, True)
