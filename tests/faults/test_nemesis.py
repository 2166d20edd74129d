"""Each fault breaks what it says, is noted while it lasts, and is undone."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.core.history import Journal, Outcome, read
from harness.faults.nemesis import (
    AddedBytes,
    CorruptFile,
    Fault,
    FullDisk,
    Kill,
    MissingFile,
    Pause,
    ReadOnlyFile,
    ShortFiles,
    TornFile,
    roaming,
    small_disk,
)

ECHO = """
import sys
for line in sys.stdin:
    try:
        with open(line.strip(), "wb", buffering=0) as file:
            file.write(bytes(100))
            file.write(bytes(100))
        print("done", flush=True)
    except OSError as error:
        print(error.errno, flush=True)
"""


@contextmanager
def echoing() -> Iterator[subprocess.Popen[str]]:
    """A process that writes 200 bytes into each file it is told, and answers."""
    with subprocess.Popen(  # noqa: S603  the command is our own
        [sys.executable, "-S", "-c", ECHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def tell(process: subprocess.Popen[str], path: Path) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{path}\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextmanager
def injected(fault: Fault) -> Iterator[None]:
    if not fault.available():
        pytest.skip(f"cannot be had here: {fault.name}")
    fault.inject()
    try:
        yield
    finally:
        fault.heal()


def test_a_fault_is_noted_while_it_lasts(tmp_path: Path) -> None:
    """What roams is in the history from before it began until after it was healed."""
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    with Journal(tmp_path / "history", time.monotonic_ns) as journal:
        fault = CorruptFile(path, 1, b"X")
        with roaming(fault, journal):
            journal.complete(journal.invoke(0, "look", None), Outcome.OK, "aXc")
    (history,) = read(tmp_path / "history")
    (interval,) = history.faults
    (look,) = history
    assert interval.name == fault.name
    assert interval.healed_ns is not None
    assert look.completed_ns is not None
    assert interval.began_ns <= look.invoked_ns <= look.completed_ns <= interval.healed_ns
    assert path.read_bytes() == b"abc"


def test_a_killed_process_dies_at_once_and_twice_is_no_error() -> None:
    """It answers nothing any more; killing it again does nothing."""
    with echoing() as process:
        fault = Kill(process.pid)
        with injected(fault):
            assert process.wait() == -9
            fault.inject()


def test_a_paused_process_answers_only_when_it_goes_on(tmp_path: Path) -> None:
    """What it was asked meanwhile it does afterwards.

    us: stop ---- ask ---- look: nothing written ---- go on ---------- answer
    it: |- stands still -----------------------------|- writes -|
    """
    with echoing() as process:
        with injected(Pause(process.pid)):
            tell(process, tmp_path / "file")
            assert not (tmp_path / "file").exists()
        assert answer(process) == "done"


def test_a_process_with_short_files_is_refused_beyond_the_limit(tmp_path: Path) -> None:
    """Beyond the limit writing fails, and after the healing it does not."""
    with echoing() as process:
        tell(process, tmp_path / "first")
        assert answer(process) == "done"
        with injected(ShortFiles(process.pid, 150)):
            tell(process, tmp_path / "second")
            # The first 100 bytes fit, of the others 50; Python does not say so of a raw write.
            assert answer(process) in ("done", str(errno.EFBIG))
            assert (tmp_path / "second").stat().st_size == 150
        tell(process, tmp_path / "third")
        assert answer(process) == "done"
        assert (tmp_path / "third").stat().st_size == 200


def test_a_full_disk_takes_no_byte_until_it_is_healed(tmp_path: Path) -> None:
    """Writing fails with ENOSPC; afterwards there is as much room as before."""
    with small_disk(tmp_path, 1 << 20) as is_mounted:
        if not is_mounted:
            pytest.skip("no small disk can be mounted here")
        file = tmp_path / "file"
        file.write_bytes(b"acknowledged")
        with injected(FullDisk(tmp_path)):
            with pytest.raises(OSError, match="No space left"):
                (tmp_path / "more").write_bytes(bytes(1 << 14))
            assert file.read_bytes() == b"acknowledged"
        (tmp_path / "more").write_bytes(bytes(1 << 14))


def test_a_large_disk_is_never_filled(tmp_path: Path) -> None:
    """A disk that is not made for it is left alone."""
    fault = FullDisk(tmp_path)
    if fault.available():
        pytest.skip("the temporary folder is on a small disk")
    with pytest.raises(OSError, match="too large"):
        fault.inject()
    assert list(tmp_path.iterdir()) == []


def test_what_is_added_to_a_file_stays(tmp_path: Path) -> None:
    """It comes after all that was there, and whoever reads the file has to cope."""
    path = tmp_path / "file"
    assert not AddedBytes(path, b"half a li").available()
    path.write_bytes(b"a line\n")
    with injected(AddedBytes(path, b"half a li")):
        assert path.read_bytes() == b"a line\nhalf a li"

    assert path.read_bytes() == b"a line\nhalf a li"


def test_a_torn_file_is_mended_unless_somebody_wrote_to_it(tmp_path: Path) -> None:
    """The rest comes back where it belongs, and never after what is new."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with injected(TornFile(path, 4)):
        assert path.read_bytes() == b"0123"
    assert path.read_bytes() == b"0123456789"
    with injected(TornFile(path, 4)):
        path.write_bytes(b"new")
    assert path.read_bytes() == b"new"


def test_a_missing_file_comes_back_unless_there_is_another(tmp_path: Path) -> None:
    """It is away while the fault lasts; one that was made meanwhile is kept."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with injected(MissingFile(path)):
        assert not path.exists()
    assert path.read_bytes() == b"old"
    with injected(MissingFile(path)):
        path.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_read_only_file_can_be_read_and_not_written(tmp_path: Path) -> None:
    """Whoever we are, root included."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with injected(ReadOnlyFile(path)):
        assert path.read_bytes() == b"old"
        with pytest.raises(PermissionError):
            os.close(os.open(path, os.O_WRONLY))
    path.write_bytes(b"new")
