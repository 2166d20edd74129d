"""Scenarios of a long-running host: it grows no larger and no busier than after its warm-up.

Sizes are sampled at a fixed number of operations, and judged by their slopes per operation: a leak
of one entry a session shows early, and is named by its container. The host has small caches, so
that it is warm soon; the largest keeps the last 256 turns.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.checkers.growth import SAMPLE, Controls, GrowsWithin, Limit
from harness.checkers.idle_cost import idles_within
from harness.contract import promises
from harness.contract.agent_script import Tokens
from harness.contract.checkers.server.container_sizes import SizesOf, all_of, check_idle_sizes
from harness.contract.workloads.session_churn import CACHE_TURNS, Churn
from harness.core.history import History
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

OPERATIONS_A_TURN = 1.7  # of the churn
WARM_UP = round(1.5 * CACHE_TURNS * OPERATIONS_A_TURN)
SAMPLE_EVERY = 12  # operations; a container that no act explains is noticed at any of them
SAMPLES_MIN = 64
TALK_WARM_UP = 12  # turns; the journals of 8 are kept

IN_MEMORY = Path("/dev/shm")  # noqa: S108 - the speed of a disk is no part of this

IDLE_S = 1.5
SETTLING_S = 0.7
READERS = 20
CORE_SHARE_MAX = 0.01
WAKEUPS_MAX = 50.0  # a second; the fastest timer of the host ticks twice

ENTRY = 0.01  # an operation: a tenth of one entry a session
BYTES = 100.0  # an operation
BLOCKS = 1.0  # an operation
KIB = 1024
MIB = 1024 * KIB

LIMITS = (
    Limit("containers/lifecycle_entries", promises.L9, ENTRY),
    Limit("watcher/projections_unasked", promises.G2, ENTRY),
    Limit("idle/cpu_s", promises.H5, 0.0, CORE_SHARE_MAX),
    Limit("idle/wakeups", promises.H5, 0.0, WAKEUPS_MAX),
    Limit("containers/wakeup_*", promises.W9, ENTRY),
    Limit("containers/process*", promises.W9, ENTRY),
    Limit("containers/channel_frames_kept", promises.C8, ENTRY),
    Limit("containers/channel_bytes_kept", promises.C8, BYTES),
    Limit("containers/channels", promises.C9, ENTRY),
    Limit("containers/channel_*", promises.C8, ENTRY),
    Limit("containers/agents_*", promises.A1, ENTRY),
    Limit("containers/sessions_held", promises.A6, ENTRY),
    Limit("containers/run*", promises.T3, ENTRY),
    Limit("containers/streams", promises.T3, ENTRY),
    Limit("containers/turn_journal", promises.T6, ENTRY),
    Limit("containers/*_bytes*", promises.H4, BYTES),
    Limit("containers/*", promises.H4, ENTRY),
    Limit("files/turn_journal_bytes", promises.T6, BYTES, 256 * KIB),
    Limit("files/run_journal_bytes", promises.T6, BYTES, 256 * KIB),
    Limit("files/process_ledger_bytes", promises.W9, BYTES, 256 * KIB),
    Limit("files/state_db_wal_bytes", promises.D6, BYTES, 16 * MIB),
    Limit("files/*", promises.H4, BYTES, MIB),
    Limit("process/threads", promises.H4, ENTRY),
    Limit("process/fds", promises.H4, ENTRY),
    Limit("process/blocks", promises.H4, BLOCKS),
    Limit("process/uss_bytes", promises.H4, BYTES, 16 * MIB),  # page caches and arenas fill late
)
SIZES = SizesOf(agents_max=4, sessions_max=8)  # the caches of the *soak* ability
CHURN_GROWTH = GrowsWithin(LIMITS, WARM_UP, Controls("sessions", "cached", ENTRY))
TALK_GROWTH = GrowsWithin(
    (Limit("files/run_journal_bytes", promises.T6, BYTES),),
    TALK_WARM_UP,
    Controls("files/sidecar_bytes", "sessions", ENTRY),
)


@contextmanager
def in_memory(folder: Path) -> Iterator[None]:
    """Keep the folder's `state` in memory, where the system has a memory file system."""
    memory = IN_MEMORY if IN_MEMORY.is_dir() else None
    state = Path(tempfile.mkdtemp(prefix="harness-", dir=memory))
    (folder / "state").symlink_to(state)
    try:
        yield
    finally:
        shutil.rmtree(state, ignore_errors=True)


