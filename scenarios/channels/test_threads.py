"""Scenario of concurrent readers and collection: a channel lives exactly as long as its readers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import chain, product

from harness.contract import promises
from harness.contract.checkers.threads.channel_lifetime import check_channel_lifetime
from harness.contract.checkers.threads.plain_answers import with_plain_answers
from harness.core.contract import Promise
from harness.core.history import History
from harness.pytest_plugin import Judge
from harness.schedule import Call
from harness.workloads.threads import Interleaving, Program

S = {"session": "s"}
GRACE_S = 60.0
TTL_S = 4 * 3600.0


def subscribe(reader: str) -> Call:
    """A reader subscribes."""
    return Call("subscribe", {**S, "reader": reader})


def leave(reader: str) -> Call:
    """A reader leaves."""
    return Call("leave", {"reader": reader})


def notify(number: int) -> Call:
    """A notice to all subscribed readers."""
    return Call("notify", {**S, "number": number})


COLLECT = Call("collect")
SIZES = Call("sizes")
BEGIN_RUN = Call("begin_run", {**S, "stream": "r"})
GRACE = Call("wait", {"seconds": GRACE_S})
TTL = Call("wait", {"seconds": TTL_S})

# A channel that may be collected, and one that may be as soon as its reader leaves.
ABANDONED = (subscribe("r0"), leave("r0"), GRACE)
IDLE = (subscribe("r0"), TTL)


def read_events(reader: str) -> Call:
    """A reader subscribes to the session's run, or to its notices."""
    return Call("read_events", {**S, "reader": reader})


def watch_list(reader: str) -> Call:
    """A reader subscribes to the list of sessions."""
    return Call("watch_list", {"reader": reader})


def change_list(number: int) -> Call:
    """A change of the list of sessions."""
    return Call("change_list", {"reason": f"change {number}"})


def program(name: str, first: tuple[Call, ...], *threads: tuple[Call, ...]) -> Program:
    """Concurrent threads, a last notice to all readers, and a collection after they left."""
    calls = chain.from_iterable(threads)
    readers = [call.argument["reader"] for call in calls if call.function == "subscribe"]
    heard = (Call("heard", {"reader": reader}) for reader in readers)
    gone = (leave(reader) for reader in readers)
    last = (notify(9), *heard, SIZES, *gone, GRACE, COLLECT, SIZES)
    return Program(name, threads, promises.C9, first, last)


READ = Call("read_run", {"stream": "r"})
RELAY = Call("relay_run", {"stream": "r", "clients": 2})
END = Call("end_run", {"stream": "r"})
CLOSE = Call("close_all")


def emit(number: int, event: str = "token") -> Call:
    """An event of the run."""
    return Call("emit", {**S, "stream": "r", "number": number, "event": event})


LAST = emit(3, "stream_end")


WITHDRAW = Call("withdraw", {"stream": "r"})
FORGET = Call("forget", S)
NEXT_RUN = Call("begin_run", {**S, "stream": "n"})
BEGUN = (BEGIN_RUN, emit(1))
SUBSCRIBES = ("subscribe", "read_events", "watch_list", "greet")


def count(messages: int) -> Call:
    """The session has this number of messages from now on."""
    return Call("count", {**S, "messages": messages})


def heard(reader: str) -> Call:
    """A reader takes all that it can get."""
    return Call("heard", {"reader": reader})


def met_program(
    name: str, stuck: Promise, first: tuple[Call, ...], *threads: tuple[Call, ...], late: str = ""
) -> Program:
    """Concurrent threads; then each reader, and a `late` one, reports what it received."""
    calls = (*first, *chain.from_iterable(threads))
    readers = [call.argument["reader"] for call in calls if call.function in SUBSCRIBES]
    last = (subscribe(late),) if late else ()
    ends = map(heard, (*readers, *filter(None, [late])))
    return Program(name, threads, stuck, first, (*last, *ends))


CHANGES = (
    met_program(
        "a notice meets a reader that has taken all",
        promises.C3,
        (subscribe("r0"), heard("r0")),
        (heard("r0"),),
        (notify(1),),
    ),
    met_program(
        "two changes of the list meet a reader",
        promises.C3,
        (watch_list("l0"),),
        (change_list(1),),
        (change_list(2),),
        (watch_list("l1"),),
    ),
    met_program(
        "readers meet a run's start",
        promises.C7,
        (),
        (subscribe("r1"),),
        (read_events("r2"),),
        BEGUN,
    ),
    met_program(
        "readers meet a run's end",
        promises.C7,
        BEGUN,
        (subscribe("r1"),),
        (read_events("r2"),),
        (END,),
        late="r3",
    ),
    met_program(
        "a reader meets a cancel",
        promises.C7,
        BEGUN,
        (subscribe("r1"), subscribe("r2")),
        (WITHDRAW, END),
        late="r3",
    ),
    met_program(
        "a run ends as the next one begins",
        promises.C7,
        BEGUN,
        (subscribe("r1"),),
        (END,),
        (NEXT_RUN,),
        late="r3",
    ),
    met_program(
        "readers meet the shutdown",
        promises.H3,
        (subscribe("r0"), watch_list("l0")),
        (subscribe("r1"),),
        (BEGIN_RUN, read_events("r2")),
        (CLOSE,),
        late="r3",
    ),
    met_program(
        "a reader meets a deletion",
        promises.C9,
        (subscribe("r0"),),
        (subscribe("r1"), notify(1)),
        (FORGET,),
        late="r3",
    ),
    Program(
        "an event is published twice",
        ((emit(1), emit(2)), (emit(2), emit(1))),
        promises.C2,
        (BEGIN_RUN,),
        (LAST, READ, SIZES),
    ),
    met_program(
        "a client meets the end of a turn",
        promises.C3,
        (count(2),),
        (Call("greet", {**S, "reader": "r1", "known": 2}),),
        (count(4),),
    ),
)


