"""What systemd itself says of deploy/donationd.service, and that the example of its environment works."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.api.config import Config
from daemon.instance.charity_files import CharityFiles
from daemon.instance.environment import DEFAULTS
from daemon.instance.installation import ROOT
from daemon.instance.supervisord import stop_limits
from daemon.runtime.config import ConfigError
from health_sidecar.config import Config as SidecarConfig
from tests.support.instance import SIGNING_SECRET

UNIT = ROOT / "deploy" / "donationd.service"
CHARITIES = (ROOT / "deploy" / "docs" / "charities.md").read_text()
MAX_EXPOSURE = 2.0

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing: apt-get install systemd"
)


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", "--no-pager", *words], capture_output=True, text=True, check=False)


@needs_systemd
def test_the_service_is_kept_from_what_it_does_not_need() -> None:
    """systemd rates the unit's exposure below 2.0, on its scale to 10."""
    rated = analyze("security", "--offline=yes", str(UNIT))
    [exposure] = re.findall(r"exposure level for donationd\.service: ([0-9.]+)", rated.stdout)
    assert float(exposure) < MAX_EXPOSURE


@needs_systemd
def test_systemd_knows_every_line(tmp_path: Path) -> None:
    """No key or value of the unit is unknown to systemd, which says so and yet exits 0."""
    installed = tmp_path / UNIT.name
    installed.write_text(re.sub(r"(?<=^ExecStart=)\S+", sys.executable, UNIT.read_text(), flags=re.MULTILINE))
    verified = analyze("verify", str(installed))
    assert (verified.returncode, verified.stderr) == (0, "")


@needs_systemd
def test_the_unit_of_many_charities_is_one_that_systemd_knows(tmp_path: Path) -> None:
    """The command of charities.md makes a unit of which each instance has its own file, user and state folder."""
    [command] = re.findall(
        r"^# (sed (?:.*\\\n)*.*) > /etc/systemd/system/donationd@\.service$", CHARITIES, re.MULTILINE
    )
    command = command.replace("/opt/donationd/deploy/donationd.service", str(UNIT))
    made = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    for line in ("EnvironmentFile=/etc/donationd/%i.env", "StateDirectory=donationd-%i", "User=donationd-%i"):
        assert line in made.splitlines()
    assert "DONATIOND_STATE" not in made
    (tmp_path / "donationd@.service").write_text(
        re.sub(r"(?<=^ExecStart=)\S+", sys.executable, made, flags=re.MULTILINE)
    )
    verified = analyze("verify", str(tmp_path / "donationd@.service"))
    assert (verified.returncode, verified.stderr) == (0, "")


def test_the_state_folder_of_a_charity_is_that_of_its_unit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is not below that of another unit: systemd could not make it there."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    [environment, _owner] = CharityFiles(tmp_path, "helpers").write(url="postgresql:///x", owner_url="postgresql:///x")
    [folder] = re.findall(r"\|StateDirectory=([^|]+)\|", CHARITIES)
    assert f"DONATIOND_STATE=/var/lib/{folder.replace('%i', 'helpers')}\n" in environment.read_text()
    assert "/" not in folder


def test_the_service_writes_no_core_dumps() -> None:
    """The limit stands in the unit too, for whatever systemd starts before a process of ours sets its own."""
    assert "LimitCORE=0" in UNIT.read_text().splitlines()


def test_systemd_waits_as_long_as_a_stop_may_take() -> None:
    """The unit's limit is longer than the sum of the limits of `up`, so that systemd never cuts a stop short."""
    [limit_s] = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)
    assert int(limit_s) > stop_limits(DEFAULTS | {"DONATIOND_INCLUDE": ""}).total_s


def test_the_example_of_the_environment_is_a_configuration() -> None:
    """With a signing secret the sidecar and the API take the example as it stands; it leaves the schema's owner out."""
    lines = (ROOT / "deploy" / "environment.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    with pytest.raises(ConfigError, match="STRIPE_WEBHOOK_SECRET: a signing secret is whsec_"):
        Config.from_environ(example)
    example["STRIPE_WEBHOOK_SECRET"] = SIGNING_SECRET
    SidecarConfig.from_environ(example)
    Config.from_environ(example)
    assert "MIGRATE_DATABASE_URL" not in example
