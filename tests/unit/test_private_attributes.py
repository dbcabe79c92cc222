"""What is used of a library beyond its documented interface is named in setup.py, beside an upper bound."""

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from types import ModuleType

import daemon
import health_sidecar
import sql
from daemon.instance.installation import ROOT

OURS = (daemon, health_sidecar, sql)
LIBRARIES = ("aiohttp", "aiopg", "prometheus_client", "supervisor")
SETUP = (ROOT / "setup.py").read_text()


def modules() -> Iterator[ModuleType]:
    for package in OURS:
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(found.name)


def private_names(source: str) -> set[str]:
    """Every private attribute that a class uses or defines."""
    found = set()
    for node in ast.walk(ast.parse(textwrap.dedent(source))):
        name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "name", None)
        if name and name.startswith("_") and not name.startswith("__"):
            found.add(str(name))
    return found


def defined_by(base: type) -> set[str]:
    """The private attributes that a class of a library has."""
    assigned = set(re.findall(r"\bself\.(_[a-z]\w*)", inspect.getsource(base)))
    return {name for name in {*vars(base), *getattr(base, "__slots__", ()), *assigned} if name.startswith("_")}


def in_use() -> dict[str, set[str]]:
    """The private attributes of each library class that a subclass of ours uses, replaces or hides."""
    found: dict[str, set[str]] = {}
    for module in modules():
        for _, cls in inspect.getmembers(module, inspect.isclass):
            bases = [base for base in cls.__mro__ if base.__module__.split(".")[0] in LIBRARIES]
            for base in bases if cls.__module__ == module.__name__ else []:
                if names := private_names(inspect.getsource(cls)) & defined_by(base):
                    found.setdefault(f"{base.__module__.split('.')[0]}.{base.__name__}", set()).update(names)
    return found


def test_private_attributes_are_named_beside_an_upper_bound() -> None:
    """The comment above a library's requirement names exactly the private attributes of its classes that are in use."""
    named = re.findall(r'# Private attributes of (\w+)\.(\w+): ([\w, ]+)\.\n +"([^"]+)"', SETUP)
    assert {f"{module}.{name}": set(names.split(", ")) for module, name, names, _ in named} == in_use()
    assert all("<" in requirement for *_, requirement in named)


def test_what_is_used_beyond_documentation_has_an_upper_bound() -> None:
    """A comment of its own stands above each requirement whose undocumented parts are in use."""
    commented = re.findall(r'^    #.*\n    "([\w-]+)([^"]*)"', SETUP.split("EMBEDDED =")[0], re.MULTILINE)
    assert [name for name, _ in commented] == ["aiohttp", "aiopg", "psycopg2-binary", "prometheus-client"]
    assert all("<" in versions for _, versions in commented)
