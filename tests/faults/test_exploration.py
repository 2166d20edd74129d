"""Checks that crash points and failures expose wrong ways to save a file, and only those."""

from __future__ import annotations

import errno
from pathlib import Path
from random import Random

import pytest

from harness.faults.simulated_disk import (
    Crash,
    Image,
    every_crash_point,
    every_failure,
    fail_from,
    fail_once,
    shorten,
)
from tests.faults.save_functions import (
    Saver,
    correct,
    correct_with_buffer,
    error_ignored,
    folder_unsynced,
    in_place,
    removed_first,
    retried_sync,
    short_write,
    unsynced,
)

OLD, NEW = b"the old content", b"the new content, which is longer than a word"
NAME = "file.json"


def violations(save: Saver, folder: Path) -> set[str]:
    """Return the kinds of violation that the simulated disk observes in a save function."""
    folder.mkdir()
    (folder / NAME).write_bytes(OLD)
    start = Image.of(folder)

    def operation() -> None:
        save(folder / NAME, NEW)

    found: set[str] = set()
    for crash in every_crash_point(folder, operation):
        for image in crash.images(Random(0)):
            content = image.files.get(NAME)
            if content not in (OLD, NEW):
                found.add("neither old nor new after a crash")
            elif crash.call is None and content != NEW:
                found.add("acknowledged, then lost")
    for fault_at in (
        fail_once(errno.ENOSPC),
        fail_from(errno.ENOSPC),
        fail_once(errno.EIO),
        shorten,
    ):
        start.put_into(folder)
        for failure in every_failure(folder, operation, fault_at):
            lost = {image.files.get(NAME) for image in failure.disk.power_losses(Random(0), 64)}
            if failure.disk.process_crash().files.get(NAME) not in (OLD, NEW):
                found.add("neither old nor new after a failure")
            elif failure.raised is None and lost != {NEW}:
                found.add("an error that was not reported")
    return found


@pytest.mark.parametrize("save", [correct, correct_with_buffer])
def test_correct_save_has_no_violation(save: Saver, tmp_path: Path) -> None:
    """Write, sync, rename, sync of the folder: no crash and no failure violates it."""
    assert violations(save, tmp_path / "disk") == set()


@pytest.mark.parametrize(
    ("save", "wrong"),
    [
        (unsynced, "neither old nor new after a crash"),
        (folder_unsynced, "acknowledged, then lost"),
        (in_place, "neither old nor new after a crash"),
        (removed_first, "neither old nor new after a crash"),
        (error_ignored, "an error that was not reported"),
        (short_write, "neither old nor new after a failure"),
        (retried_sync, "an error that was not reported"),
    ],
)
def test_wrong_save_shows_its_violation(save: Saver, wrong: str, tmp_path: Path) -> None:
    """Each save function omits or misorders one step."""
    assert wrong in violations(save, tmp_path / "disk")


def test_every_crash_point_covers_calls_and_torn_writes(tmp_path: Path) -> None:
    """Create, write, sync, rename, sync folder; the last one comes after the operation."""
    crashes: list[Crash] = list(
        every_crash_point(tmp_path, lambda: correct(tmp_path / "f.json", b"xy"))
    )

    assert [str(crash.call) for crash in crashes] == [
        "1: create f.tmp",
        "2: write f.tmp",
        "2: write f.tmp",
        "3: sync f.tmp",
        "4: rename f.tmp -> f.json",
        "5: sync folder .",
        "None",
    ]
