"""What a server grants its readers, as facts: each answer of the *streams* ability by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.core.history import Operation, Outcome
from harness.core.model import Refusal
from harness.core.promises import Promise

OK, UNAVAILABLE = 200, 503
KEPT_BYTES_MAX = 1 << 20  # for one session that is shown, whoever reads it or does not
SILENCE_S = 5.0
SURE_SILENCE_S = 10.0  # up to here it may have been the machine


class StreamsModel:
    """No state: each question boots a server of its own."""

    name = "streams"

    def initial(self) -> None:
        """Nothing."""

    def step(self, state: None, operation: Operation) -> tuple[None] | Refusal:
        """Judge one answer."""
        if operation.outcome is Outcome.INFO:
            return (state,)
        if operation.outcome is Outcome.FAIL:
            return Refusal(_BLAMED[operation.function], f"{operation}")
        wrong = _WRONG[operation.function](operation.argument, operation.result)
        for promise, is_wrong in wrong.items():
            if is_wrong:
                return Refusal(promise, f"{operation}")
        return (state,)


def _stalled(argument: Mapping[str, Any], told: Mapping[str, Any]) -> dict[Promise, bool]:
    """Who reads all is given all, and who takes nothing is dropped."""
    others = told["last"] == "stream_end" and set(told["answered"]) == {OK}
    is_bounded = told["kept_bytes"] <= KEPT_BYTES_MAX
    is_dropped = told["let_go"] and told["dropped"] == argument["readers"]
    return {
        Promise.C3: not told["whole"],
        Promise.C8: not (others and is_bounded and is_dropped),
    }


def _filled(argument: Mapping[str, Any], told: Mapping[str, Any]) -> dict[Promise, bool]:
    """Streams are refused, and nothing else is."""
    others = set(told["answered"]) == {OK} and told["started"]
    refused = set(told["refused"]) == {UNAVAILABLE}
    return {
        Promise.C10: not (others and refused and told["again"]),
        Promise.H4: told["taken"] != argument["streams"],
    }


def _left(_argument: Mapping[str, Any], told: Mapping[str, Any]) -> dict[Promise, bool]:
    """The one that is watched stays, the other one goes."""
    return {Promise.C9: told != {"collected": True, "channels": 1, "heard": True}}


def _silent(_argument: Mapping[str, Any], told: Mapping[str, Any]) -> dict[Promise, bool]:
    """A comment comes in time, and a lock that is held is no hang."""
    return {
        Promise.C6: max(told["silences_s"]) > SURE_SILENCE_S,
        Promise.H6: told["locked"] != [UNAVAILABLE] or told["freed"] != [OK],
    }


def _stopped(_argument: Mapping[str, Any], told: Mapping[str, Any]) -> dict[Promise, bool]:
    """Whoever watches is let go, if only by the kernel; from outside that cannot be told apart."""
    return {Promise.H3: told["code"] != 0 or not all(told["ended"])}


_WRONG = {
    "stall": _stalled,
    "fill": _filled,
    "leave": _left,
    "keep_silent": _silent,
    "stop": _stopped,
}
_BLAMED = {
    "stall": Promise.C8,
    "fill": Promise.C10,
    "leave": Promise.C9,
    "keep_silent": Promise.C6,
    "stop": Promise.H3,
}
