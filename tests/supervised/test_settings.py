"""The environment is read in one way by all processes and commands."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import ascii_lowercase, digits

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from daemon.api.config import Config as ApiConfig
from daemon.cli.main import main
from daemon.instance import environment, health_client, preflight
from daemon.instance.console import CannotStart
from daemon.jobs.config import JobsConfig
from daemon.runtime.config import SCHEMA, ConfigError
from health_sidecar.config import Config as SidecarConfig
from sql.servers import url_problem
from tests.support.instance import free_ports, run_up

# No process and no command may overlook which ledger is meant.
WRONG_SCHEMA = {"LEDGER_SCHEMA": "Canary"}
USABLE = {
    "DATABASE_URL": "postgresql://nowhere@127.0.0.1:1/none",
    "STRIPE_WEBHOOK_SECRET": "whsec_" + "test" * 8,
    "GATE_ATTEMPTS": "1",
}


def run(words: list[str], environ: Mapping[str, str]) -> tuple[int, str]:
    """Exit status and output of a command with these variables only."""
    hidden = {name: None for name in os.environ if name.isupper()}
    done = CliRunner().invoke(main, words, env=hidden | dict(environ))
    return done.exit_code, done.output


def test_commands_have_the_settings_of_the_embedded_instance() -> None:
    """What decides what they show, and where they write, is the same; its other secrets are not handed on."""
    shared = {
        "DATABASE_URL": "postgresql:///ledger",
        "DISPUTE_FEE": "15.00 USD",
        "DONATIOND_INCLUDE": "deploy/embedded.conf",
        "FRAUD_HASH_FAILURES": "5",
        "OPERATOR_LOG": "/var/lib/operator.log",
        "REPORT_TIME_ZONE": "Asia/Tokyo",
    }
    others = {"SMTP_URL": "smtp://user:password@mail.example.org", "PATH": "/bin"}
    assert environment.shared_environ(shared | others) == shared


@pytest.mark.parametrize("words", ["tickets list", "ledger story-1", "simulate", "unassigned", "erase pi_1", "verify"])
def test_a_value_that_the_api_refuses_no_command_accepts(words: str) -> None:
    """A command exits with 1 and names every mistake that the API process would name."""
    wrong = {
        "DEFAULT_CURRENCY": "eur",
        "STRIPE_LIVEMODE": "perhaps",
        "PORT": "http",
        "LOG_FORMAT": "yaml",
        "REPORT_TIME_ZONE": "Mars/Olympus",
    }
    status, output = run(words.split(), {**USABLE, **wrong})
    assert status == 1
    assert [name for name in wrong if f"{name}: " not in output] == []


def test_commands_read_the_settings_of_the_embedded_instance(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without DATABASE_URL a command shows a ledger in the DEFAULT_CURRENCY that its instance was started with."""
    embedded = {"DATABASE_URL": database_url, "DEFAULT_CURRENCY": "JPY"}
    monkeypatch.setattr(environment, "embedded_environ", lambda: embedded)
    assert run(["tickets", "add", "story-1"], {})[0] == 0
    shown = run(["ledger", "story-1"], {})[1]
    assert "Total: ¥0 (0 paid" in shown
    assert shown.count("(using the embedded instance of this folder)") == 1
    assert "Total: $0.00 (0 paid" in run(["ledger", "story-1"], {"DEFAULT_CURRENCY": "USD"})[1]


