"""An instance from its start to its end, as `donationd up --embedded` runs it: real supervisord, real PostgreSQL."""

import contextlib
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from tests.support.instance import SECRETS, Instance, children, command_lines, eventually, files_below, free_ports, get
from tests.support.role_rights import check_only_rows

TICKET = "/api/tickets/story-1/donations"
# Which secrets each program has a use for.
NEEDED = {
    "postgres": set[str](),
    "listener": set[str](),
    "sidecar": {"DATABASE_URL"},
    "api:api_00": {"DATABASE_URL", "STRIPE_WEBHOOK_SECRET", *SECRETS} - {"MIGRATE_DATABASE_URL"},
}
SOCKETS = {"readiness.sock", "supervisor.sock", ".s.PGSQL.5432"}
NEEDED["api:api_01"] = NEEDED["api:api_00"]
NEEDED["jobs"] = {"DATABASE_URL", "DONOR_EMAIL_HASH_KEY", "STRIPE_API_KEY"}


def test_from_start_to_end(instance: Instance) -> None:
    """A process that dies is started again, an outage is reported and ends by itself, the data stays, and a stop leaves
    nothing behind."""
    printed = instance.start(API_PROCESSES="2")
    assert f"{instance.api}/health" in printed
    assert "stripe listen --forward-to" in printed
    assert get(f"{instance.api}/health/db")[0] == 200
    check_no_secret_in_any_process_title(instance)
    check_each_program_has_only_the_secrets_it_needs(instance)
    check_no_process_writes_core_dumps(instance)
    with (
        contextlib.closing(psycopg2.connect(instance.environ["DATABASE_URL"])) as database,
        database.cursor() as cursor,
    ):
        cursor.execute("INSERT INTO recording_tickets (id) VALUES ('story-1')")
        database.commit()
    check_the_role_has_rows_only(instance)
    check_second_start_refused(instance)
    check_killed_program_returns(instance, "api:api_00")
    check_killed_program_returns(instance, "sidecar")
    check_killed_program_returns(instance, "jobs")
    check_killed_program_returns(instance, "postgres")
    check_outage(instance)
    check_everything_is_its_owners_alone(instance)
    check_secrets_are_in_no_other_file(instance)

    stop_by(instance, signal.SIGHUP)
    assert instance.running_processes() == []
    assert get(f"{instance.api}/health/live")[0] == 0

    instance.start()
    with (
        contextlib.closing(psycopg2.connect(instance.environ["DATABASE_URL"])) as database,
        database.cursor() as cursor,
    ):
        cursor.execute("SELECT id FROM recording_tickets")
        assert cursor.fetchall() == [("story-1",)]

    supervisord = int((instance.run / "supervisord.pid").read_text())
    os.kill(supervisord, signal.SIGKILL)
    assert instance.end() == 1
    assert instance.running_processes() == []


def check_no_secret_in_any_process_title(instance: Instance) -> None:
    """No argument of any process holds a generated secret; the programs all run."""
    assert len(instance.running_processes()) >= 5
    secrets = instance.secrets().values()
    assert [line for _, line in command_lines() if any(secret in line for secret in secrets)] == []


def check_each_program_has_only_the_secrets_it_needs(instance: Instance) -> None:
    """The environment of each program, and of each child it has, holds the secrets it uses and no other one."""
    secrets = instance.secrets()
    checked = set()
    for program, lines in of_each_process(instance, "environ", "\0"):
        environ = dict(line.split("=", 1) for line in lines if "=" in line)
        names = {name for name in (*secrets, "DATABASE_URL") if environ.get(name)}
        assert names == NEEDED[program], program
        if program == "postgres":
            assert not any(secret in line for line in lines for secret in secrets.values())
        checked.add(program)
    assert checked == NEEDED.keys()


def check_no_process_writes_core_dumps(instance: Instance) -> None:
    """Neither the programs, nor what they start, nor supervisord can get the right back."""
    supervisord = Path(f"/proc/{instance.supervisord}/limits").read_text().split("\n")
    for program, limits in (("supervisord", supervisord), *of_each_process(instance, "limits", "\n")):
        [core] = [line.split() for line in limits if line.startswith("Max core file size")]
        assert core[-3:] == ["0", "0", "bytes"], program


