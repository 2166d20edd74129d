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


def advance(seconds: float) -> Call:
    """Let time pass."""
    return "advance", {"seconds": seconds}


def programs() -> Iterator[list[Call]]:
    """Every exit code, size, order, rate and restart."""
    for code in (0, 1, 3, 255):
        yield [spawn("p", exit_code=code), finish(), take()]
    for size in SIZES:
        yield [spawn("p"), say("the end", size=size), finish(), take()]
    yield [spawn("p"), say("first"), say("漢字 🙂 äß"), finish(), take()]
    yield [spawn("p"), ("kill", {"process": "p"}), take(), take(0)]
    yield [spawn("p", None), finish(), take()]
    yield [spawn("p", notify=False), finish()]
    names = ("a", "b", "c")
    started = [spawn(name, session) for name, session in zip(names, ("s", "S", "s1"), strict=True)]
    for order in (("b", "a", "c"), ("c", "b", "a")):
        ended = [call for name in order for call in (finish(name), take())]
        yield [*started, ("left", {"running": 3}), *ended]
        yield [*started, RESTART, ("proof", {}), *ended]
        yield [*started, finish(order[0]), take(), RESTART, *ended[2:], take(0)]
    yield [spawn("p", exit_code=3), RESTART, RESTART, finish(), take(), RESTART, take(0)]
    yield from watches()


def watches() -> Iterator[list[Call]]:
    """Watched lines around the interval and the number of reports, and then the end."""
    watched = spawn("p", watches=["hit", "other"])
    early, late = WATCH_INTERVAL_S - SLACK_S, WATCH_INTERVAL_S + SLACK_S
    yield [watched, say("no\nhot"), say("hit 1"), take(), finish(), take()]
    before = [say("hit 1\nhit 2\nother"), take(), advance(early), say("hit 3"), take(0)]
    after = [advance(late - early), say("hit 4"), take(), say("hit 5"), finish(), take()]
    yield [watched, *before, *after]
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


PROCESSES = Scenario(
    name="processes-prove-themselves",
    mode=Mode.MODEL,
    ability="processes",
    promises=(promises.W1, promises.W3, promises.W6, promises.W9, promises.W12, promises.W13),
    workload=walk,
    checker=conforms(ProcessesModel()),
    expectations=(
        Expectation("a process was reported as completed", _events("completion"), 20),
        Expectation("a watched line was reported", _events("watch_match"), 20),
    ),
    examples=1,
)


def test_processes_report_their_end_once(judge: Judge) -> None:
    """Each exit code, size of output, order of ends, rate of watched lines, and restart."""
    assert judge(PROCESSES).is_valid
