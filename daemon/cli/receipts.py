"""What `donationd receipts` does."""

import asyncio
import csv
import hashlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, TypeVar

import click
import msgspec

from daemon.cli.arguments import Failure
from daemon.cli.database import LONG_S, ask
from daemon.cli.emails import read_email_hashes
from daemon.cli.settings import settings
from daemon.languages import CODES
from daemon.ledger import audit, money, queues
from daemon.ledger.donation import minute
from daemon.ledger.operators import MailDecision, MailDoesNotWait, Operators, UnknownMail
from daemon.ledger.queues import UndeliveredMail
from daemon.ledger.reader import Ledger
from daemon.ledger.recorder import Recorder
from daemon.receipts import documents, register
from daemon.receipts.config import ReceiptConfig
from daemon.receipts.documents import Documents, Line, make_sample
from daemon.receipts.donation import PaidDonation
from daemon.receipts.donor import Donor, DonorUnreadable, fetch_donor
from daemon.receipts.language import known_language
from daemon.receipts.pdf import CannotTypeset
from daemon.receipts.register import ListedReceipt, Receipt, Serial
from daemon.receipts.smtp import MailServerUnavailable, Transmission
from daemon.receipts.templates import TemplateError
from daemon.runtime import files
from daemon.stripe_api.client import StripeApi, StripeRejected, StripeUnavailable
from sql import load
from sql.database import Database
from sql.rate_limit import SharedRateLimit

T = TypeVar("T")

PAGE = 1000
COLUMNS = (
    *("number", "state", "issued", "amount", "currency", "donation", "paid", "replaces", "replaced_by", "voided"),
    *("language", "template", "sha256"),
)

SAME = "the original, made again, is byte for byte what the donor was sent"
OTHER = "the original cannot be made again: the donor's data at Stripe, the templates or the fonts have changed"


class YearRow(NamedTuple):
    """A row of donations_of_year.sql."""

    email_hash: str
    id: str
    paid_at: datetime
    kept_minor: int
    currency: str
    receipt_year: int | None
    receipt_number: int | None

    @property
    def line(self) -> Line:
        """Its line in a statement."""
        serial = None if self.receipt_number is None else Serial(self.receipt_year or 0, self.receipt_number)
        return Line(self.paid_at, self.kept_minor, self.currency, serial)


def _config() -> ReceiptConfig:
    config = settings(ReceiptConfig)
    if not config.sends_mail:
        raise Failure("receipts are off: set CHARITY_NAME, CHARITY_COUNTRY, MAIL_FROM and SMTP_URL")
    return config


# --- check


def check(out: Path | None) -> None:
    """Checks templates, fonts and the mail server."""
    config = _config()
    problems = asyncio.run(_check(config, out))
    if problems:
        raise Failure("\n".join(problems))
    click.echo(f"every document can be made in {', '.join(CODES)}, and the mail server can be used")


async def _check(config: ReceiptConfig, out: Path | None) -> list[str]:
    problems = await documents.check(config)
    if out and not problems:
        for code in CODES:
            files.write(out / f"receipt-{code}.pdf", await make_sample(Documents.of(config), code))
    transmission = Transmission(config.smtp_server, config.sender.address)
    try:
        await transmission.connect()
    except MailServerUnavailable as problem:
        problems.append(str(problem))
    finally:
        await transmission.close()
    return problems


# --- list


def print_all(year: int | None, *, form: str) -> None:
    """Prints the register: as text, CSV or JSON lines."""
    if form == "csv":
        csv.writer(sys.stdout, lineterminator="\r\n").writerow(COLUMNS)
    printed = ask(lambda database: _print_pages(database, year, form), timeout_s=LONG_S)
    click.echo(f"{printed} receipts", err=True)


