"""Tests of the chaos workload: when faults are injected, and what the history says of them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness.contract.checkers.server.end_to_end import check_end_to_end
from harness.contract.clients.session_client import Moment, Names, ServerAddress
from harness.contract.workloads.chaos import (
    CALLS_MAX,
    TIMEOUTS_MAX,
    Chaos,
    Moments,
    PlannedFault,
    ServerGoneError,
)
from harness.core.history import History, Journal, Operation, Outcome, read
from harness.engine.context import Context
from harness.engine.http import NotReachedError
from harness.engine.target import Instance
from harness.targets.reference.target import ReferenceTarget

LONG_S = 20.0


class Recorded:
    """A chaos episode over a server, and its history once it is over."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.history = History()

    @contextmanager
    def chaos(self) -> Iterator[Chaos]:
        """The reference implementation, booted."""
        with self.over(ReferenceTarget()) as chaos:
            chaos.boot()
            yield chaos

    @contextmanager
    def over(self, target: Any) -> Iterator[Chaos]:
        """Any server, not yet booted."""
        path = self._folder / "history.jsonl"
        with Journal(path, time.monotonic_ns) as journal:
            context = Context(target, "server", "1/chaos", 1, journal)
            with context.episode() as episode:
                yield Chaos(context, episode)
        (self.history,) = read(path)

    def operations(self, function: str) -> list[Any]:
        """The operations of a function."""
        return [op for op in self.history if op.function == function]


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    return Recorded(tmp_path)


def test_client_functions_cover_a_session(recorded: Recorded) -> None:
    """A session with a run read in two parts, a cancelled one, a wakeup, and removals."""
    with recorded.chaos() as chaos:
        client = chaos.client()
        client.ask("new", session="s1")
        run = client.ask("send", session="s1", text="m1 [process=0:w1][tokens=2]").result["run"]
        part = client.ask("relay", run=run, after=None, leave=1, stall=False).result
        rest = client.ask(
            "relay", run=run, after=part["rows"][-1][0], leave=None, stall=True
        ).result
        assert (part["end"], rest["end"]) == ("left", "closed")
        assert [name for _, name, _ in [*part["rows"], *rest["rows"]]] == [
            *("token", "token", "token", "done", "stream_end")
        ]
        client.ask("rest", at_most={})
        held = client.ask("send", session="s1", text="m2 [sleep=900]").result["run"]
        assert client.ask("offered", session="s1").result == held
        assert client.ask("status", session="s1").result == {"busy": True, "run": held}
        assert client.ask("send", session="s1", text="m3").result == {"status": 409, "run": held}
        assert client.ask("runs").result == [["s1", held, "running"]]
        assert client.ask("cancel", run=held).result is True
        client.ask("rest", at_most={})
        rows = client.ask("read", session="s1").result["rows"]
        assert [row[0] for row in rows[:5]] == ["user", "assistant", "wakeup", "assistant", "user"]
        assert rows[1][1] == "0 1 That was turn 1 of s1."
        assert rows[4] == ["user", "m2 [sleep=900]", "cancelled"]
        client.ask("truncate", session="s1", keep=2, seen=[])
        assert len(client.ask("read", session="s1").result["rows"]) == 2
        assert client.ask("sessions").result == ["s1"]
        client.ask("new", session="s2", previous="s1")
        client.ask("delete", session="s1")
        assert client.ask("read", session="s1").outcome is Outcome.FAIL
        watch = client.ask("watch", session="s2", after="notices-0:3").result
        assert [name for _, name, *_ in watch["rows"]] == ["initial", "session_snapshot"]


def test_fault_follows_the_planned_moment(recorded: Recorded) -> None:
    """Each kill follows the end of a reply, and is recorded as operation and fault."""
    with recorded.chaos() as chaos:
        client = chaos.client()
        client.ask("new", session="s1")

        def talk() -> None:
            while not chaos.faults_are_over:
                sent = client.ask("send", session="s1", text=f"m{time.monotonic_ns()} [tokens=1]")
                if sent.result and sent.result["status"] == 200:
                    client.ask("relay", run=sent.result["run"], after=None, leave=None, stall=False)

        chaos.run([PlannedFault(Chaos.kill, Moment.REPLY_ENDED, times) for times in (1, 3)], [talk])
        chaos.read_back()

    assert len(recorded.operations("kill")) == 3
    assert len(recorded.operations("boot")) == 4
    first = recorded.operations("kill")[0].invoked_ns
    spoken = [op for op in recorded.operations("relay") if op.invoked_ns < first]
    assert any(name == "token" for op in spoken for _, name, _ in op.result["rows"])
    assert [fault.name for fault in recorded.history.faults] == 3 * ["the server is dead, by kill"]
    assert all(fault.healed_ns is not None for fault in recorded.history.faults)
    assert check_end_to_end(recorded.history).is_valid


