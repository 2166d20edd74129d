"""Checks the language of all tracked files: words, first lines, test names, width of Markdown.

The rules are in CONTRIBUTING. A failure lists each file with what was counted in it.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
THIS = Path(__file__).relative_to(ROOT)
SUFFIXES = {".html", ".md", ".patch", ".py", ".toml", ".yml"}
FORBIDDEN = (
    *("nobody", "whoever", "somebody", "everybody", "told"),
    *("can be had", "for ever", "so many", "by chance"),
)
COLUMNS = 100
TEST_NAME_WORDS = 8
PUBLIC_NAMES = re.compile(r"server-terminated")  # a scenario's name stays
_FORBIDDEN = re.compile(rf"\b(?:{'|'.join(FORBIDDEN)})\b")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_BETWEEN_WORDS = re.compile(r"[\s_#*`]+")


def tracked(*suffixes: str) -> list[Path]:
    """The files that git tracks and that are there, relative to the root of the repository."""
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)  # noqa: S603
    paths = [Path(name) for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.suffix in suffixes and (ROOT / path).is_file()]


def read(path: Path) -> str:
    """The text of a file."""
    return (ROOT / path).read_text(encoding="utf-8")


def forbidden_in(text: str) -> Counter[str]:
    """Count forbidden words and phrases, also where they are part of an identifier."""
    without_names = PUBLIC_NAMES.sub("", text)
    plain = _BETWEEN_WORDS.sub(" ", _CAMEL.sub(" ", without_names)).lower()
    return Counter(_FORBIDDEN.findall(plain))


def functions_of(path: Path) -> Iterator[str]:
    """The names of a module's functions and methods."""
    for node in ast.walk(ast.parse(read(path))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name


def listed(found: dict[Path, str]) -> str:
    """What was found, a line for each file."""
    lines = [f"{path}: {what}" for path, what in sorted(found.items())]
    return "\n".join([f"{len(lines)} files:", *lines])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It is true for\n    # ever", ["for ever"]),
        ("def what_was_told() -> None: ...", ["told"]),
        ("class ToldTwice: ...", ["told"]),
        ("untold, stolid, so, many", []),
        ("SOMEBODY and HTTPSomebody", ["somebody", "somebody"]),
    ],
)
def test_forbidden_words_are_found_in_identifiers(text: str, words: list[str]) -> None:
    """A word is found in prose, across lines, and as a part of a name."""
    assert sorted(forbidden_in(text).elements()) == words


def test_prose_has_no_forbidden_word() -> None:
    """Text names the component that acts, in the words of the field."""
    found = {
        path: ", ".join(f"{word} {count}" for word, count in sorted(words.items()))
        for path in tracked(*SUFFIXES)
        if path != THIS and (words := forbidden_in(read(path)))
    }
    if found:
        pytest.fail(listed(found), pytrace=False)


def test_module_first_line_is_short() -> None:
    """The first line of a module says what it contains, in at most 100 characters."""
    found = {}
    for path in tracked(".py"):
        docstring = ast.get_docstring(ast.parse(read(path))) or ""
        first = docstring.partition("\n")[0]
        if len(first) > COLUMNS:
            found[path] = f"{len(first)} characters"
    if found:
        pytest.fail(listed(found), pytrace=False)


def test_test_names_have_few_words() -> None:
    """A test is named by subject, condition and outcome; its docstring has the sentence."""
    found = {}
    for path in tracked(".py"):
        names = [name for name in functions_of(path) if name.startswith("test_")]
        long = [name for name in names if name.count("_") > TEST_NAME_WORDS]
        if long:
            found[path] = f"{len(long)} names, such as {long[0]}"
    if found:
        pytest.fail(listed(found), pytrace=False)


def test_markdown_lines_are_narrow() -> None:
    """Markdown has at most 100 columns; a line without a place to break it may be longer."""
    found = {}
    for path in tracked(".md"):
        wide = [
            number
            for number, line in enumerate(read(path).splitlines(), start=1)
            if len(line) > COLUMNS and " " in line.strip().lstrip("-*>0123456789. ")
        ]
        if wide:
            found[path] = f"{len(wide)} lines, such as {wide[0]}"
    if found:
        pytest.fail(listed(found), pytrace=False)
