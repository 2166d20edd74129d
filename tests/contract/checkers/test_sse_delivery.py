"""Tests of the checks of streams and of a load: sound streams, and each breach of C1 to C10."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.contract import promises
from harness.contract.checkers.server.sse_delivery import check_delivery, check_load
from harness.contract.checkers.server.stream_reader import StreamReader
from harness.core.contract import Promise
from harness.core.history import FaultInterval, History, Operation, Outcome
from harness.core.sse import COMMENT, Frame, Frames
from harness.core.verdict import Validity

MS = 1_000_000


def event(seq: int | None, name: str = "token", stream: str = "r", **data: Any) -> bytes:
    """One event on the wire."""
    head = "" if seq is None else f"id: {stream}:{seq}\n"
    payload = json.dumps(data, separators=(",", ":"))
    return f"{head}event: {name}\ndata: {payload}\n\n".encode()


def read(
    *events: bytes, after: int | None = None, stream: str | None = "r", notices: bool = False
) -> dict[str, Any]:
    """The result of a connection that received these events and was closed."""
    reading = StreamReader("s", stream, after, is_notices=notices)
    for number, data in enumerate(events, start=1):
        reading.take(data, number * MS)
    return reading.end("closed", (len(events) + 1) * MS)


def broken(result: dict[str, Any]) -> list[str]:
    """The promises that a connection found broken."""
    return [found["promise"] for found in result["found"]]


def run(count: int, first: int = 1) -> list[bytes]:
    """A run's events, and its end."""
    return [event(seq) for seq in range(first, count)] + [event(count, "stream_end")]


@given(st.integers(1, 50), st.integers(0, 49), st.randoms(use_true_random=False))
def test_sound_stream_is_valid_in_any_pieces(count: int, after: int, chance: random.Random) -> None:
    """From its start or after a cursor, with comments in between."""
    after = min(after, count - 1)
    wire = b"".join(
        data + (b": heartbeat\n\n" if chance.random() < 0.2 else b"")
        for data in run(count, after + 1)
    )
    cuts = sorted(chance.randrange(len(wire)) for _ in range(5))
    pieces = [wire[i:j] for i, j in zip([0, *cuts], [*cuts, len(wire)], strict=True)]

    result = read(*pieces, after=after or None)

    assert broken(result) == []
    assert (result["first"], result["last"], result["terminal"]) == (after + 1, count, "stream_end")
    assert result["events"] == count - after


@given(st.integers(3, 20), st.data())
def test_stream_breach_names_its_promise(count: int, data: st.DataObject) -> None:
    """A missing event breaks C3, a repeated one C2, two swapped ones C1."""
    events = run(count)
    where = data.draw(st.integers(1, count - 2))
    twice = [*events[: where + 1], *events[where:]]
    left_out = [*events[:where], *events[where + 1 :]]
    exchanged = [*events[:where], events[where + 1], events[where], *events[where + 2 :]]

    assert set(broken(read(*twice))) >= {"C2"}
    assert broken(read(*left_out)) == ["C3"]
    assert broken(read(*exchanged))[0] == "C1"
    assert "C3" not in broken(read(*exchanged))


def test_gap_names_the_missing_events() -> None:
    found = read(event(1), event(4))["found"]

    assert found[0]["ids"] == ["r:2", "r:3"]


@pytest.mark.parametrize("first", [3, 6])
def test_wrong_resumption_breaks_c4(first: int) -> None:
    """After 4 comes 5, or a snapshot."""
    assert broken(read(event(first), after=4)) == ["C4"]


def test_snapshot_excuses_a_gap() -> None:
    snapshot = event(7, "session_snapshot", session_id="s")

    assert broken(read(snapshot, event(8), after=4)) == []
    assert broken(read(event(1), snapshot, event(8))) == []
    assert broken(read(event(1), event(3), snapshot, event(8))) == []


def test_notices_change_stream_behind_a_snapshot_only() -> None:
    """As after a restart, when the channel has another name."""
    snapshot = event(0, "session_snapshot", "n2", session_id="s")
    notices = [event(1, "session-updated", "n2", session_id="s")]

    assert broken(read(snapshot, *notices, after=4, stream="n1", notices=True)) == []
    assert broken(read(*notices, after=4, stream="n1", notices=True)) == ["C4"]


