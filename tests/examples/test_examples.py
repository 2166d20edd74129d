"""Runs every example from a copy outside the repository, as a user of the library would."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
ROOT = EXAMPLES.parent
BUGS = {
    "chat_server": {"stream-never-closed": "C4", "subscribe-in-two-steps": "C2"},
    "key_value": {"add-outside-lock": "K1"},
}


def run(
    folder: Path, *command: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a module of this Python in a folder, with the harness on the path."""
    settings = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    return subprocess.run(  # noqa: S603  the command is our own
        [sys.executable, "-P", "-m", *command],
        cwd=folder,
        env=settings,
        capture_output=True,
        text=True,
        check=False,
    )


def documents(example: str, folder: Path, *command: str) -> Any:
    """Run a command of the harness on a copy of an example; the JSON that it prints."""
    copy = shutil.copytree(EXAMPLES / example, folder / example)
    options = ("--scenarios", str(copy / "scenarios"), "--seed", "1", "--json")
    finished = run(folder, "harness", *command, *options)
    assert finished.returncode == 0, finished.stderr + finished.stdout
    return json.loads(finished.stdout)


@pytest.mark.parametrize("example", BUGS)
def test_example_in_a_gate_is_valid(example: str, tmp_path: Path) -> None:
    """The example keeps its contract, and the gate detects its canaries."""
    document = documents(example, tmp_path, "gate", "--budget", "60s")
    assert document["conclusion"] == "valid"
    assert document["canaries"] == dict.fromkeys(BUGS[example], "detected")


@pytest.mark.parametrize("example", BUGS)
def test_example_known_bugs_break_their_own_promise(example: str, tmp_path: Path) -> None:
    """Each bug that is planted is detected by the promise that it names, and by no other."""
    document = documents(example, tmp_path, "prove", "--effort", "0.25")
    found = {row["bug"]: row for row in document["bugs"]}
    assert {name: row["promise"] for name, row in found.items()} == BUGS[example]
    assert all(row["detected"] and not row["detections_by_another"] for row in found.values())


def test_example_histories_pass_as_plain_tests(tmp_path: Path) -> None:
    """The tests that judge histories need no target and no option."""
    copy = shutil.copytree(EXAMPLES / "histories", tmp_path / "histories")
    finished = run(copy, "pytest", "-q", "-p", "no:cacheprovider", "test_histories.py")
    assert finished.returncode == 0, finished.stdout


def test_entry_point_of_a_stranger_is_listed(tmp_path: Path) -> None:
    """A package that is installed beside the harness offers a target by an entry point."""
    (tmp_path / "stranger.py").write_text(
        "class Stranger:\n"
        "    usage = 'stranger==VERSION'\n"
        "    description = 'a server from elsewhere'\n"
        "    abilities = frozenset({'chat'})\n",
        encoding="utf-8",
    )
    metadata = tmp_path / "stranger-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n", encoding="utf-8"
    )
    (metadata / "entry_points.txt").write_text(
        "[harness.targets]\nstranger = stranger:Stranger\n", encoding="utf-8"
    )
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    finished = run(tmp_path, "harness", "list", "targets", "--json", environment=path)
    assert finished.returncode == 0, finished.stderr
    rows = json.loads(finished.stdout)["targets"]
    assert {
        "target": "stranger==VERSION",
        "abilities": ["chat"],
        "what": "a server from elsewhere",
    } in rows


def test_clone_settings_do_not_reach_examples() -> None:
    """A user of the library may have no plugin that the settings of the clone are for."""
    options = ("-p", "no:timeout", "-p", "no:cacheprovider", "--collect-only", "-q")
    finished = run(EXAMPLES, "pytest", *options)
    assert finished.returncode == 0, finished.stdout
