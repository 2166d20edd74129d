"""Tests of the predicted sizes of a churn and of an install: one entry too many is noticed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from harness.contract import promises
from harness.contract.checkers.server.container_sizes import SizesOf, all_of, check_idle_sizes
from harness.contract.checkers.server.install_sizes import hour_anomalies
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Verdict


def _operation(function: str, argument: Mapping[str, Any], result: Any = None) -> Operation:
    return Operation(0, function, argument, Outcome.OK, 0, 1, result)


ACTS = (
    *(("new", {"session": f"s{number}"}) for number in range(3)),
    ("open_tab", {"tab": "all"}),
    ("open_tab", {"tab": "t1", "session": "s0"}),
    ("chat", {"session": "s0", "text": "x"}),
    ("process", {"session": "s1"}),
    ("reopen", {"session": "s2"}),
    ("cancel", {"session": "s2"}),
    ("delete", {"session": "s1"}),
    ("clear", {"session": "s0"}),
    ("noise", {"source": "cron"}),
)
SIZES = {
    "agents_cached": 1,
    "agents_kept": 1,
    "lifecycle_entries": 1,
    "sessions_held": 2,
    "session_index_rows": 2,
    "wakeup_index": 0,
    "channels": 2,
    "channel_subscribers": 2,
    "channel_frames_kept": 5,
    "turn_journal": 4,
    "processes_finished": 1,
    "wakeup_lines": 0,
    "channel_bytes_kept": 300,
}


def _churn(sizes: Mapping[str, int], *, rests: bool = False) -> History:
    acts = [_operation(*act) for act in (*ACTS, *([("rest", {})] if rests else []))]
    result = {f"containers/{name}": size for name, size in {**SIZES, **sizes}.items()}
    return History((*acts, _operation("sample", {}, {**result, "process/fds": 9})))


CHECK = SizesOf(agents_max=2, sessions_max=2)


def test_churn_explains_every_container() -> None:
    """Before and after a rest, which collects the channel without a reader."""
    sizes = {"agents_cached": 1, "agents_kept": 1, "lifecycle_entries": 1}
    assert CHECK(_churn(sizes)).is_valid
    assert CHECK(_churn({"channels": 1, "channel_frames_kept": 3}, rests=True)).is_valid


@pytest.mark.parametrize(
    ("name", "size", "promise"),
    [
        ("agents_kept", 2, promises.A1),
        ("lifecycle_entries", 2, promises.L9),
        ("sessions_held", 1, promises.A6),
        ("channels", 3, promises.C9),
        ("channels", 1, promises.C9),
        ("channel_subscribers", 3, promises.C8),
        ("turn_journal", 3, promises.T6),
        ("wakeup_index", 1, promises.W9),
        ("wakeup_lines", 1, promises.W9),
        ("processes_finished", 0, promises.W9),
        ("session_index_rows", 3, promises.S11),
        ("a new container", 1, promises.H4),
    ],
)
def test_one_entry_more_or_less_breaks_its_promise(name: str, size: int, promise: Promise) -> None:
    """In each container."""
    verdict = CHECK(_churn({name: size}))

    assert promise in {broken for anomaly in verdict.anomalies for broken in anomaly.promises}


def test_samples_alone_predict_no_size() -> None:
    """A long soak keeps no acts, and a size below zero is wrong there too."""
    (*_, sample) = _churn({}).operations
    alone = replace(sample, argument={"operations": 12})
    assert CHECK(History((alone, alone))).is_valid
    assert not CHECK(History((replace(sample, argument={"operations": 0}),))).is_valid

    negative = replace(alone, result={**alone.result, "process/fds": -1})
    assert not CHECK(History((negative,))).is_valid


def test_large_container_without_a_gauge_is_invalid() -> None:
    """With the acts before a sample, and without them."""
    for acts in (_churn({}).operations, ()):
        (*before, sample) = acts or _churn({}).operations[-1:]
        large = replace(sample, result={**sample.result, "held/TurnJournal._old": 300})
        large = large if acts else replace(large, argument={"operations": 12})
        verdict = CHECK(History((*before, large)))
        assert {promises.T6, promises.H4} <= {*verdict.anomalies[0].promises}


def test_act_that_fails_or_answers_is_invalid() -> None:
    """Its effect did not come, so no size can be predicted."""
    failed = Operation(0, "chat", {"session": "s"}, Outcome.FAIL, 0, 1, error="SlowError: it")
    answered = _operation("clear", {"session": "s"}, "x")

    assert not CHECK(History((failed,))).is_valid
    assert not CHECK(History((answered,))).is_valid


def test_all_of_reports_the_first_invalid_verdict() -> None:
    """A later checker is not asked."""
    unknown = Verdict(unknowns=("too short",))

    assert all_of(lambda _: Verdict(), lambda _: unknown)(History()) == unknown
    assert all_of(lambda _: Verdict())(History()).is_valid


HOUR = {"seconds": 3600.0}
PROCESS = "[process=5:ready]"


def _install(result: Mapping[str, Any] = {}, **sizes: int) -> list[Operation]:
    """A moved-in install, and two hours with a process each, of which one still runs."""
    move_in = {
        "sessions": [["w0", "webui", 2], ["g0", "telegram", 4]],
        "agents_max": 4,
        "sessions_max": 8,
        "rotation_s": 1000.0,
    }
    talk = {"act": "gateway_talk", "at": 9.0, "session": "g0", "count": 6}
    chat = {"act": "chat", "at": 1.0, "session": "w0", "text": PROCESS}
    quiet = {"rotations": 3, "fetches": 1, "projections": 1}
    first = {**quiet, "ended": [["p1", "w0"]], "woken": ["p1"], **result}
    second = {**quiet, "rotations": 4, "fetches": 0, "ended": [], "woken": []}
    right = {
        "agents_cached": 1,
        "agents_kept": 1,
        "lifecycle_entries": 1,
        "sessions_held": 1,
        "session_index_rows": 1,
        "wakeup_index": 1,
        "channel_subscribers": 1,
        "channel_frames_kept": 1,
        "turn_journal": 3,
        "processes_running": 1,
        "process_ledger": 1,
        "processes_finished": 1,
        "watcher_subscribers": 1,
        "channels": 0,
    }
    sample = {f"containers/{name}": size for name, size in {**right, **sizes}.items()}
    return [
        _operation("move_in", move_in),
        _operation("live", {**HOUR, "acts": [chat, talk]}, first),
        _operation("live", {**HOUR, "acts": [chat, talk]}, second),
        _operation("sample", {}, {**sample, "process/threads": 8}),
    ]


def _broken(life: list[Operation]) -> set[Promise]:
    return {broken for anomaly in hour_anomalies(life) for broken in anomaly.promises}


def test_install_explains_every_hour() -> None:
    """With one process that ended, and one that runs."""
    assert not _broken(_install())


def test_settled_install_has_no_running_process() -> None:
    """A process may end while the install comes to rest: no hour reports that."""
    rest = {"processes_running": 0, "process_ledger": 0, "processes_finished": 2, "turn_journal": 4}
    *hours, _ = _install()
    *_, settled = _install({}, **rest)
    *_, unsettled = _install()
    settle = _operation("settle", {})

    assert not _broken([*hours, settle, settled])
    assert promises.W9 in _broken([*hours, settle, unsettled])
    assert promises.W9 in _broken([*hours, settled])


@pytest.mark.parametrize(
    ("result", "sizes", "promise"),
    [
        ({"ended": []}, {}, promises.W1),
        ({"ended": [["p1", "w0"], ["p1", "w0"]]}, {}, promises.W1),
        ({"ended": [["p1", "w9"]]}, {}, promises.W6),
        ({"woken": ["p2"]}, {}, promises.W1),
        ({"rotations": 2}, {}, promises.M3),
        ({"fetches": 0}, {}, promises.M3),
        ({"projections": 0}, {}, promises.G1),
        ({}, {"processes_running": 0}, promises.W9),
        ({}, {"turn_journal": 4}, promises.T6),
        ({}, {"agents_kept": 2}, promises.A1),
        ({}, {"channels": 1}, promises.C9),
        ({}, {"runs": 1}, promises.T3),
    ],
)
def test_wrong_hours_break_their_promise(
    result: dict[str, Any], sizes: dict[str, int], promise: Promise
) -> None:
    """Each is one report or one container that the acts do not explain."""
    assert promise in _broken(_install(result, **sizes))


def _idle(**wrong: float) -> History:
    """An idle host with a reader, and without any."""
    result = {"seconds": 1.0, "cpu_s": 0.1, "wakeups": 3, "tabs": 1, "fds": 30, **wrong}
    asked = {"seconds": 1.0}
    one = Operation(0, "idle", asked, Outcome.OK, 0, 2_000_000_000, result)
    after = {**result, "tabs": 0, "fds": 29 if not wrong else 90}
    none = Operation(0, "idle", asked, Outcome.OK, 0, 2_000_000_000, after)
    return History(
        (_operation("open_tab", {"tab": "t"}), one, _operation("close_tab", {"tab": "t"}), none)
    )


def test_idle_host_holds_its_readers_only() -> None:
    """A descriptor of each open reader, and none of those that left."""
    assert check_idle_sizes(_idle()).is_valid


@pytest.mark.parametrize(
    "wrong", [{"tabs": 2}, {"fds": 1}, {"fds": 31}, {"cpu_s": 9.0}, {"seconds": 0.5}]
)
def test_idle_host_with_other_sizes_is_invalid(wrong: dict[str, float]) -> None:
    """Each is more or less than the open readers explain."""
    assert not check_idle_sizes(_idle(**wrong)).is_valid
