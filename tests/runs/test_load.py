"""The load: its generator stays in a process of its own, and what several tell is one account."""

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

from harness.contract.clients.event_stream import Tap, Wanted
from harness.contract.workloads.load import CROWD, STORM, Load, crowd, repeated, under
from harness.contract.workloads.load_meter import Meter
from harness.core import history
from harness.core.errors import HarnessError, TargetLostError
from harness.core.histogram import Histogram
from harness.core.history import FaultInterval, History, Journal, Operation, Outcome
from harness.engine.context import Stage
from harness.engine.http import NotReachedError, StatusError
from harness.report import load as report
from harness.targets.reference.target import ReferenceTarget

LOCUSTFILE = Path(__file__).parents[2] / "scenarios" / "load" / "locustfile.py"
S = 1_000_000_000
LEAKED = """
import socket, sys
import harness.__main__, harness.contract.workloads.load, harness.runs.load, scenarios.load.test_load
from harness.engine.discovery import find_scenarios
find_scenarios()
assert not {"gevent", "locust"} & sys.modules.keys()
assert socket.socket.__module__ == "socket"
"""


def loaded(load: Load, place: Path, locustfile: Path = LOCUSTFILE) -> History:
    """What a load of the reference leaves."""
    path = place / "history.jsonl"
    with Journal(path, time.monotonic_ns) as journal:
        under(load, locustfile)(Stage(ReferenceTarget(), "server", "1/load", 1, journal))
    return history.read(path)[0]


def of(told: History, function: str) -> list[Operation]:
    return [op for op in told if op.function == function]


# The generators


def test_what_patches_the_standard_library_stays_out_of_here() -> None:
    """Only the locustfile imports it, and nobody imports the locustfile."""
    subprocess.run([sys.executable, "-c", LEAKED], check=True)  # noqa: S603  our own


