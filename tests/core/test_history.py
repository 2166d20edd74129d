"""A history that was written is read back; what a kill or a bad disk did to it is told."""

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
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "history.jsonl"
        with Journal(path, itertools.count().__next__) as journal:
            yield journal, path


def one_by_one(journal: Journal, episode: Episode) -> list[Operation]:
    """Ask, and wait for the answer, before the next question."""
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
    """Ask everything, then hear the answers, the last one first."""
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
def test_what_was_written_is_read_back(episodes: Sequence[Episode], ask: Ask) -> None:
    """Whatever is asked and answered, in whatever order, the file tells the same story."""
    with new_journal() as (journal, path):
        told = []
        for number, episode in enumerate(episodes):
            journal.episode(number=number)
            told.append(ask(journal, episode))

        read = history.read(path)

    assert [timeless(episode.operations) for episode in read] == [timeless(ops) for ops in told]
    assert [episode.notes for episode in read] == [{"number": n} for n in range(len(episodes))]


@given(QUESTIONS, ANSWERS)
def test_an_operation_survives_json(
    question: tuple[int, str, Any], answer: tuple[Outcome, Any, str]
) -> None:
    """An operation in a verdict is read back as it was."""
    outcome, result, error = answer
    operation = Operation(*question, outcome, 3, 5, result=result, error=error)

    assert Operation.from_json(json.loads(json.dumps(operation.to_json()))) == operation


def test_an_invocation_without_completion_is_unknown() -> None:
    """A call that nobody saw come back may have happened, and may yet."""
    with new_journal() as (journal, path):
        journal.episode()
        journal.invoke(7, "append", {"text": "x"})
        (read,) = history.read(path)

    assert read.operations == (Operation(7, "append", {"text": "x"}, Outcome.INFO, 0, None),)


@pytest.mark.parametrize("outcome", [Outcome.OK, Outcome.FAIL, Outcome.INFO])
def test_only_what_nobody_knows_has_no_end(outcome: Outcome) -> None:
    """An *info* has no completion time, as it may still take effect; the others have one."""
    with new_journal() as (journal, _):
        completed = journal.complete(journal.invoke(0, "append", 1), outcome)

    assert (completed.completed_ns is None) == (outcome is Outcome.INFO)


def test_faults_are_read_back_with_the_time_they_lasted() -> None:
    """The innermost open fault of a name is the one that is healed."""
    with new_journal() as (journal, path):
        journal.episode()
        journal.fault("full disk")
        journal.fault("kill")
        journal.heal("full disk")
        (read,) = history.read(path)

    assert read.faults == (FaultInterval("full disk", 0, 2), FaultInterval("kill", 1, None))


def test_a_torn_last_line_is_dropped_and_nothing_else(tmp_path: Path) -> None:
    """Wherever a kill cuts the file, all lines before the torn one are read."""
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
def test_damage_elsewhere_is_named_by_file_and_line(data: st.DataObject) -> None:
    """Whatever stands in a line that is not the last, it is an event or a damage told as such."""
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
            told = str(error)
        else:
            told = ""

    assert told.startswith(str(path)) or set(json.loads(line)) & {"episode", "fault", "heal"}


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
        b'{"heal": "what nobody broke", "at": 1}',
        b"[" * 100_000,
    ],
)
def test_a_line_that_is_no_event_is_a_damage(line: bytes, tmp_path: Path) -> None:
    """The error is a wrong question's, and says where to look."""
    path = tmp_path / "history.jsonl"
    path.write_bytes(b'{"episode":{}}\n' + line + b'\n{"episode":{}}\n')

    with pytest.raises(HistoryDamagedError, match=r"history\.jsonl:2: ") as caught:
        history.read(path)

    assert isinstance(caught.value, UsageError)


def test_a_file_without_one_whole_line_is_no_history(tmp_path: Path) -> None:
    """Something else was handed in, unless it is empty: then nothing was asked yet."""
    path = tmp_path / "history.jsonl"
    path.write_bytes(b"hello")
    with pytest.raises(HistoryDamagedError, match=r"history\.jsonl:1: "):
        history.read(path)
    path.write_bytes(b"")
    assert history.read(path) == ()


def test_a_full_disk_is_told_and_nothing_follows_a_torn_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A disk that takes half a line leaves the lines before it good, whatever is tried next."""
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
def test_one_precedes_another_only_if_it_was_over(
    *, first_ends: int | None, second_begins: int, comes_before: bool
) -> None:
    """What overlaps, or may yet happen, precedes nothing.

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
def test_a_digest_tells_apart_what_was_asked_or_answered(other: Operation) -> None:
    """Each field but the times counts, and so does where an episode ends."""
    assert history.digest([History((OK,))]) != history.digest([History((other,))])


def test_a_digest_ignores_times_alone() -> None:
    """The same seed gives the same digest, however fast the machine is."""
    later = replace(OK, invoked_ns=1000, completed_ns=None, argument={"b": 2, "a": 1})

    assert history.digest([History((OK,))]) == history.digest([History((later,))])
    assert history.digest([History((OK, OK))]) != history.digest([History((OK,)), History((OK,))])
