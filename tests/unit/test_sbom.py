"""The software bill of materials names what the lock installs."""

import json
import re

from daemon.instance.installation import ROOT


def normal(name: str) -> str:
    """A package's name as https://packaging.python.org/en/latest/specifications/name-normalization/ compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_it_names_what_the_lock_installs() -> None:
    """Each package of the lock is in deploy/sbom.json with its version, and nothing else; `make sbom` renews it."""
    sbom = json.loads((ROOT / "deploy" / "sbom.json").read_text())
    lock = (ROOT / "deploy" / "requirements.lock").read_text()
    named = {(normal(component["name"]), component["version"]) for component in sbom["components"]}
    assert sbom["bomFormat"] == "CycloneDX"
    assert named == {(normal(name), version) for name, version in re.findall(r"^(\S+?)==(\S+)", lock, re.MULTILINE)}
