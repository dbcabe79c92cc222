"""What README shows is what the code does."""

import re
from itertools import zip_longest

from click import Command, Group

from daemon.cli import main
from daemon.config import Config, MigrateConfig
from daemon.up import DEFAULTS
from health_sidecar.config import NOT_SUPPORTED
from health_sidecar.config import Config as SidecarConfig
from tests.diagram import PLACE, README, render

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
