"""Scenario of real background processes, which prove their own start and end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.processes import (
    OUTPUT_CHARS_MAX,
    SLACK_S,
    WATCH_EVENTS_MAX,
    WATCH_INTERVAL_S,
    ProcessesModel,
)
from harness.core.history import History
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

Call = tuple[str, dict[str, Any]]
SIZES = (0, 1, OUTPUT_CHARS_MAX - 1, OUTPUT_CHARS_MAX, OUTPUT_CHARS_MAX + 1, 20_000_000)
RESTART: Call = ("restart", {})
KILL_HOST: Call = ("kill_host", {})
BOUNDED: Call = ("bounded", {"process": "p", "most": 4 << 20})
HOST_ENDS = (RESTART, KILL_HOST)
END: tuple[Call, ...] = (("left", {"running": 0}), ("proof", {}))


def spawn(process: str, session: str | None = "s", **options: Any) -> Call:
    """Start a process."""
    return "spawn", {"process": process, "session": session, **options}


def say(text: str, process: str = "p", size: int = 0) -> Call:
    """Print a text."""
    return "say", {"process": process, "text": text, "size": size}


def finish(process: str = "p") -> Call:
    """End a process."""
    return "finish", {"process": process}


def take(count: int = 1) -> Call:
    """Wait for events."""
    return "take", {"count": count}


def take_some(count: int, *, marks: bool = True) -> Call:
    """Take the first events; without `marks` the disk refuses to mark them."""
    return "take_some", {"count": count, "marks": marks}


def advance(seconds: float) -> Call:
    """Let time pass."""
    return "advance", {"seconds": seconds}


def programs() -> Iterator[list[Call]]:
    """Every exit code, size, order, rate and restart."""
    for code in (0, 1, 3, 255):
        yield [spawn("p", exit_code=code), finish(), take()]
    for size in SIZES:
        looked = [BOUNDED] if size == SIZES[-1] else []  # while the process goes on
        yield [spawn("p"), say("the end", size=size), *looked, finish(), take()]
    yield [spawn("p"), say("first"), say("漢字 🙂 äß"), finish(), take()]
    for size in (4094, 4095):  # a character lies across what is read at once
        yield [spawn("p"), say("漢字 🙂 äß", size=size), finish(), take()]
    yield [spawn("p"), ("kill", {"process": "p"}), take(), take(0)]
    yield [spawn("p", None), finish(), take()]
    keyed = (spawn("p", owner, key="a key", watches=["hit"]) for owner in ("s", None))
    yield from ([start, say("hit"), take(), finish(), take()] for start in keyed)
    yield [spawn("p", notify=False), finish()]
    brief: Call = ("spawn_brief", {"process": "p", "session": "s", "exit_code": 3})
    yield [brief, take(), take(0)]
    other: Call = spawn("b", "S", beside="s")
    yield [spawn("a", beside="S"), other, finish("a"), take(), finish("b"), take()]
    names = ("a", "b", "c")
    started = [spawn(name, session) for name, session in zip(names, ("s", "S", "s1"), strict=True)]
    for order in (("b", "a", "c"), ("c", "b", "a")):
        ended = [call for name in order for call in (finish(name), take())]
        yield [*started, ("left", {"running": 3}), *ended]
        yield [*started, RESTART, ("proof", {}), *ended]
        yield [*started, finish(order[0]), take(), RESTART, *ended[2:], take(0)]
    yield [spawn("p", exit_code=3), RESTART, RESTART, finish(), take(), RESTART, take(0)]
    kinds = ("empty", "nul", "long", "no text")
    bad: list[Call] = [("no_command", {"kind": kind}) for kind in kinds]
    yield [*bad, spawn("p"), ("spawn_late", {}), ("left", {"running": 1}), finish(), take()]
    yield [spawn("p"), finish(), take(), ("kill", {"process": "p"}), ("proof", {})]
    yield from watches()
    for host_ends in HOST_ENDS:
        yield from outlived(host_ends)
        yield from reported_later(host_ends)


def reported_later(host_ends: Call) -> Iterator[list[Call]]:
    """Ends that one host sees and the next reports, and what a killed host left behind."""
    names = ("d", "b", "e", "a", "c")
    started = [spawn(name, f"s{name}") for name in sorted(names)]
    each = [call for name in names for call in (finish(name), ("ended", {"process": name}))]
    yield [*started, *each, host_ends, take(len(names)), host_ends, take(0)]
    # A part is marked, another host's events come behind the rest; then the disk refuses marks.
    later = [spawn("f"), finish("f"), ("ended", {"process": "f"})]
    part = [*started, *each, take_some(3), host_ends, *later, host_ends, take_some(1)]
    yield [*part, take_some(2, marks=False), host_ends, take(2), host_ends, take(0)]
    yield [("refused", {"process": "p"}), ("proof", {}), host_ends, take(0), ("proof", {})]
    yield [spawn("p"), ("leave_files", {}), host_ends, ("left", {"running": 1}), finish(), take()]


def outlived(host_ends: Call) -> Iterator[list[Call]]:
    """A host ends while its processes print, are watched, and end."""
    yield [spawn("p"), say("before"), host_ends, ("proof", {}), say("after"), finish(), take()]
    yield [spawn("p", exit_code=3), say("before", size=5_000), host_ends, finish(), take()]
    yield [spawn("p"), host_ends, unheard("a", size=1_000_000), host_ends, finish(), take()]
    yield [spawn("p"), host_ends, ("kill", {"process": "p"}), take()]
    yield [spawn("p"), finish(), host_ends, take(), host_ends, take(0)]
    two = [spawn("a", "s"), spawn("b", "S"), say("of a", "a"), say("of b", "b")]
    yield [*two, host_ends, say("and a", "a"), finish("b"), take(), finish("a"), take()]
    looked: Call = ("left", {"running": 2})  # by the next host, before they end
    yield [*two[:2], host_ends, looked, finish("a"), take(), finish("b"), take()]
    late: Call = advance(WATCH_INTERVAL_S + SLACK_S)
    for notify in (True, False):
        watched = spawn("p", watches=["hit"], notify=notify)
        end = take(int(notify))
        yield [watched, say("hit 1"), host_ends, take(), say("hit 2"), finish(), end]
        yield [watched, say("hit 1"), take(), host_ends, late, say("hit 2"), take(), finish(), end]
        yield [watched, host_ends, unheard("hit 1"), take(), host_ends, finish(), end, take(0)]
        if host_ends is KILL_HOST:  # more than a host reads at once, in front of what it searches
            burst = [unheard("\nhit 1", size=1_500_000), unheard("on", size=1_000_000)]
            yield [watched, host_ends, *burst, take(), finish(), end]
        if host_ends is RESTART:  # after a kill, lines that were read and not reported count again
            both = [watched, say("hit 1"), say("hit 2"), take()]
            yield [*both, host_ends, late, say("hit 3"), take(), finish(), end]


def unheard(text: str, process: str = "p", size: int = 0) -> Call:
    """Print a text that no host needs to read at once."""
    return "say", {"process": process, "text": text, "size": size, "heard": False}


def watches() -> Iterator[list[Call]]:
    """Watched lines around the interval and the number of reports, and then the end."""
    watched = spawn("p", watches=["hit", "other"])
    early, late = WATCH_INTERVAL_S - SLACK_S, WATCH_INTERVAL_S + SLACK_S
    yield [watched, say("no\nhot"), say("hit 1"), take(), finish(), take()]
    before = [say("hit 1\nhit 2\nother"), take(), advance(early), say("hit 3"), take(0)]
    after = [advance(late - early), say("hit 4"), take(), say("hit 5"), finish(), take()]
    yield [watched, *before, *after]
    for text in ("漢字 hit", "hit \N{SLIGHTLY SMILING FACE} äß", "\x00 hit"):
        pattern = text.split()[0]
        yield [spawn("p", watches=[pattern]), say(text), take(), finish(), take()]
    for size in (4094, OUTPUT_CHARS_MAX - 4, OUTPUT_CHARS_MAX - 3, 2 * OUTPUT_CHARS_MAX - 3):
        yield [watched, say("hit", size=size), take(), finish(), take()]
    many = [call for _ in range(WATCH_EVENTS_MAX) for call in (say("hit"), take(), advance(late))]
    yield [watched, *many, say("hit"), take(0), finish(), take()]


def walk(context: Context) -> None:
    """Ask every program."""
    for program in programs():
        with context.episode() as episode:
            for function, argument in (*program, *END):
                episode.client.ask(function, argument)


def _events(kind: str) -> Any:
    def count(history: History) -> int:
        takes = history.happened.of("take")
        return sum(event["kind"] == kind for take in takes for event in take.result)

    return count


def _outlived(history: History) -> int:
    """Count the waits for events after a host was killed; the model says what must come."""
    takes = [take for take in history.happened.of("take") if take.argument["count"]]
    return sum(
        any(kill.precedes(take) for kill in history.happened.of("kill_host")) for take in takes
    )


PROCESSES = Scenario(
    name="processes-prove-themselves",
    mode=Mode.MODEL,
    ability="processes",
    promises=(
        promises.W1,
        promises.W3,
        promises.W4,
        promises.W5,
        promises.W6,
        promises.W9,
        promises.W12,
        promises.W13,
        promises.W14,
        promises.T7,
        promises.H8,
    ),
    workload=walk,
    checker=conforms(ProcessesModel()),
    expectations=(
        Expectation("a process was reported as completed", _events("completion"), 20),
        Expectation("a watched line was reported", _events("watch_match"), 20),
        Expectation("the events of a killed host were awaited", _outlived, 10),
    ),
    examples=1,
)


def test_processes_report_their_end_once(judge: Judge) -> None:
    """Each exit code, size of output, order of ends, rate of watched lines, and restart."""
    assert judge(PROCESSES).is_valid