async def _print_pages(database: Database, year: int | None, form: str) -> int:
    printed, after = 0, None
    while page := await register.list_receipts(database, year, after, limit=PAGE):
        for listed in page:
            values = _values(listed)
            if form == "csv":
                csv.writer(sys.stdout, lineterminator="\r\n").writerow(values.values())
            else:
                click.echo(msgspec.json.encode(values) if form == "json" else _text(values))
        printed, after = printed + len(page), page[-1].receipt.serial
    return printed


def _values(listed: ListedReceipt) -> dict[str, str | None]:
    receipt = listed.receipt
    values = (
        *(str(receipt.serial), listed.state, _time(receipt.issued_at)),
        *(money.major(receipt.amount_minor, receipt.currency), receipt.currency, receipt.donation),
        *(_time(receipt.paid_at), _serial(receipt.replaced), _serial(listed.replaced_by), _time(receipt.voided_at)),
        *(receipt.language, receipt.template, receipt.pdf_sha256),
    )
    return dict(zip(COLUMNS, values, strict=True))


def _text(values: dict[str, str | None]) -> str:
    replaced = f" by {values['replaced_by']}" if values["replaced_by"] else ""
    amount = f"{values['amount']} {values['currency']}"
    return f"{values['number']}  {values['issued']}  {amount:>16}  {values['donation']:<30} {values['state']}{replaced}"


def _time(moment: datetime | None) -> str | None:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if moment else None


def _serial(serial: Serial | None) -> str | None:
    return str(serial) if serial else None


# --- reprint and yearly


def reprint(serial: Serial, out: Path, actor: str) -> None:
    """Writes a receipt again, as a duplicate."""
    config = _config()

    async def print_again(database: Database) -> bool:
        receipt = await register.find_receipt(database, serial)
        if receipt is None:
            raise Failure(f"there is no receipt {serial}; see: donationd receipts list")
        await audit.record(database, actor, "export", f"reprint {serial}")
        donor = await _donor(config, database, receipt.donation)
        return await _write_duplicate(Documents.of(config), receipt, donor, out)

    is_same = _ask(print_again)
    click.echo(f"wrote {out}")
    click.echo(SAME if is_same else OTHER, err=True)


async def _write_duplicate(made: Documents, receipt: Receipt, donor: Donor, out: Path) -> bool:
    """Writes the duplicate. Returns whether the original can be made again."""
    files.write(out, await made.receipt(receipt, donor, is_duplicate=True))
    original = await made.receipt(receipt, donor)
    return hashlib.sha256(original).hexdigest() == receipt.pdf_sha256


def make_statements(year: int, out: Path, *, by_email: bool, email_hash: str | None, actor: str) -> None:
    """Writes the statement of each donor of a year, or of one donor, that the folder does not have yet."""
    config = _config()
    hashes = read_email_hashes() if by_email else [email_hash.lower()] if email_hash else None

    async def make(database: Database) -> tuple[int, list[str]]:
        problems = []
        rows = await _rows_of_year(config, database, year, hashes)
        donors = [list(group) for _, group in groupby(rows, key=lambda row: row.email_hash)]
        await audit.record(database, actor, "export", f"statements {year}{' of one donor' if hashes else ''}")
        for done, donations in enumerate(donors, start=1):
            if problem := await _write_statement(config, database, year, donations, out):
                problems.append(problem)
            _show_progress(done, len(donors))
        return len(donors), problems

    found, problems = _ask(make)
    if not found:
        raise Failure(f"no such donor gave anything in {year}" if hashes else f"no donor gave anything in {year}")
    click.echo(f"{out} has the statements of {found - len(problems)} donors")
    if problems:
        raise Failure("\n".join(problems))


async def _rows_of_year(
    config: ReceiptConfig, database: Database, year: int, hashes: list[str] | None
) -> list[YearRow]:
    zone = Documents.of(config).zone
    begins, ends = (datetime(each, 1, 1, tzinfo=zone) for each in (year, year + 1))
    values = {"begins": begins, "ends": ends, "hashes": hashes}
    return list(map(YearRow._make, await database.fetch(load("donations_of_year"), values)))