def test_without_a_database_a_command_says_how_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mistake is named at once, with the two ways to a database."""
    monkeypatch.setattr(environment, "embedded_environ", lambda: None)
    status, output = run(["tickets", "list"], {"LOG_FORMAT": "yaml"})
    assert status == 1
    assert "LOG_FORMAT: " in output
    assert "set DATABASE_URL to postgresql://user@host/database, or start `donationd up --embedded` here" in output


@pytest.mark.parametrize("number", ["1_0", "+10", "10.0", " 10", "1e1", "-10", "١٠"])
@pytest.mark.parametrize("name", ["SHUTDOWN_GRACE_MS", "METRICS_PORT", "GATE_ATTEMPTS", "DB_POOL_SIZE", "PORT"])
def test_a_number_is_digits_only(name: str, number: str, tmp_path: Path) -> None:
    """A number has one form, so that supervisord and every process and command read the same from it."""
    environ = {**USABLE, "HOST": "127.0.0.1"}
    assert wrong_settings({**environ, name: "10"}, tmp_path) == []
    assert [problem.split(":")[0] for problem in wrong_settings({**environ, name: number}, tmp_path)] == [name]


def test_in_kubernetes_there_is_no_embedded_database(tmp_path: Path) -> None:
    """`up --embedded` starts nothing there, because each replica would have another ledger; with DATABASE_URL it does,
    and so does a trial without the variable."""
    api_port, metrics_port = free_ports(2)
    kubernetes = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "PORT": str(api_port), "METRICS_PORT": str(metrics_port)}
    with pytest.raises(CannotStart, match="every replica would keep a ledger of its own"):
        preflight.check(environment.complete_environ(kubernetes, tmp_path, embedded=True))
    for allowed in ({**USABLE, **kubernetes}, {**kubernetes, "KUBERNETES_SERVICE_HOST": ""}):
        preflight.check(environment.complete_environ(allowed, tmp_path, embedded=True))


@pytest.mark.parametrize(
    ("host", "reached"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("::1", "::1"), ("localhost", "localhost")]
)
def test_a_host_means_the_same_to_every_command(host: str, reached: str, database_url: str, closed_port: int) -> None:
    """`simulate`, `status` and `up` connect to the same place for what listens on HOST or METRICS_HOST."""
    ports = {"PORT": str(closed_port), "METRICS_PORT": str(closed_port)}
    environ = {**USABLE, "DATABASE_URL": database_url, "STRIPE_LIVEMODE": "false", **ports}
    environ |= {"HOST": host, "METRICS_HOST": host}
    assert run(["tickets", "add", "story-1"], environ)[0] == 0
    url = f"http://[{reached}]:{closed_port}" if ":" in reached else f"http://{reached}:{closed_port}"
    assert f"no API replies at {url} " in run(["simulate"], environ)[1]
    assert f"the sidecar does not answer at {reached} port {closed_port} " in run(["status"], environ)[1]
    assert f"http://{health_client.address(environ['HOST'], environ['PORT'])}" == url


@pytest.fixture
def closed_port() -> int:
    """A port that no process listens on."""
    [port] = free_ports(1)
    return port


@pytest.mark.parametrize("value", ["", "true", "false", "1", "0", "yes", "no", "False"])
def test_the_mode_means_the_same_to_simulate_and_the_api(value: str, database_url: str) -> None:
    """`simulate` refuses exactly the values of STRIPE_LIVEMODE that put the API into live mode."""
    environ = {**USABLE, "DATABASE_URL": database_url, "STRIPE_LIVEMODE": value}
    refused = "live mode" in run(["simulate"], environ)[1]
    assert refused is ApiConfig.from_environ(environ).stripe_livemode


@pytest.mark.parametrize(
    "url",
    ["mysql://user@127.0.0.1/ledger", "postgresql://user:%zz@127.0.0.1/ledger", "postgresql://h:1,h:2,h:x/ledger"],
)
@pytest.mark.parametrize("words", ["tickets list", "ledger story-1", "verify", "migrate", "migrate --status", "gate"])
def test_every_command_refuses_the_urls_that_the_gate_refuses(
    words: str, url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is no URL of a database is a sentence and exit status 1, before any connection."""
    status, output = run(words.split(), {**USABLE, "DATABASE_URL": url})
    problem = url_problem(url)
    assert problem is not None
    assert (status, problem in output + capfd.readouterr().out) == (1, True)


def wrong_settings(environ: Mapping[str, str], state: Path) -> list[str]:
    """What `up` says about these variables."""
    return preflight.wrong_settings(environment.complete_environ(environ, state, embedded=False))


def check_refusal(text: str) -> None:
    """The variable is named once, with what is valid, and its value is not repeated."""
    assert text.count("LEDGER_SCHEMA: must be the name of a schema") == 1
    assert "canary" not in text.lower()


