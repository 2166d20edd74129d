"""Tests of the process registry (W8, W12, W13, and its part of W1, W4, W6, T7)."""

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
from contextlib import closing, nullcontext
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.faults.simulated_disk import SimulatedDisk, fail_from
from reference_impl.agents import process_table, processes, watches
from reference_impl.agents.identity import Identity, bound, spawn
from reference_impl.agents.processes import Event, Kind, ProcessRegistry, SpawnRefusedError
from reference_impl.storage.durable_map import DurableMap

LONG_S = 20.0


class RegistryClient:
    """A registry, and a client that waits for its events."""

    def __init__(self, folder: Path) -> None:
        self.registry = ProcessRegistry(folder)
        self._notified = threading.Semaphore(0)
        self.registry.listen(self._notified.release)

    def next_event(self) -> Event:
        """Wait for an event, with a long timeout."""
        while (event := self.registry.take()) is None:
            self._wait()
        return event

    def close(self) -> None:
        """Kill running processes, reap them, and close the registry."""
        for process_id in self.registry.running():
            self.registry.kill(process_id)
        while self.registry.running():
            self._wait()
        self.registry.close()

    def _wait(self) -> None:
        assert self._notified.acquire(timeout=LONG_S), "no event came"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[RegistryClient]:
    client = RegistryClient(tmp_path / "processes")
    yield client
    client.close()


def fifo(tmp_path: Path) -> Path:
    """A reader blocks until a writer opens it: it holds a process without a clock."""
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
def test_completion_has_command_exit_code_and_output(
    client: RegistryClient, code: int, text: str
) -> None:
    """W12, W6: and its owner is the turn that started it."""
    command = f"printf %s {shlex.quote(text)}; exit {code}"
    with bound(Identity("s1", "r1")):
        process_id = client.registry.spawn(command)

    event = client.next_event()

    assert (event.kind, event.process_id, event.owner) == (Kind.COMPLETION, process_id, "s1")
    assert (event.command, event.exit_code, event.output) == (command, code, text)
    assert not client.registry.is_consumed(event.event_id)
    client.registry.mark_consumed(event.event_id)
    assert client.registry.is_consumed(event.event_id)
    assert client.registry.take() is None


def test_concurrent_spawns_have_their_own_owners(client: RegistryClient) -> None:
    """T7, W6: the threads of each turn start processes at the same moment."""
    together = threading.Barrier(8, timeout=LONG_S)

    def start() -> None:
        together.wait()
        current = threading.current_thread().name
        client.registry.spawn(f"echo {current}")

    def work(sid: str) -> None:
        with bound(Identity(sid, "r")):
            for child in [spawn(start, name=sid) for _ in range(2)]:
                child.join()

    turns = [threading.Thread(target=work, args=(f"s{number}",)) for number in range(4)]
    for turn in turns:
        turn.start()
    for turn in turns:
        turn.join()

    events = [client.next_event() for _ in range(8)]
    assert sorted(event.owner or "" for event in events) == sorted(["s0", "s1", "s2", "s3"] * 2)
    for event in events:
        assert event.output.strip() == event.owner


@pytest.mark.parametrize(("owner", "key"), [("s1", ""), ("s1", "k"), (None, "k"), (None, "")])
def test_environment_names_only_its_own_session(
    client: RegistryClient, monkeypatch: pytest.MonkeyPatch, owner: str | None, key: str
) -> None:
    """W14: although the host itself was started by a turn of another session."""
    for name in ("ID", "KEY", "PLATFORM", "CHAT_ID", "THREAD_ID"):
        monkeypatch.setenv(f"HERMES_SESSION_{name}", "another")
    with bound(Identity(owner, "r1")) if owner else nullcontext():
        client.registry.spawn("env | grep ^HERMES_SESSION_ | sort", session_key=key)

    found = dict(line.split("=") for line in client.next_event().output.splitlines())

    known = {"ID": owner, "CHAT_ID": owner, "KEY": key or owner, "PLATFORM": "webui"}
    assert found == {f"HERMES_SESSION_{name}": value for name, value in known.items() if value}


def test_spawn_outside_a_turn_has_only_its_key(client: RegistryClient) -> None:
    """W6: no owner is made up."""
    client.registry.spawn("true", session_key="key")

    event = client.next_event()

    assert (event.owner, event.session_key) == (None, "key")


