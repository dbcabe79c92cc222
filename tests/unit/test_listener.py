"""What supervisord reports becomes metrics and log lines; its ticks find what hangs."""

import io
import json
from pathlib import Path

from prometheus_client import generate_latest
from structlog.testing import capture_logs

from health_sidecar.metrics import Metrics, build_registry
from health_sidecar.process_events import Listener, listen
from tests.support.metrics_page import samples

INFOS = [
    {"group": "sidecar", "name": "sidecar", "statename": "RUNNING", "start": 100},
    {"group": "api", "name": "api_00", "statename": "STOPPED", "start": 0},
]


def event(process: str, group: str, state: str, from_state: str) -> str:
    """An event as supervisord writes it."""
    return written(f"PROCESS_STATE_{state}", f"processname:{process} groupname:{group} from_state:{from_state} pid:7")


def written(name: str, payload: str) -> str:
    header = f"ver:3.0 server:supervisor serial:1 pool:listener poolserial:1 eventname:{name}"
    return f"{header} len:{len(payload)}\n{payload}"


def run_listener(path: Path, *events: str) -> str:
    """Run a listener with these messages of supervisord; returns what it answered."""
    listener = Listener(path)
    listener.begin(INFOS)
    answers = io.StringIO()
    listen(listener, io.StringIO("".join(events)), answers)
    return answers.getvalue()


CRASH = (event("sidecar", "sidecar", "EXITED", "RUNNING"), event("sidecar", "sidecar", "STARTING", "EXITED"))
BACK = event("sidecar", "sidecar", "RUNNING", "STARTING")


def test_each_event_is_acknowledged_and_restarts_count_over_process_runs_of_the_listener(tmp_path: Path) -> None:
    """supervisord sends the next event after an OK only; a listener that was restarted goes on counting."""
    path = tmp_path / "processes.json"
    assert run_listener(path, *CRASH, BACK) == "READY\nRESULT 2\nOK" * 3 + "READY\n"
    run_listener(path, *CRASH, BACK)
    found = samples(generate_latest(build_registry(Metrics(), None, path)))
    assert found["supervisord_process_restarts_total", (("process", "sidecar"),)] == 2
    assert found["supervisord_process_restarts_total", (("process", "api:api_00"),)] == 0


def test_a_process_is_in_one_state(tmp_path: Path) -> None:
    """The state it is in shows 1, every other 0; a time of start only while it runs."""
    path = tmp_path / "processes.json"
    run_listener(path, event("api_00", "api", "STARTING", "STOPPED"), event("api_00", "api", "FATAL", "STARTING"))
    found = samples(generate_latest(build_registry(Metrics(), None, path)))
    states = {
        dict(labels)["state"]: value
        for (name, labels), value in found.items()
        if "api:api_00" in str(labels) and name.endswith("_state")
    }
    assert {state for state, value in states.items() if value} == {"FATAL"}
    assert len(states) == 8
    assert found["supervisord_process_start_time_seconds", (("process", "sidecar"),)] == 100
    assert ("supervisord_process_start_time_seconds", (("process", "api:api_00"),)) not in found


def test_a_start_that_was_asked_for_is_no_restart(tmp_path: Path) -> None:
    """`supervisorctl restart` and `donationd reload` are no crashes."""
    path = tmp_path / "processes.json"
    run_listener(
        path, *(event("sidecar", "sidecar", *change) for change in (("STOPPED", "STOPPING"), ("STARTING", "STOPPED")))
    )
    assert json.loads(path.read_text())["sidecar"]["restarts"] == 0


def test_an_end_that_was_asked_for_is_no_restart(tmp_path: Path) -> None:
    """SIGTERM, as `donationd reload` sends it, ends a process with status 0; the crash after that counts again."""
    path = tmp_path / "processes.json"
    asked = written("PROCESS_STATE_EXITED", "processname:sidecar groupname:sidecar from_state:RUNNING expected:1 pid:7")
    with capture_logs() as lines:
        run_listener(path, asked, event("sidecar", "sidecar", "STARTING", "EXITED"))
        assert json.loads(path.read_text())["sidecar"]["restarts"] == 0
        assert lines[0] == {"event": "[Supervisor] sidecar ended as asked", "log_level": "info"}
        run_listener(path, BACK, *CRASH)
    assert json.loads(path.read_text())["sidecar"]["restarts"] == 1


def test_a_full_disk_does_not_end_the_listener(tmp_path: Path) -> None:
    """It goes on taking events and ticks, says so once, and keeps everything once there is room."""
    folder = tmp_path / "no folder yet"
    folder.touch()
    listener = Listener(folder / "processes.json")
    with capture_logs() as lines:
        listener.begin(INFOS)
        listen(listener, io.StringIO("".join([*CRASH, BACK])), io.StringIO())
    assert [line["event"] for line in lines].count("[Supervisor] ⚠️ cannot keep the processes' states") == 1
    folder.unlink()
    listen(listener, io.StringIO(written("TICK_5", "when:100")), io.StringIO())
    assert json.loads((folder / "processes.json").read_text())["sidecar"]["restarts"] == 1


def test_a_tick_changes_nothing_while_nothing_hangs(tmp_path: Path) -> None:
    """It is acknowledged like every event, and no process is found below a parent that is no supervisord."""
    path = tmp_path / "processes.json"
    assert run_listener(path, written("TICK_5", "when:100")) == "READY\nRESULT 2\nOKREADY\n"
    assert json.loads(path.read_text())["sidecar"]["hangs"] == 0


def test_a_change_is_one_line_and_a_crash_says_how_long_it_ran(tmp_path: Path) -> None:
    """An end by itself is a warning, the next start is not; what passes within a moment is for debugging."""
    with capture_logs() as lines:
        run_listener(tmp_path / "processes.json", *CRASH, BACK)
    shown = [(line["log_level"], line["event"]) for line in lines if line["log_level"] != "debug"]
    assert shown == [("warning", "[Supervisor] ❌ sidecar ended by itself"), ("info", "[Supervisor] ✅ sidecar runs")]
    assert lines[0]["after_s"] > 0


def test_a_damaged_file_means_zeros(tmp_path: Path) -> None:
    """Metrics never fail for it, and the next event repairs it."""
    path = tmp_path / "processes.json"
    path.write_text("{")
    assert samples(generate_latest(build_registry(Metrics(), None, path)))
    run_listener(path, BACK)
    assert json.loads(path.read_text())["sidecar"]["state"] == "RUNNING"
