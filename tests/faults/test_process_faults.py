"""Checks that kill, pause and the file length limit affect a process as documented."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.faults.process_faults import Kill, Pause, ShortFiles
from tests.faults.injection import injected

ECHO_PROGRAM = """
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
def echo_process() -> Iterator[subprocess.Popen[str]]:
    """Start a process that writes 200 bytes into each file that it is sent, and replies."""
    with subprocess.Popen(  # noqa: S603  the command is fixed
        [sys.executable, "-S", "-c", ECHO_PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def send(process: subprocess.Popen[str], path: Path) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{path}\n")
    process.stdin.flush()


def reply(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_kill_ends_process_and_may_be_repeated() -> None:
    """The process exits by SIGKILL; a second kill is no error."""
    with echo_process() as process:
        fault = Kill(process.pid)
        with injected(fault):
            assert process.wait() == -9
            fault.inject()


def test_paused_process_replies_only_after_resume(tmp_path: Path) -> None:
    """The process handles a request that arrived during the pause after it.

    test:    pause --- send --- check: no file --- resume ---------- reply
    process: |- stopped --------------------------|- writes -|
    """
    with echo_process() as process:
        with injected(Pause(process.pid)):
            send(process, tmp_path / "file")
            assert not (tmp_path / "file").exists()
        assert reply(process) == "done"


def test_short_files_limits_writes_until_healed(tmp_path: Path) -> None:
    """Writes beyond the limit fail, and succeed after the healing."""
    with echo_process() as process:
        send(process, tmp_path / "first")
        assert reply(process) == "done"
        with injected(ShortFiles(process.pid, 150)):
            send(process, tmp_path / "second")
            # The first 100 bytes fit, then 50 more; a raw write reports its short count only.
            assert reply(process) in ("done", str(errno.EFBIG))
            assert (tmp_path / "second").stat().st_size == 150
        send(process, tmp_path / "third")
        assert reply(process) == "done"
        assert (tmp_path / "third").stat().st_size == 200
