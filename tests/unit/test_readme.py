"""What README shows is what the code does."""

import re
from itertools import zip_longest

from click import Command, Group
from stripe.params import PaymentIntentCreateParams, PaymentLinkCreateParams, SubscriptionUpdateParams
from stripe.params.checkout import SessionCreateParams

from daemon.api.config import Config, MigrateConfig
from daemon.api.tickets import TOTAL_PATH, _figures
from daemon.cli.main import main
from daemon.instance.environment import DEFAULTS, EMBEDDED_DEFAULTS
from daemon.ledger.stripe_events import HANDLERS
from daemon.runtime.config import NOT_SUPPORTED
from daemon.runtime.config import Config as SidecarConfig
from tests.support.diagram import PLACE, README, render

# Set by supervisord.conf and by `up` for their own programs.
INTERNAL = {"METRICS_DIR"}


def test_the_diagram_is_drawn_from_the_code() -> None:
    """After a change of precedence `make diagram` draws it anew."""
    [drawn] = PLACE.findall(README.read_text())
    assert drawn == render()


def test_every_command_is_in_the_readme() -> None:
    """A command nobody tells of is a command nobody finds; and each shows examples in its help."""

    def commands(group: Group, path: str) -> list[tuple[str, Command]]:
        found = [(f"{path} {name}", command) for name, command in group.commands.items()]
        return [
            each for item in found for each in (commands(item[1], item[0]) if isinstance(item[1], Group) else [item])
        ]

    text = README.read_text()
    for name, command in commands(main, "donationd"):
        assert name in text, name
        assert "Example" in (command.help or ""), name


def test_every_setting_is_in_the_readme_with_its_default() -> None:
    """The table has each variable that a process or a command reads, with its default, and no other one."""
    assert documented_settings() == real_settings()


def test_every_variable_that_is_refused_is_in_the_readme() -> None:
    """An operator reads there which variables this release does not support, and which values it accepts anyway."""
    text = " ".join(configuration_section().split())
    for name, harmless in NOT_SUPPORTED.items():
        assert (f"`{name}` (except `{harmless}`)" if harmless else f"`{name}`") in text, name


def test_the_table_says_where_make_run_differs() -> None:
    """Each setting that `up --embedded` gives another default, or makes by itself, says so in its row."""
    rows = dict(re.findall(r"^\| (`[A-Z_]+`).*?\| ([^|]*) \|$", configuration_section(), flags=re.MULTILINE))
    for name, value in EMBEDDED_DEFAULTS.items():
        assert f"`make run`: `{value}`" in rows[f"`{name}`"], name
    for name in ("DATABASE_URL", "STRIPE_WEBHOOK_SECRET", "READINESS_SOCKET"):
        assert "`make run`" in rows[f"`{name}`"], name
    assert sum("`make run`" in meaning for meaning in rows.values()) == len(EMBEDDED_DEFAULTS) + 3


def test_the_endpoints_events_are_the_handled_types() -> None:
    """Who adds these types to the webhook endpoint gets every event that is applied, and no other one."""
    [listed] = re.findall(r"<!-- the handled types -->\n *```\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert listed.split() == sorted(HANDLERS)


# The requests to Stripe's API that README shows, and the parameters that the locked library knows for each.
REQUESTS = {
    "checkout/sessions": SessionCreateParams,
    "payment_intents": PaymentIntentCreateParams,
    "subscriptions/sub_YOUR_SUBSCRIPTION": SubscriptionUpdateParams,
    "payment_links": PaymentLinkCreateParams,
}


def test_the_requests_to_stripe_have_parameters_that_exist() -> None:
    """Every request sets `ticketId` at a place that README's table names, with parameters of the locked `stripe`."""
    ways = section("Where `ticketId` goes")
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


def section(heading: str) -> str:
    return README.read_text().split(f"## {heading}\n")[1].split("\n##")[0]


def test_the_web_sites_script_reads_what_the_api_sends() -> None:
    """Its address is that of the totals, and the fields that it takes are there at the top of the reply."""
    script = section("The total on a web site")
    [path] = re.findall(r'fetch\("https://[^/]+([^"]+)"\)', script)
    assert path == TOTAL_PATH.replace("{id}", "story-1")
    [fields] = re.findall(r"\{ ([a-z, ]+) \}\) => show", script)
    assert set(fields.split(", ")) <= _figures("USD", [0] * 7).keys()


def configuration_section() -> str:
    return README.read_text().split("\n## Configuration\n")[1].split("\n## ")[0]


def documented_settings() -> dict[str, str]:
    """Each variable of the table with its default; empty where there is none, or where it is another variable."""
    found = {}
    for row in re.findall(r"^\| (`.*)$", configuration_section(), flags=re.MULTILINE):
        names, defaults = (re.findall(r"`([^`]+)`", cell) for cell in row.split(" | ")[:2])
        for name, default in zip_longest(names, defaults, fillvalue=""):
            found[name] = default if default not in found else ""
    return found


def real_settings() -> dict[str, str]:
    """Each variable that is read, with its default as one writes it; empty where there is none."""
    found = dict(DEFAULTS)
    for config in (SidecarConfig, Config, MigrateConfig):
        for name, field in config.model_fields.items():
            default = None if field.is_required() else field.default
            shown = str(default).lower() if isinstance(default, bool) else str(default or "")
            assert found.setdefault(name.upper(), shown) == shown
    return {name: default for name, default in found.items() if name not in INTERNAL}
