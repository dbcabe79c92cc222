"""Receipts and mails: no text of a donor's is taken for anything else, and every text comes back as it was."""

import asyncio
import re
import subprocess
import tomllib
import unicodedata
from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from io import BytesIO
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pypdf import PdfReader

from daemon.languages import CODES
from daemon.receipts import documents
from daemon.receipts.config import Charity, ReceiptConfig, Sender, parse_sender, parse_server
from daemon.receipts.documents import Documents
from daemon.receipts.donor import Donor
from daemon.receipts.language import known_language, language_of, load_texts
from daemon.receipts.mail import Attachment, compose, message_id, usable_address
from daemon.receipts.pdf import CannotTypeset, NoFont, typeset
from daemon.receipts.register import Receipt, Serial
from daemon.receipts.templates import MailText, TemplateError, Templates, typst_string
from daemon.runtime.config import ConfigError
from tests.support.debian import need_fonts, program

AT = datetime(2026, 11, 26, 12, tzinfo=UTC)
CHARITY = Charity("Example Charity", "GB", "thanks@charity.example")
ENVIRON = {
    "DATABASE_URL": "postgresql:///none",
    "STRIPE_API_KEY": "sk_test_key",
    "STRIPE_LIVEMODE": "false",
    "CHARITY_NAME": "Example",
    "CHARITY_COUNTRY": "GB",
    "MAIL_FROM": "thanks@charity.example",
    "SMTP_URL": "smtp://127.0.0.1:25",
}
# Names in the scripts that most people of the world write.
NAMES = [
    "Ann O'Hara-Ångström",
    "Łukasz Żółć",
    "Νίκος Παπαδόπουλος",
    "Дмитрий Ёлкин",
    "王小明",
    "山田 太郎 やまだ タロウ",
    "김철수",
    "देवनागरी शर्मा",
    "สมชาย ใจดี",
    "বাংলা নাম",
    "தமிழ் பெயர்",
    "አማርኛ ስም",
    "Nguyễn Thị Ánh",
    "محمد العربي",
    "משה כהן",
]
# What would be markup, code or an escape of Typst's, of Jinja2's or of HTML's.
HOSTILE = [
    '#panic("x")',
    '"; #sys.version; "',
    "\\u{41} \\n *bold* _under_ $x^2$ `raw` <label> @ref",
    "{{ 7 * 7 }} {% raw %} {# x #}",
    "<script>alert(1)</script> &amp;",
    "= Heading",
    "+ item / term: x",
    "// comment /* y */",
    'https://example.org/#read("/etc/passwd")',
    "]) #[",
]


class Config:
    """What documents need of a configuration."""

    mail_templates: Path | None = None


def made(folder: Path | None = None) -> Documents:
    config = Config()
    config.mail_templates = folder
    return Documents(CHARITY, ZoneInfo("UTC"), Templates(folder), config)  # type: ignore[arg-type]


def receipt_in(language: str = "en", *, replaced: Serial | None = None) -> Receipt:
    return Receipt(Serial(2026, 2), "pi_1", 5000, "EUR", AT, AT, language, "0" * 12, "", replaced, None)


def pdf(donor: Donor, language: str = "en") -> bytes:
    return asyncio.run(made().receipt(receipt_in(language), donor))


def text_of(document: bytes) -> str:
    """The text of a PDF, as a person who marks and copies it gets it."""
    command = [program("pdftotext", "poppler-utils"), "-", "-"]
    return subprocess.run(command, input=document, capture_output=True, check=True).stdout.decode()


def letters(text: str) -> str:
    """A text without spaces, marks of direction, and differences of form that Unicode calls compatible."""
    return "".join(
        c for c in unicodedata.normalize("NFKC", text) if not (c.isspace() or unicodedata.category(c) == "Cf")
    )


# --- PDFs


