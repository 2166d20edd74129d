"""Scenario of every stream endpoint with every kind of cursor, walked completely."""

from __future__ import annotations

from collections.abc import Iterator

from harness.contract import promises
from harness.contract.models.stream_cursors import (
    BUFFERED,
    HEADER,
    REPLAYED_MAX,
    SESSION_OF,
    SESSIONS,
    State,
    check_cursors,
    judged,
    run_events,
)
from harness.core.history import History
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

TOKENS = 3
ANOMALIES_MAX = 4  # of one walk; a read that lacks an event waits for a comment
FAR = 10**15 - 1
SIZES = (1, 255, 257, BUFFERED, BUFFERED + 1, BUFFERED + 276)
LARGE = REPLAYED_MAX + 2
NO_CURSORS = (
    *("garbage", ":3", "-1", "current", "current:", "current:x", "current:-1", "unknown:1"),
    *("current:1:1", f"current:{10 * (FAR + 1)}", "ä:1", "current:²"),
)
SUBJECTS = (
    *(("run", run) for run in (*SESSION_OF, "never")),
    *((endpoint, session) for endpoint in ("events", "notices") for session in SESSIONS),
    ("gateway", ""),
    ("list", ""),
)


def cursors() -> Iterator[str]:
    """A cursor at each bound of each stream, and texts that are none."""
    for run in SESSION_OF:
        total = len(run_events(run, TOKENS))
        for seq in (0, 1, total - 1, total, total + 1, FAR):
            yield f"{run}:{seq}"
    for session in (*SESSIONS, "earlier"):
        for seq in (0, 1, 2):
            yield f"notices-{session}:{seq}"
    yield from NO_CURSORS


def cases(endpoint: str, subject: str) -> Iterator[tuple[str | None, str]]:
    """Each cursor by header, those of the subject by each other parameter, and two at once.

    A client that reconnects repeats the parameters of its first request, so its header counts.
    """
    yield None, HEADER
    yield "", "after_event_id"
    for cursor in cursors():
        yield cursor, HEADER
    if endpoint in ("run", "events", "notices"):
        yield from ((f"{subject}:{seq}", "after_event_id") for seq in (0, 1, 2, 9))
        yield from ((f"previous:{seq}", "after_event_id") for seq in (1, 6))
        yield from ((f"{subject}:{seq}", f"{HEADER}+after_event_id") for seq in (0, 1, 2))
    if endpoint == "run":
        for by in (f"{HEADER}+after_seq", "after_event_id+after_seq"):
            yield from ((f"{subject}:{seq}", by) for seq in (1, 2))
        yield from ((text, "after_seq") for text in ("0", "1", "2", "9", f"{FAR}", "x", "-1"))


def walk(context: Context) -> None:
    """Read everything once with each cursor, and runs of each size."""
    for _ in range(context.examples):
        with context.episode() as episode:
            made = episode.client.ask("prepare", {"tokens": TOKENS})
            anomalies = int(judged(State(TOKENS), made) is not None)
            for endpoint, subject in SUBJECTS:
                if anomalies >= ANOMALIES_MAX:
                    break
                state, wanted = State(TOKENS), []
                for cursor, by in cases(endpoint, subject):
                    expected = state.answer(endpoint, subject, cursor, by)
                    wanted.append([cursor, by, len(expected.events), expected.closed])
                argument = {"endpoint": endpoint, "subject": subject, "cases": wanted}
                anomalies += judged(state, episode.client.ask("read", argument)) is not None
            for tokens in (*SIZES, LARGE):
                bounds = {0, 1, tokens - BUFFERED - 1, tokens - BUFFERED, tokens - 1, tokens}
                seqs = sorted(seq for seq in bounds if 0 <= seq <= tokens)
                episode.client.ask("grow", {"tokens": tokens, "cursors": [None, *seqs]})


def _read(endpoint: str) -> Expectation:
    def count(history: History) -> int:
        reads = history.happened.of("read")
        return sum(op.argument["endpoint"] == endpoint and len(op.result) for op in reads)

    return Expectation(f"reads of the endpoint {endpoint}", count, len([*cursors()]))


STREAM_CURSORS = Scenario(
    name="server-stream-cursors",
    mode=Mode.HTTP,
    ability="cursors",
    promises=(
        *(promises.C1, promises.C2, promises.C3, promises.C4, promises.C5),
        *(promises.C6, promises.C7),
    ),
    workload=walk,
    checker=check_cursors,
    expectations=(
        *(_read(endpoint) for endpoint in ("run", "events", "notices", "gateway", "list")),
        Expectation("runs around each bound", lambda h: len(h.happened.of("grow")), len(SIZES)),
    ),
    examples=1,
)


def test_every_cursor_continues_or_gives_a_snapshot(judge: Judge) -> None:
    """Every endpoint with cursors of its own, of other streams, of an earlier process, and none."""
    assert judge(STREAM_CURSORS).is_valid
