"""The documents of this repository, as tests read them."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
FOLDER = ROOT / "deploy" / "docs"
REFERENCE = FOLDER / "reference.md"
EXPLANATION = FOLDER / "explanation.md"
STRIPE_ACCOUNT = FOLDER / "stripe-account.md"
RUNBOOK = FOLDER / "runbook.md"

PAGES = sorted(FOLDER.glob("*.md"))
DOCUMENTS = [README, ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *PAGES]

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r"^ *\$ ((?:.*\\\n)*.*)$", re.MULTILINE)
_SPAN = re.compile(r"`([^`]+)`")


def name(document: Path) -> str:
    """How tests name a document."""
    return str(document.relative_to(ROOT))


def section(document: Path, heading: str) -> str:
    """The text below a heading of the second level, up to the next one."""
    [text] = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", document.read_text(), re.DOTALL | re.MULTILINE)
    return str(text)


def prose(document: Path) -> str:
    """The text of a document without its code blocks and without code in its lines."""
    return _SPAN.sub("`…`", _FENCE.sub("", document.read_text()))


def code_spans(document: Path) -> list[str]:
    """What stands between backticks within lines."""
    return [" ".join(span.split()) for span in _SPAN.findall(_FENCE.sub("", document.read_text()))]


def console_commands(document: Path) -> Iterator[str]:
    """Every command of the document's console blocks, with the lines that continue it, without its output."""
    for language, block in _FENCE.findall(document.read_text()):
        if language == "console":
            yield from _COMMAND.findall(block)


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives the document's headings."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(document: Path) -> list[str]:
    """The targets of its links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", document.read_text()))


def metric_names() -> set[str]:
    """The metrics of the reference's table, without labels and without families such as `process_…`."""
    rows = re.findall(r"^\| (`.*?) \| ", section(REFERENCE, "Metrics"), re.MULTILINE)
    return {span.partition("{")[0] for span in _SPAN.findall(" ".join(rows)) if "…" not in span}


def endpoints(*, of_the_sidecar: bool) -> set[tuple[str, str]]:
    """Method and path of each request in the reference's table that the API, or the sidecar, answers."""
    found = set()
    for cell in re.findall(r"^\| (`.*?) \| ", section(REFERENCE, "Endpoints"), re.MULTILINE):
        if of_the_sidecar == ("(sidecar)" in cell) or "/health/live" in cell:
            first, *others = (span for span in _SPAN.findall(cell) if not span.startswith("{"))  # that is a body
            method, path = first.split()
            found |= {(method, each.partition("?")[0]) for each in (path, *others)}
    return found