@pytest.mark.parametrize("name", NAMES)
def test_a_name_in_every_script_can_be_copied(name: str) -> None:
    """In its order, and not only shown."""
    need_fonts()
    assert letters(name) in letters(text_of(pdf(Donor(name, None, ("1 High Street",), "GB"))))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_never_markup(name: str) -> None:
    """What Typst, Jinja2 or HTML would evaluate stands in the receipt and in the mail as it was entered."""
    donor = Donor(name, None, (name,))
    assert letters(text_of(pdf(donor))).count(letters(name)) == 2
    mail = made().mail("thanks", receipt_in(), donor)
    assert f"Dear {'donor' if documents.LINK.search(name) else name}," in mail.text
    assert "<script>" not in mail.html
    assert mail.html.count("<") == made().mail("thanks", receipt_in(), Donor("x")).html.count("<")


HYPHENS = dict.fromkeys(map(ord, "-\u00ad"))  # pdftotext removes them at the ends of lines
LATIN = st.characters(min_codepoint=0x20, max_codepoint=0x24F, exclude_categories=("Cc", "Cf", "Zs"))


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.text(LATIN, min_size=1, max_size=30), min_size=20, max_size=20))
def test_any_text_comes_back(names: list[str]) -> None:
    """Twenty texts a document: each of them is found in it, character by character."""
    source = '#set document(title: "x")\n#heading("x")\n' + "".join(f"#par({typst_string(name)})\n" for name in names)
    found = letters(text_of(asyncio.run(typeset(source, created=AT)))).translate(HYPHENS)
    for name in names:
        assert letters(name).translate(HYPHENS) in found


@settings(max_examples=200)
@given(st.text())
@example('"')
def test_a_string_of_typst_contains_nothing_that_ends_it(text: str) -> None:
    """Between its quotes stand letters, digits, spaces and escapes only, and the escapes mean the text."""
    literal = typst_string(text)
    assert re.fullmatch(r'"(?:[A-Za-z0-9 ]|\\u\{[0-9a-f]{1,6}\})*"', literal)
    assert re.sub(r"\\u\{([0-9a-f]+)\}", lambda found: chr(int(found[1], 16)), literal[1:-1]) == text


def test_a_receipt_is_for_archives_and_screen_readers() -> None:
    """PDF/A-2a and PDF/UA-1, tagged, with title and language; the same receipt has the same bytes."""
    need_fonts()
    donor = Donor("محمد العربي")
    document = pdf(donor, "ar")
    reader = PdfReader(BytesIO(document))
    root: Any = reader.trailer["/Root"]
    metadata = root["/Metadata"].get_data().decode()
    assert ("<pdfaid:part>2<" in metadata, "<pdfaid:conformance>A<" in metadata) == (True, True)
    assert "<pdfuaid:part>1<" in metadata
    assert root["/Lang"] == "ar"
    assert root["/MarkInfo"]["/Marked"]
    assert reader.metadata is not None
    assert reader.metadata.title == load_texts("ar")["receipt_title"]
    assert pdf(donor, "ar") == document


def test_a_duplicate_says_so() -> None:
    """In every language by the word DUPLICATE; a replacement names the former receipt."""
    need_fonts()
    for code in CODES:
        receipt = receipt_in(code, replaced=Serial(2026, 1))
        text = text_of(asyncio.run(made().receipt(receipt, Donor("Ann"), is_duplicate=True)))
        assert "DUPLICATE" in text
        assert "DUPLICATE" not in text_of(asyncio.run(made().receipt(receipt, Donor("Ann"))))


