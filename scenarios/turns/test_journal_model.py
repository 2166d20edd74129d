"""Scenario of any sequence of calls to the run journals, with a walk around their bounds."""

from __future__ import annotations

from itertools import product

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.run_journals import (
    REPLAY_BYTES_MAX,
    REPLAY_ROWS_MAX,
    ROW_BYTES_MAX,
    RUN_BYTES_MAX,
    RUNS_MAX,
    RunJournalsModel,
)
from harness.core.history import History, Outcome
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge
from harness.workloads.stateful import Machine, explore

SESSIONS = st.sampled_from(["s", "S", "s1"])
RUNS = st.sampled_from(["r", "R", "r1", "r-1"])
TEXTS = st.sampled_from(["a", "", "日本 \u2028", "e\u0301", '"\\', "\n{}"])
EVENTS = st.sampled_from(["token", "token", "tool", "done"])
ENDS = {
    "done": ["done", "stream_end"],
    "cancelled": ["cancel"],
    "error": ["apperror"],
}
TURNS_REMEMBERED = (1, 2, 5)
ROOM_BYTES = 1024  # more than a small row needs
CURSORS = ("", ":0", "r", "r:", "r:-1", "r:x", "r:1:2", "r:1 ", " r:1", "r:٣", "../s/r:0", "r:0\n")


class RunJournalsMachine(Machine):
    """Three sessions with runs that live, end, are lost, torn, spoilt and removed."""

    model = RunJournalsModel()

    def __init__(self) -> None:
        super().__init__()
        self.begun: dict[tuple[str, str], str] = {}
        self.rows: dict[tuple[str, str], int] = {}

    def pick(self, data: st.DataObject, *phases: str) -> dict[str, str]:
        """A run in one of these phases."""
        chosen = [key for key, phase in self.begun.items() if phase in phases]
        session, run = data.draw(st.sampled_from(sorted(chosen)))
        return {"session": session, "run": run}

    def has(self, *phases: str) -> bool:
        return any(phase in phases for phase in self.begun.values())

    @rule(session=SESSIONS, run=RUNS)
    def begin(self, session: str, run: str) -> None:
        if self.begun.get((session, run)) != "live":
            self.ask("begin", session=session, run=run)
            self.begun[session, run] = "live"

    @precondition(lambda self: self.has("live", "over"))
    @rule(data=st.data(), event=EVENTS, text=TEXTS)
    def emit(self, data: st.DataObject, event: str, text: str) -> None:
        self.ask("emit", **self.pick(data, "live", "over"), event=event, text=text)

    @precondition(lambda self: self.has("live", "over"))
    @rule(data=st.data(), state=st.sampled_from(sorted(ENDS)))
    def finish_run(self, data: st.DataObject, state: str) -> None:
        run = self.pick(data, "live", "over")
        self.ask("finish", **run, state=state, events=ENDS[state])
        self.begun[run["session"], run["run"]] = "over"

    @precondition(lambda self: self.has("live"))
    @rule(data=st.data())
    def seal(self, data: st.DataObject) -> None:
        self.ask("seal", **self.pick(data, "live"))

    @rule()
    def restart(self) -> None:
        self.ask("restart")
        self.begun = dict.fromkeys(self.begun, "lost")

    @precondition(lambda self: self.has("lost"))
    @rule(data=st.data())
    def tear(self, data: st.DataObject) -> None:
        self.ask("tear", **self.pick(data, "lost"))

    @rule(session=SESSIONS, run=RUNS, ending=st.sampled_from(["completed", "interrupted"]))
    def write_missing_end(self, session: str, run: str, ending: str) -> None:
        self.ask("write_missing_end", session=session, run=run, ending=ending)

    @rule(session=SESSIONS)
    def remove_session(self, session: str) -> None:
        if not any(key[0] == session and phase == "live" for key, phase in self.begun.items()):
            self.ask("remove_session", session=session)
            self.begun = {key: phase for key, phase in self.begun.items() if key[0] != session}

    @rule(session=SESSIONS, run=RUNS)
    def read_rows(self, session: str, run: str) -> None:
        self.ask("rows", session=session, run=run)

    @rule(session=SESSIONS, run=RUNS, seen=st.integers(0, 4))
    def read(self, session: str, run: str, seen: int) -> None:
        self.ask("read", session=session, cursor=f"{run}:{seen}")

    def finish(self) -> None:
        """Read every run."""
        for session, run in sorted(self.begun):
            self.ask("rows", session=session, run=run)
            self.ask("files", session=session)