def test_two_generators_make_one_account(tmp_path: Path) -> None:
    """Each checks its own streams; events, users and latencies of both are in the report.

    master <- worker 0: users 1, 3, ...
           <- worker 1: users 2, 4, ...
    """
    told = loaded(Load({"Chatter": 6, "Reconnector": 2}, for_s=2.0, workers=2), tmp_path)

    generators = of(told, "generate")
    assert {op.process for op in generators} == {0, 1}
    assert {op.process // 1_000_000 for op in of(told, "send")} == {0, 1}
    account = report.account(told)
    events = [op.result["events"] for op in generators]
    assert min(events) > 0
    assert account.facts["events checked"] == sum(events)
    turns = sum(op.result["status"] == 200 for op in of(told, "send"))
    assert next(late for late in account.latencies if late.name == "send").count >= turns > 0
    assert max(second.users for second in account.seconds) == 8


def test_a_generator_that_breaks_is_no_verdict(tmp_path: Path) -> None:
    """It is our fault, and its last words are in the error."""
    broken = tmp_path / "broken.py"
    broken.write_text("raise RuntimeError('no users today')\n", encoding="utf-8")

    with pytest.raises(HarnessError, match="no users today"):
        loaded(Load({"Chatter": 1}), tmp_path, broken)


@pytest.mark.parametrize("parts", [CROWD, STORM])
@pytest.mark.parametrize("users", [1, 10, 2000])
def test_a_crowd_has_some_of_each_kind(users: int, parts: dict[str, int]) -> None:
    mix = crowd(users, parts)

    assert mix.keys() == parts.keys()
    assert min(mix.values()) >= 1
    assert abs(sum(mix.values()) - users) <= len(parts)


def test_what_is_repeated_is_not_lost_when_it_fails() -> None:
    """A kill that cannot be done ends the run, and says why."""
    done = threading.Event()

    def fail() -> None:
        done.set()
        raise OSError("it is immortal")

    with pytest.raises(OSError, match="immortal"), repeated(0.001, fail):
        done.wait(10)


# The tap


@contextmanager
def serving(answer: Callable[[socket.socket], object]) -> Iterator[tuple[str, int]]:
    """A server that answers one connection, whatever is asked, and closes it."""
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


def test_a_tap_counts_what_came_with_the_head() -> None:
    """One packet may hold both."""
    wire = HEAD + b"id: r:1\nevent: token\ndata: {}\n\nid: r:2\nevent: stream_end\ndata: {}\n\n"

    with serving(sending(wire)) as address:
        tap = Tap(address, Wanted("s", "r"))
        frames = list(tap.frames())
        result = tap.close()

    assert len(frames) == 2
    assert (result["end"], result["terminal"], result["last"]) == ("closed", "stream_end", 2)


def test_a_tap_says_apart_refused_lost_and_never_reached() -> None:
    with serving(sending(b"HTTP/1.1 503 Busy\r\n\r\nfull")) as address, pytest.raises(StatusError):
        Tap(address, Wanted("s", "r"))
    with serving(lambda _: None) as address, pytest.raises(TargetLostError):
        Tap(address, Wanted("s", "r"))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()
    with pytest.raises(NotReachedError):
        Tap(address, Wanted("s", "r"))


def test_a_tap_that_leaves_was_not_cut() -> None:
    """Whoever reads at that moment is told so."""
    left = threading.Event()

    def wait(connection: socket.socket) -> None:
        connection.sendall(HEAD)
        left.wait(30)

    with serving(wait) as address:
        tap = Tap(address, Wanted("s", "r"))
        threading.Timer(0.05, tap.leave).start()
        assert list(tap.frames()) == []
        left.set()
        assert tap.close()["end"] == "left"


# The account


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
    told = {"pid": pid, "cpu_s": cpu_s, "rss": 64 << 20, "threads": 9}
    return Operation(-1, "cost", None, Outcome.OK, round(at_s * S), round(at_s * S), told)


def generate() -> Operation:
    lag = {"p50": 0.2, "p99": 2.0, "max": 9.0}
    told = {"cpu_s": 0.5, "cpu_share": 0.25, "events": 40, "lag_ms": lag, "unfinished": 0}
    return Operation(0, "generate", None, Outcome.OK, 3 * S, 3 * S, told)


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


def test_quantiles_of_all_generators_are_of_the_union() -> None:
    """Two slow events at one generator of a hundred at both: seen at p99, and not at p50."""
    late = report.account(LOADED).latencies[0]

    assert late.count == 101
    assert late.p50 == pytest.approx(1.0, rel=1 / 128)
    assert late.p99 == pytest.approx(90.0, rel=1 / 128)


def test_a_target_that_was_killed_is_not_charged_for_its_successor() -> None:
    """One process spends half a second in one; the next begins again at nothing."""
    account = report.account(LOADED)

    assert [share for _, share, _ in account.target] == [pytest.approx(0.5)]
    assert account.facts["events checked"] == 40
    assert account.seconds[0].counts["events"] == 40


def test_the_page_needs_nothing_else_and_shows_faults() -> None:
    page = report.page(report.account(LOADED), "a <target>", "valid")

    assert not re.search(r"https?://|<script|<link|src=", page)
    assert "a &lt;target&gt;: valid" in page
    assert page.count("<svg") == 5
    assert page.count("<title>kill</title>") == 5
    assert "generator 0" in page


def test_an_empty_load_has_a_page_too() -> None:
    """One that was killed at once, say."""
    empty = report.account(replace(LOADED, operations=(), faults=()))

    assert "<svg" in report.page(empty, "t", "unknown")
    assert "events checked | 0" in report.markdown(empty)


def test_a_meter_begins_each_second_anew_and_keeps_the_account() -> None:
    meter = Meter()
    meter.heard(3, 100)
    meter.late("event", 0.001)
    meter.lag(0.002)

    first, following = meter.second(), meter.second()

    assert first["counts"] == {"events": 3, "bytes": 100}
    assert Histogram.from_json(first["latencies"]["event"]).count == 1
    assert (following["counts"], following["latencies"]) == ({}, {})
    assert meter.account()["events"] == 3
    assert meter.account()["lag_ms"]["max"] == pytest.approx(2.0)
