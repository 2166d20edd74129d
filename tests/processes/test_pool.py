"""Tests of adapters in processes of their own: calls, kills, timeouts and reuse."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from harness.core.errors import TargetLostError, UsageError
from harness.processes.pool import DRIVER, ProcessInstance, ProcessPool
from harness.processes.remote import LostError, Remote

PATIENCE_S = 30.0

TOY = '''
import os, sys, threading

class Adapter:
    """Returns, fails, prints, waits for another thread, hangs and exits."""

    def __init__(self, folder):
        self.folder = folder
        self.barrier = threading.Barrier(2)

    def where(self):
        return [str(self.folder), os.getpid()]

    def note(self, text):
        (self.folder / "note").write_text(text)

    def noted(self):
        return (self.folder / "note").read_text()

    def fail(self, text):
        raise ZeroDivisionError(text)

    def interrupt(self):
        raise KeyboardInterrupt

    def not_json(self):
        return object()

    def chat(self):
        print("to standard output")
        return "answer"

    def meet(self):
        return self.barrier.wait(30) >= 0

    def hang(self):
        threading.Event().wait()

    def end(self):
        print("out of memory", file=sys.stderr, flush=True)
        os._exit(3)

    def close(self):
        (self.folder / "closed").write_text("")

open_adapter = Adapter
'''


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """The toy adapter's file."""
    file = tmp_path / "toy.py"
    file.write_text(TOY)
    return file


@pytest.fixture
def instance(toy: Path, tmp_path: Path) -> Iterator[ProcessInstance]:
    """A toy in a process of its own."""
    folder = tmp_path / "folder"
    folder.mkdir()
    opened = ProcessInstance(ProcessPool([toy], {}), folder)
    yield opened
    opened.close()


def test_call_runs_in_another_process(instance: ProcessInstance) -> None:
    """The adapter reports the process id of the instance."""
    _, pid = instance.call("where", {})
    assert pid == instance.pid
    assert pid != os.getpid()


def test_exception_keeps_its_name_across_processes(instance: ProcessInstance) -> None:
    """The error has the class name and the message of the original."""
    with pytest.raises(Exception, match=r"^why not$") as refused:
        instance.call("fail", {"text": "why not"})
    assert type(refused.value).__name__ == "ZeroDivisionError"


def test_interrupt_in_the_child_is_a_refusal(instance: ProcessInstance) -> None:
    """It arrives as an `Exception`, so that it does not interrupt the harness."""
    with pytest.raises(Exception, match=r"^$") as refused:
        instance.call("interrupt", {})
    assert type(refused.value).__name__ == "KeyboardInterrupt"


def test_result_that_is_not_json_is_a_refusal(instance: ProcessInstance) -> None:
    """The error says so."""
    with pytest.raises(Exception, match="not JSON serializable"):
        instance.call("not_json", {})


def test_unknown_function_is_a_usage_error(instance: ProcessInstance) -> None:
    """The error names the function."""
    with pytest.raises(UsageError, match="no function 'fly'"):
        instance.call("fly", {})


def test_printed_text_does_not_disturb_results(instance: ProcessInstance) -> None:
    """Only the return value arrives."""
    assert instance.call("chat", {}) == "answer"


