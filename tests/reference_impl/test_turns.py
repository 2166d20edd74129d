"""The reference's turns keep T1 to T5, T7 and S13."""

from __future__ import annotations

import errno
import logging
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.faults.simulated_disk import Call, Image, SimulatedDisk, Strike
from reference_impl.agents import identity
from reference_impl.agents.agent import ScriptedAgent, Stage
from reference_impl.agents.processes import ProcessRegistry
from reference_impl.sessions.session_files import InvalidSessionIdError, UnknownSessionError
from reference_impl.sessions.sidecar import Message, Session
from reference_impl.state_db.state_db import StateDb
from reference_impl.state_db.sync import StateSync
from reference_impl.turns import turns
from reference_impl.turns.journal import RUNS_KEPT, RunOverError, RunWriter, TurnEvent
from reference_impl.turns.turns import (
    AlreadyDeliveredError,
    Run,
    ShuttingDownError,
    Source,
    State,
    TurnConflictError,
    TurnListener,
)
from tests.support.assembled_app import LONG_S, Gate, House, Watcher, echo, house


@pytest.fixture(autouse=True)
def _expected_errors(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[House]:
    with house(tmp_path) as opened:
        opened.store.new("s1")
        yield opened


def held(gate: Gate, *before: str) -> Callable[[str, Stage], str]:
    """A turn that shows something, and waits at the gate."""

    def act(_: str, stage: Stage) -> str:
        for text in before:
            stage.token(text)
        gate.wait()
        return "".join(before)

    return act


# An ordinary turn


def test_a_turn_is_saved_journalled_marked_and_synced(home: House) -> None:
    """T3: and both messages are in the session, unmarked; nothing is pending any more."""
    run = home.run("s1", "hello")

    assert home.messages("s1") == [("user", "hello"), ("assistant", "re: hello")]
    assert home.marks("s1") == [set(), set()]
    assert not home.store.load("s1").is_busy
    assert home.rows(run) == [("token", None), ("done", "done"), ("stream_end", "done")]
    assert home.lifecycle.has_uncommitted_work("s1")
    assert [session.message_count for session in home.synced] == [2]
    assert run.state is State.DONE
    assert home.is_quiet()


def test_what_happens_after_a_turn_happens_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L: save, journal, look for a cancel, mark, sync; then the registry is left, and told."""
    order: list[str] = []
    with house(tmp_path) as home:
        home.store.new("s1")

        def spy(room: Any, name: str) -> None:
            real = getattr(room, name)

            def called(*args: Any, **kwargs: Any) -> Any:
                order.append(name)
                return real(*args, **kwargs)

            monkeypatch.setattr(room, name, called)

        run = home.turns.start("s1", "hello")
        spies: list[tuple[Any, str]] = [
            (home.store, "change"),
            (home.journal, "complete"),
            (home.turns, "_decide"),
            (home.lifecycle, "mark_turn_completed"),
            (home.turns, "_sync_quietly"),
        ]
        home.watcher.until("ended", run)
        for room, name in spies:
            spy(room, name)

        class Last(Watcher):
            def ended(self, run: Run) -> None:
                order.append("ended" if not home.turns.is_live(run.stream_id) else "too early")

        home.turns.listen(Last())
        home.run("s1", "again")

    assert order == [
        "change",  # the message comes to disk
        *("change", "complete", "_decide", "mark_turn_completed", "_sync_quietly", "ended"),
    ]


def test_the_message_is_on_disk_before_the_start_returns(tmp_path: Path) -> None:
    """T2: whoever looks at the folder finds it, while the agent has not said a word."""
    gate = Gate()
    with house(tmp_path, held(gate)) as home:
        home.store.new("s1")
        run = home.turns.start("s1", "hello")
        on_disk = House(tmp_path).store.load("s1")
        gate.open()

        assert on_disk.pending_user_message == "hello"
        assert on_disk.active_stream_id == run.stream_id
        assert on_disk.messages == ()
        home.watcher.until("ended", run)


def test_started_is_told_before_anything_is_shown_and_ended_after_everything(home: House) -> None:
    """C7: the order in which a listener hears of a run."""
    run = home.run("s1", "hello")

    assert home.watcher.of(run) == ["started", "token", "done", "stream_end", "ended"]


def test_an_ephemeral_turn_leaves_no_trace_in_the_session(home: House) -> None:
    """L: it is shown, but neither saved, nor marked, nor synced."""
    before = home.store.load("s1")
    run = home.run("s1", "hello", Source.EPHEMERAL)

    assert home.store.load("s1") == before
    assert home.rows(run)[-1] == ("stream_end", "done")
    assert not home.lifecycle.has_uncommitted_work("s1")
    assert home.synced == []
    assert home.is_quiet()


# One run a session


def test_a_second_start_is_refused_with_the_stream_of_the_first(tmp_path: Path) -> None:
    """
    T1: user:   |-- run ----------------|
        user:      start -> conflict
        wakeup:       start -> conflict
        other session:   start -> ok
    """  # noqa: D212, D205, D415 - a drawing
    gate = Gate()
    with house(tmp_path, held(gate)) as home:
        home.store.new("s1")
        home.store.new("s2")
        run = home.turns.start("s1", "one")
        for source, wakeup_id in ((Source.USER, None), (Source.WAKEUP, "w1")):
            with pytest.raises(TurnConflictError) as refusal:
                home.turns.start("s1", "two", source, wakeup_id=wakeup_id)
            assert refusal.value.stream_id == run.stream_id
        other = home.turns.start("s2", "one")
        gate.open()
        for each in (run, other):
            home.watcher.until("ended", each)

        assert [what for what, _ in home.watcher.told].count("refused") == 1
        assert home.messages("s1")[0] == ("user", "one")
        assert len(home.messages("s1")) == 2


@settings(max_examples=10, deadline=None)
@given(count=st.integers(2, 6))
def test_of_many_starts_at_once_one_wins(count: int) -> None:
    """T1: the others are told of the one that did."""
    gate, together = Gate(), threading.Barrier(count, timeout=LONG_S)
    with tempfile.TemporaryDirectory() as folder, house(Path(folder), held(gate)) as home:
        home.store.new("s1")
        won: list[Run] = []
        lost: list[TurnConflictError] = []

        def start(number: int) -> None:
            together.wait()
            try:
                won.append(home.turns.start("s1", str(number)))
            except TurnConflictError as conflict:
                lost.append(conflict)

        threads = [threading.Thread(target=start, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        gate.open()

        assert len(won) == 1
        assert {conflict.stream_id for conflict in lost} == {won[0].stream_id}
        home.watcher.until("ended", won[0])
        assert home.is_quiet()


def test_whoever_was_told_of_the_end_is_not_refused_because_of_it(home: House) -> None:
    """T1: a client that starts when it sees the terminal event never gets a conflict."""

    def begin() -> None:
        eager.put(home.turns.start("s1", "two"))

    class Eager(Watcher):
        def shown(self, run: Run, row: Any) -> None:
            if row["event"] == "stream_end" and run.message == "one":
                threading.Thread(target=begin).start()

    eager: queue.SimpleQueue[Run] = queue.SimpleQueue()
    home.turns.listen(Eager())
    home.run("s1", "one")

    home.watcher.until("ended", eager.get(timeout=LONG_S))
    assert len(home.messages("s1")) == 4


@pytest.mark.parametrize(
    ("sid", "error"),
    [("nobody", UnknownSessionError), ("../s1", InvalidSessionIdError), ("", Exception)],
)
def test_an_unknown_session_starts_nothing_and_leaves_nothing(
    sid: str, error: type[Exception], home: House
) -> None:
    """H2: no file, no registry entry."""
    before = sorted(home.folder.rglob("*"))
    with pytest.raises(error):
        home.turns.start(sid, "hello")

    assert {*home.folder.rglob("*")} - {*before} <= {*home.folder.rglob("_locks/*")}
    assert home.is_quiet()


# Every way out


def fail(_: str, stage: Stage) -> str:
    stage.token("some")
    raise RuntimeError("no")


def leave(_: str, stage: Stage) -> str:
    stage.token("some")
    raise SystemExit(3)


@pytest.mark.parametrize("act", [fail, leave])
def test_a_turn_that_fails_keeps_what_it_said_and_tells_why(act: Any, tmp_path: Path) -> None:
    """T3, L13: whatever is raised; the session is free again, and the turn is not marked."""
    with house(tmp_path, act) as home:
        home.store.new("s1")
        run = home.run("s1", "hello")

        assert home.messages("s1") == [("user", "hello"), ("assistant", "some")]
        assert home.marks("s1") == [set(), {"error"}]
        assert home.rows(run) == [("token", None), ("apperror", "error")]
        assert not home.lifecycle.has_uncommitted_work("s1")
        assert identity.current() is None
        assert home.is_quiet()
        home.act = echo
        assert home.run("s1", "again").state is State.DONE


def broken_listener(home: House) -> None:
    class Broken(TurnListener):
        def started(self, run: Run) -> None:
            raise RuntimeError(run)

        def shown(self, run: Run, row: Any) -> None:
            raise RuntimeError(run, row)

        def ended(self, run: Run) -> None:
            raise RuntimeError(run)

    home.turns.listen(Broken())


def test_a_listener_that_fails_harms_no_turn(home: House) -> None:
    """T3: it is logged, and the turn goes on."""
    broken_listener(home)

    assert home.run("s1", "hello").state is State.DONE
    assert home.is_quiet()


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_a_sync_that_fails_harms_no_turn(error: type[BaseException], tmp_path: Path) -> None:
    """T3: the state database is brought up by a later turn, and no session is wedged."""

    def sync(_: Session) -> None:
        raise error

    with house(tmp_path) as home:
        home.store.new("s1")
        home.turns._sync = sync

        assert home.run("s1", "hello").state is State.DONE
        assert home.is_quiet()


def test_a_session_deleted_under_its_run_ends_it_as_an_error(tmp_path: Path) -> None:
    """T3, S6: nothing brings the session back."""
    gate = Gate()
    with house(tmp_path, held(gate)) as home:
        home.store.new("s1")
        run = home.turns.start("s1", "hello")
        gate.reached()
        home.store.delete("s1")
        gate.open()
        home.watcher.until("ended", run)

        assert run.state is State.ERROR
        assert home.store.rows() == ()
        assert home.turns.gauges() == {"runs": 0, "streams": 0, "runs_abandoned": 0}


class FullWhile:
    """A disk that is full while somebody says so."""

    def __init__(self) -> None:
        self.is_full = False

    def __call__(self, call: Call) -> Strike | None:
        full = self.is_full and call.kind in ("create", "write", "sync")
        return Strike(OSError(errno.ENOSPC, "No space left", call.name)) if full else None


def test_on_a_full_disk_no_turn_starts_and_none_is_half_started(tmp_path: Path) -> None:
    """T2, T3: the start raises, and with space again the session is as it was."""
    fault = FullWhile()
    with house(tmp_path) as home, SimulatedDisk(tmp_path, fault):
        home.store.new("s1")
        fault.is_full = True
        with pytest.raises(OSError, match="space"):
            home.turns.start("s1", "hello")
        fault.is_full = False

        assert home.turns.gauges() == {"runs": 0, "streams": 0, "runs_abandoned": 0}
        assert home.runs.gauges() == {"run_writers": 0}
        assert home.run("s1", "again").state is State.DONE
        assert home.messages("s1") == [("user", "again"), ("assistant", "re: again")]


def test_starts_that_fail_push_out_no_run_that_is_yet_to_be_settled(tmp_path: Path) -> None:
    """S13: the disk refuses the session's file; what was shown meanwhile waits for better times."""
    is_refused = False

    def fault(call: Call) -> Strike | None:
        struck = is_refused and call.kind == "write" and "s1.tmp" in call.name
        return Strike(OSError(errno.EFBIG, "File too large", call.name)) if struck else None

    with house(tmp_path) as home, SimulatedDisk(tmp_path, fault):
        home.store.new("s1")
        gate = Gate()

        def show(message: str, stage: Stage) -> str:
            stage.token(f"re: {message}")
            gate.wait()
            return f"re: {message}"

        home.act = show
        run = home.turns.start("s1", "hello")
        gate.reached()
        is_refused = True
        gate.open()
        home.watcher.until("ended", run)
        for _ in range(2 * RUNS_KEPT):
            with pytest.raises(OSError, match="large"):
                home.turns.start("s1", "again")
        is_refused = False
        home.turns.repair("s1")

        assert home.messages("s1") == [("user", "hello"), ("assistant", "re: hello")]
        assert home.marks("s1") == [{"interrupted"}, {"interrupted"}]


@settings(max_examples=25, deadline=None)
@given(number=st.integers(1, 40), is_lasting=st.booleans())
def test_whatever_call_fails_no_message_is_lost_or_doubled(
    number: int, *, is_lasting: bool
) -> None:
    """S2, T3: a start that was acknowledged is in the session, however the disk behaved."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counted = 0

        def fault(call: Call) -> Strike | None:
            nonlocal counted
            counted += 1
            struck = counted >= number if is_lasting and not home_is_healed else counted == number
            return Strike(OSError(errno.EIO, "Input/output error", call.name)) if struck else None

        home_is_healed = False
        home = House(folder)
        home.store.new("s1")
        with SimulatedDisk(folder, fault):
            acknowledged = []
            for text in ("one", "two"):
                try:
                    run = home.turns.start("s1", text)
                except OSError:
                    continue
                home.watcher.until("ended", run)
                acknowledged.append(text)
            home_is_healed = True
            counted = number
            healed = home.run("s1", "three")
        home.close()

        asked = [text for role, text in home.messages("s1") if role == "user"]
        assert healed.state is State.DONE
        assert asked[-1] == "three"
        assert len(set(asked)) == len(asked)
        assert {*acknowledged} <= {*asked}
        assert home.turns.gauges() == {"runs": 0, "streams": 0, "runs_abandoned": 0}


def test_a_thread_that_cannot_be_started_is_a_start_that_failed(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T3: the message is taken back, because the client was told no."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="thread"):
            home.turns.start("s1", "hello")

    assert home.messages("s1") == []
    assert not home.store.load("s1").is_busy
    assert home.is_quiet()


# Cancel


def test_a_cancel_keeps_what_was_produced_and_is_over_at_once(tmp_path: Path) -> None:
    """
    T4: run:    |-- token token ------ (agent hangs) ------| unwinds
        client:                cancel -> `cancel` is shown, messages are on disk
        other:                     start -> conflict, and no stream is offered
    """  # noqa: D212, D205, D415 - a drawing
    gate = Gate()
    with house(tmp_path, held(gate, "some ", "words")) as home:
        home.store.new("s1")
        run = home.turns.start("s1", "hello")
        gate.reached()

        assert home.turns.cancel(run.stream_id)

        assert home.messages("s1") == [("user", "hello"), ("assistant", "some words")]
        assert home.marks("s1") == [{"cancelled"}, {"cancelled"}]
        assert home.rows(run)[-1] == ("cancel", "cancelled")
        assert home.turns.attachable_stream("s1") is None
        assert home.turns.live_sessions() == {"s1"}
        with pytest.raises(TurnConflictError) as refusal:
            home.turns.start("s1", "two")
        assert refusal.value.stream_id is None
        assert home.turns.cancel(run.stream_id)
        gate.open()
        home.watcher.until("ended", run)
        assert home.watcher.of(run).count("cancel") == 1
        assert not home.lifecycle.has_uncommitted_work("s1")
        assert home.is_quiet()
        assert not home.turns.cancel(run.stream_id)


def test_an_agent_is_told_to_stop_even_before_it_began(tmp_path: Path) -> None:
    """T4: the event is the turn's own, so no agent can miss it by resetting a flag."""

    def act(_: str, stage: Stage) -> str:
        gate.wait()
        assert stage.cancelled.is_set()
        with pytest.raises(RunOverError):
            stage.token("late")
        seen.append("stopped")
        return "late"

    gate, seen = Gate(), list[str]()
    with house(tmp_path, act) as home:
        home.store.new("s1")
        run = home.turns.start("s1", "hello")
        gate.reached()
        home.turns.cancel(run.stream_id)
        gate.open()
        home.watcher.until("ended", run)

        assert seen == ["stopped"]
        assert home.messages("s1") == [("user", "hello")]


def test_a_run_that_never_unwinds_is_reclaimed(tmp_path: Path) -> None:
    """T4: after the bound the session is free, and its agent, which hangs, serves no other turn."""
    gate = Gate()
    with house(tmp_path, held(gate, "some"), unwind_bound_s=0.01) as home:
        home.store.new("s1")
        run = home.turns.start("s1", "hello")
        gate.reached()
        home.turns.cancel(run.stream_id)
        home.watcher.until("ended", run)
        hung = home.agents["s1"]
        home.act = echo

        assert home.run("s1", "again").state is State.DONE
        assert home.agents["s1"] is not hung
        assert home.turns.gauges()["runs_abandoned"] == 1
        assert hung.closed.wait(LONG_S)
        gate.open()
        assert run.unwound.wait(LONG_S)
        assert home.watcher.of(run).count("ended") == 1
        assert [text for role, text in home.messages("s1") if role == "user"] == ["hello", "again"]


def test_a_run_that_unwinds_quickly_waits_for_whoever_cancels_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    T1, T4: client: cancel |-- save ......................--|
            worker:     returns   waits for the conclusion   leaves: only now may a turn begin
    """  # noqa: D212, D205, D415 - a drawing
    worker_waits = Gate()

    class Concluded(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            worker_waits.open()
            return super().wait(timeout)

    def act(_: str, stage: Stage) -> str:
        assert stage.cancelled.wait(LONG_S)
        return ""

    with house(tmp_path, act) as home:
        home.store.new("s1")
        run = home.turns.start("s1", "hello")
        run.concluded = Concluded()
        real = home.store.change

        def slow(*args: Any) -> Session:
            worker_waits.wait()
            return real(*args)

        monkeypatch.setattr(home.store, "change", slow)
        home.turns.cancel(run.stream_id)
        home.watcher.until("ended", run)

        assert home.watcher.of(run)[-2:] == ["cancel", "ended"]
        assert home.messages("s1") == [("user", "hello")]


def test_who_is_told_of_a_cancel_finds_what_it_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    T4: client: cancel |-- waits for the conclusion ---------|  reads the session
        worker:     returns |-- concludes first, saves ---|
    """  # noqa: D212, D205, D415 - a drawing
    saving = Gate()
    client = threading.current_thread()

    class Concluded(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            saving.open()
            return super().wait(timeout)

    def act(_: str, stage: Stage) -> str:
        assert stage.cancelled.wait(LONG_S)
        return ""

    with house(tmp_path, act) as home:
        home.store.new("s1")
        run = home.turns.start("s1", "hello")
        run.concluded = Concluded()
        save, conclude = home.store.change, home.turns._conclude

        def slow(*args: Any) -> Session:
            saving.wait()
            return save(*args)

        def second(*args: Any) -> None:
            if threading.current_thread() is client:
                saving.reached()
            conclude(*args)

        monkeypatch.setattr(home.store, "change", slow)
        monkeypatch.setattr(home.turns, "_conclude", second)
        home.turns.cancel(run.stream_id)
        marks = home.marks("s1")
        saving.open()
        home.watcher.until("ended", run)

        assert marks == [{"cancelled"}]


MOMENTS = ["change", "complete", "_decide", "mark_turn_completed"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_cancel_at_any_moment_of_the_ending_has_one_outcome(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T3, T4: it is either cancelled and not marked, or done and the cancel was too late."""
    with house(tmp_path, held(gate := Gate())) as home:
        home.store.new("s1")
        run = home.turns.start("s1", "hello")
        gate.reached()
        answers: list[bool] = []
        rooms: list[Any] = [home.store, home.journal, home.turns, home.lifecycle]
        room = next(room for room in rooms if hasattr(room, moment))
        real = getattr(room, moment)

        def ask() -> None:
            answers.append(home.turns.cancel(run.stream_id))

        asker = threading.Thread(target=ask)

        def meanwhile(*args: Any, **kwargs: Any) -> Any:
            asker.start()
            if run.state is None:
                run.cancelled.wait(LONG_S)
            else:
                asker.join(LONG_S)
            return real(*args, **kwargs)

        monkeypatch.setattr(room, moment, meanwhile)
        gate.open()
        home.watcher.until("ended", run)
        asker.join(LONG_S)

        assert len(answers) == 1
        is_cancelled = run.state is State.CANCELLED
        assert answers[0] is is_cancelled
        assert home.rows(run)[-1][1] == ("cancelled" if is_cancelled else "done")
        assert home.lifecycle.has_uncommitted_work("s1") is not is_cancelled
        assert home.messages("s1")[0] == ("user", "hello")
        assert home.is_quiet()


@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(0, 30), cancels=st.integers(1, 3), fails=st.booleans())
def test_a_race_of_cancels_and_the_end_has_one_terminal_state(
    tokens: int, cancels: int, *, fails: bool
) -> None:
    """T3: one terminal state, told once; what was shown is what is kept."""

    def act(_: str, stage: Stage) -> str:
        start.wait()
        for number in range(tokens):
            stage.token(f"{number} ")
        if fails:
            raise RuntimeError("no")
        return "".join(f"{number} " for number in range(tokens))

    start = threading.Barrier(cancels + 1, timeout=LONG_S)
    with tempfile.TemporaryDirectory() as folder, house(Path(folder), act) as home:
        home.store.new("s1")
        run = home.turns.start("s1", "hello")

        def cancel() -> None:
            start.wait()
            home.turns.cancel(run.stream_id)

        threads = [threading.Thread(target=cancel) for _ in range(cancels)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        home.watcher.until("ended", run)

        states = {state for _, state in home.rows(run) if state is not None}
        assert states == {run.state}
        shown = home.runs.text("s1", run.stream_id)
        said = "".join(text for role, text in home.messages("s1") if role == "assistant")
        assert said == shown
        assert home.is_quiet()


# Identity


def test_turns_at_once_each_have_their_own_identity(tmp_path: Path) -> None:
    """T7: threads that a turn spawns included; processes too, by their owner."""
    together = threading.Barrier(6, timeout=LONG_S)
    seen: list[tuple[str, str]] = []

    def act(message: str, _: Stage) -> str:
        def look() -> None:
            together.wait()
            turn = identity.current()
            seen.append((message, turn.session_id if turn is not None else ""))

        for thread in [identity.spawn(look) for _ in range(2)]:
            thread.join()
        return "ok"

    with house(tmp_path, act) as home:
        started = []
        for sid in ("s1", "s2", "s3"):
            home.store.new(sid)
            started.append(home.turns.start(sid, sid))
        for run in started:
            home.watcher.until("ended", run)

    assert sorted(seen) == sorted([("s1", "s1"), ("s2", "s2"), ("s3", "s3")] * 2)


# Wakeups, as far as turns know them


def test_a_wakeup_is_started_once_whoever_asks_again(home: House) -> None:
    """W1: the session itself is the proof, also for another host."""
    home.run("s1", "wake", Source.WAKEUP, wakeup_id="w1")
    for each in (home, home.die()):
        with pytest.raises(AlreadyDeliveredError):
            each.turns.start("s1", "wake", Source.WAKEUP, wakeup_id="w1")
        assert each.turns.gauges()["runs"] == 0

    assert [text for role, text in home.messages("s1") if role == "user"] == ["wake"]
    assert home.store.load("s1").messages[0]["source"] == "process_wakeup"


def test_a_wakeup_that_got_no_further_than_the_disk_is_started_after_all(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W5: its start failed, and could not even be taken back; the next attempt takes it over."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        patch.setattr(home.store, "maintain", refuse)
        with pytest.raises(OSError, match="error"):
            home.turns.start("s1", "wake", Source.WAKEUP, wakeup_id="w1")
    assert home.store.load("s1").is_busy

    home.run("s1", "wake", Source.WAKEUP, wakeup_id="w1")

    assert home.messages("s1") == [("user", "wake"), ("assistant", "re: wake")]
    assert home.marks("s1") == [set(), set()]


# After a death


def dead(folder: Path, tokens: int) -> None:
    """Leave in the folder what a host does that was killed in the middle of a turn."""
    gate = Gate()
    act = held(gate, *[f"{number} " for number in range(tokens)])
    with tempfile.TemporaryDirectory() as name, house(Path(name), act) as home:
        home.store.new("s1")
        home.store.append("s1", {"role": "user", "content": "before"})
        home.turns.start("s1", "hello")
        gate.reached()
        Image.of(Path(name)).put_into(folder)
        gate.open()


@settings(max_examples=15, deadline=None)
@given(tokens=st.integers(0, 5), times=st.integers(1, 3))
def test_after_a_kill_message_and_tokens_are_there_marked_once(tokens: int, times: int) -> None:
    """S13: whoever recovers, and however often; and it is no activity (S8)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dead(folder, tokens)
        before = House(folder).store.load("s1").updated_at
        for _ in range(times):
            home = House(folder)
            home.turns.recover()

        said = [("assistant", "".join(f"{number} " for number in range(tokens)))]
        assert home.messages("s1") == [("user", "before"), ("user", "hello"), *said[: tokens > 0]]
        assert home.marks("s1") == [set(), {"interrupted"}, {"interrupted"}][: 2 + (tokens > 0)]
        assert home.store.load("s1").updated_at == before
        assert home.journal.in_flight() == []
        assert home.run("s1", "again").state is State.DONE
        home.close()


def test_after_a_kill_whoever_reads_on_is_told_of_the_end(tmp_path: Path) -> None:
    """C6, T3: a cursor into the dead run leads to one terminal row, however often it is settled."""
    dead(tmp_path, 2)
    stream_id = House(tmp_path).store.load("s1").active_stream_id
    for _ in range(2):
        home = House(tmp_path)
        home.turns.recover()
        home.runs.bury("s1", stream_id or "", TurnEvent.INTERRUPTED)

    rows = home.runs.read("s1", f"{stream_id}:1").rows
    assert [(row["seq"], row["event"], row["terminal_state"]) for row in rows] == [
        (2, "token", None),
        (3, "apperror", "error"),
    ]
    home.runs.bury("s1", "never", TurnEvent.INTERRUPTED)


@pytest.mark.parametrize(
    ("message", "end"),
    [
        ("hello", [("done", "done"), ("stream_end", "done")]),
        ("fail", [("apperror", "error")]),
    ],
)
def test_a_kill_between_the_end_of_a_turn_and_of_its_run_leaves_no_run_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str, end: list[tuple[str, str]]
) -> None:
    """
    T3, C6: host:  save -- turn journal -- killed    (run journal)
            next:                                    recover -- the end is there, once
    """  # noqa: D212, D205, D415 - a drawing
    finish = RunWriter.finish

    def strike(writer: RunWriter, *ending: Any) -> None:
        Image.of(tmp_path / "host").put_into(tmp_path / "next")
        finish(writer, *ending)

    def act(message: str, stage: Stage) -> str:
        reply = echo(message, stage)
        if message == "fail":
            raise RuntimeError(reply)
        return reply

    with house(tmp_path / "host", act) as home, monkeypatch.context() as patch:
        patch.setattr(RunWriter, "finish", strike)
        home.store.new("s1")
        run = home.run("s1", message)

    assert House(tmp_path / "next").rows(run) == [("token", None)]
    for _ in range(2):
        after = House(tmp_path / "next")
        assert after.journal.in_flight() == []
        assert after.turns.recover() == ()
        assert after.rows(run) == [("token", None), *end]
        after.close()


@settings(max_examples=25, deadline=None)
@given(lost_bytes=st.integers(0, 600), times=st.integers(1, 3))
def test_a_kill_in_the_middle_of_a_runs_end_is_mended(lost_bytes: int, times: int) -> None:
    """T3, T5: whichever byte of its end was the last, the end is whole, and no row is twice."""
    with tempfile.TemporaryDirectory() as name, house(Path(name)) as home:
        home.store.new("s1")
        run = home.run("s1", "hello")
        path = home.folder / "sessions" / "_run_journal" / "s1" / f"{run.stream_id}.jsonl"
        written = path.read_bytes()
        shown = written.index(b"\n") + 1
        path.write_bytes(written[: max(shown, len(written) - lost_bytes)])
        for _ in range(times):
            after = home.die()
            after.turns.recover()
            after.close()

        rows = home.runs.read("s1", f"{run.stream_id}:0").rows
        assert [(row["seq"], row["event"], row["terminal_state"]) for row in rows] == [
            (1, "token", None),
            (2, "done", "done"),
            (3, "stream_end", "done"),
        ]


def test_one_run_whose_end_cannot_be_written_stops_no_recovery(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S5: its neighbours are told of their ends all the same."""
    runs = [home.run("s1", message) for message in ("one", "two")]
    after = home.die()
    bury, asked = after.runs.bury, []

    def refuse(session_id: str, stream_id: str, ending: TurnEvent) -> None:
        asked.append(stream_id)
        if stream_id == runs[0].stream_id:
            raise OSError(errno.ENOSPC, "No space left on device")
        bury(session_id, stream_id, ending)

    monkeypatch.setattr(after.runs, "bury", refuse)
    after.turns.recover()
    after.close()

    assert asked == [run.stream_id for run in runs]


def test_a_stream_on_disk_that_is_no_file_name_is_settled_too(tmp_path: Path) -> None:
    """H2: whatever a damaged sidecar says, no other file is touched."""
    home = House(tmp_path)
    home.store.new("s1")
    home.store.change("s1", lambda session: replace(session, active_stream_id="../../x"))

    assert home.turns.recover() == ("s1",)
    assert not home.store.load("s1").is_busy


def test_without_recovery_the_next_turn_settles_what_is_left(tmp_path: Path) -> None:
    """S2: the pending message is never overwritten."""
    dead(tmp_path, 2)
    with house(tmp_path) as home:
        home.run("s1", "again")

        assert home.messages("s1") == [
            ("user", "before"),
            ("user", "hello"),
            ("assistant", "0 1 "),
            ("user", "again"),
            ("assistant", "re: again"),
        ]
        assert home.journal.in_flight() == []


def test_a_live_run_is_never_repaired(tmp_path: Path) -> None:
    """S13, S7: whether anybody is attached to it or not."""
    gate = Gate()
    with house(tmp_path, held(gate, "some")) as home:
        home.store.new("s1")
        run = home.turns.start("s1", "hello")
        gate.reached()
        assert not home.turns.repair("s1")
        assert home.store.load("s1").active_stream_id == run.stream_id
        gate.open()
        home.watcher.until("ended", run)
        assert not home.turns.repair("s1")
        assert home.messages("s1") == [("user", "hello"), ("assistant", "some")]


def test_a_kill_after_the_save_leaves_a_completed_turn(home: House) -> None:
    """S13: what is whole in the session is not marked; only the journal did not know yet."""
    run = home.run("s1", "hello")
    home.journal.submit(run.turn_id, "s1", run.stream_id, "user")  # as if it never ended there
    home.journal.submit("lost", "s1", "r", "user")  # and this one never came to the session
    home.journal.submit("gone", "s2", "r", "user")  # nor has this one a session
    after = home.die()

    assert after.turns.recover() == ()

    events = {turn.turn_id: str(turn.event) for turn in after.journal.turns()}
    assert events == {run.turn_id: "completed", "lost": "interrupted", "gone": "interrupted"}
    assert home.marks("s1") == [set(), set()]
    assert [session.session_id for session in after.synced] == ["s1"]


def test_one_session_that_cannot_be_settled_stops_no_recovery(tmp_path: Path) -> None:
    """S5: its neighbour is settled all the same."""
    dead(tmp_path, 1)
    home = House(tmp_path)
    for sid in ("a", "z"):
        home.store.new(sid)
        home.store.change(sid, lambda session: replace(session, pending_user_message="x"))
    (Path(home.store.files.folder) / "a.json").write_text("{")

    assert House(tmp_path).turns.recover() == ("s1", "z")


# Shutting down


def test_shutting_down_refuses_turns_finishes_some_and_marks_the_others(tmp_path: Path) -> None:
    """H3: what was produced by a run that would not end is kept."""
    gate = Gate()

    def act(message: str, stage: Stage) -> str:
        stage.token("some")
        if message == "long":
            gate.arrived.set()
            assert stage.cancelled.wait(LONG_S)
        return "some"

    with house(tmp_path, act) as home:
        home.store.new("s1")
        run = home.turns.start("s1", "long")
        gate.reached()
        assert home.turns.shut_down(0.1)
        with pytest.raises(ShuttingDownError):
            home.turns.start("s1", "more")

        assert run.state is State.CANCELLED
        assert home.marks("s1") == [{"cancelled"}, {"cancelled"}]


# The scripted agent


class Scripted:
    """A house with scripted agents and real processes."""

    def __init__(self, folder: Path) -> None:
        self.processes = ProcessRegistry(folder / "processes")
        self.home = House(folder)
        self.home.turns._make_agent = lambda sid: ScriptedAgent(sid, self.processes)
        self.home.store.new("s1")


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Scripted]:
    scripted = Scripted(tmp_path)
    yield scripted
    scripted.home.close()
    scripted.processes.close()


def test_a_scripted_agent_does_as_the_message_says(scripted: Scripted) -> None:
    """Tokens, tools and sleeps, in order; the reply is what was shown."""
    run = scripted.home.run("s1", "[tokens=2] [tool] [sleep=0] [tokens=1]")

    rows = list(scripted.home.runs.rows("s1", run.stream_id))
    assert [row["event"] for row in rows[:5]] == [
        *("token", "token", "tool", "tool_complete", "token")
    ]
    assert rows[3]["payload"]["output"] == "s1"
    assert scripted.home.messages("s1")[1] == ("assistant", "0 1 0 That was turn 1 of s1.")


def test_a_scripted_agents_threads_emit_at_once(scripted: Scripted) -> None:
    """T5: 4 threads, 20 tokens each: ids without a gap."""
    run = scripted.home.run("s1", "[tokens=20x4]")

    rows = list(scripted.home.runs.rows("s1", run.stream_id))
    assert [row["seq"] for row in rows] == [*range(1, 84)]


@pytest.mark.parametrize(
    ("script", "error"), [("[fail]", "ScriptedError"), ("[exit]", "SystemExit")]
)
def test_a_scripted_agent_fails_on_demand(scripted: Scripted, script: str, error: str) -> None:
    """T3: and the run says how."""
    run = scripted.home.run("s1", f"[tokens=1] {script}")

    assert run.state is State.ERROR
    assert run.error.startswith(error)


def test_a_scripted_agent_stops_when_it_is_cancelled_unless_it_hangs(scripted: Scripted) -> None:
    """T4: a sleep is cut short; a hang is reclaimed."""
    home = scripted.home
    run = home.turns.start("s1", "[tokens=1] [sleep=1000]")
    home.watcher.until("token", run)
    home.turns.cancel(run.stream_id)
    home.watcher.until("ended", run)

    home.turns._unwind_bound_s = 0.01
    hung = home.turns.start("s1", "[tokens=1] [hang]")
    home.watcher.until("token", hung)
    home.turns.cancel(hung.stream_id)
    home.watcher.until("ended", hung)
    assert hung.unwound.wait(LONG_S)  # because its agent was closed


def test_a_scripted_process_belongs_to_its_turn(scripted: Scripted) -> None:
    """W6: with exit code and output as told; braces become brackets in what it prints."""
    rung = threading.Semaphore(0)
    scripted.processes.listen(rung.release)
    scripted.home.run("s1", "[process=0:exit=3:hello: {sleep=1}]")
    assert rung.acquire(timeout=LONG_S)
    event = scripted.processes.take()

    assert event is not None
    assert (event.owner, event.exit_code, event.output) == ("s1", 3, "hello: [sleep=1]")
    assert "[" not in event.command.replace("'[]'", "")


# The state database


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 4), st.text("ab", max_size=2)), max_size=5),
)
def test_a_sync_makes_the_database_say_what_the_session_says(
    lengths: list[tuple[int, str]],
) -> None:
    """Whatever the session was before: longer, shorter, other; and twice is once."""
    with tempfile.TemporaryDirectory() as folder:
        db = StateDb(Path(folder) / "state.db", synchronous="NORMAL")
        sync = StateSync(db)
        for length, text in lengths:
            said: list[Message] = [
                {"role": "user", "content": f"{text}{number}"} for number in range(length)
            ]
            session = Session(session_id="s1", title=text or "Untitled", messages=(*said,))
            sync(session)
            sync(session)
            stored = [(message.role, message.content) for message in db.get_messages("s1")]
            assert stored == [("user", message["content"]) for message in said]
        db.close()


def test_a_title_that_another_session_has_is_no_reason_to_fail(tmp_path: Path) -> None:
    """D2: titles are unique in the database, and lone surrogates are no text there."""
    db = StateDb(tmp_path / "state.db", synchronous="NORMAL")
    sync = StateSync(db)
    for sid in ("s1", "s2"):
        messages = ({"role": "user", "content": "\ud800"},)
        sync(Session(session_id=sid, title="same", messages=messages))

    assert [len(db.get_messages(sid)) for sid in ("s1", "s2")] == [1, 1]
    db.close()


def test_the_bounds_are_what_the_contract_says() -> None:
    """T4: a run that never unwinds is busy for three minutes, unless told otherwise."""
    assert turns.UNWIND_BOUND_S == 180.0