def churn(context: Context) -> None:
    """Run to the end of the warm-up, and then for a sample for each example."""
    samples = max(SAMPLES_MIN, context.examples)
    _churn(context, WARM_UP + samples * SAMPLE_EVERY, context.seed)


def churn_again(context: Context, failed: History) -> None:
    """Run the same operations again."""
    _churn(context, failed.operations[-1].argument["operations"], failed.notes["seed"])


def _churn(context: Context, operations: int, seed: str) -> None:
    with context.episode(seed=seed) as episode, in_memory(episode.folder):
        sessions = Churn(episode.client.ask, random.Random(f"{seed}/churn"))
        while sessions.operations < operations:
            due = sessions.operations + SAMPLE_EVERY
            while sessions.operations < due:
                sessions.step()
            sessions.sample()


def talk(context: Context) -> None:
    """Run turns in one session that is never cleared."""
    _talk(context, TALK_WARM_UP + max(SAMPLES_MIN, context.examples))


def talk_again(context: Context, failed: History) -> None:
    """Run the same number of turns again."""
    _talk(context, failed.operations[-1].argument["operations"])


def _talk(context: Context, turns: int) -> None:
    with context.episode() as episode, in_memory(episode.folder):
        episode.client.ask("new", {"session": "s"})
        for turn in range(1, turns + 1):
            episode.client.ask("chat", {"session": "s", "text": f"{Tokens(3).directive}"})
            episode.client.ask("sample", {"operations": turn, "sessions": 1})


def idle(context: Context) -> None:
    """Make no call for a time: before any work, with open readers, and after all have left."""
    seconds = IDLE_S * max(1.0, context.examples / 10)
    with context.episode() as episode:
        ask = episode.client.ask
        ask("rest", {"seconds": SETTLING_S})
        ask("idle", {"seconds": seconds})
        ask("new", {"session": "s"})
        ask("chat", {"session": "s", "text": "good morning"})
        for tab in range(READERS):
            ask("open_tab", {"tab": f"t{tab}", "session": "s"})
        ask("rest", {"seconds": SETTLING_S})
        ask("idle", {"seconds": seconds})
        ask("process", {"session": "s"})
        ask("cancel", {"session": "s"})
        for tab in range(READERS):
            ask("close_tab", {"tab": f"t{tab}"})
        ask("rest", {"seconds": SETTLING_S})
        ask("idle", {"seconds": seconds})


def _sessions(history: History) -> int:
    counts = (op.argument["sessions"] for op in history.happened.of(SAMPLE))
    return max(counts, default=0)


CHURN = Scenario(
    name="soak-churn",
    mode=Mode.SOAK,
    ability="soak",
    promises=(
        *(promises.L9, promises.A1, promises.A6, promises.W9, promises.C8, promises.C9),
        *(promises.T3, promises.T6, promises.G2, promises.D6, promises.H4),
    ),
    workload=churn,
    checker=all_of(SIZES, CHURN_GROWTH),
    expectations=(
        Expectation("there were enough samples", CHURN_GROWTH.judgeable),
        Expectation("sessions came and went", _sessions, 100),
    ),
    examples=SAMPLES_MIN,
    replay=churn_again,
    extras=("soak",),
)

TALK = Scenario(
    name="soak-one-long-session",
    mode=Mode.SOAK,
    ability="soak",
    promises=(promises.T6,),
    workload=talk,
    checker=all_of(SIZES, TALK_GROWTH),
    expectations=(Expectation("there were enough samples", TALK_GROWTH.judgeable),),
    examples=SAMPLES_MIN,
    replay=talk_again,
    extras=("soak",),
)


IDLE = Scenario(
    name="soak-idle",
    mode=Mode.SOAK,
    ability="soak_served",
    promises=(promises.H5,),
    workload=idle,
    checker=all_of(idles_within(promises.H5, CORE_SHARE_MAX, WAKEUPS_MAX), check_idle_sizes),
    expectations=(Expectation("the host was idle", lambda history: len(history.of("idle")), 3),),
    examples=10,
)


def test_idle_host_costs_next_to_nothing(judge: Judge) -> None:
    """Without a database, with twenty open readers, and after work and readers are over."""
    assert judge(IDLE).is_valid


def test_turn_adds_constant_size_to_the_journal(judge: Judge) -> None:
    """At any length of the session."""
    assert judge(TALK).is_valid


def test_host_size_is_independent_of_past_sessions(judge: Judge) -> None:
    """Containers, files, threads and memory stay as they were after the warm-up."""
    assert judge(CHURN).is_valid