def of_each_process(instance: Instance, name: str, separator: str) -> Iterator[tuple[str, list[str]]]:
    """Each program with the parts of this file of /proc, its own and those of each child it has. A child that ends
    meanwhile is left out.
    """
    for program, pid in instance.pids().items():
        for process in (pid, *children(pid)):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                parts = Path(f"/proc/{process}/{name}").read_text().split(separator)
                if any(parts):  # nothing of a process that has just ended
                    yield program, parts


def check_the_role_has_rows_only(instance: Instance) -> None:
    """The role that everything logs in as can do what deploy/roles.sql says, in this database and in no other."""
    url = instance.environ["DATABASE_URL"]
    check_only_rows(url)
    for other in ("postgres", "template1"):
        with pytest.raises(psycopg2.OperationalError, match=r"no pg_hba\.conf entry"):
            psycopg2.connect(url, dbname=other)


def check_everything_is_its_owners_alone(instance: Instance) -> None:
    """Only the owner can open anything an instance has made; only the readiness socket is the group's too."""
    modes = {}
    for path in files_below(instance.state):
        with contextlib.suppress(FileNotFoundError):
            modes[path] = path.lstat().st_mode
    assert {path.name for path, mode in modes.items() if stat.S_ISSOCK(mode)} == SOCKETS
    assert {path.name for path in modes} >= {"environ.json", "sidecar-totals.json", "sidecar.log", "counter_0.db"}
    open_to_others = {path.name: stat.S_IMODE(mode) for path, mode in modes.items() if mode & 0o077}
    enterable = {"run": 0o711} if os.geteuid() == 0 else {}  # and not to be listed: PostgreSQL's socket is below it
    assert open_to_others == {"readiness.sock": 0o660, **enterable}
    assert stat.S_IMODE(instance.state.stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o700)


def check_secrets_are_in_no_other_file(instance: Instance) -> None:
    """Neither a log nor the database nor anything else on disk holds a secret, but for the two files made for them."""
    secrets = [secret.encode() for secret in instance.secrets().values()]
    holders = set()
    for path in files_below(instance.state):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and any(secret in path.read_bytes() for secret in secrets):
                holders.add(path.relative_to(instance.state))
    assert holders == {Path("environment"), Path("run/environ.json")}


def check_second_start_refused(instance: Instance) -> None:
    """A second `up` on the same folder is one sentence, and the first goes on."""
    ports = free_ports(2)
    second = Instance(instance.state, ports[0], ports[1])
    with pytest.raises(AssertionError, match="an instance is already running"):
        second.start()
    assert second.end() == 1
    assert get(f"{instance.api}/health/db")[0] == 200


def check_killed_program_returns(instance: Instance, name: str) -> None:
    """After kill -9 the program runs again under another pid and the API is ready."""
    before = instance.pids()[name]
    os.kill(before, signal.SIGKILL)
    eventually(lambda: instance.pids().get(name, before) != before, f"{name} runs again")
    eventually(lambda: get(f"{instance.api}{TICKET}")[0] == 200, f"answers after the death of {name}")


def check_outage(instance: Instance) -> None:
    """While the database is stopped requests get 503 with Retry-After; once it is back they work by themselves."""
    url = f"{instance.api}{TICKET}"
    instance.supervisorctl("stop", "postgres")
    eventually(lambda: get(url)[0] == 503, "503 while the database is away")
    assert get(url)[1]["Retry-After"] == "30"
    assert get(f"{instance.api}/health/live")[0] == 200
    eventually(lambda: get(f"{instance.sidecar}/health/db")[0] == 503, "the sidecar reports the outage")
    assert get(url)[0] == 503
    instance.supervisorctl("start", "postgres")
    eventually(lambda: get(url)[0] == 200, "200 once the database is back")


def stop_by(instance: Instance, number: signal.Signals) -> None:
    """Sends `number` to `up`, whose terminal is gone, and expects the exit status of a requested stop."""
    assert instance.up is not None
    assert instance.up.stdout is not None
    instance.up.stdout.close()
    instance.up.send_signal(number)
    assert instance.end() == 0
