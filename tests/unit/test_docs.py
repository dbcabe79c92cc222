"""What the documents say is what the code does."""

import contextlib
import re
from itertools import zip_longest
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from stripe.params import PaymentIntentCreateParams, PaymentLinkCreateParams, SubscriptionUpdateParams
from stripe.params.checkout import SessionCreateParams

from daemon.api.config import Config, MigrateConfig
from daemon.api.tickets import TOTAL_PATH, _figures
from daemon.cli.main import main
from daemon.instance.environment import DEFAULTS, EMBEDDED_DEFAULTS
from daemon.jobs.config import JobsConfig
from daemon.ledger.reader import Figures
from daemon.ledger.stripe_events import HANDLERS
from health_sidecar.config import Config as SidecarConfig
from tests.support.diagram import PLACE, render
from tests.support.docs import (
    DOCUMENTS,
    EXPLANATION,
    PAGES,
    README,
    REFERENCE,
    ROOT,
    STRIPE_ACCOUNT,
    anchors,
    code_spans,
    console_commands,
    links,
    name,
    prose,
    section,
)
from tests.support.prometheus_tools import RULES

# Set by supervisord.conf and by `up` for their own programs.
INTERNAL = {"METRICS_DIR", "PROMETHEUS_MULTIPROC_DIR", "API_SLOT"}
README_LINES = 150
SOURCES = ("daemon", "health_sidecar", "sql", "deploy", "tests", ".ci")
# Files of a running instance, which no checkout has.
RUNNING = {"environ.json"}
# Plain words say the same to a reader whose second language is English.
AVOIDED = re.compile(
    r"\b(tell|tells|told|hear|hears|heard|nobody|somebody|whoever|mend|mends|mended|door|life|lives|linger\w*|knock\w*|"
    r"words?|dice|speaks?|spoken|gifts?|acts?|walks?|alone|we|our|ours|us)\b",
    re.IGNORECASE,
)

documents = pytest.mark.parametrize("document", DOCUMENTS, ids=name)


# --- the documents themselves ------------------------------------------------------------------------------------


def test_readme_is_short() -> None:
    """A newcomer reads README in a few minutes."""
    assert len(README.read_text().splitlines()) <= README_LINES


def test_readme_leads_to_every_page() -> None:
    """No page of deploy/docs is missing in README's list."""
    assert {(ROOT / link.partition("#")[0]).resolve() for link in links(README)} >= set(PAGES)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_begins_with_what_it_is_for(page: Path) -> None:
    """Its name has two words at most, and below its title stands a sentence about the page."""
    assert len(page.stem.split("-")) <= 2
    title, sentence = page.read_text().split("\n\n")[:2]
    assert re.fullmatch(r"# .+", title)
    assert sentence.startswith("This page ")


@documents
def test_links_lead_to_what_exists(document: Path) -> None:
    """Each link within the repository names a file, and a heading that the file has."""
    for link in links(document):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@documents
def test_the_files_that_are_named_exist(document: Path) -> None:
    """Each path below a folder of the repository exists, and so does each file that is named without its folder."""
    text = re.sub(r"https?://\S+", "", document.read_text())
    for path in re.findall(rf"(?<![\w./-])(?:{'|'.join(map(re.escape, SOURCES))})/[\w./*-]*", text):
        assert list(ROOT.glob(path.rstrip("./"))), path
    files = {file.name for folder in SOURCES for file in (ROOT / folder).rglob("*")} | {
        file.name for file in ROOT.iterdir()
    }
    for file in re.findall(r"(?<![\w./…-])[\w-]+\.(?:py|md|cfg|conf|sql|yml|service|example|json|svg)\b(?!\()", text):
        assert file in files | RUNNING, file


@documents
def test_the_words_are_plain(document: Path) -> None:
    """No document uses the words that STYLE avoids, or speaks of "we"."""
    assert AVOIDED.findall(prose(document)) == []


def test_the_alerts_words_are_plain() -> None:
    """The same holds for the texts of the alerts."""
    assert AVOIDED.findall(re.sub(r"`[^`]+`|runbook: .*", "", RULES.read_text())) == []


@pytest.mark.parametrize("document", [README, *PAGES], ids=name)
def test_the_log_lines_that_are_quoted_exist(document: Path) -> None:
    """A person who searches a log for a line that a page quotes can find it: the code writes that line."""
    code = "".join(
        file.read_text() for folder in ("daemon", "health_sidecar", "sql") for file in (ROOT / folder).rglob("*.py")
    )
    for line in code_spans(document):
        if line.startswith("["):
            assert re.split(r"…|: ", line)[0].strip() in code, line


