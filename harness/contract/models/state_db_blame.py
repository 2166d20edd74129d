"""Which promise a wrong answer of the state database breaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.contract import promises
from harness.contract.models.state_db_values import State, owner_of
from harness.contract.models.titles import sanitised
from harness.core.contract import Promise
from harness.core.history import Operation


@dataclass(frozen=True, slots=True)
class Blame:
    """The promise that a wrong answer broke, the problem, and further promises that it broke."""

    promise: Promise
    problem: str
    also: tuple[Promise, ...] = ()


def blame_answer(state: State, operation: Operation, expected: Any) -> Blame:  # noqa: ARG001  (one shape)
    """Blame any wrong answer of a call that has no rule of its own."""
    return Blame(promises.D1, "an acknowledged write is lost")


def _blame_existence(state: State, operation: Operation, expected: Any) -> Blame:
    """Blame a wrong answer about whether a session exists."""
    if expected:
        return Blame(promises.D1, "a session is lost")
    return _blame_stray(state, (operation.argument["session"],))


def _blame_stray(state: State, stray: tuple[str, ...]) -> Blame:
    if stray in state.removed:
        return Blame(promises.D1, f"{stray} was removed, and is back")
    return Blame(promises.D2, f"{stray} is there, and was never acknowledged")


def _blame_get(state: State, operation: Operation, expected: Any) -> Blame:
    seen = operation.result
    if expected is None or seen is None:
        return _blame_existence(state, operation, expected)
    wrong = {name for name in expected if seen.get(name) != expected[name]}
    for counter in ("message_count", "tool_call_count"):
        if counter in wrong:
            lost = (promises.D1,) if (seen.get(counter) or 0) < expected[counter] else ()
            return Blame(promises.D2, f"{counter} drifted", lost)
    title = seen.get("title")
    if "title" in wrong and title is not None and sanitised(title) != title:
        return Blame(promises.D1, f"the title {title!r} is not sanitised", (promises.D13,))
    if "title" in wrong and title and owner_of(state, title) is not None:
        return Blame(promises.D2, f"two sessions have the title {title!r}")
    return Blame(promises.D1, f"acknowledged values are lost: {', '.join(sorted(wrong))}")


def _blame_list(state: State, operation: Operation, expected: list[str]) -> Blame:
    lost = sorted(set(expected) - set(operation.result))
    if lost:
        return Blame(promises.D1, f"sessions are lost: {lost}")
    strays = Counter(operation.result) - Counter(expected)
    if strays:
        return _blame_stray(state, (min(strays),))
    return Blame(promises.D1, "sessions are out of order")


def _blame_messages(state: State, operation: Operation, expected: list[list[str]]) -> Blame:
    due, seen = Counter(map(tuple, expected)), Counter(map(tuple, operation.result))
    if lost := due - seen:
        return Blame(promises.D1, f"messages are lost: {sorted(lost)}")
    if strays := seen - due:
        return _blame_stray(state, (operation.argument["session"], *min(strays)))
    return Blame(promises.D1, "messages changed their order")


def _blame_search(state: State, operation: Operation, expected: list[list[str]]) -> Blame:  # noqa: ARG001  (one shape)
    due, seen = Counter(map(tuple, expected)), Counter(map(tuple, operation.result))
    lost = (promises.D1,) if due - seen else ()
    return Blame(promises.D2, "the search index differs from the messages", lost)


def _blame_prune(state: State, operation: Operation, expected: int) -> Blame:  # noqa: ARG001  (one shape)
    if operation.result > expected:
        lost = (promises.D1,)
        return Blame(promises.D13, "sessions were pruned that have to stay", lost)
    return Blame(promises.D13, "sessions stayed that have to be pruned", (promises.D2,))


def _blame_details(state: State, operation: Operation, expected: Any) -> Blame:
    seen = operation.result
    if expected is None or seen is None:
        return _blame_existence(state, operation, expected)
    wrong = sorted(name for name in expected if seen.get(name) != expected[name])
    return Blame(promises.D13, f"acknowledged values are lost: {', '.join(wrong)}", (promises.D1,))


def _blame_counters(state: State, operation: Operation, expected: dict[str, Any]) -> Blame:
    count, rows = operation.result["message_count"], operation.result["rows"]
    if (count is None) != (expected["message_count"] is None):
        return _blame_existence(state, operation, expected["message_count"] is not None)
    if (count or 0) != rows:
        return Blame(promises.D2, "message_count is not the number of rows")
    if rows < expected["rows"]:
        return Blame(promises.D1, "messages are lost")
    return Blame(promises.D2, "there are messages that were never acknowledged")


BLAMES: Mapping[str, Callable[[State, Operation, Any], Blame]] = {
    "set_title": _blame_existence,
    "delete": _blame_existence,
    "get": _blame_get,
    "details": _blame_details,
    "columns": _blame_details,
    "list": _blame_list,
    "messages": _blame_messages,
    "search": _blame_search,
    "prune": _blame_prune,
    "counters": _blame_counters,
}
