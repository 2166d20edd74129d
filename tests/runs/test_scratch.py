"""Tests of temporary folders: what a killed run left is removed, and what lives is not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from harness.runs import scratch

KILLED = """
import os, signal, tempfile
from harness.runs.scratch import temporary_files

with temporary_files():
    print(tempfile.mkdtemp(prefix="harness-planted-"), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_files_of_a_killed_command_are_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next command removes them, and leaves its own folder and those of others alone."""
    command = [sys.executable, "-c", KILLED]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    killed = subprocess.run(  # noqa: S603  the command is fixed
        command, env=environment, check=False, capture_output=True, text=True
    )
    left = Path(killed.stdout.strip())
    assert left.is_dir()
    foreign = tmp_path / "another-scratch-1-x"
    living = tmp_path / f"{scratch.PREFIX}{psutil.Process().ppid()}-x"
    for folder in (foreign, living):
        folder.mkdir()

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch.temporary_files():
        assert not left.exists()
        own = Path(tempfile.mkdtemp())
        assert own.parent.parent == tmp_path
        assert os.environ["TMPDIR"] == str(own.parent)

    assert {path.name for path in tmp_path.iterdir()} == {foreign.name, living.name}
    assert tempfile.gettempdir() == str(tmp_path)


def test_folder_of_a_reused_pid_is_swept(tmp_path: Path) -> None:
    """Its last use was long before the process with that pid began."""
    old = tmp_path / f"{scratch.PREFIX}{os.getpid()}-x"
    old.mkdir()
    os.utime(old, (1, 1))
    scratch.sweep(tmp_path)

    assert not old.exists()


def test_no_place_for_files_is_no_error_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with scratch.temporary_files():
        assert tempfile.gettempdir() == "/nowhere"