def test_a_character_without_a_font_names_what_to_install_and_not_the_text() -> None:
    """The reason contains the script only; the exception has no cause or context that could be logged."""
    with pytest.raises(CannotTypeset, match="an unknown script") as caught:
        pdf(Donor("Canary \u0378"))
    assert "fonts-noto-core" in str(caught.value)
    assert "Canary" not in str(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


# --- templates


def test_the_templates_of_the_package_work() -> None:
    """Every document in every language."""
    need_fonts()
    assert asyncio.run(documents.check(ReceiptConfig.from_environ(ENVIRON))) == []


def test_a_missing_font_stops_no_mail_of_another_language(monkeypatch: pytest.MonkeyPatch) -> None:
    """`receipts check` names it; the jobs process sends mails in those languages that can be shown."""

    async def without_font(*_arguments: object, **_options: object) -> bytes:
        raise NoFont("no font here")

    monkeypatch.setattr("daemon.receipts.documents.typeset", without_font)
    config = ReceiptConfig.from_environ(ENVIRON)
    assert [problem[:12] for problem in asyncio.run(documents.check(config))] == ["no font here"]
    assert asyncio.run(documents.check(config, with_fonts=False)) == []


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("thanks.txt.j2", "{{ t('thanks') ", "thanks.txt.j2, line 1"),
        ("thanks.html.j2", "{{ donor.nam }}", "has no attribute 'nam'"),
        ("void.txt.j2", "{{ t('sorry') }}", "there is no text or value 'sorry'"),
        ("receipt.typ.j2", "#strong(", "Typst: unclosed delimiter in line 1"),
        ("receipt.typ.j2", '#"Dear {{ donor.name }}"', "Typst: "),
        ("texts/de.toml", "thanks = 5", "thanks is no text"),
        ("texts/de.toml", "thank = 'x'", "there is no text thank"),
        ("texts/de.toml", "thanks = 'Danke {name}'", "there is no text or value 'name'"),
    ],
)
def test_a_mistake_in_a_template_is_found_before_the_first_mail(
    tmp_path: Path, file: str, content: str, problem: str
) -> None:
    """`check` names the file or the language, and what is wrong."""
    (tmp_path / "texts").mkdir()
    (tmp_path / file).write_text(content)
    config = ReceiptConfig.from_environ({**ENVIRON, "MAIL_TEMPLATES": str(tmp_path)})
    [*problems] = asyncio.run(documents.check(config))
    assert problem in " ".join(problems)


