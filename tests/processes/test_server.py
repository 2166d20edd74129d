"""Checks that a server process ends on request, and at the latest with its parent."""

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
ROOT = Path(__file__).parents[2]
PARENT = """
import sys
from pathlib import Path
from harness.processes.server import ReferenceLaunch, ServerProcess

server = ServerProcess(ReferenceLaunch(Path(sys.argv[1])), Path(sys.argv[2]))
if sys.argv[3:] == ["paused"]:
    server.pause()
print(server.pid, flush=True)
sys.stdin.read()
"""


@contextmanager
def running_server(folder: Path) -> Iterator[HttpAdapter]:
    """Run a server, and close it at the end of the block."""
    adapter = open_http(folder)
    try:
        yield adapter
    finally:
        adapter.close()


@pytest.mark.parametrize("how", ["", "paused"])
def test_server_ends_with_killed_parent(how: str, tmp_path: Path) -> None:
    """A parent that dies by SIGKILL cannot clean up, and its server ends all the same.

    One that the nemesis has stopped can do nothing itself.
    """
    command = [sys.executable, "-c", PARENT, str(ROOT), str(tmp_path / "state"), how]
    with subprocess.Popen(  # noqa: S603  the command is fixed
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        server = psutil.Process(int(parent.stdout.readline()))
        parent.kill()

    assert psutil.wait_procs([server], LONG_S) == ([server], [])


def test_failed_start_quotes_log(tmp_path: Path) -> None:
    """The end of the server's log is in the error."""
    (tmp_path / "state").write_text("a file, not a folder")

    with pytest.raises(NotServingError, match="cannot serve"):
        ServerProcess(ReferenceLaunch(ROOT), tmp_path / "state")


def test_closed_server_is_reaped_during_turn(tmp_path: Path) -> None:
    """A server that is closed during a turn is reaped, and its acknowledged message is on disk."""
    with running_server(tmp_path) as server:
        server.new("s1")
        assert server.send("s1", "r1", "hello [sleep=900]") == {"status": 200, "active": None}
        assert server.send("s1", "r2", "again") == {"status": 409, "active": "r1"}
        children = psutil.Process().children()
        (process,) = (child for child in children if serves(child, tmp_path))

    assert server.disk("s1") == ["hello [sleep=900]"]
    assert not process.is_running(), "not even as a zombie"


def serves(process: psutil.Process, folder: Path) -> bool:
    """Return whether this is the server of that folder; other tests have children too."""
    with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
        return any(str(folder) in argument for argument in process.cmdline())
    return False


def test_terminated_server_exits_zero_and_keeps_messages(tmp_path: Path) -> None:
    """SIGTERM drains, and the next server has the messages."""
    with running_server(tmp_path) as server:
        server.new("s1")
        server.send("s1", "r1", "hello [tokens=2]")
        assert server.wait_idle("s1")

        assert server.terminate() == 0

        first, *_ = server.messages("s1")["said"]
        assert first == ["user", "hello [tokens=2]", ""]
