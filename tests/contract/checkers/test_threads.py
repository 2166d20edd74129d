"""Tests of the checkers of threads: journal, wakeups, channels, catalog and shutdown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from harness.contract import promises
from harness.contract.agent_script import WakeupPrompt
from harness.contract.checkers.threads.catalog_budget import rebuilds_within_budget
from harness.contract.checkers.threads.channel_lifetime import check_channel_lifetime
from harness.contract.checkers.threads.journal_order import check_journal_order
from harness.contract.checkers.threads.stream_shutdown import check_stream_shutdown
from harness.contract.checkers.threads.wakeup_routing import (
    check_wakeup_restarts,
    check_wakeup_routing,
)
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Verdict

S = {"session": "s"}


def one_by_one(*calls: tuple[str, dict[str, Any], Any]) -> History:
    """A history of serial calls; a result that is an exception makes a failed call."""
    ticks = count(1)
    operations = []
    for function, argument, answer in calls:
        failed = isinstance(answer, Exception)
        outcome = Outcome.FAIL if failed else Outcome.OK
        result, error = (None, repr(answer)) if failed else (answer, "")
        at, until = next(ticks), next(ticks)
        operations.append(Operation(1, function, argument, outcome, at, until, result, error))
    return History(tuple(operations))


def inside(function: str, argument: dict[str, Any], begun: int, ended: int) -> Operation:
    """An operation that was observed inside a call."""
    return Operation(0, function, argument, Outcome.OK, begun, ended)


def broken(verdict: Verdict) -> list[Promise]:
    """The promise of the verdict's first anomaly."""
    return [anomaly.promise for anomaly in verdict.anomalies]


A, B = ("emit", {"text": "a"}), ("emit", {"text": "b"})


@pytest.mark.parametrize(
    ("seqs", "texts", "shown", "expected"),
    [
        ([1, 2], ["a", "b"], [1, 2], []),
        ([2, 1], ["b", "a"], [2, 1], [promises.T5]),
        ([1, 3], ["a", "b"], [1, 3], [promises.T5]),
        ([1, 1], ["a", "b"], [1, 1], [promises.T5]),
        ([1], ["a"], [1, 2], [promises.T5]),
        ([1, 2], ["a", "b"], [2, 1], [promises.C1]),
    ],
)
def test_journal_rows_out_of_order_are_rejected(
    seqs: list[int], texts: list[str], shown: list[int], expected: list[Promise]
) -> None:
    """T5, C1: out of order, a gap, a repeated number, a missing row, another order of streaming."""
    rows = {"seqs": seqs, "texts": texts, "shown": shown}

    assert broken(check_journal_order(one_by_one((*A, 1), (*B, 2), ("rows", {}, rows)))) == expected


def test_refused_row_in_journal_is_rejected() -> None:
    """T5: a row of unknown outcome may be there."""
    rows = {"seqs": [1], "texts": ["a"], "shown": [1]}
    refused = one_by_one((*A, OSError("full")), ("rows", {}, rows))
    unknown = History(
        (Operation(1, *A, Outcome.INFO, 1, None, None, "killed"), refused.operations[-1])
    )

    assert broken(check_journal_order(refused)) == [promises.T5]
    assert broken(check_journal_order(unknown)) == []


FINISH: tuple[str, dict[str, Any], Any] = ("finish", {}, None)
ENDED = {"seqs": [1, 2, 3], "texts": ["a", "done", "end"], "shown": [1, 2, 3]}
STRUCK = ("emit_struck", {"text": "a", "strike": "short write", "at": 1})


