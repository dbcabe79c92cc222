"""One whole life of everything, as `donationd up --embedded` runs it: real supervisord, real PostgreSQL."""

import contextlib
import os
import signal

import psycopg2
import pytest

from tests.instance import Instance, eventually, free_ports, get

TICKET = "/api/tickets/story-1/donations"


def test_a_whole_life(instance: Instance) -> None:
    """Whatever dies comes back, an outage is told and heals by itself, the data stays, and the end leaves nothing."""
    printed = instance.start()
    assert f"{instance.api}/health" in printed
    assert "stripe listen --forward-to" in printed
    assert get(f"{instance.api}/health/db")[0] == 200
    check_no_secret_in_any_process_title(instance)
    with (
        contextlib.closing(psycopg2.connect(instance.environ["DATABASE_URL"])) as database,
        database.cursor() as cursor,
    ):
        cursor.execute("INSERT INTO recording_tickets (id) VALUES ('story-1')")
        database.commit()
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute("DROP TABLE recording_tickets")
    check_second_start_refused(instance)
    check_killed_program_returns(instance, "api:api_00")
    check_killed_program_returns(instance, "sidecar")
    check_killed_program_returns(instance, "postgres")
    check_outage(instance)

    stop_by(instance, signal.SIGHUP)
    assert instance.living() == []
    assert get(f"{instance.api}/health/live")[0] == 0

    instance.start()
    with (
        contextlib.closing(psycopg2.connect(instance.environ["DATABASE_URL"])) as database,
        database.cursor() as cursor,
    ):
        cursor.execute("SELECT id FROM recording_tickets")
        assert cursor.fetchall() == [("story-1",)]

    supervisord = int((instance.state / "run" / "supervisord.pid").read_text())
    os.kill(supervisord, signal.SIGKILL)
    assert instance.end() == 1
    assert instance.living() == []


def check_no_secret_in_any_process_title(instance: Instance) -> None:
    """No argument of any process holds a generated secret; the programs all run."""
    secrets = [line.split("=", 1)[1] for line in (instance.state / "environment").read_text().splitlines()]
    assert len(secrets) == 2
    lines = instance.living()
    assert len(lines) >= 5
    assert [line for line in lines if any(secret in line for secret in secrets)] == []


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
    eventually(lambda: get(f"{instance.sidecar}/health/db")[0] == 503, "the sidecar tells the outage")
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