def test_completions_come_in_order_of_completion(client: RegistryClient, tmp_path: Path) -> None:
    """W3: the process that was started first ends last."""
    gate = fifo(tmp_path)
    slow = client.registry.spawn(f"read x < {gate}")
    quick = client.registry.spawn("true")

    first = client.next_event()
    open_gate(gate)
    second = client.next_event()

    assert [first.process_id, second.process_id] == [quick, slow]
    assert first.number < second.number


def test_output_is_bounded_to_its_end(client: RegistryClient) -> None:
    """W1: a process with much output costs little, and the last lines stay."""
    client.registry.spawn("yes abcdefg | head -c 3000000; echo; echo last")

    event = client.next_event()

    assert len(event.output) == processes.OUTPUT_CHARS_MAX
    assert event.output.endswith("last\n")


def test_grandchild_with_open_output_delays_no_completion(
    client: RegistryClient, tmp_path: Path
) -> None:
    """W12: the end of the process counts, not the end of its output."""
    gate = fifo(tmp_path)
    client.registry.spawn(f"(read x < {gate}) & echo started")

    assert client.next_event().output == "started\n"
    open_gate(gate)


def children() -> set[int]:
    """Our child processes, zombies too; other tests of this worker may have some."""
    return {child.pid for child in psutil.Process().children()}


def test_killed_process_is_reported_and_reaped(client: RegistryClient, tmp_path: Path) -> None:
    """W12: a kill is an end; and no zombie stays."""
    gate = fifo(tmp_path)
    others = children()
    process_id = client.registry.spawn(f"read x < {gate}")
    assert client.registry.running() == (process_id,)
    spawned = children() - others
    assert spawned

    assert client.registry.kill(process_id)

    assert client.next_event().exit_code == -signal.SIGKILL
    assert not client.registry.kill(process_id)
    assert not spawned & children()


def test_process_without_notification_has_no_event(client: RegistryClient) -> None:
    """W1: the next completion is another process's."""
    client.registry.spawn("true", notify_on_complete=False)
    reported = client.registry.spawn("true")

    assert client.next_event().process_id == reported


@pytest.mark.parametrize("command", ["", "\0", "\ud800", "x" * 40_000])
def test_invalid_command_is_refused(client: RegistryClient, command: str) -> None:
    """H2: and nothing of it stays."""
    with pytest.raises(SpawnRefusedError):
        client.registry.spawn(command)
    assert not any(client.registry.gauges().values())