@pytest.mark.parametrize(
    ("calls", "change", "expected"),
    [
        (((*A, 1), FINISH), {}, []),
        (((*A, 1), FINISH, (*B, RuntimeError("RunOverError"))), {}, [promises.T5]),
        (((*STRUCK, {"seq": 1, "struck": True}), FINISH), {}, []),
        (((*STRUCK, {"seq": 1, "struck": False}), FINISH), {}, [promises.T5]),
        (((*A, 2), FINISH), {}, [promises.T5]),
        (((*A, 1),), {}, [promises.T5]),
        (((*A, 1), FINISH), {"texts": ["a", "end", "done"]}, [promises.T5]),
        (((*A, 1), FINISH), {"shown": [1, 2]}, [promises.T5]),
        (((*A, 1), (*B, OSError("full")), FINISH), {}, [promises.T5]),
        (((*A, 1), ("finish", {}, 1)), {}, [promises.T5]),
    ],
)
def test_each_answer_of_the_journal_is_judged(
    calls: tuple[tuple[str, dict[str, Any], Any], ...], change: Any, expected: list[Promise]
) -> None:
    """T5: another number, a row too many, one not streamed, a refusal without a reason."""
    history = one_by_one(*calls, ("rows", {}, {**ENDED, **change}))

    assert broken(check_journal_order(history)) == expected


P1 = ("complete", {**S, "process": "p1"}, None)
P2 = ("complete", {**S, "process": "p2"}, None)
SETTLE: tuple[str, dict[str, Any], Any] = ("settle", {}, {"kept": 0})


SPAWN = ("spawn", {**S, "process": "p1", "owner": "s"}, None)


class TurnConflictError(Exception):
    """A target's refusal by a run."""


CONFLICT = TurnConflictError()


def wake(process: str, session: str = "s") -> tuple[str, dict[str, Any], None]:
    return ("wake", {"session": session, "process": process}, None)


def run_of(process: str, at_s: float) -> tuple[str, dict[str, Any], None]:
    """The wakeup of a process starts a run of its name."""
    return ("wake", {**S, "process": process, "run": process, "at_s": at_s}, None)


REFUSED = (("begin_run", S, CONFLICT), ("refused", {**S, "run": "p1"}, None))
OVER = ("over", {**S, "run": "p1", "at_s": 2.0}, None)
ADMITTED = ("begin_run", S, None)


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ((P1, P2, run_of("p1", 1.0), OVER, run_of("p2", 2.0), SETTLE), []),
        ((P1, P2, run_of("p1", 1.0), *REFUSED, OVER, run_of("p2", 3.0), SETTLE), []),
        ((P1, P2, run_of("p1", 1.0), *REFUSED, OVER, ADMITTED, run_of("p2", 2.0), SETTLE), []),
        ((P1, P2, run_of("p1", 1.0), OVER, *REFUSED, run_of("p2", 2.0), SETTLE), []),
        (
            (P1, P2, run_of("p1", 1.0), *REFUSED, OVER, run_of("p2", 2.0), SETTLE),
            [promises.W10],
        ),
    ],
)
def test_wakeup_behind_a_refusal_waits_for_the_user(
    calls: tuple[tuple[str, dict[str, Any], Any], ...], expected: list[Promise]
) -> None:
    """W10: the session is left free for a user whom a wakeup refused before it ended."""
    assert broken(check_wakeup_routing(one_by_one(*calls))) == expected


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ((P1, P2, wake("p1"), wake("p2"), SETTLE), []),
        ((P1, wake("p1"), wake("p1"), SETTLE), [promises.W1]),
        ((P1, wake("p1", "t"), SETTLE), [promises.W6]),
        ((P1, P2, wake("p2"), wake("p1"), SETTLE), [promises.W3]),
        ((P1, SETTLE), [promises.W2]),
        ((("begin_run", S, None), P1, SETTLE), [promises.W3]),
        ((P1,), []),
        ((P1, wake("p1"), ("settle", {}, {"kept": 0, "lines": 1})), [promises.W9]),
        ((P1, wake("p1"), ("settle", {}, {"kept": 1, "lines": 1})), [promises.W3]),
        ((P1, ("delete", S, None), SETTLE), []),
        ((SPAWN, wake("p1"), SETTLE), []),
        ((SPAWN, SETTLE), [promises.W2]),
        ((SPAWN, wake("p1"), wake("p1"), SETTLE), [promises.W1]),
        ((("turn", S, None), ("turn", S, CONFLICT), SETTLE), []),
        ((("turn", S, None), ("turn", S, OSError("full")), SETTLE), [promises.T3]),
        ((("turn", S, CONFLICT), SETTLE), [promises.T3]),
        ((("begin_run", S, CONFLICT), ("refused", S, None), SETTLE), []),
        ((("begin_run", S, CONFLICT), SETTLE), [promises.W10]),
        ((("begin_run", S, None), ("refused", {**S, "run": "r"}, None), SETTLE), [promises.W10]),
    ],
)
def test_wakeups_are_judged_once_all_is_quiet(
    calls: tuple[tuple[str, dict[str, Any], Any], ...], expected: list[Promise]
) -> None:
    """W1, W2, W3, W6: twice, elsewhere, out of order, never; before the end none is late."""
    assert broken(check_wakeup_routing(one_by_one(*calls))) == expected


