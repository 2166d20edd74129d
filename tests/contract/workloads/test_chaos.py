"""A storm strikes when it was told to, notes what it does, and leaves a server at rest."""

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

from harness.contract.checkers.server.end_to_end import visitors_are_served
from harness.contract.clients.session_client import Door, Moment, Names
from harness.contract.workloads.chaos import CALLS_MAX, Moments, ServerGoneError, Storm, Strike
from harness.core.history import History, Journal, Outcome, read
from harness.engine.context import Stage
from harness.engine.http import NotReachedError
from harness.engine.target import Instance
from harness.targets.reference.target import ReferenceTarget

LONG_S = 20.0


class Scene:
    """A storm over a server of our own, and its history once it is over."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.history = History()

    @contextmanager
    def storm(self) -> Iterator[Storm]:
        """The reference, booted."""
        with self.over(ReferenceTarget()) as storm:
            storm.boot()
            yield storm

    @contextmanager
    def over(self, target: Any) -> Iterator[Storm]:
        """Any server, not yet booted."""
        path = self._folder / "history.jsonl"
        with Journal(path, time.monotonic_ns) as journal:
            stage = Stage(target, "server", "1/storm", 1, journal)
            with stage.episode() as episode:
                yield Storm(stage, episode)
        (self.history,) = read(path)

    def told(self, function: str) -> list[Any]:
        """What was asked of a function, and what came of it."""
        return [op for op in self.history if op.function == function]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_visitor_sees_all_that_a_server_has_to_show(scene: Scene) -> None:
    """A session's life, with a run that is read in two parts, one that is cancelled, a wakeup."""
    with scene.storm() as storm:
        guest = storm.visitor()
        guest.ask("new", session="s1")
        run = guest.ask("send", session="s1", text="m1 [process=0:w1][tokens=2]").result["run"]
        part = guest.ask("relay", run=run, after=None, leave=1, stall=False).result
        rest = guest.ask("relay", run=run, after=part["rows"][-1][0], leave=None, stall=True).result
        assert (part["end"], rest["end"]) == ("left", "closed")
        assert [name for _, name, _ in [*part["rows"], *rest["rows"]]] == [
            *("token", "token", "token", "done", "stream_end")
        ]
        guest.ask("rest", at_most={})
        held = guest.ask("send", session="s1", text="m2 [sleep=900]").result["run"]
        assert guest.ask("offered", session="s1").result == held
        assert guest.ask("status", session="s1").result == {"busy": True, "run": held}
        assert guest.ask("send", session="s1", text="m3").result == {"status": 409, "run": held}
        assert guest.ask("health").result["runs"] == [["s1", held, "running"]]
        assert guest.ask("cancel", run=held).result is True
        guest.ask("rest", at_most={})
        rows = guest.ask("read", session="s1").result["rows"]
        assert [row[0] for row in rows[:5]] == ["user", "assistant", "wakeup", "assistant", "user"]
        assert rows[1][1] == "0 1 That was turn 1 of s1."
        assert rows[4] == ["user", "m2 [sleep=900]", "cancelled"]
        guest.ask("truncate", session="s1", keep=2, seen=[])
        assert len(guest.ask("read", session="s1").result["rows"]) == 2
        assert guest.ask("sessions").result == ["s1"]
        guest.ask("new", session="s2", previous="s1")
        guest.ask("delete", session="s1")
        assert guest.ask("read", session="s1").outcome is Outcome.FAIL
        told = guest.ask("watch", session="s2", after="notices-0:3").result
        assert [name for _, name, *_ in told["rows"]] == ["initial", "session_snapshot"]


def test_the_server_dies_when_the_moment_was_seen(scene: Scene) -> None:
    """The last word is said, and the kill meets whatever comes after that."""
    with scene.storm() as storm:
        guest = storm.visitor()
        guest.ask("new", session="s1")

        def talk() -> None:
            while not storm.is_calm:
                sent = guest.ask("send", session="s1", text=f"m{time.monotonic_ns()} [tokens=1]")
                if sent.result and sent.result["status"] == 200:
                    guest.ask("relay", run=sent.result["run"], after=None, leave=None, stall=False)

        storm.rage([Strike(Storm.kill, Moment.LAST_WORDS, times) for times in (1, 3)], [talk])
        storm.look_back()

    assert len(scene.told("kill")) == 3
    assert len(scene.told("boot")) == 4
    first = scene.told("kill")[0].invoked_ns
    spoken = [op for op in scene.told("relay") if op.invoked_ns < first]
    assert any(name == "token" for op in spoken for _, name, _ in op.result["rows"])
    assert [fault.name for fault in scene.history.faults] == 3 * ["the server is dead, by kill"]
    assert all(fault.healed_ns is not None for fault in scene.history.faults)
    assert visitors_are_served(scene.history).is_valid