# --- commands ----------------------------------------------------------------------------------------------------


def leaves(group: click.Group, path: str) -> list[tuple[str, click.Command]]:
    """Each command that does something, with how it is called."""
    found = []
    for word, command in group.commands.items():
        called = f"{path} {word}"
        found += leaves(command, called) if isinstance(command, click.Group) else [(called, command)]
    return found


def documented_commands() -> set[str]:
    """The commands in the first column of the reference's table, without arguments and options."""
    cells = re.findall(r"^\| (`donationd.*?) \| ", section(REFERENCE, "Commands"), re.MULTILINE)
    calls = re.findall(r"`([^`]+)`", " ".join(cells))
    return {" ".join(re.findall(r"(?<= )[a-z-]+(?= |$)", re.sub(r"\[.*?\]|--\S+", "", call))) for call in calls}


def test_the_commands_are_those_of_the_reference() -> None:
    """The table has every command and no other one; and each command shows examples in its help."""
    commands = leaves(main, "donationd")
    assert documented_commands() == {path.removeprefix("donationd ") for path, _ in commands}
    for path, command in commands:
        assert "Example" in (command.help or ""), path


def calls(text: str) -> list[list[str]]:
    """The arguments of each `donationd …` in a shell command; a call ends where the shell's next command begins."""
    text = text.replace("\\\n", " ")
    found = re.findall(r"(?:^|(?<=[ (])|(?<=\.venv/bin/))donationd((?: +(?:\"[^\"]*\"|[^\s\"|;&)>]+))*)", text)
    return [[word.strip('"') for word in re.findall(r"\"[^\"]*\"|\S+", arguments)] for arguments in found]


def parse(arguments: list[str]) -> None:
    """Parses as click does, down to the last command, and runs nothing. Raises UsageError."""
    command: click.Command = main
    while isinstance(command, click.Group):
        context = click.Context(command)
        _, rest, _ = command.make_parser(context).parse_args(list(arguments))
        _, found, arguments = command.resolve_command(context, rest) if rest else (None, click.Command(None), rest)
        assert found is not None
        command = found
    with contextlib.suppress(click.exceptions.Exit):  # --help
        command.make_context(command.name, list(arguments))


@documents
def test_the_commands_in_code_blocks_can_be_called(document: Path) -> None:
    """click accepts every `donationd …` of a console block: the command, its options and its arguments exist."""
    for command in console_commands(document):
        for arguments in calls(command):
            parse(arguments)


@documents
def test_the_commands_in_sentences_can_be_called(document: Path) -> None:
    """So does every `donationd …` within a line, with a number for N and PID, and examples for PROGRAM and NAME."""
    for span in code_spans(document):
        if span.startswith("donationd ") and "…" not in span:
            example = span.replace("[", "").replace("]", "").replace(" PROGRAM", " hledger")
            example = example.replace("charities add NAME", "charities add helpers").replace(" HASH", f" {'0' * 64}")
            for arguments in calls(re.sub(r"\b(?:N|PID)\b", "30", example)):
                try:
                    parse(arguments)
                except click.MissingParameter:
                    continue  # a sentence may name a command only


@documents
def test_the_make_targets_that_are_named_exist(document: Path) -> None:
    """Each `make …` of a block or a sentence, such as the command behind a figure, is a target of the Makefile."""
    [targets] = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for text in [*code_spans(document), *console_commands(document)]:
        assert set(re.findall(r"(?:^|\s)make ([a-z-]+)\b", text)) <= set(targets.split()), text


def test_a_wrong_command_is_noticed() -> None:
    """The check of the calls is a check."""
    with pytest.raises(click.UsageError):
        parse(["ledger", "story-1", "--no-such-option"])
    with pytest.raises(click.UsageError):
        parse(["failed", "lists"])
    assert calls('.venv/bin/donationd tickets add a --title "b c" | cat') == [["tickets", "add", "a", "--title", "b c"]]


def test_the_exit_statuses_are_those_of_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """0, 1 and 2 as the table explains them; that Ctrl-C ends a command with 130, test_operator.py shows."""
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", section(REFERENCE, "Exit statuses"), re.MULTILINE))
    for variable in ("DATABASE_URL", "MIGRATE_DATABASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    shown = {
        "the work is done": ["--version"],
        "the check or the work failed": ["migrate"],  # no database is named
        "wrong usage": ["--no-such-option"],
    }
    assert [rows.pop("130")] == ["interrupted with Ctrl-C"]
    assert {text: str(CliRunner().invoke(main, arguments).exit_code) for text, arguments in shown.items()} == {
        text: status for status, text in rows.items()
    }


