"""Tests of the model of background processes: wrong registries are accused of their promise."""

from __future__ import annotations

from typing import Any

import pytest

from harness.checkers.conformance import Fold
from harness.contract import promises
from harness.contract.models.processes import MARKS, TRIES, ProcessesModel
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome

SPAWNED = ("spawn", {"process": "p", "session": "s", "watches": ["hit"]}, None)
OTHER = ("spawn", {"process": "q", "session": "s"}, None)
SAID = ("say", {"process": "p", "text": "hit 1"}, None)
SESSION = "HERMES_SESSION_CHAT_ID=s HERMES_SESSION_ID=s HERMES_SESSION_KEY=s"
START = f"p start {SESSION} HERMES_SESSION_PLATFORM=webui"
KILLED_HOST: tuple[str, dict[str, Any], None] = ("kill_host", {}, None)
BRIEF = ("spawn_brief", {"process": "p", "session": "s", "exit_code": 0}, None)
STRANGER = ("spawn", {"process": "q", "session": "t"}, None)
FINISHED, OTHER_FINISHED = (("finish", {"process": name}, None) for name in "pq")


def event(kind: str = "completion", **differing: Any) -> dict[str, Any]:
    """An event about `p`, which printed nothing."""
    known = {"kind": kind, "process": "p", "owner": "s", "exit_code": 0, "output": "", "key": ""}
    return {**known, "pattern": "", "suppressed": 0, "command": "its own", **differing}


MATCH = event("watch_match", exit_code=None, output="hit 1", pattern="hit")
ENDED = event(output=f"hit 1{MARKS}")


def taken(*events: dict[str, Any]) -> tuple[str, dict[str, Any], Any]:
    return ("take", {"count": len(events)}, list(events))


def taken_some(
    *events: dict[str, Any], errors: int = 0, owed: int = 0, marks: bool = True
) -> tuple[str, dict[str, Any], Any]:
    """The first events are taken, and their marks may be refused."""
    result = {"events": list(events), "errors": ["OSError"] * errors, "owed": owed}
    return ("take_some", {"count": 1, "marks": marks}, result)


def tried(error: str = "OSError", files: int = 0) -> tuple[str, dict[str, Any], Any]:
    """Starts of a process that the disk refuses, and the files that they left open."""
    return "refused", {"process": "p"}, {"errors": [error] * TRIES, "files": files}


def left(running: int, ledger: int = 0, files: int = 0) -> tuple[str, dict[str, Any], Any]:
    """What is held while some processes run."""
    sizes = {"running": running, "pending": 0, "queued": 0, "ledger": ledger, "files": files}
    return "left", {"running": running}, sizes


UNMARKED = taken_some(event(), errors=1, owed=1, marks=False)
KEYED = ("spawn", {"process": "p", "session": "s", "key": "k"}, None)
KEYED_START = START.replace("KEY=s", "KEY=k")


def accused(*calls: tuple[str, dict[str, Any], Any]) -> Promise | None:
    """The promise that the last call breaks; no other call breaks any."""
    fold = Fold(ProcessesModel())
    anomalies = [
        fold.step(Operation(0, function, argument, Outcome.OK, 0, 1, result))
        for function, argument, result in calls
    ]
    assert anomalies[:-1] == [None] * (len(calls) - 1)
    return anomalies[-1].promise if anomalies[-1] else None


@pytest.mark.parametrize(
    "calls",
    [
        (SPAWNED, FINISHED, taken(event())),
        (("no_command", {"kind": "nul"}, "SpawnRefusedError"),),
        (tried(),),
        (SPAWNED, ("spawn_late", {}, "SpawnRefusedError"), FINISHED, taken(event())),
        (SPAWNED, FINISHED, taken(event()), ("kill", {"process": "p"}, False)),
        (SPAWNED, SAID, taken(MATCH), FINISHED, taken(ENDED)),
        (SPAWNED, SAID, SAID, taken(MATCH)),
        (SPAWNED, OTHER, FINISHED, OTHER_FINISHED, taken_some(event()), taken(event(process="q"))),
        (SPAWNED, FINISHED, UNMARKED, KILLED_HOST, taken(event())),
        (BRIEF, ("proof", {}, [START, "p end"]), taken(event())),
        (KEYED, ("proof", {}, [KEYED_START]), FINISHED, taken(event(key="k"))),
        (SPAWNED, FINISHED, taken(event()), ("proof", {}, [START, "p end"])),
        (SPAWNED, SAID, taken(MATCH), KILLED_HOST, FINISHED, taken(ENDED)),
        (
            *(SPAWNED, KILLED_HOST, ("kill", {"process": "p"}, True)),
            taken(event(exit_code=-9)),
        ),
    ],
)
def test_right_registry_is_accepted(calls: tuple[tuple[str, dict[str, Any], Any], ...]) -> None:
    assert accused(*calls) is None


