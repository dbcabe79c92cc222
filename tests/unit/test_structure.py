"""The tests' own structure."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutants import MUTANTS

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"


def imported(source: str) -> Iterator[str]:
    """The full name of everything that a module of ours imports, wherever the import stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def imported_tests(source: str) -> list[str]:
    """The imports of a test module or of a conftest, each of which pytest alone may load."""
    return [
        name
        for name in imported(source)
        if name.startswith((".", "tests."))
        and any(part.startswith("test_") or part == "conftest" for part in name.split("."))
    ]


def test_nothing_imports_a_test_module_or_a_conftest() -> None:
    """What test modules share are fixtures, or modules of tests/support/."""
    found = {str(path.relative_to(TESTS)): imported_tests(path.read_text()) for path in TESTS.rglob("*.py")}
    assert {path: names for path, names in found.items() if names} == {}


def test_every_form_of_import_is_found() -> None:
    """Absolute, relative, renamed, and inside a function."""
    forbidden = (
        "import tests.unit.test_facts",
        "from tests.unit import test_facts as facts",
        "from tests.unit.test_facts import NOW",
        "from . import conftest",
        "def f():\n    from tests.conftest import server",
    )
    assert [len(imported_tests(source)) for source in forbidden] == [1] * len(forbidden)
    assert imported_tests("from aiohttp.test_utils import TestClient\nfrom tests.support import postgres") == []


NAMING = (
    *(
        "Makefile",
        ".ci/run",
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "tests/mutants.py",
        "tests/support/order.py",
    ),
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "deploy" / "docs").glob("*.md"))),
)


@pytest.mark.parametrize("file", NAMING)
def test_files_of_tests_that_are_named_exist(file: str) -> None:
    """A file of tests that is moved is also renamed in what runs it and in what refers to it."""
    named = re.findall(r"tests/[\w/]+\.py", (ROOT / file).read_text())
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_every_mutant_fits_the_code() -> None:
    """Each fault of `make mutants` replaces a text that its file contains exactly once."""
    assert [mutant.fault for mutant in MUTANTS if (ROOT / mutant.file).read_text().count(mutant.old) != 1] == []


# --- Which ledger

OPENING = {"Database", "SessionLock", "snapshot", "apply", "drift"}
OF_MODULE = {"apply", "drift"}  # functions of sql.migrate


def test_everything_that_opens_the_database_names_the_schema() -> None:
    """A call without it would work in the schema public, whatever LEDGER_SCHEMA says."""
    found = 0
    for path in sorted([*(ROOT / "daemon").rglob("*.py"), *(ROOT / "health_sidecar").rglob("*.py")]):
        if path.is_relative_to(ROOT / "daemon" / "restore_check"):
            continue  # its database is one that it makes for itself
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and opens(call.func):
                found += 1
                assert "schema" in {word.arg for word in call.keywords}, f"{path.relative_to(ROOT)}:{call.lineno}"
    assert found >= 10


def opens(function: ast.expr) -> bool:
    """Whether it is one of the functions that connect to the database of a URL."""
    if isinstance(function, ast.Attribute):
        return (
            function.attr in OF_MODULE
            and isinstance(function.value, ast.Name)
            and function.value.id.startswith("migrat")
        )
    return isinstance(function, ast.Name) and function.id in OPENING - OF_MODULE