def test_number_of_processes_is_bounded(
    client: RegistryClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H4: running ones are limited, finished ones forgotten."""
    monkeypatch.setattr(processes, "RUNNING_MAX", 2)
    gate = fifo(tmp_path)
    for _ in range(2):
        client.registry.spawn(f"read x < {gate}")
    with pytest.raises(SpawnRefusedError, match="at 2 processes"):
        client.registry.spawn("true")
    for process_id in client.registry.running():
        client.registry.kill(process_id)
        client.registry.mark_consumed(client.next_event().event_id)
    for _ in range(processes.FINISHED_MAX + 1):
        client.registry.spawn("true")
        client.registry.mark_consumed(client.next_event().event_id)

    gauges = client.registry.gauges()
    assert gauges.pop("processes_finished") == processes.FINISHED_MAX
    assert not any(gauges.values())
    client.registry.close()  # its thread removes the files after it has reported the end
    assert not [*(tmp_path / "processes").glob("proc_*")]


def test_missing_folder_is_reported_as_exit_code(client: RegistryClient, tmp_path: Path) -> None:
    """W12: a failure after the spawn returned is a completion."""
    client.registry.spawn("true", cwd=str(tmp_path / "nowhere"))

    assert client.next_event().exit_code == 126


# Watches


def test_watched_line_is_reported_before_the_completion(
    client: RegistryClient, tmp_path: Path
) -> None:
    """W13: the match comes while the process runs, and the completion follows."""
    gate = fifo(tmp_path)
    command = f"echo is READY now; read x < {gate}"
    process_id = client.registry.spawn(command, watches=("READY", "never"))

    match = client.next_event()

    assert (match.kind, match.pattern, match.output) == (
        Kind.WATCH_MATCH,
        "READY",
        "is READY now",
    )
    assert match.exit_code is None
    assert match.event_id != process_id == match.process_id
    open_gate(gate)
    assert client.next_event().kind is Kind.COMPLETION


def test_watch_events_are_rate_limited_and_counted(client: RegistryClient) -> None:
    """W13: a flood of matches is one event, and the completion counts the others."""
    client.registry.spawn("for i in 1 2 3 4 5 6 7 8 9; do echo READY; done", watches=("READY",))

    events = [client.next_event(), client.next_event()]

    assert [event.kind for event in events] == [Kind.WATCH_MATCH, Kind.COMPLETION]
    assert events[1].suppressed == 8


def test_number_of_watch_events_is_bounded(
    client: RegistryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W13: a slow rate is bounded too."""
    monkeypatch.setattr(watches, "WATCH_INTERVAL_S", 0.0)
    monkeypatch.setattr(watches, "WATCH_EVENTS_MAX", 3)
    client.registry.spawn("for i in 1 2 3 4 5; do echo READY $i; done", watches=("READY",))

    events = [client.next_event() for _ in range(4)]

    assert [event.output for event in events[:3]] == ["READY 1", "READY 2", "READY 3"]
    assert len({event.event_id for event in events}) == 4
    assert (events[3].kind, events[3].suppressed) == (Kind.COMPLETION, 2)


def test_line_without_end_is_bounded(client: RegistryClient) -> None:
    """W13: and the text beyond that bound is not searched."""
    client.registry.spawn("yes | tr -d '\\n' | head -c 1000000; printf READY", watches=("READY",))

    assert client.next_event().kind is Kind.COMPLETION


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
    """Run a host that spawns these and is killed at once; returns the process ids."""
    host = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", HOST, str(folder), *commands],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=LONG_S,
    )
    assert host.returncode == -signal.SIGKILL
    return host.stdout.split()


def test_process_outliving_its_host_is_adopted(tmp_path: Path) -> None:
    """W12: and the next host reports its end, with the exit code."""
    folder, gate = tmp_path / "processes", fifo(tmp_path)
    (process_id,) = killed_host(folder, f"read x < {gate}; exit 3")
    client = RegistryClient(folder)
    assert client.registry.running() == (process_id,)
    open_gate(gate)

    event = client.next_event()

    assert (event.process_id, event.owner, event.exit_code) == (process_id, "s1", 3)
    client.registry.close()


def test_output_after_a_killed_host_is_reported(tmp_path: Path) -> None:
    """W12: the process prints on, before and after the next host opens."""
    folder, gate = tmp_path / "processes", fifo(tmp_path)
    killed_host(folder, f"echo first; cat {gate}; echo last")
    pipe = os.open(gate, os.O_WRONLY)
    os.write(pipe, b"between\n")
    client = RegistryClient(folder)
    os.close(pipe)

    event = client.next_event()

    assert (event.output, event.exit_code) == ("first\nbetween\nlast\n", 0)
    client.registry.close()


def test_match_before_a_kill_is_not_repeated(tmp_path: Path) -> None:
    """W13: its event became durable, and the process's row behind it did not."""
    folder, gate = tmp_path / "processes", fifo(tmp_path)
    client = RegistryClient(folder)
    client.registry.spawn(f"echo hit 1; cat {gate}", watches=("hit",))
    match = client.next_event()
    row = client.registry._map.get(match.process_id)
    assert row is not None
    before = {**row, "line_at": 0, "matches": 0, "matched_at": None}
    client.registry.close()
    with closing(DurableMap(str(folder / "ledger.jsonl"))) as ledger:
        ledger.put(match.process_id, before)
    open_gate(gate)

    again = RegistryClient(folder)

    assert [again.next_event().kind for _ in range(2)] == [Kind.WATCH_MATCH, Kind.COMPLETION]
    assert again.registry.take() is None
    again.registry.close()


