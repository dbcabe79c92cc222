"""The files of deploy/ha agree with each other and with what donationd asks of a server; `make ha` runs them."""

import re
from typing import Any

import pytest
import yaml

from daemon.instance.installation import ROOT
from sql.server_settings import LOGGED, VERBOSITY

FOLDER = ROOT / "deploy" / "ha"


@pytest.fixture(scope="module")
def shared() -> dict[str, Any]:
    """What Patroni writes into etcd."""
    found: dict[str, Any] = yaml.safe_load((FOLDER / "patroni.yml").read_text())["bootstrap"]["dcs"]
    return found


def test_the_server_logs_no_statement_with_values(shared: dict[str, Any]) -> None:
    """What the startup gate asks, where PostgreSQL's default is another; and no other setting is unsafe."""
    parameters = {name: str(value) for name, value in shared["postgresql"]["parameters"].items()}
    assert parameters["log_min_error_statement"] in LOGGED["log_min_error_statement"].safe
    assert parameters[VERBOSITY] == "terse"
    for name in LOGGED.keys() & parameters.keys():
        assert parameters[name] in LOGGED[name].safe, name


def test_the_times_fit_together(shared: dict[str, Any]) -> None:
    """Patroni's own rule: otherwise a leader could lose its key while it still waits for etcd."""
    assert shared["loop_wait"] + 2 * shared["retry_timeout"] <= shared["ttl"]


def test_the_files_name_the_same_hosts() -> None:
    """Those of HAProxy, etcd and Patroni."""
    addresses = {f"10.0.0.{number}" for number in (1, 2, 3)}
    for name in ("haproxy.cfg", "environment.example", "etcd.example"):
        assert set(re.findall(r"10\.0\.0\.\d", (FOLDER / name).read_text())) == addresses, name


def test_every_role_checks_the_certificate_of_its_server() -> None:
    """A replication connection without that would give a password and every row to any host in the middle."""
    roles = yaml.safe_load((FOLDER / "patroni.yml").read_text())["postgresql"]["authentication"]
    assert {role["sslmode"] for role in roles.values()} == {"verify-full"}
    assert roles.keys() == {"superuser", "replication", "rewind"}
