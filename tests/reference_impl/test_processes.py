"""The reference's process registry keeps W8, W12 and W13, and its side of W1, W4, W6 and T7."""

from __future__ import annotations

import errno
import os
import selectors
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.faults.simulated_disk import SimulatedDisk, fail_from
from reference_impl.agents import processes
from reference_impl.agents.identity import Identity, bound, spawn
from reference_impl.agents.processes import Event, Kind, ProcessRegistry, SpawnRefusedError

LONG_S = 20.0


class Desk:
    """A registry, and whoever waits for its events."""

    def __init__(self, folder: Path) -> None:
        self.registry = ProcessRegistry(folder)
        self._rung = threading.Semaphore(0)
        self.registry.listen(self._rung.release)

    def next_event(self) -> Event:
        """Wait for an event, or give up after long."""
        while (event := self.registry.take()) is None:
            self._wait()
        return event

    def close(self) -> None:
        """Kill what runs, reap it, and close the registry."""
        for process_id in self.registry.running():
            self.registry.kill(process_id)
        while self.registry.running():
            self._wait()
        self.registry.close()

    def _wait(self) -> None:
        assert self._rung.acquire(timeout=LONG_S), "nothing was told"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "processes")
    yield desk
    desk.close()


def fifo(tmp_path: Path) -> Path:
    """Whoever reads this waits until somebody writes: how tests hold a process without a clock."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


def open_gate(path: Path) -> None:
    path.write_text("go\n")


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(code=st.integers(0, 255), text=TEXT)
def test_a_completion_tells_session_command_exit_code_and_output(
    desk: Desk, code: int, text: str
) -> None:
    """W12, W6: and its owner is the turn that started it."""
    command = f"printf %s {shlex.quote(text)}; exit {code}"
    with bound(Identity("s1", "r1")):
        process_id = desk.registry.spawn(command)

    event = desk.next_event()

    assert (event.kind, event.process_id, event.owner) == (Kind.COMPLETION, process_id, "s1")
    assert (event.command, event.exit_code, event.output) == (command, code, text)
    assert not desk.registry.is_consumed(event.event_id)
    desk.registry.mark_consumed(event.event_id)
    assert desk.registry.is_consumed(event.event_id)
    assert desk.registry.take() is None


def test_owners_are_right_however_many_turns_spawn_at_once(desk: Desk) -> None:
    """T7, W6: each turn's threads start processes at the same moment."""
    together = threading.Barrier(8, timeout=LONG_S)

    def start() -> None:
        together.wait()
        current = threading.current_thread().name
        desk.registry.spawn(f"echo {current}")

    def work(sid: str) -> None:
        with bound(Identity(sid, "r")):
            for child in [spawn(start, name=sid) for _ in range(2)]:
                child.join()

    turns = [threading.Thread(target=work, args=(f"s{number}",)) for number in range(4)]
    for turn in turns:
        turn.start()
    for turn in turns:
        turn.join()

    events = [desk.next_event() for _ in range(8)]
    assert sorted(event.owner or "" for event in events) == sorted(["s0", "s1", "s2", "s3"] * 2)
    for event in events:
        assert event.output.strip() == event.owner


def test_outside_of_a_turn_the_key_is_all_there_is(desk: Desk) -> None:
    """W6: no proof of an owner is made up."""
    desk.registry.spawn("true", session_key="key")

    event = desk.next_event()

    assert (event.owner, event.session_key) == (None, "key")


def test_completions_come_in_the_order_of_completion(desk: Desk, tmp_path: Path) -> None:
    """W3: the one that was started first ends last."""
    gate = fifo(tmp_path)
    slow = desk.registry.spawn(f"read x < {gate}")
    quick = desk.registry.spawn("true")

    first = desk.next_event()
    open_gate(gate)
    second = desk.next_event()

    assert [first.process_id, second.process_id] == [quick, slow]
    assert first.number < second.number


def test_output_is_bounded_and_its_end_is_kept(desk: Desk) -> None:
    """W1: a chatty process costs little, and the last lines are what one wants to see."""
    desk.registry.spawn("yes abcdefg | head -c 3000000; echo; echo last")

    event = desk.next_event()

    assert len(event.output) == processes.OUTPUT_CHARS_MAX
    assert event.output.endswith("last\n")


def test_a_grandchild_that_keeps_the_pipe_open_delays_no_completion(
    desk: Desk, tmp_path: Path
) -> None:
    """W12: what counts is the end of the process, not the end of its output."""
    gate = fifo(tmp_path)
    desk.registry.spawn(f"(read x < {gate}) & echo started")

    assert desk.next_event().output == "started\n"
    open_gate(gate)


def children() -> set[int]:
    """Everybody whom we have to reap, zombies too; other tests of this worker may keep some."""
    return {child.pid for child in psutil.Process().children()}


def test_a_killed_process_is_told_of_and_reaped(desk: Desk, tmp_path: Path) -> None:
    """W12: an end is an end; and no zombie stays."""
    gate = fifo(tmp_path)
    others = children()
    process_id = desk.registry.spawn(f"read x < {gate}")
    assert desk.registry.running() == (process_id,)
    spawned = children() - others
    assert spawned

    assert desk.registry.kill(process_id)

    assert desk.next_event().exit_code == -signal.SIGKILL
    assert not desk.registry.kill(process_id)
    assert not spawned & children()