def test_event_of_another_session_breaks_c5() -> None:
    """With any id, and with or without blanks in its data."""
    ours = event(None, "initial", session_id="s")
    theirs = event(1, "session-updated", "n1", session_id="t")
    spaced = b'event: x\ndata: {"session_id": "t"}\n\n'

    assert broken(read(ours, theirs, stream=None, notices=True)) == ["C5"]
    assert broken(read(ours, spaced, stream=None, notices=True)) == ["C5"]
    assert broken(read(b'event: x\ndata: {"session_id": "s"}\n\n')) == []


def test_event_of_another_run_breaks_c5() -> None:
    result = read(event(1), event(1, stream="q"), event(2))

    assert broken(result) == ["C5"]
    assert result["found"][0]["also"] == ["W7"]


def test_event_after_terminal_event_breaks_c6() -> None:
    assert broken(read(event(1, "stream_end"), event(2))) == ["C6"]
    assert broken(read(event(1, "done"), event(2, "stream_end"))) == []


def test_stream_open_after_terminal_event_breaks_c6() -> None:
    reading = StreamReader("s", "r", None, is_notices=False)
    reading.take(event(1, "apperror"), MS)

    assert broken(reading.end("silent", 20_000 * MS)) == ["C6"]


def test_silence_counts_while_the_reader_reads() -> None:
    """Bytes that the kernel buffered while the reader was busy were not late.

    opened   listen   ev               ev      left
    |--------|--------|----------------|-------|
             1 s      2 s              5 s     7 s: three seconds at most
    """
    reading = StreamReader("s", "r", None, is_notices=False)
    reading.listen(1000 * MS)
    reading.take(event(1), 2000 * MS)
    reading.take(event(2), 5000 * MS)

    assert reading.end("left", 7000 * MS)["silence_ms"] == 3000.0


def test_malformed_id_breaks_c1() -> None:
    assert broken(read(b"id: 17\nevent: token\ndata: {}\n\n")) == ["C1"]


def test_frames_are_cut_in_any_field_order() -> None:
    wire = b"data: a\ndata: b\nid: r:1\nevent: x\n\n: hello\n\ndata: c\n\nid: r:2\nevent: y\nda"

    assert Frames().cut(wire) == [
        Frame(b"r:1", b"x", b"a\nb"),
        COMMENT,
        Frame(None, b"message", b"c"),
    ]


# Histories


def op(
    function: str, argument: Any, result: Any, at_ms: int = 0, ended_ms: int | None = None
) -> Operation:
    ended_ns = (at_ms + 10 if ended_ms is None else ended_ms) * MS
    return Operation(1, function, argument, Outcome.OK, at_ms * MS, ended_ns, result)


def reading(result: dict[str, Any], stream: str = "r", **argument: Any) -> Operation:
    asked = {"session": "s", "stream": stream, "after": None, "notices": False, **argument}
    return op("read", asked, result, 0, 30_000)


def send(text: str = "hi", tokens: int | None = None, outputs: Sequence[str] = ()) -> Operation:
    asked = {"session": "s", "text": text, "tokens": tokens, "outputs": list(outputs)}
    return op("send", asked, {"status": 200, "stream": "r", "active": None})


def messages(
    users: Sequence[str] = ("hi",), woken: Sequence[str] = (), sid: str = "s"
) -> Operation:
    return op("messages", {"session": sid}, {"users": list(users), "woken": list(woken)})


def generate(
    cpu_share: float = 0.1, p50: float = 0.1, p99: float = 1.0, lag_max: float = 5.0
) -> Operation:
    lag = {"p50": p50, "p99": p99, "max": lag_max}
    return op("generate", None, {"cpu_share": cpu_share, "lag_ms": lag, "unfinished": 0})


def judged(*operations: Operation) -> list[Promise]:
    return [anomaly.promise for anomaly in check_delivery(History(operations)).anomalies]


WHOLE = read(*run(4))


def test_sound_load_is_valid() -> None:
    """One turn, read to its end, that woke its session once."""
    history = History(
        (send(tokens=3, outputs=["p"]), reading(WHOLE), messages(woken=["p"]), generate())
    )

    assert check_load(history).is_valid


