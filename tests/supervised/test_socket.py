"""supervisord's socket file is missing or dead: what serves goes on, and what is down starts again by itself."""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.runtime.lifecycle import MIN_UPTIME_S
from tests.support.instance import Instance, eventually, get, metric

SAID = "supervisord does not answer"
BACK = "supervisord answers again"
REACHABLE = "supervisord_reachable"
LONGER_THAN_A_FAILED_RUN_S = MIN_UPTIME_S + 1


def path(site: Instance) -> Path:
    """supervisord's socket."""
    return Path(site.environ["DONATIOND_RUN"], "supervisor.sock")


@contextmanager
def taken_away(site: Instance, *, dead: bool = False) -> Iterator[None]:
    """The socket is somewhere else in the block; `dead`: one on which no process listens is in its place."""
    aside = path(site).with_name("aside")
    path(site).rename(aside)
    if dead:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path(site)))
    try:
        yield
    finally:
        aside.rename(path(site))


class Since:
    """What a log holds since now."""

    def __init__(self, site: Instance, name: str) -> None:
        self._site, self._name, self._begin = site, name, len(site.log(name))

    def count(self, words: str) -> int:
        """How often it has these words."""
        return self._site.log(self._name)[self._begin :].count(words)


def kill(site: Instance, name: str) -> None:
    """kill -9; returns once supervisord has started the process again."""
    before = site.children()[name]
    os.kill(before, signal.SIGKILL)
    eventually(lambda: site.children().get(name, before) != before, f"{name} runs again")


@pytest.mark.parametrize("dead", [False, True])
def test_a_new_sidecar_serves_without_the_socket(site: Instance, dead: bool) -> None:
    """After a restart of the sidecar the API is ready, for longer than a failed process runs; one line says what is
    missing and one that it is back."""
    log = Since(site, "sidecar")
    with taken_away(site, dead=dead):
        kill(site, "sidecar")
        started = site.children()["sidecar"]
        eventually(lambda: get(f"{site.sidecar}/health/db")[0] == 200, "the new sidecar is ready")
        site.wait_until_all_serve()
        time.sleep(LONGER_THAN_A_FAILED_RUN_S)
        assert site.children()["sidecar"] == started
        eventually(lambda: get(f"{site.api}/health/db")[0] == 200, "the API is ready")
        eventually(lambda: metric(site.sidecar, REACHABLE) == 0, "the metric shows it")
    eventually(lambda: log.count(BACK) == 1, "the end of it is logged")
    eventually(lambda: metric(site.sidecar, REACHABLE) == 1, "the metric follows")
    assert log.count(SAID) == 1


def test_the_api_is_started_once_the_socket_is_back(site: Instance) -> None:
    """A sidecar that could not have the API started goes on trying."""
    site.supervisorctl("stop", "api:*")
    with taken_away(site):
        kill(site, "sidecar")
        eventually(lambda: get(f"{site.sidecar}/health/db")[0] == 200, "the new sidecar is ready")
        assert get(f"{site.api}/health/live")[0] == 0
    site.wait_until_all_serve()
    assert "received SIGHUP" not in site.log("supervisord")


def test_reload_and_status_say_what_to_do(site: Instance) -> None:
    """`reload` is one sentence with the remedy, and changes nothing; `status` names the trouble."""
    before = site.children()
    with taken_away(site):
        done = site.donationd("reload")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert SAID in done.stderr
        assert f"kill -HUP {site.supervisord}" in done.stderr
        eventually(lambda: metric(site.sidecar, REACHABLE) == 0, "the sidecar has noticed")
        shown = site.donationd("status", "--json", METRICS_PORT=site.environ["METRICS_PORT"])
        assert shown.returncode == 1
        [problem] = json.loads(shown.stdout)["problems"]
        assert SAID in problem
        assert f"kill -HUP {site.supervisord}" in problem
    assert site.children() == before


def test_a_new_listener_listens_without_the_socket(site: Instance) -> None:
    """It needs the socket for a first list only: it stays, and counts what supervisord reports to it from then on."""
    log = Since(site, "listener")
    restarts = 'supervisord_process_restarts_total{process="api:api_00"}'
    before = metric(site.sidecar, restarts)
    assert before is not None
    with taken_away(site):
        kill(site, "listener")
        started = site.children()["listener"]
        kill(site, "api:api_00")
        eventually(lambda: metric(site.sidecar, restarts) == before + 1, "a restart is counted")
        time.sleep(LONGER_THAN_A_FAILED_RUN_S)
        assert site.children()["listener"] == started
        eventually(lambda: log.count(SAID) == 1, "it is logged")


def test_an_api_that_does_not_run_is_worth_a_restart_of_supervisord(site: Instance) -> None:
    """Where no API process serves and the socket stays away, supervisord is made to open another, and all runs."""
    log = Since(site, "supervisord")
    site.supervisorctl("stop", "api:*")
    path(site).unlink()
    kill(site, "sidecar")
    site.wait_until_all_serve()
    assert log.count("received SIGHUP") == 1
    eventually(lambda: len(site.pids()) == 5, "supervisord answers on a new socket")