def run_program(name: str, first: tuple[Call, ...], *threads: tuple[Call, ...]) -> Program:
    """Concurrent threads that emit, read and end one run; a reader waits for its end.

    One that waits to the end was not closed, or was not woken for the events that it lacks.
    """
    also = (promises.C3,)
    return Program(name, threads, promises.C6, (BEGIN_RUN, *first), (SIZES,), also=also)


RUNS = (
    run_program("a reader meets the end", (emit(1), emit(2)), (READ,), (LAST, END)),
    run_program("a reader meets the events", (emit(1),), (READ,), (emit(2), LAST, END)),
    run_program("two readers meet the end", (emit(1), emit(2)), (READ,), (READ,), (LAST, END)),
    run_program("a reader meets a run without a last event", (emit(1),), (READ,), (END,)),
    replace(
        run_program("two threads meet a relay", (), (RELAY,), (emit(1), LAST), (emit(2),)),
        strategies=("sticky", "pct-3"),
    ),
    run_program("a reader meets the shutdown", (emit(1),), (READ,), (emit(2),), (CLOSE,)),
)


def met(function: str, other: str) -> Callable[[History], bool]:
    """Two calls overlapped."""

    def overlapped(history: History) -> bool:
        pairs = product(history.of(function), history.of(other))
        return any(one.meets(two) for one, two in pairs)

    return overlapped


def reader_met_end(history: History) -> bool:
    """A reader of a run overlapped the run's end."""
    reads, ends = history.of("read_run"), history.of("end_run")
    return any(one.meets(other) for one, other in product(reads, ends))


def late_reader(history: History) -> bool:
    """A reader came after the run had ended."""
    reads, ends = history.of("read_run"), history.of("end_run")
    return any(end.precedes(read) for read, end in product(reads, ends))


def reader_met_collection(history: History) -> bool:
    """A subscription overlapped a collection."""
    calls = ([op for op in history if op.function == name] for name in ("subscribe", "collect"))
    return any(one.meets(other) for one, other in product(*calls))


def channel_was_collected(history: History) -> bool:
    """A collection before the last one found a channel."""
    collected = [op.result for op in history.happened.of("collect")]
    return any(collected[:-1])


# Calls that nothing may refuse, and calls that return nothing.
SILENT = (
    *("begin_run", "change_list", "close_all", "count", "end_run", "forget", "greet", "leave"),
    "notify",
    *("read_events", "subscribe", "wait", "watch_list", "withdraw"),
)
ACCEPTED = (*SILENT, "collect", "emit", "heard", "read_run", "relay_run", "sizes")

MEETINGS = Interleaving(
    programs=(
        program("a reader", ABANDONED, (COLLECT,), (subscribe("r1"), notify(1))),
        program("two readers", ABANDONED, (COLLECT,), (subscribe("r1"),), (subscribe("r2"),)),
        program("a run", ABANDONED, (COLLECT,), (subscribe("r1"),), (BEGIN_RUN,)),
        program(
            "a reader replaces another",
            IDLE,
            (leave("r0"),),
            (COLLECT,),
            (subscribe("r1"), notify(1)),
        ),
        *RUNS,
        *CHANGES,
    ),
    modules=("reference_impl.live.event_buffer", "reference_impl.web.streams"),
    check=with_plain_answers(check_channel_lifetime, promises.C9, accepted=ACCEPTED, silent=SILENT),
    meetings={
        "a reader met a collection": reader_met_collection,
        "a channel was collected": channel_was_collected,
        "a reader met the end of its run": reader_met_end,
        "a reader came after the end": late_reader,
        "events met a relay": met("relay_run", "emit"),
        "two changes of the list met": met("change_list", "change_list"),
        "a reader met a run's start": met("read_events", "begin_run"),
        "a reader met a cancel": met("subscribe", "withdraw"),
        "a reader met a shutdown": met("subscribe", "close_all"),
        "a run began in a shutdown": met("begin_run", "close_all"),
        "a reader met a deletion": met("subscribe", "forget"),
        "an event met itself": met("emit", "emit"),
        "a notice met a reader": met("heard", "notify"),
        "a client met the end of a turn": met("greet", "count"),
    },
    needs={
        "a reader met the end of its run": ("read_run",),
        "a reader came after the end": ("read_run",),
        "events met a relay": ("relay_run",),
        "a reader met a run's start": ("read_events",),
        "a reader met a shutdown": ("close_all",),
        "a run began in a shutdown": ("close_all",),
        "a reader met a deletion": ("forget",),
        "an event met itself": ("read_run",),
        "a client met the end of a turn": ("greet",),
    },
)

CHANNELS_THREADS = MEETINGS.scenario(
    "channels-threads",
    ability="channels_threads",
    promises=(
        *(promises.C1, promises.C2, promises.C3, promises.C5, promises.C6, promises.C7),
        *(promises.C9, promises.C11, promises.H3),
    ),
    examples=1_600,
)


def test_readers_keep_their_channel_during_collection(judge: Judge) -> None:
    """Readers subscribe, leave and receive notices while channels are collected."""
    assert judge(CHANNELS_THREADS).is_valid
