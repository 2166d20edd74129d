"""Tests of load: generators in processes of their own, the streams, the meter, and the report."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.contract.clients.event_stream import EventStream, StreamRequest
from harness.contract.workloads.load import MIXED, WAKEUPS, Load, load_workload, mix_of, repeated
from harness.contract.workloads.load_meter import Meter
from harness.core import history
from harness.core.errors import HarnessError, TargetLostError
from harness.core.histogram import Histogram
from harness.core.history import FaultInterval, History, Journal, Operation, Outcome
from harness.engine.context import Context
from harness.engine.http import NotReachedError, StatusError
from harness.report import load as report
from harness.runs.load import locustfile
from harness.targets.reference.target import ReferenceTarget

LOCUSTFILE = locustfile()
S = 1_000_000_000
LEAKED = """
import socket, sys
import harness.__main__, harness.runs.load, scenarios.load.test_load
from harness.engine.suite import find_scenarios
find_scenarios()
assert not {"gevent", "locust"} & sys.modules.keys()
assert socket.socket.__module__ == "socket"
"""


def loaded(load: Load, folder: Path, locustfile: Path = LOCUSTFILE) -> History:
    """The history of a load on the reference."""
    path = folder / "history.jsonl"
    with Journal(path, time.monotonic_ns) as journal:
        load_workload(load, locustfile)(Context(ReferenceTarget(), "server", "1/load", 1, journal))
    return history.read(path)[0]


def of(episode: History, function: str) -> list[Operation]:
    return [op for op in episode if op.function == function]


# The generators


def test_locust_is_not_imported_by_the_harness() -> None:
    """It patches the standard library; only the locustfile imports it, in a child process."""
    subprocess.run([sys.executable, "-c", LEAKED], check=True)  # noqa: S603  a fixed command


def test_two_generators_give_one_report(tmp_path: Path) -> None:
    """Each checks its own streams; events, users and latencies of both are in the report.

    master <- worker 0: users 1, 3, ...
           <- worker 1: users 2, 4, ...
    """
    episode = loaded(Load({"Chatter": 6, "Reconnector": 2}, for_s=2.0, workers=2), tmp_path)

    generators = of(episode, "generate")
    assert {op.process for op in generators} == {0, 1}
    assert {op.process // 1_000_000 for op in of(episode, "send")} == {0, 1}
    account = report.account(episode)
    events = [op.result["events"] for op in generators]
    assert min(events) > 0
    assert account.facts["events checked"] == sum(events)
    turns = sum(op.result["status"] == 200 for op in of(episode, "send"))
    assert next(row for row in account.latencies if row.name == "send").count >= turns > 0
    assert max(second.users for second in account.seconds) == 8


def test_a_failed_generator_raises_with_its_log(tmp_path: Path) -> None:
    """It is a failure of the harness, and gives no verdict."""
    broken = tmp_path / "broken.py"
    broken.write_text("raise RuntimeError('no users today')\n", encoding="utf-8")

    with pytest.raises(HarnessError, match="no users today"):
        loaded(Load({"Chatter": 1}), tmp_path, broken)


@pytest.mark.parametrize("parts", [MIXED, WAKEUPS])
@pytest.mark.parametrize("users", [1, 10, 23, 2000])
def test_a_mix_has_users_of_each_kind(users: int, parts: dict[str, int]) -> None:
    mix = mix_of(users, parts)

    assert mix.keys() == parts.keys()
    assert min(mix.values()) >= 1
    assert sum(mix.values()) == max(users, len(parts))


def test_a_failed_repetition_ends_the_block() -> None:
    """A kill that fails ends the run, with its error."""
    done = threading.Event()

    def fail() -> None:
        done.set()
        raise OSError("it is immortal")

    with pytest.raises(OSError, match="immortal"), repeated(0.001, fail):
        done.wait(10)


# The event stream


@contextmanager
def serving(answer: Callable[[socket.socket], object]) -> Iterator[tuple[str, int]]:
    """A server that answers one connection, whatever it requests, and closes it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            thread.join()


def sending(data: bytes) -> Callable[[socket.socket], object]:
    return lambda connection: connection.sendall(data)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


def test_a_stream_counts_frames_behind_the_head() -> None:
    """One packet may hold both."""
    wire = HEAD + b"id: r:1\nevent: token\ndata: {}\n\nid: r:2\nevent: stream_end\ndata: {}\n\n"

    with serving(sending(wire)) as address:
        stream = EventStream(address, StreamRequest("s", "r"))
        frames = list(stream.frames())
        result = stream.close()

    assert len(frames) == 2
    assert (result["end"], result["terminal"], result["last"]) == ("closed", "stream_end", 2)


