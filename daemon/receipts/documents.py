"""What the templates show: receipts, statements and mails, with amounts and dates as the donor's language has them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

from daemon.languages import CODES, Language
from daemon.receipts.config import Charity, ReceiptConfig
from daemon.receipts.donor import Donor
from daemon.receipts.pdf import CannotTypeset, NoFont, typeset
from daemon.receipts.register import Receipt, Serial
from daemon.receipts.templates import MailText, TemplateError, Templates
from daemon.reports.time_zones import load_time_zone

# A name that mail programs would show as a link. A payer can enter the address of any person, who would then be sent
# this link in the charity's name.
LINK = re.compile(r"//|@|\w\.\w{2}")
MAILS = ("thanks", "replacement", "void")


class ShownReceipt(NamedTuple):
    """A receipt, as templates show it; `is_void`: it is a duplicate of one that is no longer valid."""

    serial: str
    amount: str
    paid_on: str
    issued_on: str
    payment: str
    former: str | None
    is_duplicate: bool
    is_void: bool


class ShownDonor(NamedTuple):
    """A donor, as templates show it; `lines` are those of the address, with the country's name."""

    name: str | None
    lines: tuple[str, ...]


class Line(NamedTuple):
    """A donation in a yearly statement. The amount is in minor units; `serial` is that of its valid receipt."""

    paid_at: datetime
    amount_minor: int
    currency: str
    serial: Serial | None


class ShownLine(NamedTuple):
    """A line of a statement, as the template shows it."""

    paid_on: str
    amount: str
    serial: str | None


@dataclass(frozen=True)
class Documents:
    """Makes the documents of one charity."""

    charity: Charity
    zone: ZoneInfo
    templates: Templates
    config: ReceiptConfig

    @classmethod
    def of(cls, config: ReceiptConfig) -> "Documents":
        """Those of a configuration. Raises TemplateError."""
        return cls(config.charity, load_time_zone(config.report_time_zone), Templates(config.mail_templates), config)

    def language(self, code: str) -> Language:
        """A language, as people of the charity's country write it."""
        return self.templates.language(code, self.charity.country)

    async def receipt(self, receipt: Receipt, donor: Donor, *, is_duplicate: bool = False) -> bytes:
        """The PDF of a receipt. Raises TemplateError or CannotTypeset."""
        language = self.language(receipt.language)
        is_void = is_duplicate and receipt.voided_at is not None
        shown = self._receipt(receipt, language)._replace(is_duplicate=is_duplicate, is_void=is_void)
        values = {"title": language.text("receipt_title"), "receipt": shown}
        return await self._pdf("receipt", language, donor, values, receipt.issued_at)

    async def statement(
        self, year: int, lines: Sequence[Line], donor: Donor, language: Language, at: datetime
    ) -> bytes:
        """The PDF of what a donor gave in a year. Raises TemplateError or CannotTypeset."""
        totals: dict[str, int] = {}
        for line in lines:
            totals[line.currency] = totals.get(line.currency, 0) + line.amount_minor
        values = {
            "title": language.text("statement_title", year=year),
            "year": year,
            "lines": [self._line(line, language) for line in lines],
            "totals": [language.amount(amount, currency) for currency, amount in sorted(totals.items())],
        }
        return await self._pdf("statement", language, donor, values, at)

    def mail(self, kind: str, receipt: Receipt, donor: Donor, *, withdrawal_link: str | None = None) -> MailText:
        """The text of a mail about a receipt. Raises TemplateError."""
        language = self.language(receipt.language)
        shown = self._receipt(receipt, language)
        values = {
            "charity": self._charity(language),
            "donor": _shown(replace(donor, name=None) if LINK.search(donor.name or "") else donor, language),
            "receipt": shown,
            "withdrawal_link": withdrawal_link,
        }
        return self.templates.mail(kind, language, values)

    def version(self, language: Language) -> str:
        """The version of the template of receipts."""
        return self.templates.version("receipt", language)

    async def _pdf(
        self, name: str, language: Language, donor: Donor, values: Mapping[str, object], created: datetime
    ) -> bytes:
        common = {"charity": self._charity(language), "donor": _shown(donor, language)}
        source = self.templates.document(name, language, {**common, **values})
        return await typeset(source, created=created, folder=self.config.mail_templates)

    def _charity(self, language: Language) -> Charity:
        return self.charity._replace(name=language.isolated(self.charity.name))

    def _receipt(self, receipt: Receipt, language: Language) -> ShownReceipt:
        return ShownReceipt(
            str(receipt.serial),
            language.amount(receipt.amount_minor, receipt.currency),
            language.day(receipt.paid_at, self.zone),
            language.day(receipt.issued_at, self.zone),
            receipt.donation,
            str(receipt.replaced) if receipt.replaced else None,
            is_duplicate=False,
            is_void=False,
        )

    def _line(self, line: Line, language: Language) -> ShownLine:
        return ShownLine(
            language.day(line.paid_at, self.zone),
            language.amount(line.amount_minor, line.currency),
            str(line.serial) if line.serial else None,
        )


def _shown(donor: Donor, language: Language) -> ShownDonor:
    country = (language.country(donor.country),) if donor.country else ()
    name = language.isolated(donor.name) if donor.name else None
    return ShownDonor(name, tuple(map(language.isolated, donor.lines)) + country)


async def check(config: ReceiptConfig, *, with_fonts: bool = True) -> list[str]:
    """What is wrong with the templates: every document is made in every language, for a made-up donor.

    Args:
        with_fonts: whether missing fonts count too, of languages that perhaps no donor reads.
    """
    try:
        documents = Documents.of(config)
    except TemplateError as error:
        return [str(error)]
    problems = {}
    for code in CODES:
        try:
            await make_sample(documents, code)
        except (TemplateError, CannotTypeset) as error:
            if with_fonts or not isinstance(error, NoFont):
                problems[str(error)] = code
    return [f"{problem} (language {code})" for problem, code in problems.items()]


async def make_sample(documents: Documents, code: str) -> bytes:
    """Makes every document in a language, for a made-up donor. Returns the receipt. Raises as the documents do."""
    at = datetime(2026, 1, 31, 12, tzinfo=UTC)
    donor = Donor("Ann Example", "ann@example.org", ("1 Example Street", "12345 Example"), "DE")
    receipt = Receipt(Serial(2026, 2), "pi_example", 5000, "EUR", at, at, code, "", "", Serial(2026, 1), at)
    pdf = await documents.receipt(receipt, donor, is_duplicate=True)
    await documents.statement(2026, [Line(at, 5000, "EUR", receipt.serial)], donor, documents.language(code), at)
    for kind in MAILS:
        documents.mail(kind, receipt, donor, withdrawal_link="https://give.example.org/consent/pi_example/signature")
    return pdf
