"""The tests' own structure."""

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]


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
