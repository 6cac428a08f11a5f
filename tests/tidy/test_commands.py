"""The two commands that people type."""

from collections.abc import Iterator

import click
import pytest

PROGRAMS = {"tillsync-service": "tillsync_service.cli", "tillsync-agent": "tillsync_agent.cli"}


def commands_of(command: click.Command, context: click.Context) -> Iterator[click.Context]:
    """The contexts of all commands below, groups left out."""
    if not isinstance(command, click.Group):
        yield context
        return
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        yield from commands_of(
            below, click.Context(below, parent=context, info_name=name, **below.context_settings)
        )


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_shows_an_example(program):
    """A person at a shop's counter can copy the right line: every command's --help has an
    example."""
    main = pytest.importorskip(PROGRAMS[program]).main
    top = click.Context(main, info_name=program, **main.context_settings)

    helps = {
        context.command_path: context.command.get_help(context)
        for context in commands_of(main, top)
    }

    assert helps
    assert [path for path, text in helps.items() if "Example" not in text] == []