def test_a_charity_changes_one_text(tmp_path: Path) -> None:
    """The others stay; the version of the receipts' template changes with their texts only."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "en.toml").write_text('thanks = "We are happy about {amount} of {date}."')
    mail = made(tmp_path).mail("thanks", receipt_in(), Donor("Ann"))
    assert "We are happy about €50.00 of 26 November 2026." in mail.text
    assert "Dear Ann," in mail.text
    assert made().version(made().language("en")) != made(tmp_path).version(made(tmp_path).language("en"))


@pytest.mark.parametrize(
    ("name", "is_used"),
    [
        *(("J. R. R. Tolkien", True), ("J.R.R. Tolkien", True), ("Ann O'Hara", True)),
        *(("You have won: https://evil.example", False), ("evil.example/win", False), ("call me@evil.example", False)),
    ],
)
def test_no_link_in_a_name_is_sent_to_another_person(name: str, is_used: bool) -> None:
    """The mail then has no name; the receipt has it all the same."""
    mail = made().mail("thanks", receipt_in(), Donor(name))
    assert [("Dear donor," in text, "evil" in text) for text in (mail.text, mail.html)] == [(not is_used, False)] * 2
    assert letters(name) in letters(text_of(pdf(Donor(name))))


def test_a_charity_adds_its_logo(tmp_path: Path) -> None:
    """A picture in the folder of its templates is in the PDF; what is outside of the folder cannot be read."""
    (tmp_path / "logo.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    block = '{{% extends "page.typ.j2" %}}{{% block content %}}#image("{}", alt: "logo"){{% endblock %}}'
    (tmp_path / "receipt.typ.j2").write_text(block.format("/logo.svg"))
    assert asyncio.run(made(tmp_path).receipt(receipt_in(), Donor("Ann"))).startswith(b"%PDF")
    (tmp_path / "receipt.typ.j2").write_text(block.format("/../../etc/hostname"))
    with pytest.raises(CannotTypeset):
        asyncio.run(made(tmp_path).receipt(receipt_in(), Donor("Ann")))


def test_the_languages_have_the_same_texts() -> None:
    """Each text of English in every language, with the same names in braces."""
    names = {
        code: {key: set(re.findall(r"\{(\w+)\}", text)) for key, text in load_texts(code).items()} for code in CODES
    }
    assert set(CODES) == {"ar", "de", "en", "es", "fr"}
    assert all(each == names["en"] for each in names.values())


def test_amounts_are_exact_in_every_language() -> None:
    """As CLDR writes them, with the decimals that Stripe has; nothing is rounded."""
    assert language_of("en", "US", {}).amount(123450, "USD") == "$1,234.50"
    assert language_of("de", "DE", {}).amount(5000, "EUR") == "50,00\xa0€"
    assert language_of("en", "US", {}).amount(500, "JPY") == "¥500"
    assert language_of("en", "US", {}).amount(5005, "KWD") == "KWD\xa05.005"
    assert language_of("en", "US", {}).amount(1200, "ISK") == "ISK\xa012.00"
    assert language_of("en", "US", {}).amount(1250, "ISK") == "ISK\xa012.50"
    assert language_of("fr", "FR", {}).day(AT, UTC) == "26 novembre 2026"


def test_a_duplicate_says_that_its_receipt_is_void() -> None:
    """The original that is made again for comparison does not: it was valid."""
    void = receipt_in("de")._replace(voided_at=AT)
    original, duplicate = (
        text_of(asyncio.run(made().receipt(void, Donor("Ann"), is_duplicate=each))) for each in (False, True)
    )
    assert "nicht mehr gültig" in duplicate and "Zweitschrift" in duplicate
    assert "gültig" not in original
    valid = asyncio.run(made().receipt(receipt_in("de"), Donor("Ann"), is_duplicate=True))
    assert "gültig" not in text_of(valid)


def test_names_keep_their_direction_in_a_mail_from_right_to_left() -> None:
    """Otherwise the point after `Ltd` would stand in front of it."""
    documents_ = replace(made(), charity=Charity("Aid Ltd.", "GB", "thanks@charity.example"))
    mail = documents_.mail("thanks", receipt_in("ar"), Donor("Ann B."))
    assert [mail.text.count(f"\u2068{name}\u2069") for name in ("Aid Ltd.", "Ann B.")] == [1, 1]
    assert "\u2068" not in documents_.mail("thanks", receipt_in("en"), Donor("Ann B.")).text


@pytest.mark.parametrize(
    ("wanted", "code"), [(["pt-BR", "fr-CA"], "fr"), ([None], "en"), (["auto"], "en"), (["de_AT"], "de"), ([], "en")]
)
def test_the_language_is_the_first_that_there_are_texts_for(wanted: list[str | None], code: str) -> None:
    """Else it is English."""
    assert known_language(*wanted) == code


# --- mails


def composed(recipient: str = "ann@example.com", subject: str = "Thank you", name: str = "Ünited") -> EmailMessage:
    text = MailText(subject, "Dear Ann\n.\nend\n", "<p>Dear Ann</p>")
    sender = Sender(name, "thanks@charity.example")
    raw = compose(
        text, sender, recipient, id_=message_id("pi_1", "thanks", 0, sender), at=AT, language="en",
        attachment=Attachment("2026-000002.pdf", b"%PDF"),
    )  # fmt: skip
    assert b"\n" not in raw.replace(b"\r\n", b"")
    return message_from_bytes(raw, policy=policy.SMTP)


def test_a_mail_is_one_of_rfc_5322_and_says_that_it_is_automatic() -> None:
    """Date, From, To and Message-ID once each; Auto-Submitted as in RFC 3834."""
    mail = composed()
    assert mail["Date"].datetime == AT
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Message-ID"] == composed()["Message-ID"]
    assert [len(mail.get_all(name) or []) for name in ("Date", "From", "To", "Subject", "Message-ID")] == [1] * 5
    body = mail.get_body(("plain",))
    assert body is not None
    assert body.get_content().splitlines() == ["Dear Ann", ".", "end"]


@given(st.text(max_size=60), st.sampled_from(["", "\r\nBcc: x@y.example", "\n", "\x00", " , b@y.example", ">"]))
def test_no_address_gets_into_another_header(local: str, more: str) -> None:
    """An address is one mailbox, or it is not used."""
    address = usable_address(f"{local}@example.com{more}")
    if address is not None:
        mail = composed(address)
        assert [str(each) for each in mail["To"].addresses] == [address]
        assert mail["Bcc"] is None


def test_an_international_domain_is_used_in_ascii() -> None:
    """RFC 5891; a local part that is not ASCII cannot be used with every server."""
    assert usable_address("ann@bücher.example") == "ann@xn--bcher-kva.example"
    assert usable_address("ann@straße.example") == "ann@xn--strae-oqa.example", "strasse.example is another domain"
    assert usable_address("änn@example.com") is None
    assert usable_address("ann") is None


# --- settings


def problems(**changed: str | None) -> list[str]:
    environ = {name: value for name, value in {**ENVIRON, **changed}.items() if value is not None}
    try:
        ReceiptConfig.from_environ(environ)
    except ConfigError as error:
        return error.problems
    return []


def test_mail_is_configured_as_a_whole_or_not_at_all() -> None:
    """Each missing setting is named, and so is a missing key; without any of the four nothing is sent."""
    assert problems() == []
    missing = problems(CHARITY_NAME=None, MAIL_FROM=None, REPORT_TIME_ZONE="Mars")
    assert [each.partition(":")[0] for each in missing] == ["REPORT_TIME_ZONE", "CHARITY_NAME", "MAIL_FROM"]
    assert problems(STRIPE_API_KEY=None)[0].startswith("SMTP_URL: mail needs STRIPE_API_KEY too")
    none = {**ENVIRON, **dict.fromkeys(("CHARITY_NAME", "CHARITY_COUNTRY", "MAIL_FROM", "SMTP_URL"), "")}
    assert not ReceiptConfig.from_environ(none).sends_mail


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CHARITY_COUNTRY", "de"),
        ("CHARITY_NAME", "Canary\nName"),
        ("MAIL_FROM", "canary"),
        ("MAIL_FROM", "Canary <canary@example.org>, x@example.org"),
        ("MAIL_FROM", "canary@example.org\r\nBcc: x@example.org"),
        ("SMTP_URL", "https://canary.example.org"),
        ("SMTP_URL", "smtp://canary:pass word@host"),
        ("SMTP_URL", "smtp://canary@host"),
        ("SMTP_URL", "smtps://host?tls=none"),
        ("SMTP_URL", "smtp://host?starttls=canary"),
        ("MAIL_TEMPLATES", "/canary"),
    ],
)
def test_a_mistake_is_named_without_its_value(variable: str, value: str) -> None:
    """SMTP_URL contains a password."""
    [problem] = problems(**{variable: value})
    assert problem.startswith(f"{variable}: ")
    assert "canary" not in problem.lower()


def test_only_a_server_on_this_machine_is_sent_mail_without_tls() -> None:
    """Unless the URL says so."""
    assert parse_server("smtp://mail.example").tls == "starttls"
    assert parse_server("smtp://mail.example?tls=none").tls == "none"
    assert parse_server("smtp://127.0.0.1").tls == "none"
    assert parse_server("smtp://localhost?tls=starttls").tls == "starttls"
    assert parse_server("smtps://u%40x:p%3A@mail.example:4465") == ("mail.example", 4465, "implicit", "u@x", "p:")
    assert parse_sender("Example Charity <a@b.example>") == ("Example Charity", "a@b.example")


def test_texts_are_toml_files_that_templates_use() -> None:
    """No text is left that no template and no document asks for."""
    sources = "".join(
        file.read_text()
        for file in Path(documents.__file__).parent.rglob("*")
        if file.suffix in {".j2", ".py"}
    )  # fmt: skip
    english = Path(documents.__file__).parent / "texts" / "en.toml"
    assert [name for name in tomllib.loads(english.read_text()) if f'"{name}"' not in sources] == []


def test_a_template_error_has_no_context_with_values() -> None:
    """What a template raises can repeat the donor's data."""
    with pytest.raises(TemplateError) as caught:
        Templates().mail("unknown", language_of("en", "GB", {}), {})
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