@pytest.mark.parametrize(
    ("calls", "promise"),
    [
        ((SPAWNED, FINISHED, taken()), promises.W12),
        ((("no_command", {"kind": "nul"}, "none"),), promises.W12),
        ((tried("none"),), promises.W12),
        ((tried(files=2),), promises.H8),
        ((SPAWNED, ("spawn_late", {}, "none")), promises.W12),
        ((SPAWNED, FINISHED, taken(event()), ("kill", {"process": "p"}, True)), promises.W12),
        ((SPAWNED, FINISHED, taken(event(), event())), promises.W1),
        ((SPAWNED, FINISHED, taken(event(exit_code=1))), promises.W12),
        ((SPAWNED, FINISHED, taken(event(owner="t"))), promises.W6),
        ((SPAWNED, SAID, SAID, taken(MATCH, MATCH)), promises.W13),
        ((SPAWNED, SAID, taken()), promises.W13),
        ((SPAWNED, SAID, taken(event())), promises.W13),
        (
            (SPAWNED, OTHER, OTHER_FINISHED, FINISHED, taken(event(), event(process="q"))),
            promises.W3,
        ),
        (
            (SPAWNED, OTHER, FINISHED, OTHER_FINISHED, taken_some(event(process="q"))),
            promises.W3,
        ),
        ((SPAWNED, FINISHED, taken_some(event(), errors=1, marks=False)), promises.W5),
        ((BRIEF, taken()), promises.W12),
        ((SPAWNED, STRANGER, ("proof", {}, [START, START.replace("p s", "q s")])), promises.T7),
        ((SPAWNED, left(running=1)), promises.W12),
        ((SPAWNED, left(running=1, ledger=1, files=2)), promises.W9),
        ((SPAWNED, FINISHED, UNMARKED, KILLED_HOST, taken()), promises.W12),
        ((KEYED, ("proof", {}, [START])), promises.W14),
        ((KEYED, FINISHED, taken(event())), promises.W12),
        ((SPAWNED, ("proof", {}, [START, START])), promises.W12),
        ((SPAWNED, ("proof", {}, [START.replace("ID=s", "ID=t")])), promises.W14),
        ((SPAWNED, ("proof", {}, ["p start"])), promises.W14),
        ((SPAWNED, SAID, taken(MATCH), KILLED_HOST, FINISHED, taken(event())), promises.W12),
        ((SPAWNED, SAID, taken(MATCH), KILLED_HOST, SAID, taken(MATCH)), promises.W13),
        ((SPAWNED, ("kill", {"process": "p"}, False)), promises.W12),
        ((SPAWNED, SAID, ("bounded", {"process": "p", "most": 9}, False)), promises.W9),
        ((SPAWNED, OTHER, OTHER_FINISHED, taken(event())), promises.W12),
        (
            (
                SPAWNED,
                FINISHED,
                taken(event()),
                (
                    "left",
                    {"running": 0},
                    {"running": 0, "pending": 0, "queued": 0, "ledger": 1, "files": 0},
                ),
            ),
            promises.W9,
        ),
    ],
)
def test_wrong_registry_is_accused(
    calls: tuple[tuple[str, dict[str, Any], Any], ...], promise: Promise
) -> None:
    assert accused(*calls) == promise


def test_line_lost_over_a_restart_breaks_both_promises() -> None:
    """Whether the line was not searched or its process did not live on, the events do not tell."""
    fold = Fold(ProcessesModel())
    anomalies = [
        fold.step(Operation(0, function, argument, Outcome.OK, 0, 1, result))
        for function, argument, result in (SPAWNED, KILLED_HOST, SAID, taken())
    ]
    last = anomalies[-1]
    assert last is not None
    assert last.promises == {promises.W12, promises.W13}


def test_wrong_look_hides_no_later_anomaly() -> None:
    """Proof and sizes change nothing; each kind of wrong events has a signature of its own."""
    fold = Fold(ProcessesModel())
    looked: tuple[str, dict[str, Any], Any] = ("proof", {}, [START])
    calls: tuple[tuple[str, dict[str, Any], Any], ...]
    calls = (SPAWNED, left(running=1), FINISHED, looked, taken(event(exit_code=1)))
    found = [
        fold.step(Operation(0, function, argument, Outcome.OK, 0, 1, result))
        for function, argument, result in calls
    ]
    assert [anomaly.signature for anomaly in found if anomaly] == [
        "W12 left: left answered otherwise",
        "W12 proof: proof answered otherwise",
        "W12 take: take has a completion with another exit_code",
    ]


@pytest.mark.parametrize(
    ("calls", "kind"),
    [
        ((SPAWNED, FINISHED, taken()), "take lacks a completion"),
        (
            (SPAWNED, FINISHED, KILLED_HOST, taken()),
            "take lacks a completion, after a host has ended",
        ),
        ((SPAWNED, taken(event())), "take has a completion too many"),
        ((SPAWNED, OTHER, OTHER_FINISHED, taken(event())), "take has events that are not those"),
    ],
)
def test_kinds_of_wrong_events_differ(
    calls: tuple[tuple[str, dict[str, Any], Any], ...], kind: str
) -> None:
    fold = Fold(ProcessesModel())
    *_, last = [
        fold.step(Operation(0, function, argument, Outcome.OK, 0, 1, result))
        for function, argument, result in calls
    ]
    assert last is not None
    assert kind in last.signature
