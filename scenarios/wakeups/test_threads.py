"""Scenario of concurrent paths of delivery: each completion wakes its session once."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations_with_replacement, product

from harness.contract import promises
from harness.contract.checkers.threads.plain_answers import with_plain_answers
from harness.contract.checkers.threads.wakeup_routing import check_wakeup_routing
from harness.core.history import History
from harness.pytest_plugin import Judge
from harness.schedule import Call
from harness.workloads.threads import Interleaving, Program

S = {"session": "s"}
BEGIN = Call("begin_run", S)
END = Call("end_run", S)
P1 = Call("complete", {**S, "process": "p1"})
P1_TWICE = Call("complete", {**S, "process": "p1", "times": 2})
P2 = Call("complete", {**S, "process": "p2"})
P3 = Call("complete", {**S, "process": "p3"})
DRAIN = Call("drain")
SETTLE = Call("settle")


def program(name: str, first: tuple[Call, ...], *threads: tuple[Call, ...]) -> Program:
    """Concurrent threads after `first`, until no wakeup is pending."""
    return Program(name, threads, promises.W3, first, (SETTLE,))


def completion_met_end(history: History) -> bool:
    """A completion overlapped the end of a run."""
    return _met(history, "complete", "end_run")


def drain_met_end(history: History) -> bool:
    """A drain overlapped the end of a run."""
    return _met(history, "drain", "end_run")


def _met(history: History, first: str, second: str) -> bool:
    calls = ([op for op in history if op.function == name] for name in (first, second))
    return any(op.meets(other) and op is not other for op, other in product(*calls))


# Calls that nothing may refuse, and calls that return nothing.
SEEN = ("over", "refused", "wake")
ACCEPTED = ("complete", "delete", "drain", "end_run", "fail_start", "index", "serve", *SEEN)
SILENT = ("begin_run", *ACCEPTED)


def joined_a_turn(history: History) -> bool:
    """A user's turn took a wakeup along."""
    return any("by" in wake.argument for wake in history.of("wake"))


# Drain threads run, and nothing else drains: what wakes them is on trial, too.
SERVE = Call("serve")
UNOWNED = Call("complete", {**S, "process": "p1", "key": "k"})
FOUND = Call("index", {"key": "k", "session": "s"})
FAIL = Call("fail_start")


def served(name: str, first: tuple[Call, ...], *threads: tuple[Call, ...]) -> Program:
    """Threads beside those that drain, until no wakeup is pending."""
    begun = program(f"{name}, beside drain threads", (SERVE, *first), *threads)
    return replace(begun, strategies=("sticky", "pct-2"))


SERVED = (
    served("completions", (), (P1,), (P2,)),
    served("an index", (), (UNOWNED,), (FOUND,)),
    served("a start that fails", (FAIL,), (P1,)),
    served("an end", (BEGIN,), (END,), (P1,)),
    served("an end whose start fails", (BEGIN, P1), (FAIL, END)),
    served("two ends", (BEGIN, P1, P2), (END,), (END, END)),
)

MEETINGS = Interleaving(
    programs=(
        program("a completion as a run leaves", (BEGIN,), (END,), (P1, DRAIN)),
        program("both paths for one completion", (BEGIN, P1), (END,), (DRAIN, END)),
        program("delivered twice", (BEGIN,), (P1_TWICE, DRAIN), (END, END), (P2, DRAIN)),
        program("two drains", (), (P1, DRAIN), (P2, DRAIN, END)),
        program("a user meets a wakeup that starts", (P1, P2), (DRAIN, END), (BEGIN, END)),
        program("an end behind a refusal", (P1, P2, DRAIN), (P3, DRAIN), (BEGIN, END)),
        program("a user meanwhile", (P1,), (DRAIN, END), (P2, DRAIN), (BEGIN, END)),
    ),
    check=with_plain_answers(check_wakeup_routing, promises.W1, accepted=ACCEPTED, silent=SILENT),
    meetings={
        "a completion met the end of a run": completion_met_end,
        "a drain met the end of a run": drain_met_end,
        "a wakeup refused a user": lambda history: bool(history.of("refused")),
        "a user's turn took a wakeup along": joined_a_turn,
    },
)

DRAINED = replace(
    MEETINGS,
    programs=SERVED,
    meetings={
        "a completion met the end of a run": completion_met_end,
        "a completion met an index": lambda history: _met(history, "complete", "index"),
        "a wakeup started": lambda history: bool(history.of("wake")),
    },
    needs={"a completion met an index": ("complete.key",)},
)

# Every pair of calls, in each state of the session: idle, busy, woken, with a failing start.
DELETE = Call("delete", S)
STALE = Call("index", {"key": "s", "session": "t"})
CALLS = {
    "completion": (P1_TWICE, DRAIN),
    "end": (END,),
    "drain": (DRAIN,),
    "user": (BEGIN, END),
    "deletion": (DELETE,),
    "stale index": (STALE,),
}
P0 = Call("complete", {**S, "process": "p0"})
STATES: dict[str, tuple[Call, ...]] = {
    "busy": (BEGIN, P0),
    "woken": (P0, P2, DRAIN),
    "failing": (P0, FAIL),
}


def every_pair() -> tuple[Program, ...]:
    """One program for each pair of calls and state of the session."""
    return tuple(
        program(f"{one} meets {other}, {name}", first, CALLS[one], CALLS[other])
        for (one, other), (name, first) in product(
            combinations_with_replacement(CALLS, 2), STATES.items()
        )
    )


def deletion_met_delivery(history: History) -> bool:
    """A deletion overlapped a drain or the end of a run."""
    return _met(history, "delete", "drain") or _met(history, "delete", "end_run")


PAIRS = Interleaving(
    programs=every_pair(),
    check=with_plain_answers(check_wakeup_routing, promises.W1, accepted=ACCEPTED, silent=SILENT),
    meetings={
        "a drain met a drain": lambda history: _met(history, "drain", "drain"),
        "a deletion met a delivery": deletion_met_delivery,
    },
)

WAKEUPS_PAIRS = PAIRS.scenario(
    "wakeups-every-pair",
    ability="wakeups_threads",
    promises=(
        *(promises.W1, promises.W2, promises.W3, promises.W5),
        *(promises.W6, promises.W9, promises.W10),
    ),
    examples=63 * 24,
)

WAKEUPS_THREADS = MEETINGS.scenario(
    "wakeups-threads",
    ability="wakeups_threads",
    promises=(promises.W1, promises.W2, promises.W3, promises.W10),
    examples=2_800,
)

DRAIN_THREADS = DRAINED.scenario(
    "wakeups-drain-threads",
    ability="wakeups_threads",
    promises=(promises.W1, promises.W2, promises.W3, promises.W5, promises.W6, promises.W9),
    examples=100 * len(SERVED),
)


def test_every_pair_of_calls_wakes_each_session_once(judge: Judge) -> None:
    """Completion, end, drain, user, deletion and index meet in each state of a session."""
    assert judge(WAKEUPS_PAIRS).is_valid


def test_concurrent_deliveries_wake_each_session_once(judge: Judge) -> None:
    """The idle drain and the end of a run reach a completion in either order."""
    assert judge(WAKEUPS_THREADS).is_valid


def test_drain_threads_wake_each_session_once(judge: Judge) -> None:
    """Nothing drains but the drain threads, so a completion that wakes none of them is lost."""
    assert judge(DRAIN_THREADS).is_valid