# --- settings ----------------------------------------------------------------------------------------------------


def test_every_setting_is_in_the_reference_with_its_default() -> None:
    """The table has each variable that a process or a command reads, with its default, and no other one."""
    assert documented_settings() == real_settings()


def test_the_table_says_where_make_run_differs() -> None:
    """Each setting that `up --embedded` gives another default, or makes by itself, says so in its row."""
    rows = dict(
        re.findall(r"^\| (`[A-Z_]+`).*?\| ([^|]*) \|$", section(REFERENCE, "Configuration"), flags=re.MULTILINE)
    )
    for variable, value in EMBEDDED_DEFAULTS.items():
        assert f"`make run`: `{value}`" in rows[f"`{variable}`"], variable
    for variable in ("DATABASE_URL", "STRIPE_WEBHOOK_SECRET", "OPERATOR_TOKENS", "READINESS_SOCKET"):
        assert "`make run`" in rows[f"`{variable}`"], variable
    assert sum("`make run`" in meaning for meaning in rows.values()) == len(EMBEDDED_DEFAULTS) + 4


def documented_settings() -> dict[str, str]:
    """Each variable of the table with its default; empty where there is none, or where it is another variable."""
    found = {}
    for row in re.findall(r"^\| (`.*)$", section(REFERENCE, "Configuration"), flags=re.MULTILINE):
        names, defaults = (re.findall(r"`([^`]+)`", cell) for cell in row.split(" | ")[:2])
        for variable, default in zip_longest(names, defaults, fillvalue=""):
            found[variable] = default if default not in found else ""
    return found


def real_settings() -> dict[str, str]:
    """Each variable that is read, with its default as one writes it; empty where there is none."""
    found = dict(DEFAULTS)
    for config in (SidecarConfig, Config, JobsConfig, MigrateConfig):
        for variable, field in config.model_fields.items():
            default = None if field.is_required() else field.default
            shown = str(default).lower() if isinstance(default, bool) else str(default or "")
            assert found.setdefault(variable.upper(), shown) == shown
    return {variable: default for variable, default in found.items() if variable not in INTERNAL}


# --- Stripe ------------------------------------------------------------------------------------------------------


def test_the_diagram_is_drawn_from_the_code() -> None:
    """After a change of precedence `make diagram` draws it anew."""
    [drawn] = PLACE.findall(EXPLANATION.read_text())
    assert drawn == render()


def test_the_endpoints_events_are_the_handled_types() -> None:
    """Who adds these types to the webhook endpoint gets every event that is applied, and no other one."""
    [listed] = re.findall(r"<!-- the handled types -->\n```\n(.*?)```", STRIPE_ACCOUNT.read_text(), flags=re.DOTALL)
    assert listed.split() == sorted(HANDLERS)


# The requests to Stripe's API that the page shows, and the parameters that the locked library knows for each.
REQUESTS = {
    "checkout/sessions": SessionCreateParams,
    "payment_intents": PaymentIntentCreateParams,
    "subscriptions/sub_YOUR_SUBSCRIPTION": SubscriptionUpdateParams,
    "payment_links": PaymentLinkCreateParams,
}


def test_the_requests_to_stripe_have_parameters_that_exist() -> None:
    """Every request sets `ticketId` at a place that the table names, with parameters of the locked `stripe`."""
    ways = section(STRIPE_ACCOUNT, "Where `ticketId` goes")
    requests = re.findall(
        r"^\$ curl \"https://api\.stripe\.com/v1/([^\"]+)\" (.*?)(?=^\$|^```)", ways, re.DOTALL | re.MULTILINE
    )
    assert {path for path, _ in requests} == REQUESTS.keys()
    for path, arguments in requests:
        names = [re.split(r"[\[=]", word)[0] for word in re.findall(r'-d "?([^" ]+)', arguments)]
        assert set(names) <= REQUESTS[path].__annotations__.keys(), path
        [place] = re.findall(r"([\w\[\]]+)=story-1", arguments)
        assert f"`{place}`" in ways
    assert "`client_reference_id`" in ways


def test_the_web_sites_script_reads_what_the_api_sends() -> None:
    """Its address is that of the totals, and the fields that it takes are there at the top of the reply."""
    script = section(STRIPE_ACCOUNT, "The total on a web site")
    [path] = re.findall(r'fetch\("https://[^/]+([^"]+)"\)', script)
    assert path == TOTAL_PATH.replace("{id}", "story-1")
    [fields] = re.findall(r"\{ ([a-z, ]+) \}\) => show", script)
    assert set(fields.split(", ")) <= _figures("USD", Figures()).keys()