@pytest.mark.parametrize("module", ["daemon.api", "health_sidecar"])
def test_a_process_refuses_a_wrong_schema(module: str, tmp_path: Path) -> None:
    """The API and the sidecar exit with 1 at start, naming this mistake together with every other one."""
    done = subprocess.run(
        [sys.executable, "-m", module],
        env={"PATH": os.environ["PATH"], **USABLE, **WRONG_SCHEMA, "LOG_FORMAT": "yaml"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1
    check_refusal(done.stdout + done.stderr)
    assert "LOG_FORMAT: " in done.stdout + done.stderr


def test_up_refuses_before_it_starts_anything(tmp_path: Path) -> None:
    """`up` ends with 1, with these mistakes and all others, and starts neither PostgreSQL nor supervisord."""
    done = run_up(tmp_path / "state", {**WRONG_SCHEMA, "LOG_FORMAT": "yaml"})
    assert done.returncode == 1
    check_refusal(done.stderr)
    assert "LOG_FORMAT: " in done.stderr
    assert not (tmp_path / "state" / "postgres").exists()
    assert not (tmp_path / "state" / "logs" / "supervisord.log").exists()


# These read or print a file, make a token, or bring a database of their own: they have no settings.
WITHOUT_SETTINGS = {
    ("export", "accounts"),
    ("export", "check"),
    ("operator-log", "verify"),
    ("restore-check",),
    ("tokens", "new"),
}


def command_lines(group: click.Group, *path: str) -> Iterator[list[str]]:
    """Every command with settings but `up`, and `demo`, which is `up`; with an id where it takes an argument, and the
    options that it needs."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from command_lines(command, *path, name)
        elif name not in {"up", "demo"} and (*path, name) not in WITHOUT_SETTINGS:
            yield [*path, name, *(word for part in command.params for word in words_for(part))]


def words_for(part: click.Parameter) -> list[str]:
    """What to write for an argument or an option."""
    if isinstance(part, click.Argument):
        is_number = isinstance(part.type, click.IntRange)
        return ["2026" if is_number else {"number": "2026-000001"}.get(part.name or "", "pi_1")]
    choices = part.type.choices if isinstance(part.type, click.Choice) else ["2026"]
    return [part.opts[0], choices[0]] if part.required else []


@pytest.mark.parametrize("words", [*command_lines(main)], ids=" ".join)
def test_every_command_refuses_a_wrong_schema(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """Each command exits with 1 before it does anything, naming the mistake."""
    status, output = run(words, {**USABLE, **WRONG_SCHEMA})
    assert status == 1
    check_refusal(output + "".join(capfd.readouterr()))


@given(name=st.from_regex(SCHEMA, fullmatch=True) | st.text(alphabet="aZz_09.é$ ", max_size=65))
def test_a_schema_needs_no_quotes(name: str) -> None:
    """What is accepted has at most 63 characters of a-z, 0-9 and _, with no digit first; nothing else is accepted."""
    usable = len(name) <= 63 and set(name) <= {*ascii_lowercase, *digits, "_"} and name[:1] not in {"", *digits}
    try:
        config = SidecarConfig.from_environ({**USABLE, "LEDGER_SCHEMA": name})
    except ConfigError:
        assert name
        assert not usable
    else:
        assert usable or not name
        assert config.ledger_schema == (name or "public")


@pytest.mark.parametrize("name", ["pg_catalog", "pg_", "information_schema", "a" * 64, "1st", "Helpers", "a-b", "a\n"])
def test_these_are_no_schemas_of_a_ledger(name: str) -> None:
    """PostgreSQL's own schemas, and what PostgreSQL would cut off or change."""
    with pytest.raises(ConfigError, match="LEDGER_SCHEMA: must be the name of a schema"):
        SidecarConfig.from_environ({**USABLE, "LEDGER_SCHEMA": name})


def webhook_secrets(value: str) -> tuple[str, ...]:
    """What the API process makes of this STRIPE_WEBHOOK_SECRET."""
    return ApiConfig.from_environ({**USABLE, "STRIPE_WEBHOOK_SECRET": value}).signing_secrets


@pytest.mark.parametrize("text", ["a0" * 16, "Zz9+" * 8, "0123456789abcdef" * 4, "-_" * 16])
def test_a_signing_secret_is_accepted_alone_and_beside_another(text: str) -> None:
    """The forms that Stripe's dashboard, its CLI and `donationd up --embedded` make, with spaces around commas."""
    assert webhook_secrets(f"whsec_{text}") == (f"whsec_{text}",)
    assert webhook_secrets(f"whsec_{text} , whsec_{'b' * 32}") == (f"whsec_{text}", f"whsec_{'b' * 32}")


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        ("sk_live_canary" + "x" * 32, "API key"),
        ("sk_test_canary" + "x" * 32, "API key"),
        ("rk_live_canary" + "x" * 32, "API key"),
        ("pk_live_canary" + "x" * 32, "API key"),
        ("we_1canary" + "x" * 24, "the id of a webhook endpoint"),
        ("whsec_canary", "32 or more"),
        ("whsec_" + "canary…" * 8, "32 or more"),
        (f'"whsec_{"canary" * 8}"', "32 or more"),
        ("canary" * 8, "32 or more"),
        ("whsec_" + "canary " * 8, "32 or more"),
    ],
)
def test_what_is_no_signing_secret_is_named_as_what_it_is(secret: str, said: str) -> None:
    """Every delivery would be refused later. The sentence says which mistake it is, where the right text is found, and
    nothing of the value, however many secrets stand beside it.
    """
    for value in (secret, f"whsec_{'b' * 32},{secret}", f"{secret},whsec_{'b' * 32}"):
        with pytest.raises(ConfigError) as caught:
            webhook_secrets(value)
        [problem] = caught.value.problems
        assert problem.startswith("STRIPE_WEBHOOK_SECRET: ")
        assert said in problem
        assert "whsec_" in problem
        assert "canary" not in problem


