"""The objects of deploy/kubernetes/, as tests read and run them."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))


@cache
def objects(path: Path) -> list[dict[str, Any]]:
    """The objects of a file."""
    return list(yaml.safe_load_all(path.read_text()))


def find(kind: str) -> dict[str, Any]:
    """The only object of a kind."""
    [found] = [each for path in FILES for each in objects(path) if each["kind"] == kind]
    return found


def pod(kind: str) -> dict[str, Any]:
    """The pods of an object such as a Job."""
    spec: dict[str, Any] = find(kind)["spec"]["template"]["spec"]
    return spec


def containers(kind: str) -> dict[str, dict[str, Any]]:
    """The containers of these pods by their name, in the order in which they are started."""
    spec = pod(kind)
    return {each["name"]: each for each in [*spec.get("initContainers", []), *spec["containers"]]}


def environ(container: Mapping[str, Any], secrets: Mapping[str, str]) -> dict[str, str]:
    """The variables of a container, where `secrets` are the contents of every Secret."""
    return dict(_variables(container, secrets))


def _variables(container: Mapping[str, Any], secrets: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for source in container.get("envFrom", []):
        yield from (find("ConfigMap")["data"] if "configMapRef" in source else secrets).items()
    for variable in container.get("env", []):
        reference = variable.get("valueFrom")
        yield variable["name"], secrets[reference["secretKeyRef"]["key"]] if reference else variable["value"]