def test_a_stream_distinguishes_refused_lost_unreached() -> None:
    with serving(sending(b"HTTP/1.1 503 Busy\r\n\r\nfull")) as address, pytest.raises(StatusError):
        EventStream(address, StreamRequest("s", "r"))
    with serving(lambda _: None) as address, pytest.raises(TargetLostError):
        EventStream(address, StreamRequest("s", "r"))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()
    with pytest.raises(NotReachedError):
        EventStream(address, StreamRequest("s", "r"))


def test_a_stream_that_leaves_ends_left() -> None:
    """A reader that blocks in that moment returns."""
    left = threading.Event()

    def wait(connection: socket.socket) -> None:
        connection.sendall(HEAD)
        left.wait(30)

    with serving(wait) as address:
        stream = EventStream(address, StreamRequest("s", "r"))
        threading.Timer(0.05, stream.leave).start()
        assert list(stream.frames()) == []
        left.set()
        assert stream.close()["end"] == "left"


# The report


def second(process: int, at_s: float, late_us: list[int], events: int) -> Operation:
    result: dict[str, Any] = {
        "seconds": 1.0,
        "cpu_s": 0.1,
        "users": 5,
        "streams": 7,
        "counts": {"events": events},
        "latencies": {"event": Histogram(late_us).to_json()},
    }
    at_ns = round(at_s * S)
    return Operation(process, "second", None, Outcome.OK, at_ns - S, at_ns, result)


def cost(at_s: float, pid: int, cpu_s: float) -> Operation:
    sample = {"pid": pid, "cpu_s": cpu_s, "rss": 64 << 20, "threads": 9}
    return Operation(-1, "cost", None, Outcome.OK, round(at_s * S), round(at_s * S), sample)


def generate() -> Operation:
    lag = {"p50": 0.2, "p99": 2.0, "max": 9.0}
    totals = {"cpu_s": 0.5, "cpu_share": 0.25, "events": 40, "lag_ms": lag, "unfinished": 0}
    return Operation(0, "generate", None, Outcome.OK, 3 * S, 3 * S, totals)


LOADED = History(
    (
        cost(0.5, 1, 1.0),
        second(0, 1.0, [1000] * 98, 10),
        second(1, 1.02, [90_000] * 2, 30),
        cost(1.5, 1, 1.5),
        second(0, 2.0, [1000], 0),
        cost(2.5, 2, 0.0),
        generate(),
    ),
    (FaultInterval("kill", round(1.6 * S), 2 * S),),
)


def test_quantiles_are_of_all_generators_together() -> None:
    """Two slow events at one generator, of a hundred at both: they count at p99, not at p50."""
    latency = report.account(LOADED).latencies[0]

    assert latency.count == 101
    assert latency.p50 == pytest.approx(1.0, rel=1 / 128)
    assert latency.p99 == pytest.approx(90.0, rel=1 / 128)


def test_a_killed_target_counts_its_own_costs() -> None:
    """One process uses half a second of processor time in one; the next begins at zero."""
    account = report.account(LOADED)

    assert [share for _, share, _ in account.target] == [pytest.approx(0.5)]
    assert account.facts["events checked"] == 40
    assert account.seconds[0].counts["events"] == 40


def test_the_page_is_self_contained_with_faults() -> None:
    page = report.page(report.account(LOADED), "a <target>", "valid")

    assert not re.search(r"https?://|<script|<link|src=", page)
    assert "a &lt;target&gt;: valid" in page
    assert page.count("<svg") == 6  # five over time, and the distribution of waits
    assert page.count("<title>kill</title>") == 5
    assert "generator 0" in page


def test_an_empty_load_has_a_page() -> None:
    """For example one that was killed at once."""
    empty = report.account(replace(LOADED, operations=(), faults=()))

    assert "<svg" in report.page(empty, "t", "unknown")
    assert "events checked | 0" in report.markdown(empty)


def test_a_meter_resets_seconds_and_keeps_totals() -> None:
    meter = Meter()
    meter.received(3, 100)
    meter.late("event", 0.001)
    meter.lag(0.002)

    first, following = meter.second(), meter.second()

    assert first["counts"] == {"events": 3, "bytes": 100}
    assert Histogram.from_json(first["latencies"]["event"]).count == 1
    assert (following["counts"], following["latencies"]) == ({}, {})
    assert meter.account()["events"] == 3
    assert meter.account()["lag_ms"]["max"] == pytest.approx(2.0)