def test_concurrent_calls_run_in_concurrent_threads(instance: ProcessInstance) -> None:
    """Both calls wait at one barrier, so neither returns without the other.

    C0: |--- meet() ---|
    C1:    |--- meet() ---|
    """
    met: list[bool] = []
    callers = [
        threading.Thread(target=lambda: met.append(instance.call("meet", {}))) for _ in range(2)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(PATIENCE_S)
    assert met == [True, True]


def test_lost_process_reports_exit_code_and_output(instance: ProcessInstance) -> None:
    """The error quotes the end of its standard error."""
    with pytest.raises(TargetLostError, match="exited with 3; its output: out of memory"):
        instance.call("end", {})


def test_killed_process_is_restarted_on_its_folder(instance: ProcessInstance) -> None:
    """Its files are still there, and the call during the kill is lost.

    C0: note("x")   |--- hang() ---        noted() -> "x", by another process
    N:                     kill
    """
    instance.call("note", {"text": "x"})
    killed = instance.pid
    lost: list[BaseException] = []

    def hang() -> None:
        try:
            instance.call("hang", {})
        except TargetLostError as error:
            lost.append(error)

    caller = threading.Thread(target=hang)
    caller.start()
    instance.kill()
    caller.join(PATIENCE_S)
    assert "signal 9" in str(lost[0])
    assert instance.call("noted", {}) == "x"
    assert instance.pid != killed


def test_hung_process_is_killed_after_the_timeout(toy: Path, tmp_path: Path) -> None:
    """The call is lost, and so is the process."""
    child = Remote([DRIVER, toy], {}, patience_s=0.5)
    try:
        child.open(tmp_path)
        with pytest.raises(LostError, match=r"did not reply within 0.5 s, and was killed"):
            child.ask("hang", {})
        assert child.is_lost
    finally:
        child.close()


def test_failed_open_is_raised_by_first_call(tmp_path: Path) -> None:
    """The message says that the adapter failed to open."""
    file = tmp_path / "closed.py"
    file.write_text("def open_adapter(folder):\n    raise PermissionError('not today')\n")
    instance = ProcessInstance(ProcessPool([file], {}), tmp_path)
    with pytest.raises(Exception, match=r"^while opening: not today$") as refused:
        instance.call("where", {})
    assert type(refused.value).__name__ == "PermissionError"
    instance.close()


def test_child_is_reused_by_the_next_episode(toy: Path, tmp_path: Path) -> None:
    """Each episode has an adapter of its own in its folder, closed at the end."""
    pool = ProcessPool([toy], {})
    folders, pids = [], set()
    for name in ("one", "two", "three"):
        folder = tmp_path / name
        folder.mkdir()
        instance = ProcessInstance(pool, folder)
        opened_in, pid = instance.call("where", {})
        instance.close()
        folders.append(opened_in)
        pids.add(pid)
        assert (folder / "closed").exists()
    assert folders == [str(tmp_path / name) for name in ("one", "two", "three")]
    assert len(pids) == 1


def test_dropped_pool_leaves_no_process(toy: Path, tmp_path: Path) -> None:
    """An idle child ends with its pool."""
    pool = ProcessPool([toy], {})
    instance = ProcessInstance(pool, tmp_path)
    _, pid = instance.call("where", {})
    instance.close()
    assert psutil.pid_exists(pid)
    del instance, pool
    assert not psutil.pid_exists(pid)


ORPHAN_MAKER = """
import sys, threading
from pathlib import Path
from harness.processes.pool import ProcessInstance, ProcessPool

pool = ProcessPool([Path(sys.argv[1])], {})
instances = [ProcessInstance(pool, Path(sys.argv[2])) for _ in range(2)]
print(*(instance.call("where", {})[1] for instance in instances), flush=True)
instances[0].call("hang", {})
"""


def test_killed_harness_leaves_no_orphan_process(toy: Path, tmp_path: Path) -> None:
    """A child ends with the harness, whether it works or is stopped.

    harness:  |--- hang() ---  kill -9
    child 1:  |--- hang() ---  gone
    child 2:  stopped          gone, on Linux
    """
    maker = subprocess.Popen(  # noqa: S603  the command is a constant
        [sys.executable, "-c", ORPHAN_MAKER, str(toy), str(tmp_path)], stdout=subprocess.PIPE
    )
    assert maker.stdout is not None
    with maker.stdout as output:
        children = [psutil.Process(int(pid)) for pid in output.readline().split()]
    if sys.platform == "linux":
        children[1].suspend()
    maker.kill()
    maker.wait()
    gone, alive = psutil.wait_procs(children, timeout=PATIENCE_S)
    assert len(gone) == 2
    assert not alive