async def _write_statement(
    config: ReceiptConfig, database: Database, year: int, donations: list[YearRow], out: Path
) -> str | None:
    """Writes a donor's statement, unless its file exists. Returns why this one statement cannot be made."""
    file, newest = out / f"{year}-{donations[0].email_hash[:16]}.pdf", donations[-1].id
    if file.exists():
        return None
    try:
        donor, made = await _donor(config, database, newest), Documents.of(config)
        language = made.language(known_language(donor.language))
        pdf = await made.statement(year, [row.line for row in donations], donor, language, datetime.now(UTC))
    except (DonorUnreadable, CannotTypeset, StripeRejected) as problem:
        if isinstance(problem, StripeRejected) and problem.status in {401, 403}:  # the key is wrong, for all donors
            raise
        return f"no statement for the donor of {newest}: {problem}"
    files.write(file, pdf)
    return None


async def _donor(config: ReceiptConfig, database: Database, donation: str) -> Donor:
    """The donor of a donation, from Stripe."""
    facts = await Ledger(database).facts_of(donation)
    paid = facts and PaidDonation.of(facts, donation)
    if not paid or paid.is_erased:
        raise Failure(f"the donor of {donation} was erased, or the donation is not in the ledger")
    async with _stripe(config, database) as stripe:
        return await fetch_donor(stripe, paid)


@asynccontextmanager
async def _stripe(config: ReceiptConfig, database: Database) -> AsyncIterator[StripeApi]:
    stripe = StripeApi(config, shared=SharedRateLimit(database))
    try:
        yield stripe
    finally:
        await stripe.close()


def _show_progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{done} of {total} statements", nl=done == total, err=True)


def _ask(question: Callable[[Database], Awaitable[T]]) -> T:
    """What a question returns; what a person can do about its errors is exit status 1."""
    try:
        return ask(question, timeout_s=LONG_S)
    except (StripeUnavailable, StripeRejected, DonorUnreadable, TemplateError, CannotTypeset) as problem:
        raise Failure(str(problem)) from None


# --- mails that were not delivered


def print_undelivered(limit: int, *, as_json: bool) -> None:
    """Prints the mails that wait for a person."""
    mails = ask(lambda database: queues.undelivered_mail(database, limit))
    for line in map(_as_json, mails) if as_json else _table(mails):
        click.echo(line)
    click.echo(f"{len(mails)} mails wait for a person", err=True)
    if mails and not as_json:
        click.echo(f"next: donationd receipts retry {mails[0].id}, or receipts dismiss {mails[0].id}", err=True)


def _as_json(mail: UndeliveredMail) -> bytes:
    values = mail._replace(changed_at=mail.changed_at.astimezone(UTC))._asdict()
    return msgspec.json.encode(values)


def _table(mails: list[UndeliveredMail]) -> Iterator[str]:
    for mail in mails:
        reason = " ".join(filter(None, (mail.reason, mail.smtp_code)))
        yield f"{mail.id:>8}  [{minute(mail.changed_at)}] {mail.donation:<30} {mail.kind:<10} {mail.state:<11} {reason}"


def retry(mail: int, actor: str) -> None:
    """Sends a mail once more."""
    _decide(mail, MailDecision.RETRY, actor)
    click.echo(f"mail {mail} is sent again within some seconds, if `jobs` runs")


def dismiss(mail: int, actor: str) -> None:
    """Gives a mail up."""
    _decide(mail, MailDecision.DISMISS, actor)
    click.echo(f"dismissed mail {mail}")


def _decide(mail: int, decision: MailDecision, actor: str) -> None:
    try:
        ask(lambda database: Operators(database, Recorder(database)).decide_mail(mail, decision, actor=actor))
    except UnknownMail:
        raise Failure(f"there is no mail {mail}; see: donationd receipts undelivered") from None
    except MailDoesNotWait as problem:
        raise Failure(f"mail {mail} does not wait for a person: it is {problem.state}") from None