def test_without_a_promise_nothing_is_told(desk: Desk) -> None:
    """W1: the next completion is another's."""
    desk.registry.spawn("true", notify_on_complete=False)
    told = desk.registry.spawn("true")

    assert desk.next_event().process_id == told


@pytest.mark.parametrize("command", ["", "\0", "\ud800", "x" * 40_000])
def test_what_is_no_command_is_refused(desk: Desk, command: str) -> None:
    """H2: and nothing is left of it."""
    with pytest.raises(SpawnRefusedError):
        desk.registry.spawn(command)
    assert not any(desk.registry.gauges().values())


def test_the_number_of_processes_is_bounded(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H4: running ones are limited, finished ones forgotten."""
    monkeypatch.setattr(processes, "RUNNING_MAX", 2)
    gate = fifo(tmp_path)
    for _ in range(2):
        desk.registry.spawn(f"read x < {gate}")
    with pytest.raises(SpawnRefusedError, match="at 2 processes"):
        desk.registry.spawn("true")
    for process_id in desk.registry.running():
        desk.registry.kill(process_id)
        desk.registry.mark_consumed(desk.next_event().event_id)
    for _ in range(processes.FINISHED_MAX + 1):
        desk.registry.spawn("true")
        desk.registry.mark_consumed(desk.next_event().event_id)

    gauges = desk.registry.gauges()
    assert gauges.pop("processes_finished") == processes.FINISHED_MAX
    assert not any(gauges.values())
    assert not [*(tmp_path / "processes").glob("proc_*")]


def test_a_folder_that_is_not_there_is_told_as_the_end(desk: Desk, tmp_path: Path) -> None:
    """W12: whatever goes wrong after the spawn returned is a completion."""
    desk.registry.spawn("true", cwd=str(tmp_path / "nowhere"))

    assert desk.next_event().exit_code == 126


# Watches


def test_a_watched_line_is_told_but_is_no_completion(desk: Desk, tmp_path: Path) -> None:
    """W13: it comes while the process runs, and the completion comes all the same."""
    gate = fifo(tmp_path)
    command = f"echo is READY now; read x < {gate}"
    process_id = desk.registry.spawn(command, watches=("READY", "never"))

    match = desk.next_event()

    assert (match.kind, match.pattern, match.output) == (
        Kind.WATCH_MATCH,
        "READY",
        "is READY now",
    )
    assert match.exit_code is None
    assert match.event_id != process_id == match.process_id
    open_gate(gate)
    assert desk.next_event().kind is Kind.COMPLETION


def test_watches_are_rate_limited_and_say_what_they_left_out(desk: Desk) -> None:
    """W13: a flood of matches is one event, and the completion counts the others."""
    desk.registry.spawn("for i in 1 2 3 4 5 6 7 8 9; do echo READY; done", watches=("READY",))

    events = [desk.next_event(), desk.next_event()]

    assert [event.kind for event in events] == [Kind.WATCH_MATCH, Kind.COMPLETION]
    assert events[1].suppressed == 8


def test_a_process_has_only_so_many_watch_events(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W13: even at a slow rate there is an end to it."""
    monkeypatch.setattr(processes, "WATCH_INTERVAL_S", 0.0)
    monkeypatch.setattr(processes, "WATCH_EVENTS_MAX", 3)
    desk.registry.spawn("for i in 1 2 3 4 5; do echo READY $i; done", watches=("READY",))

    events = [desk.next_event() for _ in range(4)]

    assert [event.output for event in events[:3]] == ["READY 1", "READY 2", "READY 3"]
    assert len({event.event_id for event in events}) == 4
    assert (events[3].kind, events[3].suppressed) == (Kind.COMPLETION, 2)


def test_a_line_without_end_is_bounded(desk: Desk) -> None:
    """W13: and what it holds beyond that is not searched."""
    desk.registry.spawn("yes | tr -d '\\n' | head -c 1000000; printf READY", watches=("READY",))

    assert desk.next_event().kind is Kind.COMPLETION


# Kills, restarts and full disks

HOST = """
import os, signal, sys
from pathlib import Path
from reference_impl.agents.identity import Identity, bound
from reference_impl.agents.processes import ProcessRegistry
registry = ProcessRegistry(Path(sys.argv[1]))
with bound(Identity("s1", "r1")):
    for command in sys.argv[2:]:
        print(registry.spawn(command))
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_host(folder: Path, *commands: str) -> list[str]:
    """Let a host spawn these and be killed at once; returns the ids."""
    host = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", HOST, str(folder), *commands],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=LONG_S,
    )
    assert host.returncode == -signal.SIGKILL
    return host.stdout.split()


def test_a_process_that_outlives_its_host_is_adopted(tmp_path: Path) -> None:
    """W12: and its end is told by the next host, with the exit code."""
    folder, gate = tmp_path / "processes", fifo(tmp_path)
    (process_id,) = killed_host(folder, f"read x < {gate}; exit 3")
    desk = Desk(folder)
    assert desk.registry.running() == (process_id,)
    open_gate(gate)

    event = desk.next_event()

    assert (event.process_id, event.owner, event.exit_code) == (process_id, "s1", 3)
    desk.registry.close()


def test_ten_processes_of_a_killed_host_are_each_told_of_once(tmp_path: Path) -> None:
    """W12: however soon they end: with their exit code, or as a loss; and after it never again."""
    folder = tmp_path / "processes"
    started = killed_host(folder, *(f"exit {number}" for number in range(10)))
    desk = Desk(folder)

    events = [desk.next_event() for _ in started]

    assert sorted(event.process_id for event in events) == sorted(started)
    for event in events:
        assert event.exit_code in (None, started.index(event.process_id))
        desk.registry.mark_consumed(event.event_id)
    desk.registry.close()
    assert not any(Desk(folder).registry.gauges().values())


def test_a_process_is_found_however_soon_one_looks(tmp_path: Path) -> None:
    """W12: the next host comes before the process even has its arguments."""
    gate = fifo(tmp_path)
    for number in range(20):
        folder = tmp_path / str(number)
        first = ProcessRegistry(folder)
        process_id = first.spawn(f"read x < {gate}")

        second = ProcessRegistry(folder)

        assert second.running() == (process_id,)
        first.kill(process_id)
        second.close()
        first.close()


def test_a_process_that_left_no_exit_code_is_a_loss(tmp_path: Path) -> None:
    """W12: its shell was killed too, between two hosts."""
    folder, gate = tmp_path / "processes", fifo(tmp_path)
    (process_id,) = killed_host(folder, f"read x < {gate}")
    ((_, shell),) = processes._pids({str(folder / f"{process_id}.exit").encode()}).items()
    end = os.pidfd_open(shell)
    os.killpg(shell, signal.SIGKILL)
    with selectors.DefaultSelector() as selector:
        selector.register(end, selectors.EVENT_READ)
        assert selector.select(LONG_S)
    os.close(end)

    desk = Desk(folder)

    assert desk.next_event().exit_code is None
    desk.registry.close()


def test_what_was_not_consumed_is_told_again_in_order(tmp_path: Path) -> None:
    """W4: taken is not consumed: the next host tells it, watches included, and nothing else."""
    desk = Desk(tmp_path)
    desk.registry.spawn("echo READY", watches=("READY",))
    events = [desk.next_event(), desk.next_event()]
    desk.registry.spawn("true")
    consumed = desk.next_event()
    desk.registry.mark_consumed(consumed.event_id)
    desk.registry.close()

    again = Desk(tmp_path)

    assert [again.next_event(), again.next_event()] == events
    assert again.registry.take() is None
    assert again.registry.is_consumed(consumed.event_id)
    again.registry.close()


def test_after_a_restart_the_order_is_still_that_of_completion(tmp_path: Path) -> None:
    """W3, W4: not that of the spawns."""
    desk, gate = Desk(tmp_path / "processes"), fifo(tmp_path)
    slow = desk.registry.spawn(f"read x < {gate}")
    quick = desk.registry.spawn("true")
    desk.next_event()
    open_gate(gate)
    desk.next_event()
    desk.registry.close()

    again = Desk(tmp_path / "processes")

    assert [again.next_event().process_id for _ in range(2)] == [quick, slow]
    again.registry.close()


def test_a_promise_that_cannot_be_kept_is_not_made(desk: Desk, tmp_path: Path) -> None:
    """W12: on a full disk nothing is started."""
    with (
        SimulatedDisk(tmp_path, fail_from(errno.ENOSPC)(1)),
        pytest.raises(OSError, match="space"),
    ):
        desk.registry.spawn(f"touch {tmp_path / 'ran'}")

    assert desk.registry.running() == ()
    assert not (tmp_path / "ran").exists()


def test_a_mark_that_cannot_be_written_is_not_made(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W5: an event whose mark failed may be marked again."""

    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    desk.registry.spawn("true")
    event = desk.next_event()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="error"):
            desk.registry.mark_consumed(event.event_id)
    assert not desk.registry.is_consumed(event.event_id)

    desk.registry.mark_consumed(event.event_id)

    assert desk.registry.is_consumed(event.event_id)


def test_a_completion_on_a_full_disk_is_told_by_this_host(
    desk: Desk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """W12: the disk is full when the process ends; nobody who waits is kept waiting."""
    gate = fifo(tmp_path)
    process_id = desk.registry.spawn(f"read x < {gate}; exit 7")
    with SimulatedDisk(tmp_path / "processes", fail_from(errno.ENOSPC)(1)):
        open_gate(gate)
        event = desk.next_event()

    assert (event.process_id, event.exit_code) == (process_id, 7)
    assert "memory only" in caplog.text
    desk.registry.mark_consumed(event.event_id)


def test_a_closed_registry_starts_nothing(tmp_path: Path) -> None:
    """H3: and closing twice is closing."""
    registry = ProcessRegistry(tmp_path)
    registry.close()
    registry.close()

    with pytest.raises(SpawnRefusedError, match="closed"):
        registry.spawn("true")