@pytest.mark.parametrize(("lines", "also"), [(0, (promises.W9,)), (1, ())])
def test_event_in_no_queue_breaks_w9_too(lines: int, also: tuple[Promise, ...]) -> None:
    """W9: an id that no queue holds is left behind, and is not a wakeup that waits."""
    history = one_by_one(P1, wake("p1"), ("settle", {}, {"kept": 1, "lines": lines}))
    (found,) = check_wakeup_routing(history).anomalies

    assert (found.promise, tuple(found.also)) == (promises.W3, also)


def test_process_recorded_for_another_session_is_rejected() -> None:
    """T7, W6: a turn of `s` started a process, and `t` owns it.

    turn of s:  |--- spawn -> t ---|
    turn of t:     |--- spawn -> t ---|
    """
    spawns = [inside("spawn", {"session": "s", "process": "p1", "owner": "t"}, 1, 3)]
    spawns += [inside("spawn", {"session": "t", "process": "p2", "owner": "t"}, 2, 4)]
    (anomaly,) = check_wakeup_routing(History(tuple(spawns))).anomalies

    assert anomaly.promises == {promises.T7, promises.W6}
    assert check_wakeup_routing(History((spawns[1],))).is_valid


def lost(process: str, how: str = "completed (exit_code=0)") -> list[str]:
    """A wakeup for a process that printed nothing."""
    return [process, str(WakeupPrompt(process, how, "true", ""))]


UNKNOWN = "was lost when its host was killed (exit_code=unknown)"


@pytest.mark.parametrize(
    ("woken", "owed", "expected"),
    [
        ({"s": [lost("p1"), lost("p2", UNKNOWN)]}, 0, []),
        ({"s": [lost("p2", UNKNOWN)]}, 0, [promises.W4]),
        ({"s": [lost("p1"), lost("p1"), lost("p2", UNKNOWN)]}, 0, [promises.W1]),
        ({"s": [lost("p1")], "t": [lost("p2", UNKNOWN)]}, 0, [promises.W6]),
        ({"s": [lost("p2", UNKNOWN), lost("p1")]}, 0, [promises.W3]),
        ({"s": [lost("p1", UNKNOWN), lost("p2", UNKNOWN)]}, 0, [promises.W12]),
        ({"s": [lost("p1"), lost("p2", UNKNOWN)]}, 1, [promises.W9]),
        ({"s": [lost("p1"), lost("p2", UNKNOWN), lost("p3")]}, 0, [promises.W1]),
    ],
)
def test_wakeups_after_restart_are_judged(
    woken: dict[str, list[list[str]]], owed: int, expected: list[Promise]
) -> None:
    """Once, in its session, in order, with its exit code, and owed no longer."""
    ends: list[tuple[str, dict[str, Any], Any]] = [
        ("leave", {**S, "process": "p1", "exit_code": 0}, None),
        ("leave", {**S, "process": "p2"}, None),
    ]
    history = one_by_one(*ends, ("settle", {}, {"woken": woken, "owed": owed}))

    assert broken(check_wakeup_restarts(history)) == expected