@pytest.mark.parametrize("value", [",", "whsec_" + "a" * 32 + ",", " "])
def test_an_empty_secret_is_a_mistake(value: str) -> None:
    """A comma too many is named as such: an empty key would let every sender sign."""
    with pytest.raises(ConfigError, match="none of them empty"):
        webhook_secrets(value)


def test_an_operator_log_is_the_same_file_for_every_process_and_command() -> None:
    """A relative path would be another file in each folder: a restore would not find what the jobs have exported."""
    [problem] = problems_of(OPERATOR_LOG="operator.log")
    assert problem.startswith("OPERATOR_LOG: must be an absolute path")


def problems_of(**variables: str) -> list[str]:
    """What every process and command that may call Stripe says about these variables."""
    with pytest.raises(ConfigError) as caught:
        JobsConfig.from_environ({**USABLE, **variables})
    assert not any("canary" in problem for problem in caught.value.problems)
    return caught.value.problems


@pytest.mark.parametrize("kind", ["sk", "rk"])
@pytest.mark.parametrize(("mode", "livemode"), [("test", "false"), ("live", "true")])
def test_a_key_of_the_ledgers_mode_is_accepted(kind: str, mode: str, livemode: str) -> None:
    """Secret and restricted keys alike; one of the other mode is named as such."""
    key = f"{kind}_{mode}_canary51Abc"
    config = JobsConfig.from_environ({**USABLE, "STRIPE_API_KEY": key, "STRIPE_LIVEMODE": livemode})
    assert config.stripe_api_key is not None
    assert config.stripe_api_key.get_secret_value() == key
    other = "false" if livemode == "true" else "true"
    [problem] = problems_of(STRIPE_API_KEY=key, STRIPE_LIVEMODE=other)
    assert problem.startswith(f"STRIPE_API_KEY: it is a key of {mode} mode, and STRIPE_LIVEMODE is {other}")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("whsec_canary" + "a" * 32, "STRIPE_WEBHOOK_SECRET"),
        ("pk_live_canary", "publishable"),
        ("canary", "an API key is"),
        ("sk_canary_canary", "an API key is"),
        ("sk_live_can ary", "an API key is"),
        ("sk_live_", "an API key is"),
    ],
)
def test_what_is_no_api_key_is_named_as_what_it_is(key: str, said: str) -> None:
    """The sentence says which mistake it is and where keys are found."""
    [problem] = problems_of(STRIPE_API_KEY=key)
    assert problem.startswith("STRIPE_API_KEY: ")
    assert said in problem
    assert "rk_" in problem


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("STRIPE_API_BASE", "canary"),
        ("STRIPE_API_BASE", "ftp://canary.example.org"),
        ("STRIPE_API_BASE", "https://canary.example.org/?canary=1"),
        ("STRIPE_API_BASE", "https://canary:canary@example.org"),
        ("PUBLIC_URL", "canary.example.org"),
        ("PUBLIC_URL", "http://canary.example.org"),
        ("PUBLIC_URL", "https://canary.example.org/canary"),
        ("PUBLIC_URL", "https://canary.example.org:0"),
        ("PUBLIC_URL", "https://canary.example.org:x"),
        ("PUBLIC_URL", "https://[canary"),
        ("STRIPE_LOG", "debug"),
    ],
)
def test_a_wrong_address_is_refused(name: str, value: str) -> None:
    """An address is complete and has no more than is used of it."""
    [problem] = problems_of(**{name: value})
    assert problem.startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("value", "used"),
    [
        ("https://give.example.org/", "https://give.example.org"),
        ("https://give.example.org:8443", "https://give.example.org:8443"),
        ("http://127.0.0.1:3003", "http://127.0.0.1:3003"),
        ("http://[::1]:3003", "http://[::1]:3003"),
        ("http://localhost:3003", "http://localhost:3003"),
    ],
)
def test_the_public_address_is_https_or_this_machine(value: str, used: str) -> None:
    """It is used without the slash at its end."""
    assert JobsConfig.from_environ({**USABLE, "PUBLIC_URL": value}).public_url == used


def test_up_names_an_api_key_before_it_starts_anything(tmp_path: Path) -> None:
    """The usual mistake of a first hour is known at once, and not by deliveries that fail."""
    done = run_up(tmp_path / "state", {"STRIPE_WEBHOOK_SECRET": "sk_live_canary"})
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "STRIPE_WEBHOOK_SECRET: an API key" in done.stderr
    assert "canary" not in done.stderr
    assert not (tmp_path / "state" / "postgres").exists()
