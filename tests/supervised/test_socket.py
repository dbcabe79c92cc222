"""supervisord's socket file is missing or dead: what serves goes on, and what is down starts again by itself."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.instance import SIGNING_SECRET, Instance, eventually, get, instance_of_its_own, metric

SAID = "supervisord does not answer"
REACHABLE = "supervisord_reachable"


@pytest.fixture
def site(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Instance]:
    """An instance that serves, with a database of its own."""
    environ = {"DATABASE_URL": database_url, "STRIPE_WEBHOOK_SECRET": SIGNING_SECRET, "HOST": "127.0.0.1"}
    with instance_of_its_own(environ) as instance:
        monkeypatch.setenv("DONATIOND_STATE", str(instance.state))
        monkeypatch.setenv("METRICS_PORT", instance.sidecar.rpartition(":")[2])
        instance.start()
        yield instance


def path(site: Instance) -> Path:
    """supervisord's socket."""
    return Path(site.environ["DONATIOND_RUN"], "supervisor.sock")


def take_away(site: Instance, *, dead: bool = False) -> Path:
    """Moves the socket aside; `dead`: leaves one on which no process listens. Returns where it is now."""
    aside = path(site).with_name("aside")
    path(site).rename(aside)
    if dead:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path(site)))
    return aside


def kill(site: Instance, name: str) -> None:
    """kill -9; returns once supervisord has started the process again."""
    before = site.children()[name]
    os.kill(before, signal.SIGKILL)
    eventually(lambda: site.children().get(name, before) != before, f"{name} runs again")


def donationd(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "daemon.cli.main", *words], capture_output=True, text=True, check=False
    )


def ready(site: Instance) -> bool:
    return get(f"{site.api}/health/db")[0] == 200


@pytest.mark.parametrize("dead", [False, True])
def test_a_new_sidecar_serves_without_the_socket(site: Instance, dead: bool) -> None:
    """After a restart of the sidecar the API is ready, for longer than a failed process runs; one line says what is
    missing and one that it is back."""
    aside = take_away(site, dead=dead)
    kill(site, "sidecar")
    started = site.children()["sidecar"]
    eventually(lambda: get(f"{site.sidecar}/health/db")[0] == 200, "the new sidecar is ready")
    eventually(lambda: all(ready(site) for _ in range(20)), "both API processes follow it")
    deadline = time.monotonic() + 8
    while time.monotonic() < deadline:
        assert ready(site)
        time.sleep(0.1)
    assert site.children()["sidecar"] == started
    assert site.log("sidecar").count(SAID) == 1
    assert metric(site.sidecar, REACHABLE) == 0
    aside.rename(path(site))
    eventually(lambda: "supervisord answers again" in site.log("sidecar"), "the end of it is logged")
    eventually(lambda: metric(site.sidecar, REACHABLE) == 1, "the metric follows")
    assert site.log("sidecar").count(SAID) == 1


def test_the_api_is_started_once_the_socket_is_back(site: Instance) -> None:
    """A sidecar that could not have the API started goes on trying."""
    site.supervisorctl("stop", "api:*")
    aside = take_away(site)
    kill(site, "sidecar")
    eventually(lambda: get(f"{site.sidecar}/health/db")[0] == 200, "the new sidecar is ready")
    assert get(f"{site.api}/health/live")[0] == 0
    aside.rename(path(site))
    eventually(lambda: ready(site), "the API was started")
    assert "received SIGHUP" not in site.log("supervisord")


def test_an_api_that_does_not_run_is_worth_a_restart_of_supervisord(site: Instance) -> None:
    """Where no API process serves and the socket stays away, supervisord is made to open another, and all runs."""
    site.supervisorctl("stop", "api:*")
    take_away(site).unlink()
    kill(site, "sidecar")
    eventually(lambda: ready(site), "everything runs again", timeout_s=60)
    assert site.log("supervisord").count("received SIGHUP") == 1
    eventually(lambda: len(site.pids()) == 5, "supervisord answers on a new socket")


def test_reload_and_status_say_what_to_do(site: Instance) -> None:
    """`reload` is one sentence with the remedy, and changes nothing; `status` names the trouble."""
    before = site.children()
    take_away(site)
    done = donationd("reload")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert SAID in done.stderr
    assert f"kill -HUP {site.supervisord}" in done.stderr
    eventually(lambda: metric(site.sidecar, REACHABLE) == 0, "the sidecar has noticed")
    shown = donationd("status", "--json")
    assert shown.returncode == 1
    [problem] = json.loads(shown.stdout)["problems"]
    assert SAID in problem
    assert f"kill -HUP {site.supervisord}" in problem
    assert site.children() == before


def test_a_new_listener_listens_without_the_socket(site: Instance) -> None:
    """It needs the socket for a first list only: it stays, and counts what supervisord reports to it from then on."""
    take_away(site)
    kill(site, "listener")
    started = site.children()["listener"]
    kill(site, "api:api_00")
    restarts = 'supervisord_process_restarts_total{process="api:api_00"}'
    eventually(lambda: metric(site.sidecar, restarts) == 1, "a restart is counted")
    time.sleep(6)  # longer than a failed process runs
    assert site.children()["listener"] == started
    assert site.log("listener").count(SAID) == 1
