"""Scenarios of a server under load: many clients at once, each stream checked while it is read.

The checker judges facts: numbers of events, statuses, wakeups. Each user does a number of acts in
any time, so that a slow machine does the same as a fast one.
"""

from __future__ import annotations

from pathlib import Path

from harness.contract import promises
from harness.contract.checkers.server.sse_delivery import check_load, counted
from harness.contract.workloads.load import Load, load_again, load_workload
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
WRITE_DEADLINE_S = 1.0
STREAMS_MAX = 24

_MANY = load_workload(
    Load(
        mix={
            "Chatter": 3,
            "Watcher": 6,
            "Reconnector": 3,
            "Listener": 1,
            "Waker": 1,
            "Presser": 3,
            "SlowReader": 1,
            "Staller": 1,
            "Poller": 1,
        },
        write_deadline_s=WRITE_DEADLINE_S,
        settings={"HERMES_WEBUI_SSE_WRITE_DEADLINE": f"{WRITE_DEADLINE_S}"},
    ),
    LOCUSTFILE,
)
MANY_CLIENTS = Scenario(
    name="load-many-clients",
    mode=Mode.LOAD,
    ability="server",
    promises=(
        *(
            promises.C1,
            promises.C2,
            promises.C3,
            promises.C4,
            promises.C5,
            promises.C6,
            promises.C8,
        ),
        *(promises.W1, promises.W6, promises.W7, promises.W10, promises.S2),
    ),
    workload=_MANY,
    checker=check_load,
    expectations=(
        Expectation("events on streams that were checked", counted("read", "events"), 1000),
        Expectation("a reader resumed with a cursor", counted("read", "is_resumed"), 3),
        Expectation("a silence was broken by a comment", counted("read", "comments")),
        Expectation("a stalled reader was dropped", counted("stall", "is_dropped")),
        Expectation("a user was refused because of a wakeup", counted("press", "refusals")),
        Expectation("an output woke a session", counted("messages", "wakeups")),
        Expectation("a call was answered meanwhile", counted("poll", "is_answered"), 10),
    ),
    examples=1,
    replay=load_again(_MANY),
    extras=("load",),
)

_ALL_TAKEN = load_workload(
    Load(
        mix={"Holder": 1, "Poller": 2},
        streams_max=STREAMS_MAX,
        settings={"HERMES_WEBUI_STREAMS_MAX": f"{STREAMS_MAX}"},
    ),
    LOCUSTFILE,
)
ALL_STREAMS_TAKEN = Scenario(
    name="load-full-house",
    mode=Mode.LOAD,
    ability="server",
    promises=(promises.C10,),
    workload=_ALL_TAKEN,
    checker=check_load,
    expectations=(
        Expectation("every stream was taken", counted("hold", "is_full")),
        Expectation("a call was answered meanwhile", counted("poll", "is_answered"), 10),
    ),
    examples=1,
    replay=load_again(_ALL_TAKEN),
    extras=("load",),
)


def test_streams_under_load_are_complete_and_separate(judge: Judge) -> None:
    """Clients chat, read, stall, resume and are woken; none loses or gets a foreign event."""
    assert judge(MANY_CLIENTS).is_valid


def test_server_with_all_streams_taken_answers(judge: Judge) -> None:
    """Health and the session list are answered while no stream is free."""
    assert judge(ALL_STREAMS_TAKEN).is_valid
