"""Runs the code blocks of README and of the documentation, page by page.

- A Python block with a title, such as `title="key_value/scenarios/suite.py"`, is an excerpt of that
  example; it must stand there. The other Python blocks of a page run one after the other.
- A shell block is executed in a folder that holds copies of the examples. Blocks of one page share
  the folder, so that a later one sees what an earlier one did.
- A comment `<!-- not run: REASON -->` before a block excuses it. Its `harness` commands are still
  parsed, so that no page names an option or command that does not exist.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from harness.cli.main import cli

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+) -->\n)?"
    r"^(?P<indent> *)```(?P<language>[a-z]+)(?: title=\"(?P<title>[^\"]+)\")?\n"
    r"(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
INCLUDE = re.compile(r"# include: (\S+)")


@dataclass(frozen=True)
class Block:
    """One fenced block, where it stands, and why it is not run, if it is not."""

    page: Path
    line: int
    language: str
    title: str
    reason: str
    body: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("language")) + 1,
            found["language"],
            found["title"] or "",
            found["reason"] or "",
            textwrap.dedent(found["body"]),
        )
        for found in FENCE.finditer(text)
    ]


def is_program(block: Block) -> bool:
    """Whether a block is Python to be executed."""
    return block.language == "python" and not block.title and not block.reason


def is_session(block: Block) -> bool:
    """Whether a block is shell to be executed."""
    return block.language == "sh" and not block.reason


def name_of(page: Path) -> str:
    """The page as a test's name shows it."""
    return str(page.relative_to(ROOT))


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
EXCERPTS = [block for block in BLOCKS if block.title]
PROGRAM_PAGES = [page for page in PAGES if any(map(is_program, blocks_of(page)))]
SHELL_PAGES = [page for page in PAGES if any(map(is_session, blocks_of(page)))]


def commands_of(block: Block) -> Iterator[list[str]]:
    """The `harness` commands of a shell block, each as its arguments."""
    for line in block.body.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if "harness" in words[:1]:
            ends = [words.index(sign) for sign in ("||", "&&", "|") if sign in words]
            yield words[1 : min(ends, default=len(words))]


COMMANDS = [
    pytest.param(command, id=f"{block}:{' '.join(command)}")
    for block in BLOCKS
    if block.language == "sh" and block.reason
    for command in commands_of(block)
]


def environment() -> dict[str, str]:
    """The environment of a reader: this Python's programs first, and no setting of this run."""
    programs = Path(sys.executable).parent
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    path = os.pathsep.join([str(programs), ours.get("PATH", "")])
    return {**ours, "PATH": path, "PYTHONPATH": str(ROOT)}


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder."""
    return subprocess.run(  # noqa: S603  the blocks are the repository's own
        command, cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )


def without_indents(text: str) -> str:
    """The lines of a text, each without its indent."""
    return "\n".join(line.strip() for line in text.splitlines())


@pytest.mark.parametrize("block", EXCERPTS, ids=str)
def test_excerpt_stands_in_its_example(block: Block) -> None:
    """What a page shows of an example is what the example contains."""
    if included := INCLUDE.fullmatch(block.body.strip()):
        assert (ROOT / included[1]).is_file()
        assert included[1] == f"examples/{block.title}"
        return
    source = (EXAMPLES / block.title).read_text(encoding="utf-8")
    assert without_indents(block.body) in without_indents(source)


@pytest.mark.parametrize("page", PROGRAM_PAGES, ids=name_of)
def test_python_blocks_of_a_page_run(page: Path, tmp_path: Path) -> None:
    """The Python blocks of a page run in one program, and their assertions hold."""
    program = tmp_path / "blocks.py"
    blocks = [block.body for block in blocks_of(page) if is_program(block)]
    program.write_text("\n".join(blocks), encoding="utf-8")
    finished = run(tmp_path, sys.executable, "-P", str(program))
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("page", SHELL_PAGES, ids=name_of)
def test_shell_blocks_of_a_page_run(page: Path, tmp_path: Path) -> None:
    """The shell blocks of a page run one after the other, and each exits with 0."""
    for example in EXAMPLES.iterdir():
        if example.is_dir():
            shutil.copytree(example, tmp_path / example.name)
            shutil.copytree(example, tmp_path / "examples" / example.name)
    for block in blocks_of(page):
        if not is_session(block):
            continue
        finished = run(tmp_path, "/bin/bash", "-euo", "pipefail", "-c", block.body)
        assert finished.returncode == 0, f"{block}\n{finished.stdout}{finished.stderr}"


@pytest.mark.parametrize("command", COMMANDS)
def test_command_that_is_not_run_parses(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands and options exist, and values are accepted; files need not be there."""
    monkeypatch.delenv("HARNESS_SCENARIOS", raising=False)  # an option sets it
    if not command:
        return
    name, *arguments = command
    assert name in cli.commands
    try:
        cli.commands[name].make_context(name, arguments)
    except click.BadParameter as error:
        message = error.format_message()
        assert "does not exist" in message or "no such folder" in message