def test_who_lost_an_answer_is_somebody_else(scene: Scene) -> None:
    """A process does one thing at a time, and nobody knows when a lost one was over."""
    with scene.over(FragileTarget()) as storm, socket.create_server(("127.0.0.1", 0)) as server:
        storm.door.open(server.getsockname()[1])

        def leave() -> None:
            for _ in range(2):
                server.accept()[0].close()

        leaving = threading.Thread(target=leave)
        leaving.start()
        guest = storm.visitor()
        lost = [guest.ask("health") for _ in range(2)]
        leaving.join()

    assert [op.outcome for op in lost] == [Outcome.INFO, Outcome.INFO]
    assert lost[0].process != lost[1].process


def test_faults_that_a_server_lives_through_are_healed(scene: Scene) -> None:
    """It stands still and goes on; its disk refuses, and takes again."""
    with scene.storm() as storm:
        guest = storm.visitor()
        guest.ask("new", session="s1")
        storm.pause(0.01)
        refused: list[Outcome] = []
        storm.refuse_writes(
            0, lambda: refused.append(guest.ask("send", session="s1", text="m1").outcome)
        )
        taken = guest.ask("send", session="s1", text="m2")

    assert refused == [Outcome.INFO]
    assert taken.outcome is Outcome.OK
    pause, starved = scene.history.faults
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
            raise RuntimeError("it does not come up")
        return None

    def close(self) -> None:
        """Nothing."""


class FragileTarget(ReferenceTarget):
    def open(self, ability: str, folder: Path) -> Instance:
        del ability, folder
        return Fragile()


def test_a_server_that_does_not_come_back_ends_the_storm(scene: Scene) -> None:
    """Its visitors are not left waiting, and the history says so."""
    with scene.over(FragileTarget()) as storm:
        storm.boot()
        with pytest.raises(ServerGoneError):
            storm.rage([Strike(Storm.kill, Moment.ASKED)], [partial(_ask_on, storm)])

    assert [op.outcome for op in scene.told("boot")] == [Outcome.OK, Outcome.FAIL]
    assert not visitors_are_served(scene.history).is_valid


def _ask_on(storm: Storm) -> None:
    while not storm.is_calm:
        storm.moments.see(Moment.ASKED)
        storm.visitor().ask("health")


def test_our_own_failure_is_raised(scene: Scene) -> None:
    """It is no verdict of anybody."""

    def fail() -> None:
        raise LookupError("we are wrong")

    with scene.over(FragileTarget()) as storm, pytest.raises(LookupError, match="wrong"):
        storm.rage([], [fail])


def test_a_moment_that_never_comes_is_not_waited_for() -> None:
    """After so many other calls, or once all is over, the strike comes anyway."""
    moments = Moments()
    waiting = threading.Thread(target=moments.await_more, args=(Moment.CUT, 1))
    waiting.start()
    while waiting.is_alive():
        for _ in range(CALLS_MAX):
            moments.see(Moment.ASKED)
    moments.end()
    moments.await_more(Moment.CUT, 1)

    assert moments.is_over


def test_a_door_is_waited_for_until_it_opens() -> None:
    """And nobody is let through before."""
    door = Door()
    with pytest.raises(NotReachedError):
        _ = door.port
    assert not door.await_open(0.0)
    opening = threading.Thread(target=door.open, args=(7,))
    opening.start()

    assert door.await_open(LONG_S)
    assert door.port == 7
    opening.join()


def test_nobody_waits_at_a_door_that_is_bricked_up() -> None:
    """The server is gone for good, and whoever waits is told."""
    door = Door()
    told: list[bool] = []
    waiting = threading.Thread(target=lambda: told.append(door.await_open(LONG_S)))
    waiting.start()
    door.brick_up()
    waiting.join()

    assert told == [False]


def test_sessions_go_by_the_names_that_we_gave_them() -> None:
    """In every text, and where nobody named one its id stays."""
    names = Names()
    names.add("s1", "0123456789ab")

    assert names.named("turn 1 of 0123456789ab, not of ba9876543210") == (
        "turn 1 of s1, not of ba9876543210"
    )
    assert names.all() == ["s1"]
