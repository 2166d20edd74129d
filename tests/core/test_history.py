"""Tests of the journal: a history is read back, and damage is reported with file and line."""

from __future__ import annotations

import errno
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core import history
from harness.core.errors import HistoryDamagedError, UsageError
from harness.core.history import FaultInterval, History, Journal, Operation, Outcome

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
QUESTIONS = st.tuples(st.integers(0, 3), st.sampled_from(["append", "größe", 'a "name"']), JSON)
ANSWERS = st.tuples(st.sampled_from(Outcome), JSON, st.text())
EPISODES = st.lists(st.lists(st.tuples(QUESTIONS, st.none() | ANSWERS), max_size=4), max_size=3)
Episode = Sequence[tuple[tuple[int, str, Any], tuple[Outcome, Any, str] | None]]
Ask = Callable[[Journal, Episode], list[Operation]]


@contextmanager
def new_journal() -> Iterator[tuple[Journal, Path]]:
    """A journal in a folder of its own, on a clock that counts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.jsonl"
        with Journal(path, itertools.count().__next__) as journal:
            yield journal, path


def one_by_one(journal: Journal, episode: Episode) -> list[Operation]:
    """Complete each call before the next one is invoked."""
    operations = []
    for question, answer in episode:
        number = journal.invoke(*question)
        operations.append(
            Operation(*question, Outcome.INFO, 0, None)
            if answer is None
            else journal.complete(number, *answer)
        )
    return operations


def all_at_once(journal: Journal, episode: Episode) -> list[Operation]:
    """Invoke all calls, then complete them, the last one first."""
    numbers = [journal.invoke(*question) for question, _ in episode]
    operations = [Operation(*question, Outcome.INFO, 0, None) for question, _ in episode]
    for index, (_, answer) in reversed(list(enumerate(episode))):
        if answer is not None:
            operations[index] = journal.complete(numbers[index], *answer)
    return operations


def timeless(operations: Sequence[Operation]) -> list[Operation]:
    """The operations without their times."""
    return [replace(operation, invoked_ns=0, completed_ns=None) for operation in operations]


@given(EPISODES, st.sampled_from([one_by_one, all_at_once]))
def test_journal_reads_back_what_was_written(episodes: Sequence[Episode], ask: Ask) -> None:
    """Any calls and outcomes in any order are read back."""
    with new_journal() as (journal, path):
        written = []
        for number, episode in enumerate(episodes):
            journal.episode(number=number)
            written.append(ask(journal, episode))

        read = history.read(path)

    assert [timeless(episode.operations) for episode in read] == [timeless(ops) for ops in written]
    assert [episode.notes for episode in read] == [{"number": n} for n in range(len(episodes))]


@given(QUESTIONS, ANSWERS)
def test_operation_equals_its_json_round_trip(
    question: tuple[int, str, Any], answer: tuple[Outcome, Any, str]
) -> None:
    """A verdict stores its evidence so."""
    outcome, result, error = answer
    operation = Operation(*question, outcome, 3, 5, result=result, error=error)

    assert Operation.from_json(json.loads(json.dumps(operation.to_json()))) == operation


def test_invocation_without_completion_is_info() -> None:
    """A call without a reply may have happened, and may still happen."""
    with new_journal() as (journal, path):
        journal.episode()
        journal.invoke(7, "append", {"text": "x"})
        (read,) = history.read(path)

    assert read.operations == (Operation(7, "append", {"text": "x"}, Outcome.INFO, 0, None),)


@pytest.mark.parametrize("outcome", [Outcome.OK, Outcome.FAIL, Outcome.INFO])
def test_only_info_has_no_completion_time(outcome: Outcome) -> None:
    """An *info* may still take effect; the other outcomes are final."""
    with new_journal() as (journal, _):
        completed = journal.complete(journal.invoke(0, "append", 1), outcome)

    assert (completed.completed_ns is None) == (outcome is Outcome.INFO)


def test_faults_are_read_back_with_their_intervals() -> None:
    """A heal ends the latest open fault of its name."""
    with new_journal() as (journal, path):
        journal.episode()
        journal.fault("full disk")
        journal.fault("kill")
        journal.heal("full disk")
        (read,) = history.read(path)

    assert read.faults == (FaultInterval("full disk", 0, 2), FaultInterval("kill", 1, None))


def test_torn_last_line_alone_is_dropped(tmp_path: Path) -> None:
    """For every cut of the file, all lines before the torn one are read."""
    with new_journal() as (journal, path):
        for number in range(2):
            journal.episode(number=number)
            one_by_one(journal, [((0, "append", "é"), (Outcome.OK, [1], ""))] * 2)
        whole = path.read_bytes()
    torn = tmp_path / "torn.jsonl"
    for end in range(whole.index(b"\n") + 1, len(whole)):
        torn.write_bytes(whole[:end])
        cut = history.read(torn)
        torn.write_bytes(whole[: whole.rindex(b"\n", 0, end) + 1])

        assert cut == history.read(torn)


@given(st.data())
def test_damage_elsewhere_names_file_and_line(data: st.DataObject) -> None:
    """Any content of a line that is not the last one is an event or a reported damage."""
    with new_journal() as (journal, path):
        journal.episode()
        one_by_one(journal, [((0, "append", 1), (Outcome.OK, None, ""))] * 3)
        lines = path.read_bytes().split(b"\n")
        number = data.draw(st.integers(1, len(lines) - 1), label="line")
        keys = st.sampled_from(["episode", "invoke", "complete", "fault", "heal", "at", "id"])
        events = st.dictionaries(keys, JSON | st.just(float("inf")))
        line = data.draw(st.binary() | (JSON | events).map(json.dumps).map(str.encode))
        lines[number - 1] = line.replace(b"\n", b" ")
        path.write_bytes(b"\n".join(lines))
        try:
            history.read(path)
        except HistoryDamagedError as error:
            message = str(error)
        else:
            message = ""

    assert message.startswith(str(path)) or set(json.loads(line)) & {"episode", "fault", "heal"}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff\x00",
        b"null",
        b"[]",
        b"{}",
        b'{"invoke": {"id": 1}, "at": 1}',
        b'{"complete": {"id": 99, "outcome": "ok", "result": 1, "error": ""}, "at": 1}',
        b'{"complete": {"id": 0, "outcome": "perhaps", "result": 1, "error": ""}, "at": 1}',
        b'{"fault": "kill", "at": Infinity}',
        b'{"heal": "a fault that never began", "at": 1}',
        b"[" * 100_000,
    ],
)
def test_line_without_an_event_is_a_damage(line: bytes, tmp_path: Path) -> None:
    """It is a usage error that names file and line."""
    path = tmp_path / "history.jsonl"
    path.write_bytes(b'{"episode":{}}\n' + line + b'\n{"episode":{}}\n')

    with pytest.raises(HistoryDamagedError, match=r"history\.jsonl:2: ") as caught:
        history.read(path)

    assert isinstance(caught.value, UsageError)


def test_file_without_a_complete_line_is_rejected(tmp_path: Path) -> None:
    """An empty file is a history without calls."""
    path = tmp_path / "history.jsonl"
    path.write_bytes(b"hello")
    with pytest.raises(HistoryDamagedError, match=r"history\.jsonl:1: "):
        history.read(path)
    path.write_bytes(b"")
    assert history.read(path) == ()


def test_full_disk_raises_and_ends_the_journal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After half a line the earlier lines stay good, and no later line is written."""
    real_write = os.write

    def take_half(fd: int, line: bytes) -> int:
        return real_write(fd, line[: len(line) // 2])

    with new_journal() as (journal, path):
        journal.episode()
        with monkeypatch.context() as patched:
            patched.setattr("harness.core.history.os.write", take_half)
            with pytest.raises(OSError, match=r"No space left.*history\.jsonl") as caught:
                journal.invoke(0, "append", 1)
        with pytest.raises(OSError, match="No space left"):
            journal.invoke(0, "append", 2)
        read = history.read(path)

    assert caught.value.errno == errno.ENOSPC
    assert read == (History(),)


@pytest.mark.parametrize(
    ("first_ends", "second_begins", "comes_before"),
    [(10, 11, True), (10, 10, False), (11, 10, False), (None, 99, False)],
)
def test_operation_precedes_another_only_if_completed_before(
    *, first_ends: int | None, second_begins: int, comes_before: bool
) -> None:
    """An operation that overlaps, or has no completion, does not precede.

    C0: |--- first ---|
    C1:                 |--- second ---|
    """
    outcome = Outcome.INFO if first_ends is None else Outcome.OK
    first = Operation(0, "append", 1, outcome, 0, first_ends)
    second = Operation(1, "append", 2, Outcome.OK, second_begins, 100)

    assert first.precedes(second) is comes_before
    assert not second.precedes(first)


OK = Operation(0, "append", {"a": 1, "b": 2}, Outcome.OK, 10, 20, [1])


@pytest.mark.parametrize(
    "other",
    [
        replace(OK, process=1),
        replace(OK, function="read"),
        replace(OK, argument={"a": 1}),
        replace(OK, outcome=Outcome.FAIL),
        replace(OK, result=[2]),
    ],
)
def test_digest_differs_by_call_or_outcome(other: Operation) -> None:
    """Every field except the times counts, and so does the end of an episode."""
    assert history.digest([History((OK,))]) != history.digest([History((other,))])


def test_digest_ignores_only_times() -> None:
    """The same seed has the same digest on a slow and on a fast machine."""
    later = replace(OK, invoked_ns=1000, completed_ns=None, argument={"b": 2, "a": 1})

    assert history.digest([History((OK,))]) == history.digest([History((later,))])
    assert history.digest([History((OK, OK))]) != history.digest([History((OK,)), History((OK,))])


def test_history_selects_operations_by_function_and_outcome() -> None:
    read, failed = replace(OK, function="read"), replace(OK, outcome=Outcome.FAIL)
    episode = History((OK, read, failed), (FaultInterval("kill", 1),), {"seed": 3})

    assert episode.of("append") == (OK, failed)
    assert episode.of("append", "read") == (OK, read, failed)
    assert episode.happened.of("append") == (OK,)
    assert list(episode.happened) == [OK, read]
    assert (episode.happened.faults, episode.happened.notes) == (episode.faults, {"seed": 3})