# Bounds, walked completely ------------------------------------------------------------------------


def walk(context: Context) -> None:
    """Retention, sizes, cursors, spoilt rows and failing reads."""
    retain(context)
    for size_bytes in (ROW_BYTES_MAX - 1, ROW_BYTES_MAX, ROW_BYTES_MAX + 1, 4 * ROW_BYTES_MAX):
        limit(context, size_bytes)
    for size_bytes in (RUN_BYTES_MAX, RUN_BYTES_MAX + 1):
        fill_up(context, size_bytes)
    replay_at_limits(context)
    read_everything(context)
    end_lost_runs(context)
    forget_turns(context)


def retain(context: Context) -> None:
    """Begin many runs: the newest ones stay, and a live one stays however old it is."""
    s = {"session": "s"}
    with context.episode() as episode:
        ask = episode.client.ask
        for number in range(RUNS_MAX + 4):
            run = {**s, "run": f"r{number}"}
            ask("begin", run)
            ask("emit", {**run, "event": "token", "text": f"{number}"})
            ask("begin", {"session": "S", "run": f"r{number}"})
            if number != 1:
                ask("finish", {**run, "state": "done", "events": ENDS["done"]})
        ask("emit", {**s, "run": "r1", "event": "token", "text": "late"})
        ask("restart", {})
        ask("write_missing_end", {**s, "run": "r6", "ending": "completed"})
        for number in range(RUNS_MAX + 4, RUNS_MAX + 8):
            ask("begin", {**s, "run": f"r{number}"})
        ask("remove", {**s, "run": "r2"})
        ask("remove", {**s, "run": f"r{RUNS_MAX + 3}"})
        for name in ("s", "S"):
            ask("files", {"session": name})
        ask("remove_session", {"session": "S"})
        ask("files", s)


def limit(context: Context, size_bytes: int) -> None:
    """Emit rows of a size around its bound, and more rows before and after the end."""
    run = {"session": "s", "run": "r"}
    with context.episode() as episode:
        ask = episode.client.ask
        ask("begin", run)
        for _ in range(2):
            ask("emit_sized", {**run, "size_bytes": size_bytes})
        for close in ("emit", "seal", "finish", "finish"):
            if close == "seal":
                ask("seal", run)
            elif close == "finish":
                ask("finish", {**run, "state": "done", "events": ENDS["done"]})
            ask("emit", {**run, "event": "token", "text": "after"})


def fill_up(context: Context, size_bytes: int) -> None:
    """Emit a last row with which the file would have a size around its bound."""
    run = {"session": "s", "run": "r"}
    with context.episode() as episode:
        ask = episode.client.ask
        ask("fill", {**run, "rows": 1, "row_bytes": RUN_BYTES_MAX - 2 * ROOM_BYTES})
        ask("begin", run)
        ask("emit_last", {**run, "size_bytes": size_bytes})
        ask("finish", {**run, "state": "done", "events": ENDS["done"]})


