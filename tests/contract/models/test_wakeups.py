"""Tests of the model of wakeups: wrong implementations, each accused of its own promise only."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any

import pytest

from harness.checkers.conformance import Fold
from harness.contract import promises
from harness.contract.models.wakeups import WakeupsModel, sized
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.targets.components.wakeups import WakeupsAdapter
from reference_impl.agents.processes import Event
from reference_impl.sessions.session_files import UnknownSessionError
from reference_impl.sessions.sidecar import SessionError
from reference_impl.turns import wakeups
from reference_impl.turns.run import Source, TurnConflictError
from scenarios.wakeups.test_model import PROGRAMS, quiet

Wakeups: Any = wakeups.Wakeups
Patch = Callable[[pytest.MonkeyPatch], None]


def modules(name: str) -> Any:
    return importlib.import_module(f"reference_impl.{name}")


def accused() -> set[str]:
    """Ids of the promises that any fixed program finds broken, going on after each."""
    found: set[str] = set()
    for make in PROGRAMS:
        for program in make():
            adapter = WakeupsAdapter(modules)
            fold = Fold(WakeupsModel())
            try:
                for function, argument in (*program, *quiet(2)):
                    found |= _step(adapter, fold, function, argument)
            finally:
                adapter.close()
    return found


def _step(adapter: Any, fold: Fold[Any], function: str, argument: dict[str, Any]) -> set[str]:
    try:
        result, outcome, error = getattr(adapter, function)(**argument), Outcome.OK, ""
    except Exception as raised:  # noqa: BLE001  as a client notes it
        result, outcome, error = None, Outcome.FAIL, repr(raised)
    anomaly = fold.step(Operation(0, function, argument, outcome, 0, 1, result, error))
    return set() if anomaly is None else {anomaly.promise.id}


def no_hold(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Wakeups, "_hold", lambda *_: None)


def last_in_first_out(patch: pytest.MonkeyPatch) -> None:
    claim = Wakeups._claim

    def claim_last(self: Any, session: str) -> Event | None:
        queue = self._queues.get(session)
        if queue is not None and not queue.is_claimed:
            queue.events.rotate(1)
        found: Event | None = claim(self, session)
        return found

    patch.setattr(Wakeups, "_claim", claim_last)


def wakeup_runs_leak(patch: pytest.MonkeyPatch) -> None:
    gauges = Wakeups.gauges

    def leaking(self: Any) -> dict[str, int]:
        return {**gauges(self), "wakeup_runs": 1 + gauges(self)["wakeup_runs"]}

    patch.setattr(Wakeups, "gauges", leaking)


def index_grows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(wakeups, "INDEX_MAX", 5000)


def output_unbounded(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(wakeups, "OUTPUT_CHARS_MAX", 4001)


def index_wins(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Wakeups, "_session_of", lambda self, e: self._index.get(e.session_key) or e.owner)


def failure_drops(patch: pytest.MonkeyPatch) -> None:
    def deliver(self: Any, session: str, event: Event) -> Any:
        try:
            self._start(session, wakeups.prompt(event), Source.WAKEUP, wakeup_id=event.event_id)
        except TurnConflictError:
            return wakeups._Outcome.BUSY
        except Exception as error:  # noqa: BLE001  the bug
            logging.getLogger(__name__).debug("dropped: %r", error)
        self._registry.mark_consumed(event.event_id)
        return wakeups._Outcome.DELIVERED

    patch.setattr(Wakeups, "_deliver", deliver)


def refusal_drops(patch: pytest.MonkeyPatch) -> None:
    deliver = Wakeups._deliver

    def drop_refused(self: Any, session: str, event: Event) -> Any:
        start, self._start = self._start, refused_as_unknown(self._start)
        try:
            return deliver(self, session, event)
        finally:
            self._start = start

    patch.setattr(Wakeups, "_deliver", drop_refused)


def refused_as_unknown(start: Any) -> Any:
    """Take every error of the session store for a session that does not exist."""

    def start_or_unknown(*args: Any, **kwargs: Any) -> None:
        try:
            start(*args, **kwargs)
        except SessionError as error:
            raise UnknownSessionError from error

    return start_or_unknown


def more_marked_than_joined(patch: pytest.MonkeyPatch) -> None:
    claim = Wakeups.claim

    def claim_all(self: Any, session: str) -> Any:
        patch.setattr(wakeups, "NOTICES_MAX", 1000)
        return claim(self, session)[:16]

    patch.setattr(Wakeups, "claim", claim_all)


def joined_backwards(patch: pytest.MonkeyPatch) -> None:
    claim = Wakeups.claim
    patch.setattr(Wakeups, "claim", lambda self, session: claim(self, session)[::-1])


def joined_by_none(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Wakeups, "claim", lambda self, _: self._collect() or ())


def failed_join_delivers(patch: pytest.MonkeyPatch) -> None:
    release = Wakeups.release
    delivered = {"are_delivered": True}
    patch.setattr(Wakeups, "release", lambda self, sid, **_: release(self, sid, **delivered))


def idle_is_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Wakeups, "drain", lambda self: self._next() and None)


TOYS: list[tuple[Patch, set[Promise]]] = [
    (no_hold, {promises.W9, promises.W10}),
    (last_in_first_out, {promises.W1, promises.W3}),
    (wakeup_runs_leak, {promises.W9}),
    (index_grows, {promises.W6, promises.W9}),
    (output_unbounded, {promises.W1, promises.W13}),
    (index_wins, {promises.W6, promises.W7}),
    (failure_drops, {promises.W1, promises.W5, promises.W8}),
    (refusal_drops, {promises.W1, promises.W5}),
    (more_marked_than_joined, {promises.W1, promises.W5}),
    (joined_backwards, {promises.W3}),
    (joined_by_none, {promises.W2, promises.W3, promises.W4, promises.W5}),
    (failed_join_delivers, {promises.W1, promises.W5}),
    (
        idle_is_ignored,
        {promises.W2, promises.W3, promises.W4, promises.W5, promises.W8, promises.W9},
    ),
]


def test_reference_breaks_no_promise() -> None:
    assert accused() == set()


@pytest.mark.parametrize(("plant", "allowed"), TOYS)
def test_wrong_wakeups_are_accused_of_their_promise(
    plant: Patch, allowed: set[Promise], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model goes on after each anomaly, and accuses no other promise."""
    plant(monkeypatch)
    found = accused()

    assert found
    assert found <= {promise.id for promise in allowed}


