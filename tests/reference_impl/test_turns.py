"""Tests of turns (T1 to T5, T7, S13)."""

from __future__ import annotations

import errno
import logging
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.faults.simulated_disk import Call, Image, InjectedFault, SimulatedDisk
from reference_impl.agents import identity
from reference_impl.agents.agent import ScriptedAgent, TurnOutput
from reference_impl.agents.processes import ProcessRegistry
from reference_impl.sessions.recovery import recover_all
from reference_impl.sessions.session_files import InvalidSessionIdError, UnknownSessionError
from reference_impl.sessions.sidecar import Message, Session
from reference_impl.sessions.store import SaveRefusedError, SessionStore
from reference_impl.state_db.state_db import StateDb
from reference_impl.state_db.sync import StateSync
from reference_impl.turns import ending
from reference_impl.turns.journal import RUNS_MAX, RunOverError, RunWriter, TurnEvent
from reference_impl.turns.listeners import TurnListener
from reference_impl.turns.run import (
    AlreadyDeliveredError,
    Run,
    ShuttingDownError,
    Source,
    State,
    TurnConflictError,
)
from tests.support.assembled_app import LONG_S, AssembledApp, Gate, RunRecorder, assembled_app, echo


@pytest.fixture(autouse=True)
def _expected_errors(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


@pytest.fixture
def app(tmp_path: Path) -> Iterator[AssembledApp]:
    with assembled_app(tmp_path) as opened:
        opened.store.new("s1")
        yield opened


def held(gate: Gate, *before: str) -> Callable[[str, TurnOutput], str]:
    """Make a turn that writes some texts, and waits at the gate."""

    def act(_: str, output: TurnOutput) -> str:
        for text in before:
            output.token(text)
        gate.wait()
        return "".join(before)

    return act


# An ordinary turn


def test_turn_is_saved_journalled_marked_and_synced(app: AssembledApp) -> None:
    """T3: and both messages are in the session, unmarked; nothing is pending any more."""
    run = app.run("s1", "hello")

    assert app.messages("s1") == [("user", "hello"), ("assistant", "re: hello")]
    assert app.marks("s1") == [set(), set()]
    assert not app.store.load("s1").is_busy
    assert app.rows(run) == [("token", None), ("done", "done"), ("stream_end", "done")]
    assert app.lifecycle.has_uncommitted_work("s1")
    assert [session.message_count for session in app.synced] == [2]
    assert run.state is State.DONE
    assert app.is_quiet()


def test_steps_after_a_turn_are_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """L: save, journal, check for a cancel, mark, sync, leave the registry, notify."""
    order: list[str] = []
    with assembled_app(tmp_path) as app:
        app.store.new("s1")

        def spy(component: Any, name: str) -> None:
            real = getattr(component, name)

            def called(*args: Any, **kwargs: Any) -> Any:
                order.append(name)
                return real(*args, **kwargs)

            monkeypatch.setattr(component, name, called)

        run = app.turns.start("s1", "hello")
        spies: list[tuple[Any, str]] = [
            (app.store, "change"),
            (app.journal, "complete"),
            (app.turns._ending, "decide"),
            (app.lifecycle, "mark_turn_completed"),
            (app.turns._ending, "_sync"),
        ]
        app.recorder.until("ended", run)
        for component, name in spies:
            spy(component, name)

        class Last(RunRecorder):
            def ended(self, run: Run) -> None:
                order.append("ended" if not app.turns.is_live(run.stream_id) else "too early")

        app.turns.listen(Last())
        app.run("s1", "again")

    assert order == [
        "change",  # the message is written to disk
        *("change", "complete", "decide", "mark_turn_completed", "_sync", "ended"),
    ]


def test_message_is_on_disk_before_start_returns(tmp_path: Path) -> None:
    """T2: another reader finds it on disk before the agent has written anything."""
    gate = Gate()
    with assembled_app(tmp_path, held(gate)) as app:
        app.store.new("s1")
        run = app.turns.start("s1", "hello")
        on_disk = AssembledApp(tmp_path).store.load("s1")
        gate.open()

        assert on_disk.pending_user_message == "hello"
        assert on_disk.active_stream_id == run.stream_id
        assert on_disk.messages == ()
        app.recorder.until("ended", run)


def test_listener_calls_of_a_run_are_in_order(app: AssembledApp) -> None:
    """C7: the order of a listener's calls for a run."""
    run = app.run("s1", "hello")

    assert app.recorder.of(run) == ["started", "token", "done", "stream_end", "ended"]


def test_turn_works_with_what_it_was_asked(app: AssembledApp) -> None:
    """T9: the session keeps the model, and the message its attachments; the agent sees both."""
    seen: list[Any] = []

    def act(message: str, output: TurnOutput) -> str:
        seen.append(output.asked)
        return echo(message, output)

    app.act = act
    app.run("s1", "hello", asked={"model": "m", "attachments": ["a.txt"]})
    app.run("s1", "again")

    session = app.store.load("s1")
    assert seen == [{"model": "m", "attachments": ["a.txt"]}, {"model": "m", "attachments": []}]
    assert session.extra["model"] == "m"
    assert [message.get("attachments") for message in session.messages[::2]] == [["a.txt"], None]


def test_retry_sends_the_last_message_again(app: AssembledApp) -> None:
    """S6: its reply is gone, its attachments are not, and no backup brings the reply back."""
    app.run("s1", "one")
    app.run("s1", "two", asked={"attachments": ["a.txt"]})
    app.act = lambda message, _: f"once more: {message}"
    app.recorder.until("ended", app.turns.retry("s1"))

    assert app.messages("s1")[2:] == [("user", "two"), ("assistant", "once more: two")]
    assert app.store.load("s1").messages[2]["attachments"] == ["a.txt"]
    assert recover_all(SessionStore(app.folder / "sessions")).restored == ()


def test_compress_is_refused_when_the_session_changes(app: AssembledApp) -> None:
    """S2: what was said while the agent summarized is kept."""
    for message in ("one", "two"):
        app.run("s1", message)
    agent = app.agents["s1"]

    def summarize(messages: Sequence[Message]) -> str:
        app.run("s1", "three")
        return f"{len(messages)} messages"

    agent.summarize = summarize  # type: ignore[method-assign]
    with pytest.raises(SaveRefusedError, match="has changed"):
        app.turns.compress("s1")
    assert [text for role, text in app.messages("s1") if role == "user"] == ["one", "two", "three"]

    del agent.summarize
    app.turns.compress("s1")
    assert app.messages("s1")[:2] == [("system", "4 messages"), ("user", "three")]
    restarted = SessionStore(app.folder / "sessions")
    assert recover_all(restarted).restored == ()
    assert restarted.load("s1").message_count == 3


def test_ephemeral_turn_leaves_the_session_unchanged(app: AssembledApp) -> None:
    """L: it is shown, but neither saved, nor marked, nor synced."""
    before = app.store.load("s1")
    run = app.run("s1", "hello", Source.EPHEMERAL)

    assert app.store.load("s1") == before
    assert app.rows(run)[-1] == ("stream_end", "done")
    assert not app.lifecycle.has_uncommitted_work("s1")
    assert app.synced == []
    assert app.is_quiet()


# One run a session


def test_second_start_is_refused_with_the_first_stream(tmp_path: Path) -> None:
    """
    T1: user:   |-- run ----------------|
        user:      start -> conflict
        wakeup:       start -> conflict
        other session:   start -> ok
    """  # noqa: D212, D205, D415 - a drawing
    gate = Gate()
    with assembled_app(tmp_path, held(gate)) as app:
        app.store.new("s1")
        app.store.new("s2")
        run = app.turns.start("s1", "one")
        for source, wakeup_id in ((Source.USER, None), (Source.WAKEUP, "w1")):
            with pytest.raises(TurnConflictError) as refusal:
                app.turns.start("s1", "two", source, wakeup_id=wakeup_id)
            assert refusal.value.stream_id == run.stream_id
        other = app.turns.start("s2", "one")
        gate.open()
        for each in (run, other):
            app.recorder.until("ended", each)

        assert [what for what, _ in app.recorder.events].count("refused") == 1
        assert app.messages("s1")[0] == ("user", "one")
        assert len(app.messages("s1")) == 2


@settings(max_examples=10, deadline=None)
@given(count=st.integers(2, 6))
def test_one_of_concurrent_starts_wins(count: int) -> None:
    """T1: the others get the stream of the winner."""
    gate, together = Gate(), threading.Barrier(count, timeout=LONG_S)
    with tempfile.TemporaryDirectory() as folder, assembled_app(Path(folder), held(gate)) as app:
        app.store.new("s1")
        won: list[Run] = []
        lost: list[TurnConflictError] = []

        def start(number: int) -> None:
            together.wait()
            try:
                won.append(app.turns.start("s1", str(number)))
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
        app.recorder.until("ended", won[0])
        assert app.is_quiet()


def test_start_right_after_the_end_is_not_refused(app: AssembledApp) -> None:
    """T1: a client that starts when it sees the terminal event never gets a conflict."""

    def begin() -> None:
        eager.put(app.turns.start("s1", "two"))

    class Eager(RunRecorder):
        def shown(self, run: Run, row: Any) -> None:
            if row["event"] == "stream_end" and run.message == "one":
                threading.Thread(target=begin).start()

    eager: queue.SimpleQueue[Run] = queue.SimpleQueue()
    app.turns.listen(Eager())
    app.run("s1", "one")

    app.recorder.until("ended", eager.get(timeout=LONG_S))
    assert len(app.messages("s1")) == 4


@pytest.mark.parametrize(
    ("sid", "error"),
    [("unknown", UnknownSessionError), ("../s1", InvalidSessionIdError), ("", Exception)],
)
def test_start_of_an_unknown_session_leaves_nothing(
    sid: str, error: type[Exception], app: AssembledApp
) -> None:
    """H2: no file, no registry entry."""
    before = sorted(app.folder.rglob("*"))
    with pytest.raises(error):
        app.turns.start(sid, "hello")

    assert {*app.folder.rglob("*")} - {*before} <= {*app.folder.rglob("_locks/*")}
    assert app.is_quiet()


# Every way out


def fail(_: str, output: TurnOutput) -> str:
    output.token("some")
    raise RuntimeError("no")


def leave(_: str, output: TurnOutput) -> str:
    output.token("some")
    raise SystemExit(3)


@pytest.mark.parametrize("act", [fail, leave])
def test_failed_turn_saves_its_output_and_error(act: Any, tmp_path: Path) -> None:
    """T3, L13: after any exception the session is free again, and the turn is not marked."""
    with assembled_app(tmp_path, act) as app:
        app.store.new("s1")
        run = app.run("s1", "hello")

        assert app.messages("s1") == [("user", "hello"), ("assistant", "some")]
        assert app.marks("s1") == [set(), {"error"}]
        assert app.rows(run) == [("token", None), ("apperror", "error")]
        assert not app.lifecycle.has_uncommitted_work("s1")
        assert identity.current() is None
        assert app.is_quiet()
        app.act = echo
        assert app.run("s1", "again").state is State.DONE


def broken_listener(app: AssembledApp) -> None:
    class Broken(TurnListener):
        def started(self, run: Run) -> None:
            raise RuntimeError(run)

        def shown(self, run: Run, row: Any) -> None:
            raise RuntimeError(run, row)

        def ended(self, run: Run) -> None:
            raise RuntimeError(run)

    app.turns.listen(Broken())


def test_failing_listener_harms_no_turn(app: AssembledApp) -> None:
    """T3: it is logged, and the turn continues."""
    broken_listener(app)

    assert app.run("s1", "hello").state is State.DONE
    assert app.is_quiet()


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_failing_sync_harms_no_turn(error: type[BaseException], tmp_path: Path) -> None:
    """T3: a later turn syncs the state database, and no session is wedged."""

    def sync(_: Session) -> None:
        raise error

    with assembled_app(tmp_path) as app:
        app.store.new("s1")
        app.turns._sync = sync

        assert app.run("s1", "hello").state is State.DONE
        assert app.is_quiet()


def test_deleted_session_ends_its_run_with_an_error(tmp_path: Path) -> None:
    """T3, S6: nothing restores the session."""
    gate = Gate()
    with assembled_app(tmp_path, held(gate)) as app:
        app.store.new("s1")
        run = app.turns.start("s1", "hello")
        gate.reached()
        app.store.delete("s1")
        gate.open()
        app.recorder.until("ended", run)

        assert run.state is State.ERROR
        assert app.store.rows() == ()
        assert app.turns.gauges() == {"runs": 0, "streams": 0, "runs_abandoned": 0}


class FullWhile:
    """A disk that is full while `is_full` is set."""

    def __init__(self) -> None:
        self.is_full = False

    def __call__(self, call: Call) -> InjectedFault | None:
        full = self.is_full and call.kind in ("create", "write", "sync")
        return InjectedFault(OSError(errno.ENOSPC, "No space left", call.name)) if full else None


def test_start_on_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """T2, T3: the start raises, and with space again the session is as it was."""
    fault = FullWhile()
    with assembled_app(tmp_path) as app, SimulatedDisk(tmp_path, fault):
        app.store.new("s1")
        fault.is_full = True
        with pytest.raises(OSError, match="space"):
            app.turns.start("s1", "hello")
        fault.is_full = False

        assert app.turns.gauges() == {"runs": 0, "streams": 0, "runs_abandoned": 0}
        assert app.runs.gauges() == {"run_writers": 0}
        assert app.run("s1", "again").state is State.DONE
        assert app.messages("s1") == [("user", "again"), ("assistant", "re: again")]


def test_failed_starts_displace_no_unsettled_run(tmp_path: Path) -> None:
    """S13: the disk refuses the session's file; shown tokens stay in the journal until it works."""
    is_refused = False

    def fault(call: Call) -> InjectedFault | None:
        struck = is_refused and call.kind == "write" and "s1.tmp" in call.name
        return InjectedFault(OSError(errno.EFBIG, "File too large", call.name)) if struck else None

    with assembled_app(tmp_path) as app, SimulatedDisk(tmp_path, fault):
        app.store.new("s1")
        gate = Gate()

        def show(message: str, output: TurnOutput) -> str:
            output.token(f"re: {message}")
            gate.wait()
            return f"re: {message}"

        app.act = show
        run = app.turns.start("s1", "hello")
        gate.reached()
        is_refused = True
        gate.open()
        app.recorder.until("ended", run)
        for _ in range(2 * RUNS_MAX):
            with pytest.raises(OSError, match="large"):
                app.turns.start("s1", "again")
        is_refused = False
        app.turns.repair("s1")

        assert app.messages("s1") == [("user", "hello"), ("assistant", "re: hello")]
        assert app.marks("s1") == [{"interrupted"}, {"interrupted"}]


@settings(max_examples=25, deadline=None)
@given(number=st.integers(1, 40), is_lasting=st.booleans())
def test_failing_call_loses_or_doubles_no_message(number: int, *, is_lasting: bool) -> None:
    """S2, T3: an acknowledged message is in the session, whatever the disk did."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counted = 0

        def fault(call: Call) -> InjectedFault | None:
            nonlocal counted
            counted += 1
            struck = counted >= number if is_lasting and not disk_is_healed else counted == number
            return (
                InjectedFault(OSError(errno.EIO, "Input/output error", call.name))
                if struck
                else None
            )

        disk_is_healed = False
        app = AssembledApp(folder)
        app.store.new("s1")
        with SimulatedDisk(folder, fault):
            acknowledged = []
            for text in ("one", "two"):
                try:
                    run = app.turns.start("s1", text)
                except OSError:
                    continue
                app.recorder.until("ended", run)
                acknowledged.append(text)
            disk_is_healed = True
            counted = number
            healed = app.run("s1", "three")
        app.close()

        requests = [text for role, text in app.messages("s1") if role == "user"]
        assert healed.state is State.DONE
        assert requests[-1] == "three"
        assert len(set(requests)) == len(requests)
        assert {*acknowledged} <= {*requests}
        assert app.turns.gauges() == {"runs": 0, "streams": 0, "runs_abandoned": 0}


def test_failed_thread_start_undoes_the_turn(
    app: AssembledApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T3: the message is removed, because the client got an error."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="thread"):
            app.turns.start("s1", "hello")

    assert app.messages("s1") == []
    assert not app.store.load("s1").is_busy
    assert app.is_quiet()


# Cancel


def test_cancel_saves_the_output_and_ends_at_once(tmp_path: Path) -> None:
    """
    T4: run:    |-- token token ------ (agent hangs) ------| unwinds
        client:                cancel -> `cancel` is shown, messages are on disk
        other:                     start -> conflict, and no stream is offered
    """  # noqa: D212, D205, D415 - a drawing
    gate = Gate()
    with assembled_app(tmp_path, held(gate, "some ", "words")) as app:
        app.store.new("s1")
        run = app.turns.start("s1", "hello")
        gate.reached()

        assert app.turns.cancel(run.stream_id)

        assert app.messages("s1") == [("user", "hello"), ("assistant", "some words")]
        assert app.marks("s1") == [{"cancelled"}, {"cancelled"}]
        assert app.rows(run)[-1] == ("cancel", "cancelled")
        assert app.turns.attachable_stream("s1") is None
        assert app.turns.live_sessions() == {"s1"}
        with pytest.raises(TurnConflictError) as refusal:
            app.turns.start("s1", "two")
        assert refusal.value.stream_id is None
        assert app.turns.cancel(run.stream_id)
        gate.open()
        app.recorder.until("ended", run)
        assert app.recorder.of(run).count("cancel") == 1
        assert not app.lifecycle.has_uncommitted_work("s1")
        assert app.is_quiet()
        assert not app.turns.cancel(run.stream_id)


def test_agent_sees_a_cancel_before_its_begin(tmp_path: Path) -> None:
    """T4: the event belongs to the turn, so no agent can miss it by resetting a flag."""

    def act(_: str, output: TurnOutput) -> str:
        gate.wait()
        assert output.cancelled.is_set()
        with pytest.raises(RunOverError):
            output.token("late")
        seen.append("stopped")
        return "late"

    gate, seen = Gate(), list[str]()
    with assembled_app(tmp_path, act) as app:
        app.store.new("s1")
        run = app.turns.start("s1", "hello")
        gate.reached()
        app.turns.cancel(run.stream_id)
        gate.open()
        app.recorder.until("ended", run)

        assert seen == ["stopped"]
        assert app.messages("s1") == [("user", "hello")]


def test_run_that_never_unwinds_is_reclaimed(tmp_path: Path) -> None:
    """T4: after the bound the session is free, and its hanging agent runs no other turn."""
    gate = Gate()
    with assembled_app(tmp_path, held(gate, "some"), unwind_bound_s=0.01) as app:
        app.store.new("s1")
        run = app.turns.start("s1", "hello")
        gate.reached()
        app.turns.cancel(run.stream_id)
        app.recorder.until("ended", run)
        hanging = app.agents["s1"]
        app.act = echo

        assert app.run("s1", "again").state is State.DONE
        assert app.agents["s1"] is not hanging
        assert app.turns.gauges()["runs_abandoned"] == 1
        assert hanging.closed.wait(LONG_S)
        gate.open()
        assert run.unwound.wait(LONG_S)
        assert app.recorder.of(run).count("ended") == 1
        assert [text for role, text in app.messages("s1") if role == "user"] == ["hello", "again"]


def test_quickly_unwound_run_waits_for_its_cancel(
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

    def act(_: str, output: TurnOutput) -> str:
        assert output.cancelled.wait(LONG_S)
        return ""

    with assembled_app(tmp_path, act) as app:
        app.store.new("s1")
        run = app.turns.start("s1", "hello")
        run.concluded = Concluded()
        real = app.store.change

        def slow(*args: Any) -> Session:
            worker_waits.wait()
            return real(*args)

        monkeypatch.setattr(app.store, "change", slow)
        app.turns.cancel(run.stream_id)
        app.recorder.until("ended", run)

        assert app.recorder.of(run)[-2:] == ["cancel", "ended"]
        assert app.messages("s1") == [("user", "hello")]


def test_cancelled_output_is_saved_when_cancel_returns(
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

    def act(_: str, output: TurnOutput) -> str:
        assert output.cancelled.wait(LONG_S)
        return ""

    with assembled_app(tmp_path, act) as app:
        app.store.new("s1")
        run = app.turns.start("s1", "hello")
        run.concluded = Concluded()
        save, conclude = app.store.change, app.turns._ending.conclude

        def slow(*args: Any) -> Session:
            saving.wait()
            return save(*args)

        def second(*args: Any) -> None:
            if threading.current_thread() is client:
                saving.reached()
            conclude(*args)

        monkeypatch.setattr(app.store, "change", slow)
        monkeypatch.setattr(app.turns._ending, "conclude", second)
        app.turns.cancel(run.stream_id)
        marks = app.marks("s1")
        saving.open()
        app.recorder.until("ended", run)

        assert marks == [{"cancelled"}]


MOMENTS = ["change", "complete", "decide", "mark_turn_completed"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_cancel_during_the_ending_has_one_outcome(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T3, T4: it is either cancelled and not marked, or done and the cancel was too late."""
    with assembled_app(tmp_path, held(gate := Gate())) as app:
        app.store.new("s1")
        run = app.turns.start("s1", "hello")
        gate.reached()
        answers: list[bool] = []
        components: list[Any] = [app.store, app.journal, app.turns._ending, app.lifecycle]
        component = next(each for each in components if hasattr(each, moment))
        real = getattr(component, moment)

        def cancel() -> None:
            answers.append(app.turns.cancel(run.stream_id))

        canceller = threading.Thread(target=cancel)

        def meanwhile(*args: Any, **kwargs: Any) -> Any:
            canceller.start()
            if run.state is None:
                run.cancelled.wait(LONG_S)
            else:
                canceller.join(LONG_S)
            return real(*args, **kwargs)

        monkeypatch.setattr(component, moment, meanwhile)
        gate.open()
        app.recorder.until("ended", run)
        canceller.join(LONG_S)

        assert len(answers) == 1
        is_cancelled = run.state is State.CANCELLED
        assert answers[0] is is_cancelled
        assert app.rows(run)[-1][1] == ("cancelled" if is_cancelled else "done")
        assert app.lifecycle.has_uncommitted_work("s1") is not is_cancelled
        assert app.messages("s1")[0] == ("user", "hello")
        assert app.is_quiet()


@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(0, 30), cancels=st.integers(1, 3), fails=st.booleans())
def test_concurrent_cancels_and_end_give_one_state(
    tokens: int, cancels: int, *, fails: bool
) -> None:
    """T3: one terminal state, published once; the session has exactly the shown tokens."""

    def act(_: str, output: TurnOutput) -> str:
        start.wait()
        for number in range(tokens):
            output.token(f"{number} ")
        if fails:
            raise RuntimeError("no")
        return "".join(f"{number} " for number in range(tokens))

    start = threading.Barrier(cancels + 1, timeout=LONG_S)
    with tempfile.TemporaryDirectory() as folder, assembled_app(Path(folder), act) as app:
        app.store.new("s1")
        run = app.turns.start("s1", "hello")

        def cancel() -> None:
            start.wait()
            app.turns.cancel(run.stream_id)

        threads = [threading.Thread(target=cancel) for _ in range(cancels)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        app.recorder.until("ended", run)

        states = {state for _, state in app.rows(run) if state is not None}
        assert states == {run.state}
        shown = app.runs.text("s1", run.stream_id)
        saved_text = "".join(text for role, text in app.messages("s1") if role == "assistant")
        assert saved_text == shown
        assert app.is_quiet()


# Identity


def test_concurrent_turns_have_their_own_identity(tmp_path: Path) -> None:
    """T7: including threads that a turn spawns; processes too, by their owner."""
    together = threading.Barrier(6, timeout=LONG_S)
    seen: list[tuple[str, str]] = []

    def act(message: str, _: TurnOutput) -> str:
        def look() -> None:
            together.wait()
            turn = identity.current()
            seen.append((message, turn.session_id if turn is not None else ""))

        for thread in [identity.spawn(look) for _ in range(2)]:
            thread.join()
        return "ok"

    with assembled_app(tmp_path, act) as app:
        started = []
        for sid in ("s1", "s2", "s3"):
            app.store.new(sid)
            started.append(app.turns.start(sid, sid))
        for run in started:
            app.recorder.until("ended", run)

    assert sorted(seen) == sorted([("s1", "s1"), ("s2", "s2"), ("s3", "s3")] * 2)


# Wakeups in turns


def test_wakeup_is_started_once(app: AssembledApp) -> None:
    """W1: the session itself records it, also for another host."""
    app.run("s1", "wake", Source.WAKEUP, wakeup_id="w1")
    for each in (app, app.restarted()):
        with pytest.raises(AlreadyDeliveredError):
            each.turns.start("s1", "wake", Source.WAKEUP, wakeup_id="w1")
        assert each.turns.gauges()["runs"] == 0

    assert [text for role, text in app.messages("s1") if role == "user"] == ["wake"]
    assert app.store.load("s1").messages[0]["source"] == "process_wakeup"


def test_wakeup_saved_by_a_failed_start_is_started(
    app: AssembledApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W5: its start failed and could not be undone; the next attempt takes it over."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        patch.setattr(app.store, "maintain", refuse)
        with pytest.raises(OSError, match="error"):
            app.turns.start("s1", "wake", Source.WAKEUP, wakeup_id="w1")
    assert app.store.load("s1").is_busy

    app.run("s1", "wake", Source.WAKEUP, wakeup_id="w1")

    assert app.messages("s1") == [("user", "wake"), ("assistant", "re: wake")]
    assert app.marks("s1") == [set(), set()]


# After a kill


def dead(folder: Path, tokens: int) -> None:
    """Leave the folder of a host that was killed in the middle of a turn."""
    gate = Gate()
    act = held(gate, *[f"{number} " for number in range(tokens)])
    with tempfile.TemporaryDirectory() as name, assembled_app(Path(name), act) as app:
        app.store.new("s1")
        app.store.append("s1", {"role": "user", "content": "before"})
        app.turns.start("s1", "hello")
        gate.reached()
        Image.of(Path(name)).put_into(folder)
        gate.open()


@settings(max_examples=15, deadline=None)
@given(tokens=st.integers(0, 5), times=st.integers(1, 3))
def test_message_and_tokens_survive_a_kill_marked_once(tokens: int, times: int) -> None:
    """S13: after any number of recoveries; and it is no activity (S8)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dead(folder, tokens)
        before = AssembledApp(folder).store.load("s1").updated_at
        for _ in range(times):
            app = AssembledApp(folder)
            app.turns.recover()

        saved_text = [("assistant", "".join(f"{number} " for number in range(tokens)))]
        assert app.messages("s1") == [
            ("user", "before"),
            ("user", "hello"),
            *saved_text[: tokens > 0],
        ]
        assert app.marks("s1") == [set(), {"interrupted"}, {"interrupted"}][: 2 + (tokens > 0)]
        assert app.store.load("s1").updated_at == before
        assert app.journal.in_flight() == []
        assert app.run("s1", "again").state is State.DONE
        app.close()


def test_reader_of_a_killed_run_gets_its_end(tmp_path: Path) -> None:
    """C6, T3: a cursor into the dead run leads to one terminal row, after any number of repairs."""
    dead(tmp_path, 2)
    stream_id = AssembledApp(tmp_path).store.load("s1").active_stream_id
    for _ in range(2):
        app = AssembledApp(tmp_path)
        app.turns.recover()
        app.runs.write_missing_end("s1", stream_id or "", TurnEvent.INTERRUPTED)

    rows = app.runs.read("s1", f"{stream_id}:1").rows
    assert [(row["seq"], row["event"], row["terminal_state"]) for row in rows] == [
        (2, "token", None),
        (3, "apperror", "error"),
    ]
    app.runs.write_missing_end("s1", "never", TurnEvent.INTERRUPTED)


@pytest.mark.parametrize(
    ("message", "end"),
    [
        ("hello", [("done", "done"), ("stream_end", "done")]),
        ("fail", [("apperror", "error")]),
    ],
)
def test_kill_between_turn_end_and_run_end(
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

    def act(message: str, output: TurnOutput) -> str:
        reply = echo(message, output)
        if message == "fail":
            raise RuntimeError(reply)
        return reply

    with assembled_app(tmp_path / "host", act) as app, monkeypatch.context() as patch:
        patch.setattr(RunWriter, "finish", strike)
        app.store.new("s1")
        run = app.run("s1", message)

    assert AssembledApp(tmp_path / "next").rows(run) == [("token", None)]
    for _ in range(2):
        after = AssembledApp(tmp_path / "next")
        assert after.journal.in_flight() == []
        assert after.turns.recover() == ()
        assert after.rows(run) == [("token", None), *end]
        after.close()


@settings(max_examples=25, deadline=None)
@given(lost_bytes=st.integers(0, 600), times=st.integers(1, 3))
def test_kill_during_a_run_end_is_repaired(lost_bytes: int, times: int) -> None:
    """T3, T5: whichever byte was written last, the end is completed, and no row is twice."""
    with tempfile.TemporaryDirectory() as name, assembled_app(Path(name)) as app:
        app.store.new("s1")
        run = app.run("s1", "hello")
        path = app.folder / "sessions" / "_run_journal" / "s1" / f"{run.stream_id}.jsonl"
        written = path.read_bytes()
        shown = written.index(b"\n") + 1
        path.write_bytes(written[: max(shown, len(written) - lost_bytes)])
        for _ in range(times):
            after = app.restarted()
            after.turns.recover()
            after.close()

        rows = app.runs.read("s1", f"{run.stream_id}:0").rows
        assert [(row["seq"], row["event"], row["terminal_state"]) for row in rows] == [
            (1, "token", None),
            (2, "done", "done"),
            (3, "stream_end", "done"),
        ]


def test_unwritable_run_end_stops_no_recovery(
    app: AssembledApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S5: the ends of other runs are written all the same."""
    runs = [app.run("s1", message) for message in ("one", "two")]
    after = app.restarted()
    write_missing_end, requests = after.runs.write_missing_end, []

    def refuse(session_id: str, stream_id: str, ending: TurnEvent) -> None:
        requests.append(stream_id)
        if stream_id == runs[0].stream_id:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_missing_end(session_id, stream_id, ending)

    monkeypatch.setattr(after.runs, "write_missing_end", refuse)
    after.turns.recover()
    after.close()

    assert requests == [run.stream_id for run in runs]


def test_invalid_stream_id_on_disk_is_settled(tmp_path: Path) -> None:
    """H2: whatever a damaged sidecar contains, no other file is touched."""
    app = AssembledApp(tmp_path)
    app.store.new("s1")
    app.store.change("s1", lambda session: replace(session, active_stream_id="../../x"))

    assert app.turns.recover() == ("s1",)
    assert not app.store.load("s1").is_busy


def test_next_turn_settles_a_killed_one(tmp_path: Path) -> None:
    """S2: the pending message is never overwritten."""
    dead(tmp_path, 2)
    with assembled_app(tmp_path) as app:
        app.run("s1", "again")

        assert app.messages("s1") == [
            ("user", "before"),
            ("user", "hello"),
            ("assistant", "0 1 "),
            ("user", "again"),
            ("assistant", "re: again"),
        ]
        assert app.journal.in_flight() == []


def test_live_run_is_never_repaired(tmp_path: Path) -> None:
    """S13, S7: with or without a subscriber."""
    gate = Gate()
    with assembled_app(tmp_path, held(gate, "some")) as app:
        app.store.new("s1")
        run = app.turns.start("s1", "hello")
        gate.reached()
        assert not app.turns.repair("s1")
        assert app.store.load("s1").active_stream_id == run.stream_id
        gate.open()
        app.recorder.until("ended", run)
        assert not app.turns.repair("s1")
        assert app.messages("s1") == [("user", "hello"), ("assistant", "some")]


def test_kill_after_the_save_leaves_a_completed_turn(app: AssembledApp) -> None:
    """S13: a turn that is whole in the session is not marked, even if the journal lacks its end."""
    run = app.run("s1", "hello")
    app.journal.submit(run.turn_id, "s1", run.stream_id, "user")  # its end is missing again
    app.journal.submit("lost", "s1", "r", "user")  # a turn that is not in the session
    app.journal.submit("gone", "s2", "r", "user")  # a turn without a session
    after = app.restarted()

    assert after.turns.recover() == ()

    events = {turn.turn_id: str(turn.event) for turn in after.journal.turns()}
    assert events == {run.turn_id: "completed", "lost": "interrupted", "gone": "interrupted"}
    assert app.marks("s1") == [set(), set()]
    assert [session.session_id for session in after.synced] == ["s1"]


def test_unsettleable_session_stops_no_recovery(tmp_path: Path) -> None:
    """S5: its neighbour is settled all the same."""
    dead(tmp_path, 1)
    app = AssembledApp(tmp_path)
    for sid in ("a", "z"):
        app.store.new(sid)
        app.store.change(sid, lambda session: replace(session, pending_user_message="x"))
    (Path(app.store.files.folder) / "a.json").write_text("{")

    assert AssembledApp(tmp_path).turns.recover() == ("s1", "z")


# Shutting down


def test_shut_down_cancels_running_turns_and_refuses_others(tmp_path: Path) -> None:
    """H3: the output of a run that did not end is saved."""
    gate = Gate()

    def act(message: str, output: TurnOutput) -> str:
        output.token("some")
        if message == "long":
            gate.arrived.set()
            assert output.cancelled.wait(LONG_S)
        return "some"

    with assembled_app(tmp_path, act) as app:
        app.store.new("s1")
        run = app.turns.start("s1", "long")
        gate.reached()
        assert app.turns.shut_down(0.1)
        with pytest.raises(ShuttingDownError):
            app.turns.start("s1", "more")

        assert run.state is State.CANCELLED
        assert app.marks("s1") == [{"cancelled"}, {"cancelled"}]


# The scripted agent


class ScriptedApp:
    """An app with scripted agents and real processes."""

    def __init__(self, folder: Path) -> None:
        self.processes = ProcessRegistry(folder / "processes")
        self.app = AssembledApp(folder)
        self.app.turns._make_agent = lambda sid: ScriptedAgent(sid, self.processes)
        self.app.store.new("s1")


@pytest.fixture
def scripted_app(tmp_path: Path) -> Iterator[ScriptedApp]:
    scripted_app = ScriptedApp(tmp_path)
    yield scripted_app
    scripted_app.app.close()
    scripted_app.processes.close()


def test_scripted_agent_follows_its_message(scripted_app: ScriptedApp) -> None:
    """Tokens, tools and sleeps, in order; the reply is all tokens."""
    run = scripted_app.app.run("s1", "[tokens=2] [tool] [sleep=0] [tokens=1]")

    rows = list(scripted_app.app.runs.rows("s1", run.stream_id))
    assert [row["event"] for row in rows[:5]] == [
        *("token", "token", "tool", "tool_complete", "token")
    ]
    assert rows[3]["payload"]["output"] == "s1"
    assert scripted_app.app.messages("s1")[1] == ("assistant", "0 1 0 That was turn 1 of s1.")


def test_scripted_agent_threads_emit_concurrently(scripted_app: ScriptedApp) -> None:
    """T5: 4 threads, 20 tokens each: ids without a gap."""
    run = scripted_app.app.run("s1", "[tokens=20x4]")

    rows = list(scripted_app.app.runs.rows("s1", run.stream_id))
    assert [row["seq"] for row in rows] == [*range(1, 84)]


@pytest.mark.parametrize(
    ("script", "error"), [("[fail]", "ScriptedError"), ("[exit]", "SystemExit")]
)
def test_scripted_agent_fails_on_demand(scripted_app: ScriptedApp, script: str, error: str) -> None:
    """T3: and the run has the error."""
    run = scripted_app.app.run("s1", f"[tokens=1] {script}")

    assert run.state is State.ERROR
    assert run.error.startswith(error)


def test_scripted_agent_stops_on_cancel_unless_hanging(scripted_app: ScriptedApp) -> None:
    """T4: a sleep is interrupted; a hang is reclaimed."""
    app = scripted_app.app
    run = app.turns.start("s1", "[tokens=1] [sleep=1000]")
    app.recorder.until("token", run)
    app.turns.cancel(run.stream_id)
    app.recorder.until("ended", run)

    app.turns._ending._unwind_bound_s = 0.01
    hanging = app.turns.start("s1", "[tokens=1] [hang]")
    app.recorder.until("token", hanging)
    app.turns.cancel(hanging.stream_id)
    app.recorder.until("ended", hanging)
    assert hanging.unwound.wait(LONG_S)  # because its agent was closed


def test_scripted_process_belongs_to_its_turn(scripted_app: ScriptedApp) -> None:
    """W6: with exit code and output as scripted; braces become brackets in its output."""
    notified = threading.Semaphore(0)
    scripted_app.processes.listen(notified.release)
    scripted_app.app.run("s1", "[process=0:exit=3:hello: {sleep=1}]")
    assert notified.acquire(timeout=LONG_S)
    event = scripted_app.processes.take()

    assert event is not None
    assert (event.owner, event.exit_code, event.output) == ("s1", 3, "hello: [sleep=1]")
    assert "[" not in event.command.replace("'[]'", "")


# The state database


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 4), st.text("ab", max_size=2)), max_size=5),
)
def test_sync_makes_the_database_equal_the_session(
    lengths: list[tuple[int, str]],
) -> None:
    """For any previous content: longer, shorter, different; and twice is once."""
    with tempfile.TemporaryDirectory() as folder:
        db = StateDb(Path(folder) / "state.db", synchronous="NORMAL")
        sync = StateSync(db)
        for length, text in lengths:
            saved_text: list[Message] = [
                {"role": "user", "content": f"{text}{number}"} for number in range(length)
            ]
            session = Session(session_id="s1", title=text or "Untitled", messages=(*saved_text,))
            sync(session)
            sync(session)
            rows = [(message.role, message.content) for message in db.get_messages("s1")]
            assert rows == [("user", message["content"]) for message in saved_text]
        db.close()


def test_sync_ignores_a_title_taken_elsewhere(tmp_path: Path) -> None:
    """D2: titles are unique in the database, and lone surrogates are no text there."""
    db = StateDb(tmp_path / "state.db", synchronous="NORMAL")
    sync = StateSync(db)
    for sid in ("s1", "s2"):
        messages = ({"role": "user", "content": "\ud800"},)
        sync(Session(session_id=sid, title="same", messages=messages))

    assert [len(db.get_messages(sid)) for sid in ("s1", "s2")] == [1, 1]
    db.close()


def test_unwind_bound_is_three_minutes() -> None:
    """T4: a run that never unwinds is busy for three minutes, unless configured otherwise."""
    assert ending.UNWIND_BOUND_S == 180.0