def test_client_after_lost_reply_has_new_process(recorded: Recorded) -> None:
    """The call may still be running, so its process makes no further call."""
    with recorded.over(FragileTarget()) as chaos, socket.create_server(("127.0.0.1", 0)) as server:
        chaos.address.open(server.getsockname()[1])

        def leave() -> None:
            for _ in range(2):
                server.accept()[0].close()

        leaving = threading.Thread(target=leave)
        leaving.start()
        client = chaos.client()
        lost = [client.ask("runs") for _ in range(2)]
        leaving.join()

    assert [op.outcome for op in lost] == [Outcome.INFO, Outcome.INFO]
    assert lost[0].process != lost[1].process


def test_pause_and_refused_writes_are_healed(recorded: Recorded) -> None:
    """The server is stopped and continues; its disk refuses writes and takes them again."""
    with recorded.chaos() as chaos:
        client = chaos.client()
        client.ask("new", session="s1")
        chaos.pause(0.01)
        refused: list[Outcome] = []
        chaos.refuse_writes(
            0, lambda: refused.append(client.ask("send", session="s1", text="m1").outcome)
        )
        taken = client.ask("send", session="s1", text="m2")

    assert refused == [Outcome.INFO]
    assert taken.outcome is Outcome.OK
    pause, starved = recorded.history.faults
    assert pause.name.startswith("pause process")
    assert "writes no file" in starved.name
    assert pause.healed_ns is not None
    assert starved.healed_ns is not None


class Fragile:
    """A server that boots once."""

    def __init__(self) -> None:
        self._is_fresh = True

    def call(self, function: str, argument: Mapping[str, Any]) -> Any:
        del argument
        if function == "boot" and self._is_fresh:
            self._is_fresh = False
            return {"port": 1, "pid": 1}
        if function == "boot":
            raise RuntimeError("the server does not boot")
        return None

    def close(self) -> None:
        """Nothing to close."""


class FragileTarget(ReferenceTarget):
    def open(self, ability: str, folder: Path) -> Instance:
        del ability, folder
        return Fragile()


def test_server_that_does_not_reboot_ends_the_run(recorded: Recorded) -> None:
    """Its clients do not wait, and the history holds the failed boot."""
    with recorded.over(FragileTarget()) as chaos:
        chaos.boot()
        with pytest.raises(ServerGoneError):
            chaos.run(
                [PlannedFault(Chaos.kill, Moment.ANSWERED)], [partial(_call_until_over, chaos)]
            )

    assert [op.outcome for op in recorded.operations("boot")] == [Outcome.OK, Outcome.FAIL]
    assert not check_end_to_end(recorded.history).is_valid


def _call_until_over(chaos: Chaos) -> None:
    while not chaos.faults_are_over:
        chaos.moments.observe(Moment.ANSWERED)
        chaos.client().ask("runs")


def test_failing_user_raises(recorded: Recorded) -> None:
    """A failure of the harness is no verdict."""

    def fail() -> None:
        raise LookupError("the harness is wrong")

    with recorded.over(FragileTarget()) as chaos, pytest.raises(LookupError, match="wrong"):
        chaos.run([], [fail])


def test_missing_moment_is_waited_for_bounded_calls() -> None:
    """After CALLS_MAX other calls, or when the run is over, the wait ends."""
    moments = Moments()
    waiting = threading.Thread(target=moments.wait_for_more, args=(Moment.CUT, 1))
    waiting.start()
    while waiting.is_alive():
        for _ in range(CALLS_MAX):
            moments.observe(Moment.ANSWERED)
    moments.end()
    moments.wait_for_more(Moment.CUT, 1)

    assert moments.is_over


def test_address_wait_ends_when_server_opens() -> None:
    """Until then its port raises NotReachedError."""
    address = ServerAddress()
    with pytest.raises(NotReachedError):
        _ = address.port
    assert not address.wait_until_open(0.0)
    opening = threading.Thread(target=address.open, args=(7,))
    opening.start()

    assert address.wait_until_open(LONG_S)
    assert address.port == 7
    opening.join()


def test_address_given_up_releases_waiting_clients() -> None:
    """The server is gone for good."""
    address = ServerAddress()
    results: list[bool] = []
    waiting = threading.Thread(target=lambda: results.append(address.wait_until_open(LONG_S)))
    waiting.start()
    address.give_up()
    waiting.join()

    assert results == [False]


def test_names_replace_session_ids_in_texts() -> None:
    """The id of an unnamed session stays."""
    names = Names()
    names.add("s1", "0123456789ab")

    assert names.named("turn 1 of 0123456789ab, not of ba9876543210") == (
        "turn 1 of s1, not of ba9876543210"
    )
    assert names.all() == ["s1"]


def test_server_that_answers_no_call_is_given_up(recorded: Recorded) -> None:
    """After some calls that took their whole patience; the history has them."""
    lost = Operation(1, "runs", {}, Outcome.INFO, 0, None, error="TargetLostError: timed out")
    answered = Operation(1, "runs", {}, Outcome.OK, 0, 1, [])
    with recorded.over(FragileTarget()) as chaos:
        chaos.note_answer(answered)
        for _ in range(TIMEOUTS_MAX - 1):
            chaos.note_answer(lost)
        with pytest.raises(ServerGoneError):
            chaos.note_answer(lost)
