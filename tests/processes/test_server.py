"""A server on trial lives no longer than we want it to, or than we do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from harness.processes.server import NotServingError, ReferenceLaunch, ServerProcess
from harness.targets.reference.target import open_http
from harness.targets.server.http import HttpAdapter

LONG_S = 30.0
PLACE = Path(__file__).parents[2]
PARENT = """
import sys
from pathlib import Path
from harness.processes.server import ReferenceLaunch, ServerProcess

server = ServerProcess(ReferenceLaunch(Path(sys.argv[1])), Path(sys.argv[2]))
print(server.pid, flush=True)
sys.stdin.read()
"""


@contextmanager
def served(folder: Path) -> Iterator[HttpAdapter]:
    """A server that is closed in the end."""
    adapter = open_http(folder)
    try:
        yield adapter
    finally:
        adapter.close()


def test_a_server_dies_with_whoever_booted_it(tmp_path: Path) -> None:
    """Killed with kill -9, it can clean up nothing."""
    command = [sys.executable, "-c", PARENT, str(PLACE), str(tmp_path / "state")]
    with subprocess.Popen(  # noqa: S603  our own
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        server = psutil.Process(int(parent.stdout.readline()))
        parent.kill()

    assert psutil.wait_procs([server], LONG_S) == ([server], [])


def test_a_server_that_does_not_come_up_says_why(tmp_path: Path) -> None:
    """The last that it logged is in the error."""
    (tmp_path / "state").write_text("no folder")

    with pytest.raises(NotServingError, match="cannot serve"):
        ServerProcess(ReferenceLaunch(PLACE), tmp_path / "state")


def test_a_closed_server_is_gone_whatever_it_was_doing(tmp_path: Path) -> None:
    """It is reaped, too; and what was acknowledged is on the disk."""
    with served(tmp_path) as server:
        server.new("s1")
        assert server.send("s1", "r1", "hello [sleep=900]") == {"status": 200, "active": None}
        assert server.send("s1", "r2", "again") == {"status": 409, "active": "r1"}
        (process,) = (each for each in psutil.Process().children() if serves(each, tmp_path))

    assert server.disk("s1") == ["hello [sleep=900]"]
    assert not process.is_running(), "not even as a zombie"


def serves(process: psutil.Process, folder: Path) -> bool:
    """Whether this is the server of that folder; other tests have children too."""
    with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
        return any(str(folder) in argument for argument in process.cmdline())
    return False


def test_a_server_is_told_apart_by_its_exit(tmp_path: Path) -> None:
    """SIGTERM drains; and what was said is there again, in the next one."""
    with served(tmp_path) as server:
        server.new("s1")
        server.send("s1", "r1", "hello [tokens=2]")
        assert server.wait_idle("s1")

        assert server.terminate() == 0

        first, *_ = server.messages("s1")["said"]
        assert first == ["user", "hello [tokens=2]", ""]