@pytest.mark.parametrize(
    ("strike", "answer", "expected"),
    [
        ("kill", {"struck": -1}, []),
        ("kill", {"struck": 2}, [promises.W4]),
        ("kill", OSError(5, "an error"), [promises.W4]),
        ("broken once", OSError(5, "an error"), []),
        ("full once", OSError(5, "an error"), [promises.W4]),
    ],
)
def test_struck_call_fails_by_its_fault_only(
    strike: str, answer: Any, expected: list[Promise]
) -> None:
    """A call that fails otherwise than by the injected fault is refused."""
    argument = {"function": "drain", "argument": {}, "strike": strike, "at": 1}

    struck = one_by_one(("struck", argument, answer))
    if isinstance(answer, OSError):  # as a client journals it
        error = f"OSError: {answer}"
        struck = History((replace(struck.operations[0], error=error),))

    assert broken(check_wakeup_restarts(struck)) == expected


COMES = ("subscribe", {**S, "reader": "r"}, None)
GOES = ("leave", {"reader": "r"}, None)
NOTICE = ("notify", {**S, "number": 1}, None)
RUN = ("begin_run", {**S, "stream": "x"}, None)


SILENT = {"notices": [], "runs": [], "events": [], "versions": [], "woken": True, "ended": False}


def heard(notices: list[int], runs: list[str], **more: Any) -> tuple[str, dict[str, Any], Any]:
    return ("heard", {"reader": "r"}, {**SILENT, "notices": notices, "runs": runs, **more})


def sizes(channels: int, readers: int) -> tuple[str, dict[str, Any], Any]:
    return ("sizes", {}, {"channels": channels, "readers": readers})


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ((COMES, NOTICE, RUN, heard([1], ["x"]), sizes(1, 1), GOES, sizes(0, 0)), []),
        ((COMES, sizes(0, 0)), [promises.C9]),
        ((COMES, GOES, sizes(1, 0)), [promises.C9]),
        ((COMES, RUN, heard([], [])), [promises.C7]),
        ((RUN, COMES, heard([], [])), [promises.C7]),
        ((COMES, RUN, heard([], ["x", "x"])), [promises.C2]),
        ((COMES, NOTICE, heard([], [])), [promises.C3]),
        ((NOTICE, COMES, heard([], [])), []),
        ((COMES, NOTICE, heard([1, 1], [])), [promises.C2]),
    ],
)
def test_channel_lifetime_and_delivery_are_judged(
    calls: tuple[tuple[str, dict[str, Any], Any], ...], expected: list[Promise]
) -> None:
    """C9, C7, C3, C2: collected early, never collected, a missed run or notice, a repeated one."""
    assert broken(check_channel_lifetime(one_by_one(*calls))) == expected


