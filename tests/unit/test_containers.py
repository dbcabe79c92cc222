"""Image, compose file and objects of Kubernetes: what their validators say, and that they fit our processes."""

import re
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from daemon.api.config import Config as ApiConfig
from daemon.api.config import MigrateConfig
from daemon.jobs.config import JobsConfig
from daemon.runtime.config import STOP_SPARE_S, Basics
from health_sidecar.config import Config as SidecarConfig
from tests.support import locked_programs, manifests

ROOT = Path(__file__).parents[2]
CONTAINER = ROOT / "deploy" / "container"
DCLINT = ROOT / "tests" / "support" / "dclint"
CONFIGS: dict[str, type[Basics]] = {
    "api": ApiConfig,
    "jobs": JobsConfig,
    "migrate": MigrateConfig,
    "sidecar": SidecarConfig,
}
URL = "postgresql://donationd@database/donationd"
SECRETS = {
    "DATABASE_URL": URL,
    "DONOR_EMAIL_HASH_KEY": "key",
    "MIGRATE_DATABASE_URL": URL,
    "OPERATOR_TOKENS": f"local:read:{'0' * 64}",
    "READ_DATABASE_URL": URL,
    "SMTP_URL": "smtps://user:password@mail.example",
    "STRIPE_API_KEY": "rk_live_key",
    "STRIPE_WEBHOOK_SECRET": "whsec_" + "test" * 8,
}
MAIL = {
    "CHARITY_NAME": "Wells",
    "CHARITY_COUNTRY": "DE",
    "MAIL_FROM": "wells@mail.example",
}  # with SMTP_URL all, or none
CONTAINERS = manifests.containers("StatefulSet") | manifests.containers("Job")


def compose() -> dict[str, dict[str, Any]]:
    """The services that run our image."""
    services = yaml.safe_load((CONTAINER / "compose.yaml").read_text())["services"]
    return {name: service for name, service in services.items() if "donationd" in service["image"]}


def program(name: str) -> dict[str, str]:
    """A program of supervisord.conf."""
    parser = RawConfigParser(inline_comment_prefixes=(" ;",))
    parser.read(ROOT / "supervisord.conf")
    [section] = [each for each in parser.sections() if each.endswith(f"program:{name}")]
    return dict(parser[section])


# --- validators ---------------------------------------------------------------------------------------------------


def test_hadolint_finds_nothing_in_the_file_of_the_image() -> None:
    """It reads shell commands too, with shellcheck's rules."""
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, CONTAINER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_dclint_finds_nothing_in_the_compose_file() -> None:
    """Neither an error nor a warning."""
    program = locked_programs.installed(DCLINT, "npm", locked_programs.install_npm) / "node_modules" / ".bin" / "dclint"
    command = [str(program), "--max-warnings", "0", str(CONTAINER / "compose.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("version", ["1.29", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("path", manifests.FILES, ids=lambda path: path.name)
def test_kubernetes_knows_every_field(path: Path, version: str) -> None:
    """Each object is valid by the strict schema of the oldest release that has sidecar containers, and the newest."""
    for described in manifests.objects(path):
        kubernetes_validate.validate(described, version, strict=True)


# --- processes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_same_processes_run_everywhere(name: str) -> None:
    """A container runs what supervisord runs, and the service of the compose file runs the same."""
    command = ["python3", *program(name)["command"].split()[1:]] if name != "migrate" else ["donationd", "migrate"]
    assert CONTAINERS[name]["command"] == compose()[name]["command"] == command


@pytest.mark.parametrize("name", [name for name in CONTAINERS if name != "migrate"])
def test_a_container_gets_the_secrets_that_it_needs(name: str) -> None:
    """The same as under supervisord, which empties the others."""
    emptied = set(re.findall(r'(\w+)=""', program(name)["environment"]))
    given = manifests.environ(CONTAINERS[name], SECRETS)
    service = compose()[name]["environment"]
    assert {each for each in SECRETS if given.get(each)} - {"MIGRATE_DATABASE_URL"} == (
        {*SECRETS} - {"MIGRATE_DATABASE_URL"} - emptied
    )
    assert {each for each, value in service.items() if value == ""} == emptied


@pytest.mark.parametrize("name", CONTAINERS)
def test_its_settings_are_ours(name: str) -> None:
    """Each variable is one that the process reads, with a value that it accepts."""
    given = manifests.environ(CONTAINERS[name], SECRETS | MAIL)
    CONFIGS[name].from_environ(given)
    known = {field.upper() for config in CONFIGS.values() for field in config.model_fields}
    assert given.keys() | compose()[name]["environment"].keys() <= known


def test_the_schemas_owner_is_for_the_migration_only() -> None:
    """Its secret is another one than that of the processes, so that they cannot change the tables."""
    for name, container in CONTAINERS.items():
        owner = "donationd-owner" in str(container)
        assert owner is (name == "migrate") is ("MIGRATE_DATABASE_URL" in compose()[name]["environment"])


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_has_no_rights(name: str) -> None:
    """No root, no capability, no writable file outside its volumes, no token of Kubernetes."""
    spec = manifests.pod("Job" if name == "migrate" else "StatefulSet")
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert CONTAINERS[name]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "limits" in CONTAINERS[name]["resources"]
    service = compose()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


# --- stops and interruptions --------------------------------------------------------------------------------------


def test_a_stop_has_the_time_that_it_needs() -> None:
    """Kubernetes and compose wait until the API has drained, and Kubernetes then until the sidecar has ended."""
    grace_s = int(manifests.find("ConfigMap")["data"]["SHUTDOWN_GRACE_MS"]) // 1000 + STOP_SPARE_S
    delay_s = int(CONTAINERS["api"]["lifecycle"]["preStop"]["exec"]["command"][1])
    sidecar_s = int(program("sidecar")["stopwaitsecs"])
    pod_s = manifests.pod("StatefulSet")["terminationGracePeriodSeconds"]
    assert pod_s >= delay_s + grace_s + sidecar_s
    assert int(compose()["api"]["stop_grace_period"].removesuffix("s")) > grace_s


def test_the_sidecar_starts_first_and_stops_last() -> None:
    """As a sidecar container of Kubernetes: an init container that is restarted."""
    assert CONTAINERS["sidecar"]["restartPolicy"] == "Always"
    assert [each["name"] for each in manifests.pod("StatefulSet")["initContainers"]] == ["sidecar"]


def test_one_pod_always_serves() -> None:
    """An interruption that is planned, such as a node's upgrade, leaves one of at least two pods, on other nodes."""
    stateful_set = manifests.find("StatefulSet")
    budget = manifests.find("PodDisruptionBudget")["spec"]
    labels = stateful_set["spec"]["template"]["metadata"]["labels"]
    assert stateful_set["spec"]["replicas"] > budget["minAvailable"] >= 1
    spread = manifests.pod("StatefulSet")["topologySpreadConstraints"]
    assert {each["topologyKey"] for each in spread} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    selectors = [budget["selector"], stateful_set["spec"]["selector"], *(each["labelSelector"] for each in spread)]
    assert all(selector == {"matchLabels": labels} for selector in selectors)
    assert manifests.find("Service")["spec"]["selector"] == labels


def test_kubernetes_replaces_what_hangs() -> None:
    """Each process has a liveness probe that asks no database; the API gets requests while it is ready."""
    probes = {name: container["livenessProbe"] for name, container in manifests.containers("StatefulSet").items()}
    assert probes["api"]["httpGet"]["path"] == probes["sidecar"]["httpGet"]["path"] == "/health/live"
    assert CONTAINERS["api"]["readinessProbe"]["httpGet"]["path"] == "/health/db"