@pytest.mark.parametrize(
    ("operations", "promise"),
    [
        ((send(), messages([])), promises.S2),
        ((send(tokens=4), reading(WHOLE)), promises.C3),
        ((send(tokens=2), reading(WHOLE)), promises.C2),
        ((reading(WHOLE), reading(read(*run(5)))), promises.C3),
        ((send(outputs=["p"]), reading(WHOLE), messages()), promises.W1),
        ((send(outputs=["p"]), reading(WHOLE), messages(woken=["p", "p"])), promises.W1),
        (
            (send(outputs=["p"]), reading(WHOLE), messages(), messages((), ["p"], "t")),
            promises.W6,
        ),
        (
            (op("stall", {}, {"end": "held", "fellow": True, "stalled_s": 7.0}),),
            promises.C8,
        ),
        (
            (op("stall", {}, {"end": "dropped", "fellow": False, "stalled_s": 7.0}),),
            promises.C8,
        ),
        (
            (op("press", {"session": "s", "wakeups_max": 3}, {"refusals": 40, "wakeups": 4}),),
            promises.W10,
        ),
        (
            (
                op("hold", {}, {"held": 9, "is_full": True, "full_ns": [0, 900 * MS]}, 0, 1000),
                op("poll", {"path": "/health"}, {"status": 503}, 100),
            ),
            promises.C10,
        ),
    ],
)
def test_load_breach_names_its_promise(operations: tuple[Operation, ...], promise: Promise) -> None:
    assert judged(*operations) == [promise]


def test_unfinished_turn_owes_no_wakeup() -> None:
    """A turn whose end was not observed may not have started its process."""
    assert judged(send(outputs=["p"]), messages()) == []


def test_server_without_a_limit_on_streams_is_rejected() -> None:
    """C10: the holder opens one stream more than the limit, and must be refused."""
    answer = {"held": 10, "is_full": False, "full_ns": [0, 900 * MS]}
    hold = op("hold", {"streams": 9}, answer, 0, 1000)

    assert [anomaly.promise for anomaly in check_delivery(History((hold,))).anomalies] == [
        promises.C10
    ]


def test_refused_call_breaks_c10_with_free_streams_too() -> None:
    """Nothing was wrong with the server, so it has to answer."""
    hold = op("hold", {}, {"held": 9, "is_full": False, "full_ns": [0, 900 * MS]}, 0, 1000)

    assert judged(hold, op("poll", {"path": "/health"}, {"status": 503}, 100)) == [promises.C10]


def test_silence_is_measured_against_own_lag() -> None:
    """Eight seconds break C6, unless the reader's own loop was late.

    server: ev |---------- 8 s ----------| ev     our loop was late by 5 ms: its fault
                                                  ... by 500 ms: not certain
    """
    silent = {**read(event(1)), "silence_ms": 8000.0}

    assert judged(reading(silent), generate(lag_max=5.0)) == [promises.C6]
    assert judged(reading(silent), generate(lag_max=500.0)) == []
    assert judged(reading(silent)) == []


def test_silence_during_a_kill_is_valid() -> None:
    silent = {**read(event(1)), "silence_ms": 8000.0}
    killed = FaultInterval("kill", 1000 * MS, 9000 * MS)
    history = History((reading(silent), generate()))

    assert check_delivery(history).anomalies
    assert not check_delivery(replace(history, faults=(killed,))).anomalies


@pytest.mark.parametrize("generator", [generate(0.97), generate(p50=80.0), generate(p99=2000.0)])
def test_bottleneck_generator_makes_verdict_unknown(generator: Operation) -> None:
    """Its findings stay invalid."""
    good = History((reading(WHOLE), generator))
    bad = History((reading(read(event(1), event(3))), generator))

    assert check_load(good).validity is Validity.UNKNOWN
    assert "bottleneck" in check_load(good).unknowns[0]
    assert check_load(bad).validity is Validity.INVALID


def test_load_without_generator_report_is_unknown() -> None:
    assert check_load(History((reading(WHOLE),))).validity is Validity.UNKNOWN