def replay_at_limits(context: Context) -> None:
    """Read as many rows, and as many bytes, as a replay may have, and one more."""
    counts = {"rows": REPLAY_ROWS_MAX, "bytes": REPLAY_BYTES_MAX // ROW_BYTES_MAX}
    sizes = {"rows": ROOM_BYTES // 16, "bytes": ROW_BYTES_MAX}
    with context.episode() as episode:
        ask = episode.client.ask
        for name, count in counts.items():
            run = {"session": "s", "run": name}
            ask("fill", {**run, "rows": count + 2, "row_bytes": sizes[name]})
            for seen in (1, 2, 3, count + 1, count + 2, count + 3):
                ask("read", {"session": "s", "cursor": f"{name}:{seen}"})


def read_everything(context: Context) -> None:
    """Read with every kind of cursor, of every run, behind spoilt rows, and while reads fail."""
    run = {"session": "s", "run": "r"}
    with context.episode() as episode:
        ask = episode.client.ask
        ask("begin", run)
        for text in ("a", "b", "c", "d"):
            ask("emit", {**run, "event": "token", "text": text})
        for session, name in (("s", "r"), ("S", "r"), ("s", "R"), ("s", "r1"), ("t", "r")):
            for seen in (*range(7), 10**14):
                ask("read", {"session": session, "cursor": f"{name}:{seen}"})
        for cursor in (*CURSORS, f"{'r' * 64}:0", f"{'r' * 65}:0", f"r:{10**15}"):
            ask("read", {"session": "s", "cursor": cursor})
        for at in range(1, 9):
            ask("rows", {**run, "at": at})
            ask("read", {"session": "s", "cursor": "r:1", "at": at})
        ask("restart", {})
        ask("spoil", {**run, "row": 2})
        ask("rows", run)
        for seen in range(5):
            ask("read", {"session": "s", "cursor": f"r:{seen}"})
        ask("tear", run)
        ask("begin", run)
        ask("emit", {**run, "event": "token", "text": "e"})
        ask("rows", run)


def end_lost_runs(context: Context) -> None:
    """Lose the host behind every last row, and write the missing end in each way, twice."""
    lasts = ((), ("token",), ("token", "done"), ("stream_end",), ("cancel",), ("apperror",))
    for number, (ending, torn) in enumerate(product(("completed", "interrupted"), (False, True))):
        with context.episode() as episode:
            ask = episode.client.ask
            runs = [{"session": "s", "run": f"r{number}-{last}"} for last in range(len(lasts))]
            for run, events in zip(runs, lasts, strict=True):
                ask("begin", run)
                for event in events:
                    ask("emit", {**run, "event": event, "text": "a"})
            ask("write_missing_end", {**runs[0], "ending": ending})  # it is alive
            ask("rows", runs[0])
            ask("restart", {})
            for run in runs:
                if torn:
                    ask("tear", run)
                for _ in range(2):
                    ask("write_missing_end", {**run, "ending": ending})
                    ask("rows", run)
            ask("write_missing_end", {"session": "s", "run": "unknown", "ending": ending})
            ask("files", {"session": "s"})


def forget_turns(context: Context) -> None:
    """End more turns than are remembered, beside open ones; the disk refuses some of the ends."""
    rng = context.rng("turns")
    ends = ("ended", "refused", "open")
    for number, limit in enumerate(TURNS_REMEMBERED):
        with context.episode() as episode:
            drawn = [rng.choice(ends) for _ in range(2 * limit)]
            turns = ["open", *drawn, *["ended"] * limit, ends[number % 2], "refused", "ended"]
            episode.client.ask("turns", {"ends": turns, "limit": limit})


def walk_and_explore(context: Context) -> None:
    """Walk through the bounds, then call in any order."""
    walk(context)
    explore(RunJournalsMachine)(context)


def _kept_live(history: History) -> int:
    """Count the begins after which a session has more runs than its bound."""
    begun = (op for op in history.of("begin") if op.outcome is Outcome.OK)
    return sum(len(op.result["files"]) >= RUNS_MAX for op in begun)


def _refused(name: str) -> Expectation:
    def count(history: History) -> int:
        return sum(bool(op.result) and op.result.get("refused") == name for op in history)

    return Expectation(f"a row was refused: {name}", count)


def _refused_ends(history: History) -> int:
    return sum(op.argument["ends"].count("refused") for op in history.happened.of("turns"))


def _failed_reads(history: History) -> int:
    return sum(op.outcome is Outcome.FAIL and bool(op.argument.get("at")) for op in history)


JOURNAL_MODEL = Scenario(
    name="journal-any-sequence",
    mode=Mode.MODEL,
    ability="run_journals",
    promises=(promises.T3, promises.T5, promises.T6, promises.C1, promises.C4, promises.S6),
    workload=walk_and_explore,
    checker=conforms(RunJournalsMachine.model),
    expectations=(
        Expectation("a session had as many runs as it may", _kept_live),
        _refused("RunOverError"),
        _refused("RunTooLargeError"),
        Expectation("a read failed", _failed_reads),
        Expectation("the disk refused the end of a turn", _refused_ends, 3),
    ),
    examples=40,
)


def test_run_journals_answer_by_their_rows(judge: Judge) -> None:
    """Rows, cursors, retention and sizes of the journals of several sessions."""
    assert judge(JOURNAL_MODEL).is_valid
