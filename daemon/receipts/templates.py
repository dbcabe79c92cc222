"""The templates of mails and receipts (Jinja2): those of this package, and a charity's own, which replace them.

A mail is a text whose first line is the subject, and the same as HTML. A receipt is a document in Typst, in which every
value is a string of Typst's: so no donor's name can be markup or code.
"""

import hashlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from daemon.languages import CODES, Language
from daemon.receipts.language import language_of, load_texts

# What a string of Typst's can contain as it is. Everything else is written as its code point: that means the same in
# Typst's code and in its markup, where a value with quotes around it is a mistake, but is still not evaluated.
PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 ")
VERSION_DIGITS = 12


class TemplateError(Exception):
    """A template or a text cannot be used; the message names the file and the problem, and no value."""


class MailText(NamedTuple):
    """The contents of a mail."""

    subject: str
    text: str
    html: str


class Templates:
    """The templates and texts in use.

    Args:
        folder: a charity's files; None: only those of this package.

    Raises:
        TemplateError: a text cannot be read.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        loaders = [jinja2.PackageLoader(__package__ or "daemon.receipts")]
        loader = jinja2.ChoiceLoader([jinja2.FileSystemLoader(folder), *loaders] if folder else loaders)
        options: dict[str, Any] = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
        # By environment and not by a file's name: HTML may include what a text has too.
        self._html = jinja2.Environment(loader=loader, autoescape=True, **options)
        self._plain = jinja2.Environment(loader=loader, **options)  # noqa: S701 - not HTML
        self._documents = jinja2.Environment(loader=loader, finalize=typst_string, **options)  # noqa: S701 - not HTML
        self._texts = {code: self._changed_texts(code) for code in CODES}

    def language(self, code: str, country: str) -> Language:
        """A language with this charity's texts."""
        return language_of(code, country, self._texts[code])

    def mail(self, kind: str, language: Language, values: Mapping[str, object]) -> MailText:
        """A mail: `thanks`, `replacement` or `void`. Raises TemplateError."""
        text = self._render(self._plain, f"{kind}.txt.j2", language, values)
        html = self._render(self._html, f"{kind}.html.j2", language, values)
        subject, _, body = text.partition("\n")
        return MailText(" ".join(subject.split()), body.strip() + "\n", html)

    def document(self, name: str, language: Language, values: Mapping[str, object]) -> str:
        """The source of a PDF: `receipt` or `statement`. Raises TemplateError."""
        return self._render(self._documents, f"{name}.typ.j2", language, values)

    def version(self, name: str, language: Language) -> str:
        """A document's version: a hash of its templates and texts."""
        sources = [self._source(f"{each}.typ.j2") for each in ("page", name)]
        texts = [f"{key}={text}" for key, text in sorted(language.messages.items())]
        return hashlib.sha256("\n".join([*sources, *texts]).encode()).hexdigest()[:VERSION_DIGITS]

    def _source(self, name: str) -> str:
        assert self._documents.loader  # noqa: S101 - given above
        return self._documents.loader.get_source(self._documents, name)[0]

    def _render(
        self, environment: jinja2.Environment, name: str, language: Language, values: Mapping[str, object]
    ) -> str:
        """A template with its values. An error names the place only: the library's own error can repeat a value."""
        common = {"language": language.code, "direction": language.direction}
        functions = {"t": language.text, "country": language.country}
        try:
            return environment.get_template(name).render(**common, **functions, **values)
        except jinja2.TemplateSyntaxError as error:
            problem = f"{error.filename or name}, line {error.lineno}: {error.message}"
        except jinja2.TemplateNotFound as error:
            problem = f"{name}: there is no template {error.name}"
        except jinja2.UndefinedError as error:
            problem = f"{name}: {error.message}"
        except KeyError as error:
            problem = f"{name}: there is no text or value {error.args[0]!r} in the language {language.code}"
        except Exception as error:  # a template is a program of the charity's
            problem = f"{name}: {type(error).__name__}"
        raise TemplateError(problem)

    def _changed_texts(self, code: str) -> dict[str, str]:
        """The charity's own texts of a language."""
        file = self._folder / "texts" / f"{code}.toml" if self._folder else None
        if not file or not file.exists():
            return {}
        try:
            texts = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TemplateError(f"{file}: {error}") from None
        if unknown := texts.keys() - load_texts(code).keys():
            raise TemplateError(f"{file}: there is no text {min(unknown)}")
        if wrong := [name for name, text in texts.items() if not isinstance(text, str)]:
            raise TemplateError(f"{file}: {wrong[0]} is no text")
        return texts


def typst_string(value: object) -> str:
    """A value as a string literal of Typst's (https://typst.app/docs/reference/foundations/str/)."""
    return '"' + "".join(each if each in PLAIN else f"\\u{{{ord(each):x}}}" for each in str(value)) + '"'