def test_answers_that_contradict_each_other_are_reported() -> None:
    """Each is one answer that a server under load cannot give."""
    lost = Operation(1, "poll", {"path": "/health"}, Outcome.INFO, 0, None, error="timed out")
    full = {"held": 9, "is_full": True, "full_ns": [0, 900 * MS]}
    made = op("new", {}, {"session": "s"})

    assert judged(lost) == [promises.C10]
    assert judged(op("hold", {"streams": 8}, full, 0, 1000)) == [promises.C10]
    assert judged(made, op("new", {}, {"session": "s"}, 50)) == [promises.S11]
    assert judged(made, op("list", {}, [], 100)) == [promises.S11]
    assert judged(made, op("list", {}, ["s", "s"])) == [promises.S11]
    assert judged(op("press", {"wakeups_max": 6}, {"refusals": 1, "wakeups": 0})) == [promises.W10]
    assert judged(reading({**read(event(1)), "end": "never"})) == [promises.C6]
    assert judged(reading({**read(event(1)), "last": 9})) == [promises.C3]
    stalled = {"end": "gone", "fellow": True, "stalled_s": 1.0}
    assert judged(op("stall", {}, stalled)) == [promises.C8]
    named = {"status": 200, "stream": "r", "active": "q"}
    assert judged(send(), messages(("hi", "never sent"))) == [promises.S2]
    assert judged(op("new", {}, {"session": "z"}), send()) == [promises.S11]
    assert judged(op("send", send().argument, named)) == [promises.T1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"snapshots": 1},
        {"snapshots": -1},
        {"stream": "q"},
    ],
)
def test_relay_with_other_numbers_is_rejected(wrong: dict[str, Any]) -> None:
    """A snapshot stands for events that are missing, so it never comes with all of them."""
    assert judged(reading(WHOLE)) == []
    assert judged(reading({**WHOLE, **wrong})) == [promises.C3]


def test_parts_of_a_run_have_its_tokens() -> None:
    """Three reads: events 1 to 2, those behind 2, and all; or only parts of a known run."""
    first, rest = read(*run(4)[:2]), read(*run(4)[2:], after=2)
    parts = (reading(first), reading(rest, after=2), reading(WHOLE))
    wrong = reading({**rest, "tokens": rest["tokens"] + 1}, after=2)
    none = reading({**first, "tokens": 0})

    assert judged(*parts) == []
    assert judged(parts[0], wrong, parts[2]) == [promises.C3]
    assert judged(none, parts[1], parts[2]) == [promises.C3]
    assert judged(send(tokens=1), parts[0]) == [promises.C3]


@pytest.mark.parametrize(
    "wrong",
    [
        {"snapshots": -1},
        {"tokens": 1},
        {"first": None},
        {"last": None},
        {"first": 0},
        {"last": 5},
        {"stream": None},
    ],
)
def test_notices_with_other_numbers_are_rejected(wrong: dict[str, Any]) -> None:
    """Some events have no number, so there may be more events than numbers, but not fewer."""
    heard = {**WHOLE, "stream": "n", "tokens": 0, "first": 2, "last": 3, "events": 3}
    heard |= {"terminal": "", "end": "left"}

    assert judged(reading(heard, stream="", notices=True)) == []
    assert judged(reading({**heard, **wrong}, stream="", notices=True)) == [promises.C3]


def test_two_streams_of_notices_at_once_are_rejected() -> None:
    """Of one session; and one stream of two sessions. Later there may be another stream."""
    heard = {**WHOLE, "stream": "n", "tokens": 0, "first": 2, "last": 3, "events": 3}
    heard |= {"terminal": "", "end": "left"}
    other = {**heard, "stream": "m"}
    one = reading(heard, stream="", notices=True)
    later = replace(one, invoked_ns=60_000 * MS, completed_ns=90_000 * MS, result=other)

    assert judged(one, reading(heard, stream="", notices=True), later) == []
    assert judged(one, reading(other, stream="", notices=True)) == [promises.C5]
    assert judged(one, reading(heard, stream="", notices=True, session="t")) == [promises.C5]


def test_bytes_without_an_event_are_unknown() -> None:
    """The history says so, and is not valid."""
    result = read(b'{"token": 1}\n{"token": 2}\n')
    verdict = check_delivery(History((reading(result),)))
    assert not verdict.anomalies
    assert "expected an event" in verdict.unknowns[0]