def test_processes_of_a_killed_host_are_reported_once(tmp_path: Path) -> None:
    """W12: with their exit code, or as a loss; and never again after they are consumed."""
    folder = tmp_path / "processes"
    started = killed_host(folder, *(f"exit {number}" for number in range(10)))
    client = RegistryClient(folder)

    events = [client.next_event() for _ in started]

    assert sorted(event.process_id for event in events) == sorted(started)
    for event in events:
        assert event.exit_code in (None, started.index(event.process_id))
        client.registry.mark_consumed(event.event_id)
    client.registry.close()
    assert not any(RegistryClient(folder).registry.gauges().values())


def test_process_is_adopted_right_after_its_spawn(tmp_path: Path) -> None:
    """W12: the next host opens before the process even has its arguments."""
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


def test_process_without_exit_code_is_a_loss(tmp_path: Path) -> None:
    """W12: its shell was killed too, between two hosts."""
    folder, gate = tmp_path / "processes", fifo(tmp_path)
    (process_id,) = killed_host(folder, f"read x < {gate}")
    ((_, shell),) = process_table.pids({str(folder / f"{process_id}.exit").encode()}).items()
    end = os.pidfd_open(shell)
    os.killpg(shell, signal.SIGKILL)
    with selectors.DefaultSelector() as selector:
        selector.register(end, selectors.EVENT_READ)
        assert selector.select(LONG_S)
    os.close(end)

    client = RegistryClient(folder)

    assert client.next_event().exit_code is None
    client.registry.close()


def test_unconsumed_events_come_again_in_order(tmp_path: Path) -> None:
    """W4: taken is not consumed: the next host gives it again, watches included, and no other."""
    client = RegistryClient(tmp_path)
    client.registry.spawn("echo READY", watches=("READY",))
    events = [client.next_event(), client.next_event()]
    client.registry.spawn("true")
    consumed = client.next_event()
    client.registry.mark_consumed(consumed.event_id)
    client.registry.close()

    again = RegistryClient(tmp_path)

    assert [again.next_event(), again.next_event()] == events
    assert again.registry.take() is None
    assert again.registry.is_consumed(consumed.event_id)
    again.registry.close()


def test_event_order_survives_a_restart(tmp_path: Path) -> None:
    """W3, W4: not that of the spawns."""
    client, gate = RegistryClient(tmp_path / "processes"), fifo(tmp_path)
    slow = client.registry.spawn(f"read x < {gate}")
    quick = client.registry.spawn("true")
    client.next_event()
    open_gate(gate)
    client.next_event()
    client.registry.close()

    again = RegistryClient(tmp_path / "processes")

    assert [again.next_event().process_id for _ in range(2)] == [quick, slow]
    again.registry.close()


def test_spawn_on_a_full_disk_starts_nothing(client: RegistryClient, tmp_path: Path) -> None:
    """W12: on a full disk nothing is started."""
    with (
        SimulatedDisk(tmp_path, fail_from(errno.ENOSPC)(1)),
        pytest.raises(OSError, match="space"),
    ):
        client.registry.spawn(f"touch {tmp_path / 'ran'}")

    assert client.registry.running() == ()
    assert not (tmp_path / "ran").exists()


def test_failed_mark_leaves_the_event_pending(
    client: RegistryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W5: an event whose mark failed may be marked again."""

    def refuse(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    client.registry.spawn("true")
    event = client.next_event()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match="error"):
            client.registry.mark_consumed(event.event_id)
    assert not client.registry.is_consumed(event.event_id)

    client.registry.mark_consumed(event.event_id)

    assert client.registry.is_consumed(event.event_id)


def test_completion_on_a_full_disk_is_reported(
    client: RegistryClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """W12: the disk is full when the process ends; its event still comes."""
    gate = fifo(tmp_path)
    process_id = client.registry.spawn(f"read x < {gate}; exit 7")
    with SimulatedDisk(tmp_path / "processes", fail_from(errno.ENOSPC)(1)):
        open_gate(gate)
        event = client.next_event()

    assert (event.process_id, event.exit_code) == (process_id, 7)
    assert "memory only" in caplog.text
    client.registry.mark_consumed(event.event_id)


def test_closed_registry_starts_nothing(tmp_path: Path) -> None:
    """H3: and closing twice is closing."""
    registry = ProcessRegistry(tmp_path)
    registry.close()
    registry.close()

    with pytest.raises(SpawnRefusedError, match="closed"):
        registry.spawn("true")
