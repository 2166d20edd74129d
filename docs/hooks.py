"""Hooks of the site's build: fill in what commands and the plugin say of themselves."""  # noqa: INP001

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import click
import pytest
from click.formatting import HelpFormatter

from harness import pytest_plugin
from harness.cli.main import cli

COLUMNS = 80
ROOT = Path(__file__).parents[1]
_INCLUDE = re.compile(r"^( *)# include: (\S+)$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in included files, `<!-- all commands -->` and `<!-- all pytest options -->`."""
    filled = _INCLUDE.sub(lambda found: included(found[1], found[2]), markdown)
    filled = filled.replace("<!-- all commands -->", commands())
    return filled.replace("<!-- all pytest options -->", pytest_options())


def included(indent: str, path: str) -> str:
    """The text of a file, indented. Raises OSError where it is not there."""
    return textwrap.indent((ROOT / path).read_text(encoding="utf-8").strip(), indent)


def commands() -> str:
    """A section for each command with what `harness COMMAND --help` prints."""
    sections = (f"## harness {name}\n\n{block(help_of(name))}" for name in cli.commands)
    return "\n\n".join(sections)


def help_of(name: str) -> str:
    """The help of a command."""
    parent = click.Context(cli, info_name="harness")
    context = click.Context(cli.commands[name], info_name=name, parent=parent)
    formatter = HelpFormatter(width=COLUMNS)
    cli.commands[name].format_help(context, formatter)
    return formatter.getvalue().strip()


def pytest_options() -> str:
    """What the plugin declares, as `pytest --help` prints it."""
    parser = pytest.Parser(_ispytest=True)
    pytest_plugin.pytest_addoption(parser)
    groups = (parser.getgroup(name) for name in ("harness", "schedules"))
    options = [option for group in groups for option in group.options]
    formatter = HelpFormatter(width=COLUMNS)
    formatter.write_dl([(" ".join(option.names()), option.attrs()["help"]) for option in options])
    return block(formatter.getvalue().strip())


def block(text: str) -> str:
    """The text as it is."""
    return f"```text\n{text}\n```"
