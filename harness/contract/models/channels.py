"""Model of the live channels: every event that each subscriber receives, from any cursor.

Operations are those of the *channels* ability (`harness.targets`). The model keeps the sizes of all
events of a stream, and a reader is a position in one. So it predicts what a reader at any pace
receives, when it is woken, and the sizes of all containers; time passes by `wait` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from harness.contract import promises
from harness.contract.models.channel_calls import expected_answer
from harness.contract.models.channel_deliveries import broken_by, taken_by
from harness.contract.models.channel_values import LIST, State
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal


class ChannelsModel:
    """What channels may answer."""

    name = "channels"

    def initial(self) -> State:
        """No session, run or reader."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        """The state after the operation, or the promise it broke."""
        if operation.outcome is not Outcome.OK:
            return Refusal(
                _PROMISES.get(operation.function, promises.C3),
                f"{operation.call} raised",
                expected="an answer",
                observed=operation.error,
            )
        if operation.function == "take":
            return _take(state, operation)
        if operation.function == "gauges":
            return _gauges(state, operation)
        after, expected = expected_answer(state, operation.function, operation.argument)
        if operation.result == expected:
            return (after,)
        return Refusal(
            _PROMISES.get(operation.function, promises.C3),
            f"{operation.call} returned another answer",
            (expected,),
            also=_ALSO.get(operation.function, ()),
            expected=f"{expected}",
        )

    def adopt(self, state: State, operation: Operation) -> tuple[State, ...]:
        """Go on behind a wrong delivery or gauge; that reader is not judged any more."""
        if operation.function == "gauges":
            return (state,)
        name = operation.argument.get("reader", "")
        if operation.function != "take" or name not in state.readers:
            return ()
        silent = replace(state.readers[name], is_judged=False)
        return (replace(state, readers={**state.readers, name: silent}),)


def _take(state: State, operation: Operation) -> tuple[State] | Refusal:
    """One reader takes one event, or all of them."""
    name = operation.argument["reader"]
    reader = state.readers[name]
    after, events, is_over = taken_by(state, reader, takes_all=operation.argument["all"])
    result = operation.result
    expected = {"events": events, "woken": reader.is_woken, "over": is_over}
    if result == expected or not reader.is_judged:
        return (replace(state, readers={**state.readers, name: after}),)
    first, *also = dict.fromkeys(broken_by(state, reader, expected, result))
    return Refusal(
        first,
        f"take: reader {name} of {reader.stream or 'rows'} did not receive its events",
        (expected,),
        tuple(also),
        expected=f"{expected}",
    )


def _gauges(state: State, operation: Operation) -> tuple[State] | Refusal:
    open_runs = [name for name, run in state.runs.items() if run.is_open]
    names = [*state.channels.values(), *open_runs, LIST]
    streams = [state.streams[name] for name in names]
    readers = sum(reader.stream in names for reader in state.readers.values())
    expected = {
        "channels": len(state.channels),
        "channel_runs": len(open_runs),
        "channel_runs_offered": len(state.offered),
        "channel_subscribers": readers,
        "channel_frames_kept": sum(s.last - s.first + 1 + len(s.early) for s in streams),
        "channel_bytes_kept": sum(stream.held_bytes for stream in streams),
        "skipped": state.skipped,
    }
    wrong = [name for name, value in expected.items() if operation.result.get(name) != value]
    if not wrong and set(operation.result) == set(expected):
        return (state,)
    first, *also = dict.fromkeys([*(_GAUGES[name] for name in wrong), promises.H4, promises.H8])
    return Refusal(
        first,
        f"gauges: {', '.join(wrong) or 'a gauge'} is wrong",
        (expected,),
        also=tuple(also),
        expected=f"{expected}",
    )


_GAUGES: Mapping[str, Promise] = {
    "channels": promises.C9,
    "channel_runs": promises.T3,
    "channel_runs_offered": promises.C7,
    "channel_subscribers": promises.C11,
    "channel_frames_kept": promises.C8,
    "channel_bytes_kept": promises.C8,
    "skipped": promises.W7,
}
_PROMISES: Mapping[str, Promise] = {
    "open_run": promises.C7,
    "withdraw": promises.C7,
    "emit": promises.C2,
    "close_run": promises.C6,
    "shut": promises.C6,
    "notify": promises.C3,
    "changed": promises.C3,
    "watch": promises.C4,
    "read_run": promises.C4,
    "read_events": promises.C4,
    "watch_list": promises.C4,
    "leave": promises.C11,
    "collect": promises.C9,
    "forget": promises.C9,
}
_ALSO: Mapping[str, tuple[Promise, ...]] = {
    "emit": (promises.C3, promises.W7),
    "notify": (promises.W7, promises.C5),
}
