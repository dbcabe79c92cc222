"""What README shows is what the code does."""

from click import Command, Group

from daemon.cli import main
from tests.diagram import PLACE, README, render


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
