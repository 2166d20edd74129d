"""Tests of the profile: unavailable measurements, and the division of processor time."""

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
from harness.engine.context import Context
from harness.processes.tracing import parse_strace
from harness.report.load import Second
from harness.runs import profile
from harness.targets.reference.target import ReferenceTarget
from harness.worker import call_counter

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
def test_processor_recovers_the_costs(
    an_event: float, a_call: float, done: list[tuple[int, int]]
) -> None:
    """From seconds that differ in their work; equal seconds cannot separate the costs."""
    (x, y), (u, v) = done[0], done[1]
    assume(abs(x * v - y * u) > 1000)
    seconds = [second(e, c, e * an_event + c * a_call) for e, c in done]

    found = profile.processor(seconds, sum(spent.target_cpu_s for spent in seconds))

    assert found["us an event"] == pytest.approx(an_event * 1e6, abs=0.2)
    assert found["us a call"] == pytest.approx(a_call * 1e6, abs=0.2)


def test_one_second_gives_no_costs() -> None:
    assert "us an event" not in profile.processor([second(5, 5, 0.1)], 0.1)


def test_inseparable_costs_are_unavailable() -> None:
    """Where each call has the same events, no division is right: none is zero."""
    found = profile.processor([second(20 * n, n, n / 100) for n in range(1, 9)], 1.0)
    assert found["us an event"] == found["us a call"] == profile.INSEPARABLE


def test_parse_strace_reads_rows_with_errors() -> None:
    assert parse_strace(SUMMARY) == {"futex": 600, "fsync": 540}


COUNTED = """
import _thread, runpy, sqlite3, sys, threading

runpy.run_path(sys.argv[1])["begin"](sys.argv[2])
lock, again, done = threading.Lock(), threading.RLock(), [_thread.allocate_lock() for _ in range(4)]

def take(done):
    for _ in range(1000):
        with lock:
            pass
    done.release()

for end in done:
    end.acquire()
    _thread.start_new_thread(take, (end,))
for end in done:
    end.acquire()
with again, again:
    assert lock.acquire(timeout=1) and lock.locked()
    assert not lock.acquire(blocking=False)
database = sqlite3.connect(":memory:", isolation_level=None)
database.execute("CREATE TABLE t (n)")
database.execute("CREATE TABLE u (n)")
database.executemany("UPDATE t SET n = ?", [(n,) for n in range(7)])
"""


def test_call_counter_counts_statements_and_locks(tmp_path: Path) -> None:
    """In every thread; an attempt to take a lock counts too."""
    counts = tmp_path / "counts"
    command = [sys.executable, "-c", COUNTED, call_counter.__file__, str(counts)]
    subprocess.run(command, check=True)  # noqa: S603  a fixed command

    assert call_counter.read(counts) == {"SQL statements": 2 + 7, "locks taken": 4 * 1000 + 2 + 2}


def test_inner_counts_use_another_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counting instance adds nothing to the journal of the load."""
    monkeypatch.setattr(profile, "TURNS", 2)
    with Journal(tmp_path / "history.jsonl", time.monotonic_ns) as journal:
        context = Context(ReferenceTarget(), profile.ABILITY, "1/profile", 1, journal)
        journal.episode()
        counts = profile.inner_counts(context, Load({}))

    assert all(isinstance(count, float) and count > 0 for count in counts.values())
    assert history.read(tmp_path / "history.jsonl") == (History(),)


def test_counts_that_never_settle_time_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_counter, "PATIENCE_S", -1.0)
    (tmp_path / "counts").write_bytes(b"1 1")

    with pytest.raises(TimeoutError, match="counts still change"):
        call_counter.read(tmp_path / "counts")


def test_a_missing_tool_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result gives the reason, and nothing is measured."""
    monkeypatch.setattr(shutil, "which", lambda *_args, **_more: None)

    calls = profile.system_calls(1, lambda: pytest.fail("nothing is measured"))
    stacks = profile.recorded(1, 1.0, 1, tmp_path / "flame.svg")

    assert calls == {"system calls": "unavailable: strace is not installed"}
    assert stacks == "unavailable: py-spy is not installed; run `pip install py-spy`"
