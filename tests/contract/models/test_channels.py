"""Tests that the model of the channels accepts right deliveries, and names wrong ones' promises."""

from __future__ import annotations

from typing import Any

import pytest

from harness.checkers.conformance import Fold
from harness.contract import promises
from harness.contract.models.channels import ChannelsModel
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome

Story = list[Operation]


def op(function: str, result: Any = None, **argument: Any) -> Operation:
    """A call, and its result."""
    return Operation(0, function, argument, Outcome.OK, 0, 0, result)


def take(*events: list[Any], woken: bool = False, over: bool = False) -> Operation:
    """Reader a takes everything."""
    answer = {"events": [*events], "woken": woken, "over": over}
    return op("take", answer, reader="a", all=True)


def emit(number: int, accepted: int = 1, event: str = "token") -> Operation:
    size = {"event": event, "size": 100}
    return op("emit", accepted, stream="r", first=number, last=number, **size)


def tokens(first: int, last: int) -> list[Any]:
    return ["tokens", "r", first, last]


def gauges(**changed: int) -> Operation:
    names = ("channels", "channel_runs", "channel_runs_offered", "channel_subscribers")
    sizes = {"channel_frames_kept": 0, "channel_bytes_kept": 0, "skipped": 0}
    return op("gauges", {**dict.fromkeys(names, 0), **sizes, **changed})


RUN = op("open_run", session="s", stream="r")
READ = op("read_run", "reading", stream="r", reader="a", cursor=None)
RESUME = op("read_run", "reading", stream="r", reader="a", cursor=["r", 1])
WATCH = op("watch", "reading", session="s", reader="a", cursor=None)
INITIAL = ["initial", None, {"session_id": "s"}]
START = {"session_id": "s", "stream_id": "r", "source": "user"}
RECOVERED = ["server_turn_started", None, {**START, "recovered": True}]
FOREIGN = ["session_snapshot", None, {"session_id": "S"}]
GRACE = op("wait", seconds=60)
LEAVE = op("leave", reader="a")

RIGHT: list[Story] = [
    [RUN, READ, emit(1), emit(2), take(tokens(1, 2), woken=True), take()],
    [RUN, emit(1), emit(2), RESUME, take(tokens(2, 2))],
    [
        RUN,
        WATCH,
        take(INITIAL, RECOVERED),
        gauges(
            **dict.fromkeys(
                ("channels", "channel_runs", "channel_runs_offered", "channel_subscribers"), 1
            )
        ),
    ],
    [WATCH, LEAVE, GRACE, op("collect", 1), gauges()],
    [WATCH, GRACE, op("collect", 0)],
    [RUN, emit(1), emit(1, accepted=0)],
]
WRONG: list[tuple[Promise, Story]] = [
    (promises.C1, [RUN, READ, emit(1), emit(2), take(tokens(2, 2), tokens(1, 1), woken=True)]),
    (promises.C2, [RUN, READ, emit(1), take(tokens(1, 1), tokens(1, 1), woken=True)]),
    (promises.C2, [RUN, emit(1), emit(1)]),
    (promises.C3, [RUN, READ, emit(1), emit(2), take(tokens(1, 1), woken=True)]),
    (promises.C3, [RUN, READ, take(), emit(1), take(tokens(1, 1))]),
    (promises.C4, [RUN, emit(1), emit(2), RESUME, take(tokens(1, 2))]),
    (promises.C4, [RUN, op("read_run", "missing", stream="r", reader="a", cursor=None)]),
    (promises.C5, [RUN, WATCH, take(INITIAL, FOREIGN)]),
    (
        promises.C6,
        [RUN, READ, emit(1, event="cancel"), take(["cancel", "r:1", {"number": 1}], woken=True)],
    ),
    (promises.C7, [RUN, WATCH, take(INITIAL)]),
    (promises.C8, [RUN, READ, take(["session_snapshot", "r:0", {"session_id": "s"}])]),
    (promises.C8, [WATCH, LEAVE, GRACE, op("collect", 1), gauges(channel_bytes_kept=9)]),
    (promises.C9, [WATCH, LEAVE, op("wait", seconds=59), op("collect", 1)]),
    (promises.C9, [WATCH, LEAVE, GRACE, op("collect", 0)]),
    (promises.C9, [WATCH, GRACE, op("collect", 1)]),
    (promises.C11, [WATCH, LEAVE, gauges(channels=1, channel_subscribers=1)]),
    (promises.W7, [emit(1, accepted=0), gauges()]),
    (promises.C9, [Operation(0, "collect", {}, Outcome.FAIL, 0, 0, error="KeyError: 's'")]),
]


@pytest.mark.parametrize("story", RIGHT)
def test_right_delivery_is_accepted(story: Story) -> None:
    fold = Fold(ChannelsModel())
    for operation in story:
        assert fold.step(operation) is None


@pytest.mark.parametrize(("promise", "story"), WRONG)
def test_wrong_delivery_names_its_promise(promise: Promise, story: Story) -> None:
    fold = Fold(ChannelsModel())
    *_, last = [fold.step(operation) for operation in story]
    assert last is not None
    assert promise in last.promises
    assert fold.anomalies == 1


def test_model_goes_on_behind_wrong_delivery() -> None:
    """A reader that missed an event is not judged any more; the others are."""
    fold = Fold(ChannelsModel())
    for operation in [RUN, READ, emit(1), take(woken=True), take(tokens(7, 7)), GRACE]:
        fold.step(operation)
    assert fold.anomalies == 1
    assert fold.step(op("collect", 1)) is not None
