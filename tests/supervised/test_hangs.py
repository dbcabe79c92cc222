"""A process that hangs is replaced, under the real supervisord; one that only had to wait is not."""

import os
import signal
import time

from tests.support.instance import Instance, eventually, get, metric

TWO_TICKS_S = 11.0
STOOD_STILL_S = 21.0  # longer than a hang is watched before it is one


def stop(*pids: int) -> None:
    """SIGSTOP: a process that hangs."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)


def check_replaced(site: Instance, before: dict[str, int], *names: str) -> None:
    """Only these processes are others than before, and each is counted and logged once."""
    eventually(
        lambda: all(site.children().get(name, before[name]) != before[name] for name in names),
        f"replaced: {', '.join(names)}",
    )
    eventually(lambda: get(f"{site.api}/health/db")[0] == 200, "the API is ready")
    eventually(lambda: get(f"{site.sidecar}/health/db")[0] == 200, "the sidecar is ready")
    after = site.children()
    assert {name for name in before if after[name] != before[name]} == set(names)
    for name in names:
        hangs = f'supervisord_process_hangs_total{{process="{name}"}}'
        restarts = f'supervisord_process_restarts_total{{process="{name}"}}'
        eventually(lambda hangs=hangs: metric(site.sidecar, hangs) == 1, f"{name} is counted")  # type: ignore[misc]
        eventually(lambda restarts=restarts: metric(site.sidecar, restarts) == 1, "so is its restart")  # type: ignore[misc]
        eventually(lambda name=name: said(site, f"{name} hangs") == 1, "it is logged")  # type: ignore[misc]


def said(site: Instance, words: str) -> int:
    """How often one of the two that watch the processes has logged this."""
    return (site.log("listener") + site.log("sidecar")).count(words)


def test_what_only_stood_still_is_left_alone(site: Instance) -> None:
    """While supervisord is stopped it can start nothing again: nothing is killed, and its listener, which then gets no
    ticks, is not taken for one that hangs. Nor is any process after a time in which the whole machine stood still.
    """
    before = site.children()
    for stopped in ([site.supervisord], [site.supervisord, *before.values()]):
        stop(*stopped)
        time.sleep(STOOD_STILL_S)
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        time.sleep(TWO_TICKS_S)
        assert site.children() == before
        eventually(lambda: get(f"{site.api}/health/db")[0] == 200, "the API is ready")
    assert said(site, " hangs") == 0


def test_what_hangs_is_replaced(site: Instance) -> None:
    """A sidecar, an API process and a jobs process that are stopped (SIGSTOP) are killed and started again. So is the
    listener; while it hangs supervisord goes on starting what ends, and the next listener receives that too.
    """
    eventually(lambda: "no job runs" in site.log("jobs"), "the jobs process is idle, and has a heartbeat")
    before = site.children()
    stop(before["sidecar"], before["api:api_00"], before["jobs"])
    check_replaced(site, before, "sidecar", "api:api_00", "jobs")

    before = site.children()
    stop(before["listener"])
    os.kill(before["api:api_01"], signal.SIGKILL)
    eventually(lambda: site.children().get("api:api_01", before["api:api_01"]) != before["api:api_01"], "a restart")
    check_replaced(site, {**before, "api:api_01": site.children()["api:api_01"]}, "listener")
    restarts = 'supervisord_process_restarts_total{process="api:api_01"}'
    eventually(lambda: metric(site.sidecar, restarts) == 1, "the restart during the hang is counted")
