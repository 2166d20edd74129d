"""Scenario of calls of the turns that meet: every pair, with runs that end in every way."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

from harness.contract import promises
from harness.contract.checkers.threads.run_ends import check_run_ends
from harness.contract.checkers.threads.run_facts import STARTS
from harness.core.history import History
from harness.pytest_plugin import Judge
from harness.schedule import Call
from harness.workloads.threads import Interleaving, Program

S = {"session": "s"}
BOUND_S = 60.0  # after which a cancelled run is reclaimed
MAKE = Call("make", S)
CLEAR, DELETE, STATUS = Call("clear", S), Call("delete", S), Call("status", S)
REPAIR = Call("repair", S)
FURNISH = Call("furnish", {**S, "runs": ["q1", "q2"]})
COMPRESS, RETRY = Call("compress", S), Call("retry", {**S, "run": "q2", "script": "talk"})
SHUT_DOWN, SETTLE, SLOW_DOWN = Call("shut_down"), Call("settle"), Call("slow_down")


def start(run: str, script: str = "talk") -> Call:
    """Begin a turn."""
    return Call("start", {**S, "run": run, "script": script})


def follow(after: str, run: str) -> Call:
    """Begin a turn as soon as another one's end is shown."""
    return Call("follow", {**S, "after": after, "run": run, "script": "talk"})


def press(after: str, run: str) -> Call:
    """Begin a turn as soon as the agent of another one sees its cancel."""
    return Call("press", {**S, "after": after, "run": run, "script": "talk"})


def cancel(run: str = "r1") -> Call:
    """Cancel a run."""
    return Call("cancel", {"run": run})


def pause(seconds: float) -> Call:
    """Let bounds pass."""
    return Call("pause", {"seconds": seconds})


def program(name: str, *threads: tuple[Call, ...], first: tuple[Call, ...] = ()) -> Program:
    """Threads that meet, until all is quiet."""
    return Program(name, threads, promises.T3, first=(MAKE, *first), last=(SETTLE,))


def furnished(name: str, *threads: tuple[Call, ...]) -> Program:
    """Threads that meet at a session with two turns, until all is quiet."""
    return Program(name, threads, promises.T3, first=(FURNISH,), last=(SETTLE,))


def in_sessions(count: int, script: str) -> tuple[Call, ...]:
    """Sessions of their own with a run of that script: as many chances in each schedule."""
    places = [{"session": f"s{number}", "run": f"r{number}"} for number in range(count)]
    made = (Call("make", {"session": place["session"]}) for place in places)
    return (*made, *(Call("start", {**place, "script": script}) for place in places))


def late_together(runs: int) -> Program:
    """Runs that all unwind at the moment in which they are reclaimed."""
    return Program(
        "runs that unwind at their bound",
        ((pause(BOUND_S),),),
        promises.T3,
        first=(*in_sessions(runs, "late"), *(cancel(f"r{number}") for number in range(runs))),
        last=(SETTLE,),
        strategies=("sticky",),  # it leaves a thread now and then, and lets another one come far
    )


TALK, COPIED, WAIT, CHAT, SLOW, LATE, LATER, HANG, FAIL, EXIT = (
    start("r1", script)
    for script in (
        "talk",
        "copied",
        "wait",
        "chat",
        "slow",
        "late",
        "later",
        "hang",
        "fail",
        "exit",
    )
)

