"""A server under load: many clients at once, each stream checked while it is read.

What is judged are facts: numbers of events, statuses, who was woken how often. Users do so many
acts, however long that takes, so the same is asked of a slow machine as of a fast one.
"""

from __future__ import annotations

from pathlib import Path

from harness.contract.checkers.server.sse_delivery import counted, under_load
from harness.contract.workloads.load import Load, again, under
from harness.core.promises import Promise
from harness.engine.scenario import Expectation, Mode, Scenario
from scenarios.conftest import Judge

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
WRITE_DEADLINE_S = 1.0
STREAMS_MAX = 24

_MANY = under(
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
        *(Promise.C1, Promise.C2, Promise.C3, Promise.C4, Promise.C5, Promise.C6, Promise.C8),
        *(Promise.W1, Promise.W6, Promise.W7, Promise.W10, Promise.S2),
    ),
    workload=_MANY,
    checker=under_load,
    expectations=(
        Expectation("events on streams that were checked", counted("read", "events"), 1000),
        Expectation("a reader came back with a cursor", counted("read", "is_resumed"), 3),
        Expectation("a silence was broken", counted("read", "comments")),
        Expectation("a stalled reader was dropped", counted("stall", "is_dropped")),
        Expectation("a user was refused for a wakeup", counted("press", "refusals")),
        Expectation("an output woke a session", counted("messages", "wakeups")),
        Expectation("a call was answered meanwhile", counted("poll", "is_answered"), 10),
    ),
    examples=1,
    replay=again(_MANY),
)

_FULL = under(
    Load(
        mix={"Holder": 1, "Poller": 2},
        streams_max=STREAMS_MAX,
        settings={"HERMES_WEBUI_STREAMS_MAX": f"{STREAMS_MAX}"},
    ),
    LOCUSTFILE,
)
FULL_HOUSE = Scenario(
    name="load-full-house",
    mode=Mode.LOAD,
    ability="server",
    promises=(Promise.C10,),
    workload=_FULL,
    checker=under_load,
    expectations=(
        Expectation("every stream was taken", counted("hold", "is_full")),
        Expectation("a call was answered meanwhile", counted("poll", "is_answered"), 10),
    ),
    examples=1,
    replay=again(_FULL),
)


def test_each_of_many_streams_is_whole_and_its_own(judge: Judge) -> None:
    """Many read, chat, stall, come back and are woken, and none loses or sees what it must not."""
    assert judge(MANY_CLIENTS).is_valid


def test_a_full_house_still_answers(judge: Judge) -> None:
    """While every stream is taken, health and the list are answered."""
    assert judge(FULL_HOUSE).is_valid