LISTS = ("watch_list", {"reader": "r"}, None)
READS = ("read_events", {**S, "reader": "r"}, None)
CHANGE = ("change_list", {"reason": "a change"}, None)
ENDS = ("end_run", {"stream": "x"}, None)
SHUT: tuple[str, dict[str, Any], None] = ("close_all", {}, None)
DELETED = ("forget", S, None)
EVENT = {**S, "stream": "x", "number": 1, "event": "token"}


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ((LISTS, CHANGE, CHANGE, heard([], [], versions=[2])), []),
        ((LISTS, CHANGE, CHANGE, heard([], [], versions=[2, 1])), [promises.C1]),
        ((LISTS, CHANGE, CHANGE, heard([], [], versions=[1])), [promises.C1]),
        ((LISTS, CHANGE, heard([], [])), [promises.C3]),
        ((CHANGE, LISTS, heard([], [], versions=[1])), [promises.C1]),
        ((RUN, ENDS, COMES, heard([], ["x"])), [promises.C7]),
        ((RUN, ("withdraw", {"stream": "x"}, None), COMES, heard([], ["x"])), [promises.C7]),
        ((RUN, ENDS, COMES, heard([], [])), []),
        ((RUN, ("emit", EVENT, True), READS, heard([], [], events=["x:1"])), []),
        ((RUN, ("emit", EVENT, True), READS, heard([], [])), [promises.C7]),
        ((RUN, ("emit", EVENT, True), READS, heard([], [], events=["y:1"])), [promises.C5]),
        ((COMES, NOTICE, heard([1, 2], [])), [promises.C5]),
        ((COMES, DELETED, NOTICE, heard([], [], ended=True)), []),
        ((COMES, DELETED, NOTICE, heard([], [])), [promises.C9]),
        ((DELETED, COMES, heard([], [], ended=True)), [promises.C9]),
        ((COMES, SHUT, heard([], [], ended=True)), []),
        ((COMES, SHUT, heard([], [])), [promises.H3]),
        ((SHUT, LISTS, heard([], [])), [promises.H3]),
        ((COMES, heard([], [], ended=True)), [promises.C9]),
        ((RUN, ("emit", EVENT, True), ("emit", EVENT, False)), []),
        ((RUN, ("emit", EVENT, True), ("emit", EVENT, True)), [promises.C2]),
        ((RUN, ("emit", EVENT, False)), [promises.C3]),
        ((RUN, ENDS, ("emit", EVENT, False)), []),
        ((COMES, heard([], []), NOTICE, heard([1], [])), []),
        ((COMES, heard([], []), NOTICE, heard([1], [], woken=False)), [promises.C3]),
        ((COMES, sizes(1, 2), GOES, ("collect", {}, 1), sizes(0, 0)), [promises.C11]),
        ((COMES, sizes(1, 1), GOES, ("collect", {}, 1), sizes(0, 0)), []),
        ((COMES, sizes(1, 1), GOES, ("collect", {}, 0), sizes(0, 0)), [promises.C9]),
        ((COMES, ("collect", {}, 2)), [promises.C9]),
        ((COMES, NOTICE, ("notify", {**S, "number": 2}, None), heard([2, 1], [])), [promises.C1]),
    ],
)
def test_meetings_of_readers_are_judged(
    calls: tuple[tuple[str, dict[str, Any], Any], ...], expected: list[Promise]
) -> None:
    """Changes of the list, ends of runs, a deletion, a shutdown, and an event sent twice."""
    assert broken(check_channel_lifetime(one_by_one(*calls))) == expected


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([1, 2], []),
        ([1], [promises.C3]),
        (None, [promises.C3]),
        ([1, 2, 2], [promises.C2]),
        ([2, 1], [promises.C1]),
    ],
)
def test_reads_of_a_run_are_judged(numbers: list[int] | None, expected: list[Promise]) -> None:
    """C1 to C3: a reader of a run receives each event once, in order, to the end."""
    run = {"session": "s", "stream": "r"}
    calls = [("emit", {**run, "number": number, "event": "token"}, True) for number in (1, 2)]
    history = one_by_one(*calls, ("read_run", {"stream": "r"}, numbers))

    assert broken(check_channel_lifetime(history)) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({}, []),
        ({"numbers": [[1, 2], [1]]}, [promises.C3]),
        ({"is_late": True}, [promises.C3]),
        ({"numbers": [[1, 2]]}, [promises.C3]),
        ({"timers": 1}, [promises.C11]),
    ],
)
def test_relayed_events_are_whole_and_at_once(
    answer: dict[str, Any], expected: list[Promise]
) -> None:
    """C3, C11: the loop writes every event to each client, needs no timer for that, and rests."""
    run = {"session": "s", "stream": "r"}
    calls = [("emit", {**run, "number": number, "event": "token"}, True) for number in (1, 2)]
    right = {"numbers": [[1, 2], [1, 2]], "is_late": False, "timers": 0}
    history = one_by_one(*calls, ("relay_run", {"stream": "r", "clients": 2}, {**right, **answer}))

    assert broken(check_channel_lifetime(history)) == expected


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([4], []), ([2, 4], [promises.C3]), ([], [promises.C3]), ([4, 4], [promises.C3])],
)
def test_client_is_informed_of_all_messages(counts: list[int], expected: list[Promise]) -> None:
    """C3: it subscribes with a number of messages, and hears of more in either way."""
    heard = {"reader": "a"}, {**SILENT, "counts": counts}
    history = one_by_one(
        ("count", {"session": "s", "messages": 2}, None),
        ("greet", {"session": "s", "reader": "a", "known": 2}, None),
        ("count", {"session": "s", "messages": 4}, None),
        ("heard", *heard),
    )

    assert broken(check_channel_lifetime(history)) == expected