@pytest.mark.parametrize("size", [0, 1, 31, 4000])
def test_sized_text_has_its_size_and_two_ends(size: int) -> None:
    text = sized(size)

    assert len(text) == size
    assert sized(8000)[-4000:] != sized(8001)[-4000:]


def test_raised_call_is_refused() -> None:
    fold = Fold(WakeupsModel())
    raised = Operation(0, "drain", {}, Outcome.FAIL, 0, 1, None, "KeyError: s1")

    anomaly = fold.step(raised)

    assert anomaly is not None
    assert anomaly.promise == promises.W5
    assert fold.is_lost


def unmarked_then_reindexed(*, is_owned: bool) -> list[tuple[str, dict[str, Any]]]:
    """A turn whose mark fails, a restart, and the key bound to another session."""
    report = {"session": "s2", "process": "p1", "is_owned": is_owned, "key": "KEY"}
    return [
        ("complete", report),
        ("fail_marks", {"times": 2}),
        ("index", {"keys": "KEY", "session": "S1", "count": 0}),
        ("advance", {"seconds": 1.0}),
        ("restart", {}),
        ("index", {"keys": "KEY", "session": "s1", "count": 0}),
        ("advance", {"seconds": 100.0}),
    ]


class Forgetful(set[tuple[str, str]]):
    """A record of started turns that remembers none."""

    def __contains__(self, _: object) -> bool:
        return False


@pytest.mark.parametrize("is_owned", [False, True])
@pytest.mark.parametrize("is_forgetful", [False, True])
def test_owned_report_has_one_turn_without_its_mark(*, is_owned: bool, is_forgetful: bool) -> None:
    """The session's record prevents a second turn (W1); without owner the key decides (W6)."""
    adapter, fold = WakeupsAdapter(modules), Fold(WakeupsModel())
    if is_forgetful:
        adapter._had = Forgetful()
    try:
        program = unmarked_then_reindexed(is_owned=is_owned)
        found = [_step(adapter, fold, function, argument) for function, argument in program]
    finally:
        adapter.close()

    assert set().union(*found) == ({"W1"} if is_owned and is_forgetful else set())


def test_report_by_key_during_deletion_is_owned() -> None:
    """What came by key during its last run is announced to it, and then dropped as gone."""
    adapter, fold = WakeupsAdapter(modules), Fold(WakeupsModel())
    report = {"session": "S1", "process": "p1", "is_owned": False, "key": "KEY"}
    program: list[tuple[str, dict[str, Any]]] = [
        ("index", {"keys": "KEY", "session": "S1", "count": 0}),
        ("begin_run", {"session": "S1"}),
        ("complete", report),
        ("delete", {"session": "S1"}),
        ("complete", {**report, "process": "p2"}),
        ("drain", {}),
    ]
    try:
        found = [_step(adapter, fold, function, argument) for function, argument in program]
    finally:
        adapter.close()

    assert found == [set()] * len(program)