PROGRAMS = (
    program("start, start", (TALK,), (start("r2"),)),
    program("start, start of runs that fail", (FAIL,), (start("r2", "exit"),)),
    program("a cancel as the agent returns", (TALK, cancel()), (STATUS,)),
    program("a cancel as the agent fails", (FAIL, cancel())),
    program("a cancel as the agent exits", (EXIT, cancel())),
    program("two cancels", (cancel(), STATUS), (cancel(), STATUS), first=(WAIT,)),
    program("a cancel of an agent that talks on", (cancel(), STATUS), first=(CHAT,)),
    program("cancel, start", (cancel(),), (start("r2"),), first=(WAIT,)),
    program("a start as a run unwinds", (cancel(),), (press("r1", "r2"), STATUS), first=(WAIT,)),
    program("cancel, start beside a slow agent", (cancel(), start("r2")), first=(SLOW,)),
    program("a second cancel beside a slow agent", (cancel(), cancel(), STATUS), first=(SLOW,)),
    program("a run that hangs", (cancel(), STATUS, start("r2")), first=(HANG,)),
    program("a run that unwinds at its bound", (cancel(), STATUS), first=(LATE,)),
    late_together(6),
    program(
        "a run that unwinds beside its successor",
        (cancel(), pause(61.0), start("r2", "wait"), pause(5.0), start("r3"), cancel("r2")),
        first=(LATER,),
    ),
    program("repair, run", (REPAIR,), (TALK,)),
    program("repair, failing run", (REPAIR, REPAIR), (FAIL,)),
    program("repair, cancel", (REPAIR,), (cancel(), start("r2")), first=(WAIT,)),
    program("a late cancel", (follow("r1", "r2"),), (TALK, cancel())),
    program("a late cancel of a run before", (cancel(),), (start("r2", "talk"),), first=(TALK,)),
    program("the next start after an end", (follow("r1", "r2"),), (TALK,)),
    program("the next start after a failure", (follow("r1", "r2"),), (FAIL,)),
    program("the next start after a cancel", (follow("r1", "r2"),), (cancel(),), first=(WAIT,)),
    program("delete, run", (DELETE,), (TALK,)),
    program("delete, waiting run", (DELETE,), (cancel(),), first=(WAIT,)),
    program("delete, start", (DELETE, start("r2")), first=(WAIT,)),
    program("delete, start on a slow disk", (DELETE,), (TALK,), first=(SLOW_DOWN,)),
    program("clear, run", (CLEAR,), (TALK,)),
    program("clear, cancel", (CLEAR,), (cancel(),), first=(WAIT,)),
    furnished("compress, clear", (COMPRESS,), (CLEAR,)),
    furnished("compress, clear and as many turns", (COMPRESS,), (CLEAR, TALK, follow("r1", "r2"))),
    furnished("compress, retry", (COMPRESS,), (RETRY,)),
    furnished("retry, clear", (RETRY,), (CLEAR,)),
    furnished("retry, cancel", (RETRY, cancel("q2")), (REPAIR,)),
    program("shutdown, start", (SHUT_DOWN,), (TALK,)),
    program("shutdown, start on a slow disk", (SHUT_DOWN,), (TALK,), first=(SLOW_DOWN,)),
    program("shutdown, run", (SHUT_DOWN,), (start("r2"),), first=(WAIT,)),
    program("shutdown, cancel", (SHUT_DOWN,), (cancel(),), first=(WAIT,)),
    program("shutdown, the next start", (SHUT_DOWN,), (follow("r1", "r2"),), first=(COPIED,)),
    program("shutdown, delete", (SHUT_DOWN,), (DELETE,), first=(WAIT,)),
)


def _status_of(*statuses: int) -> Callable[[History], bool]:
    def met(history: History) -> bool:
        starts = [op for op in history.happened if op.function in STARTS]
        return any(op.result["status"] in statuses for op in starts)

    return met


def cancel_met_end(history: History) -> bool:
    """A cancel met the end of its run, and one of both outcomes came of it."""
    cancels, ends = history.happened.of("cancel"), history.of("terminal")
    return any(one.meets(end) for one, end in product(cancels, ends))


def repair_met_run(history: History) -> bool:
    """A repair met the start or the end of a run."""
    others = history.of("start", "cancel", "terminal", "ended")
    return any(one.meets(other) for one, other in product(history.of("repair"), others))


def agent_talked_on(history: History) -> bool:
    """An agent showed something after its cancel had begun."""
    tokens, cancels = history.of("token"), history.of("cancel")
    return any(one.meets(token) for one, token in product(cancels, tokens))


def cancel_was_repeated(history: History) -> bool:
    """A run was cancelled again before it had left."""
    cancels, ends = history.happened.of("cancel"), history.of("ended")
    twice = ((one, other) for one, other in product(cancels, cancels) if one.precedes(other))
    return any(other.precedes(end) for (_, other), end in product(twice, ends))


def began_anew(history: History) -> bool:
    """A session was cleared, and a run of it ended, while its turns were summarized."""
    clears, ends = history.of("clear"), history.of("ended")
    inside = ((op, one, end) for op in history.of("compress") for one in clears for end in ends)
    return any(op.meets(one) and one.precedes(end) and op.meets(end) for op, one, end in inside)


def cancel_came_late(history: History) -> bool:
    """A run had ended when it was cancelled, and its answer was false."""
    cancels, ends = history.happened.of("cancel"), history.of("ended")
    return any(
        end.precedes(op) and op.result["cancelled"] is False for op, end in product(cancels, ends)
    )


MEETINGS = Interleaving(
    programs=PROGRAMS,
    check=check_run_ends,
    meetings={
        "a start was refused by a run": _status_of(409),
        "a start was refused by the shutdown": _status_of(503),
        "a cancel met the end of its run": cancel_met_end,
        "a cancel came late": cancel_came_late,
        "an agent talked on after its cancel": agent_talked_on,
        "a cancel was repeated": cancel_was_repeated,
        "a repair met a run": repair_met_run,
        "a session began anew as it was summarized": began_anew,
    },
)

RUN_CALLS = MEETINGS.scenario(
    "turns-calls-meet",
    ability="run_calls",
    promises=(
        *(promises.T1, promises.T2, promises.T3, promises.T4, promises.T8),
        *(promises.S2, promises.S6, promises.S10, promises.S13, promises.S14, promises.H3),
    ),
    examples=20 * len(PROGRAMS),
)


def test_calls_that_meet_end_each_run_once(judge: Judge) -> None:
    """Starts, cancels, removals and the shutdown, with runs that reply, fail, exit and hang."""
    assert judge(RUN_CALLS).is_valid