def test_reader_of_a_closed_server_may_lack_events() -> None:
    """A shutdown ends each reader: what it received is the beginning."""
    run = {"session": "s", "stream": "r"}
    calls = [("emit", {**run, "number": number, "event": "token"}, True) for number in (1, 2)]
    history = one_by_one(*calls, ("close_all", {}, None), ("read_run", {"stream": "r"}, [1]))

    assert not broken(check_channel_lifetime(history))


@pytest.mark.parametrize(
    ("function", "models", "waited_s", "expected"),
    [
        ("rebuilt", ["m"], 4.0, []),
        ("rebuilt", ["m"], 4.1, [promises.M2]),
        ("rebuilt", [], 0.0, [promises.M1]),
        ("shown", ["m"], 0.0, []),
        ("shown", ["m"], 0.1, [promises.M1]),
        ("shown", [], 0.0, [promises.M1]),
    ],
)
def test_catalog_waits_are_judged(
    function: str, models: list[str], waited_s: float, expected: list[Promise]
) -> None:
    """M1, M2: a slow display, an empty catalog, a late rebuild."""
    history = one_by_one((function, {}, {"models": models, "waited_s": waited_s}))

    assert broken(rebuilds_within_budget(4.0)(history)) == expected


def test_overlapping_fetches_are_rejected() -> None:
    """M2: one fetch after another is valid.

    first:   |--- fetch ---|
    second:      |--- fetch ---|
    third:                         |--- fetch ---|
    """
    first, second, third = (
        inside("fetch", {"number": number}, begun, begun + 3)
        for number, begun in enumerate((1, 2, 6), start=1)
    )

    assert broken(rebuilds_within_budget(4.0)(History((first, second)))) == [promises.M2]
    assert broken(rebuilds_within_budget(4.0)(History((first, third)))) == []


@pytest.mark.parametrize(
    ("check", "function", "promise"),
    [
        (check_journal_order, "rows", promises.T5),
        (check_wakeup_routing, "settle", promises.W3),
        (check_wakeup_restarts, "settle", promises.W4),
    ],
)
def test_failed_quiet_read_is_rejected(
    check: Callable[[History], Verdict], function: str, promise: Promise
) -> None:
    """What cannot be read when all is quiet breaks the promise."""
    last = Operation(0, function, {}, Outcome.FAIL, 1, 2, error="OSError: broken")

    assert broken(check(History((last,)))) == [promise]


@pytest.mark.parametrize(
    ("ended", "left", "expected"),
    [([True, True], 0, []), ([True, False], 0, [promises.G4]), ([True], 1, [promises.G4])],
)
def test_stop_must_end_every_reader(ended: list[bool], left: int, expected: list[Promise]) -> None:
    """Each reader receives the end, and is listed no more."""
    asked: list[tuple[str, dict[str, Any], Any]] = [("read", {}, end) for end in ended]
    history = one_by_one(("stop", {}, None), *asked, ("readers", {}, left))

    assert broken(check_stream_shutdown(history)) == expected
