"""The profile: what cannot be had says so, and processor time is divided as it was spent."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.contract.workloads.load import Load
from harness.core import history
from harness.core.history import History, Journal
from harness.engine.context import Stage
from harness.report.load import Second
from harness.runs import profile
from harness.targets.reference.target import ReferenceTarget
from harness.worker import call_counter as tally

SUMMARY = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 61.01    0.061010         101       600        12 futex
 30.00    0.030000          50       540           fsync
------ ----------- ----------- --------- --------- ----------------
100.00    0.091010          79      1140        12 total
"""


def second(events: int, calls: int, cpu_s: float) -> Second:
    counts = {"events": events, "calls": calls, "wall_s": 1.0}
    return Second(0.0, 0, 1, 1, counts, 0.0, cpu_s, {})


costs = st.integers(1, 1000).map(lambda us: us / 1e6)
work = st.tuples(st.integers(0, 10_000), st.integers(0, 500))


@given(costs, costs, st.lists(work, min_size=4, max_size=30))
def test_what_an_event_and_a_call_cost_is_found_again(
    an_event: float, a_call: float, done: list[tuple[int, int]]
) -> None:
    """From seconds whose work differs; where it does not, nobody could tell them apart."""
    (x, y), (u, v) = done[0], done[1]
    assume(abs(x * v - y * u) > 1000)
    seconds = [second(e, c, e * an_event + c * a_call) for e, c in done]

    told = profile.processor(seconds, sum(each.target_cpu_s for each in seconds))

    assert told["us an event"] == pytest.approx(an_event * 1e6, abs=0.2)
    assert told["us a call"] == pytest.approx(a_call * 1e6, abs=0.2)


def test_too_few_seconds_divide_nothing() -> None:
    assert "us an event" not in profile.processor([second(5, 5, 0.1)], 0.1)


def test_a_summary_of_system_calls_is_read_with_and_without_errors() -> None:
    assert profile.counted_calls(SUMMARY) == {"futex": 600, "fsync": 540}


COUNTED = """
import _thread, runpy, sqlite3, sys, threading

runpy.run_path(sys.argv[1])["begin"](sys.argv[2])
lock, again, done = threading.Lock(), threading.RLock(), [_thread.allocate_lock() for _ in range(4)]

def take(done):
    for _ in range(1000):
        with lock:
            pass
    done.release()

for one in done:
    one.acquire()
    _thread.start_new_thread(take, (one,))
for one in done:
    one.acquire()
with again, again:
    assert lock.acquire(timeout=1) and lock.locked()
    assert not lock.acquire(blocking=False)
database = sqlite3.connect(":memory:", isolation_level=None)
database.execute("CREATE TABLE t (n)")
database.execute("CREATE TABLE u (n)")
database.executemany("UPDATE t SET n = ?", [(n,) for n in range(7)])
"""


def test_statements_and_locks_are_counted_from_inside(tmp_path: Path) -> None:
    """Each of them, whichever thread takes it; a lock that was tried for counts as well."""
    tallied = tmp_path / "tally"
    asked = [sys.executable, "-c", COUNTED, tally.__file__, str(tallied)]
    subprocess.run(asked, check=True)  # noqa: S603 - our own

    assert tally.read(tallied) == {"SQL statements": 2 + 7, "locks taken": 4 * 1000 + 2 + 2}


def test_what_is_counted_inside_is_no_part_of_the_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counting instance leaves nothing in the journal from which the load is accounted."""
    monkeypatch.setattr(profile, "TURNS", 2)
    with Journal(tmp_path / "history.jsonl", time.monotonic_ns) as journal:
        stage = Stage(ReferenceTarget(), profile.ABILITY, "1/profile", 1, journal)
        journal.episode()
        told = profile.tallied(stage, Load({}))

    assert all(isinstance(count, float) and count > 0 for count in told.values())
    assert history.read(tmp_path / "history.jsonl") == (History(),)


def test_who_never_rests_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so, instead."""
    monkeypatch.setattr(tally, "PATIENCE_S", -1.0)
    (tmp_path / "tally").write_bytes(b"1 1")

    with pytest.raises(TimeoutError, match="did not rest"):
        tally.read(tmp_path / "tally")


def test_a_tool_that_is_not_here_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is told, with the reason, and nothing else is done."""
    monkeypatch.setattr(shutil, "which", lambda *_args, **_more: None)

    calls = profile.system_calls(1, lambda: pytest.fail("nothing is measured"))
    stacks = profile.recorded(1, 1.0, 1, tmp_path / "flame.svg")

    assert calls == {"system calls": "unavailable: there is no strace here"}
    assert stacks == "unavailable: py-spy is not installed"
