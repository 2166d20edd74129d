"""Machines find what is wrong, leave it with the least evidence, and find nothing in what is right.

The toy counts up; each wrong one goes wrong after something else.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from harness import history, machine
from harness.checkers.conformance import conforms
from harness.errors import UsageError
from harness.history import History, Journal, Operation, Outcome
from harness.machine import SHRINKS_MAX, Machine, explore, minimize
from harness.models.model import Refusal
from harness.promises import Promise
from harness.stage import Stage
from harness.target import AdapterInstance
from harness.verdict import VALID, Anomaly

EXAMPLES = 20


class CountModel:
    """A count goes up by what is added (S2), is none below zero (S9), and can be named (S8)."""

    name = "count"

    def initial(self) -> int:
        return 0

    def step(self, state: int, operation: Operation) -> tuple[int] | Refusal:
        match operation.function:
            case "add":
                return (state + int(operation.argument["number"]),)
            case "read" if operation.result != state:
                broken = Promise.S9 if (operation.result or 0) < 0 else Promise.S2
                return Refusal(broken, f"{operation}, not {state}", (state,))
        return (state,)


class Counter:
    def __init__(self) -> None:
        self.count = 0
        self.added = 0
        self.named = False

    def add(self, number: int) -> None:
        self.count += number
        self.added += 1

    def label(self) -> None:
        self.named = True

    def read(self) -> int:
        return self.count

    def close(self) -> None:
        """Nothing is held."""


class LosesTheThird(Counter):
    def add(self, number: int) -> None:
        super().add(number if self.added != 2 else 0)


class GoesWrongSoonerWithoutALabel(LosesTheThird):
    def read(self) -> int:
        return self.count if self.named else -1


class CannotBeLabelledAtFirst(LosesTheThird):
    def label(self) -> None:
        if self.added == 0:
            raise UsageError("there is nothing to label")


@dataclass
class Toy:
    """A target that counts how often it was opened, and what is open."""

    make: type[Counter]
    name: str = "toy"
    abilities: frozenset[str] = field(default=frozenset({"count"}))
    opened: list[Path] = field(default_factory=list)

    def prepare(self) -> None:
        """Nothing to make ready."""

    def open(self, ability: str, folder: Path) -> AdapterInstance:
        assert ability in self.abilities
        self.opened.append(folder)
        return AdapterInstance(self.make())

    def standalone(self, ability: str) -> str:
        return f"{ability} has none"


class CountMachine(Machine):
    """Adds, labels and reads; reads once more at the end."""

    model = CountModel()

    @rule(number=st.integers(1, 9))
    def add(self, number: int) -> None:
        self.ask("add", number=number)

    @rule()
    def label(self) -> None:
        self.ask("label")

    @rule()
    def read(self) -> None:
        self.ask("read")

    def finish(self) -> None:
        self.ask("read")


def explored(make: type[Counter], folder: Path, seed: str = "1") -> tuple[Toy, tuple[History, ...]]:
    """Explore a toy; the toy, and what the journal says."""
    folder.mkdir(exist_ok=True)
    toy, path = Toy(make), folder / "history.jsonl"
    with Journal(path, time.monotonic_ns) as journal:
        explore(CountMachine)(Stage(toy, "count", seed, EXAMPLES, journal))
    return toy, history.read(path)


def minimized(make: type[Counter], asked: list[Operation], folder: Path) -> tuple[History, ...]:
    """What is journalled of a failure that was seen with this evidence."""
    path = folder / "history.jsonl"
    anomaly = Anomaly(Promise.S2, "as seen", tuple(asked))
    with Journal(path, time.monotonic_ns) as journal:
        minimize(Stage(Toy(make), "count", "1", 1, journal), CountModel(), anomaly)
    return history.read(path)


def op(function: str, **argument: Any) -> Operation:
    return Operation(0, function, argument, Outcome.OK, 1, 2)


def asked(told: History) -> list[str]:
    return [one.function for one in told]


def shortest(episodes: tuple[History, ...]) -> Anomaly:
    """The anomaly with the least evidence in a journal."""
    found = [conforms(CountModel())(one).anomalies for one in episodes]
    return min((one for (one,) in filter(None, found)), key=lambda one: len(one.evidence))


def test_a_right_target_is_valid_in_every_episode(tmp_path: Path) -> None:
    """Nothing is found, nothing is shrunk, and no folder is left."""
    toy, episodes = explored(Counter, tmp_path)

    assert {conforms(CountModel())(one) for one in episodes} == {VALID}
    assert len(episodes) == len(toy.opened) >= EXAMPLES
    assert all(asked(one)[-1] == "read" for one in episodes)
    assert not any(folder.exists() for folder in toy.opened)


def test_what_fails_is_left_with_the_least_evidence(tmp_path: Path) -> None:
    """Three additions and a read; the journal's last episode is those four."""
    toy, episodes = explored(LosesTheThird, tmp_path)

    assert asked(episodes[-1]) == ["add", "add", "add", "read"]
    assert shortest(episodes).promise is Promise.S2
    assert len(shortest(episodes).evidence) == 4
    assert not any(folder.exists() for folder in toy.opened)


def test_leaving_out_keeps_the_promise_that_was_broken(tmp_path: Path) -> None:
    """Without the label there is less evidence, and another promise is broken: another story."""
    evidence = [op("add", number=1), op("label"), op("add", number=2), op("add", number=3)]
    (left,) = minimized(
        GoesWrongSoonerWithoutALabel, [op("label"), *evidence, op("read")], tmp_path
    )

    assert sorted(asked(left)) == ["add", "add", "add", "label", "read"]
    assert [one.promise for one in conforms(CountModel())(left).anomalies] == [Promise.S2]


def test_the_tries_are_no_evidence(tmp_path: Path) -> None:
    """Many programs are tried; only what is left of them is journalled."""
    evidence = [op("add", number=number) for number in (1, 2, 3, 4, 5, 6)]
    episodes = minimized(LosesTheThird, [*evidence, op("read")], tmp_path)

    assert len(episodes) == 1


def test_a_question_that_cannot_be_asked_without_another_is_kept(tmp_path: Path) -> None:
    """A program that makes no sense is no smaller failure, and no failure of the harness."""
    evidence = [op("add", number=1), op("label"), op("add", number=2), op("add", number=3)]
    (left,) = minimized(CannotBeLabelledAtFirst, [*evidence, op("read")], tmp_path)

    assert asked(left) == ["add", "add", "add", "read"]


def test_a_failure_that_is_not_seen_again_is_left_as_it_was(tmp_path: Path) -> None:
    """Where it depends on something else, there is nothing to leave out."""
    evidence = [op("add", number=1), op("read")]
    (left,) = minimized(Counter, evidence, tmp_path)

    assert asked(left) == ["add", "read"]


@pytest.mark.parametrize("make", [Counter, LosesTheThird])
def test_the_same_seed_asks_the_same(make: type[Counter], tmp_path: Path) -> None:
    """The same seed asks the same operations, and another one does not."""
    _, one = explored(make, tmp_path / "one")
    _, two = explored(make, tmp_path / "two")
    _, other = explored(make, tmp_path / "other", seed="2")

    assert history.digest(one) == history.digest(two)
    assert history.digest(one) != history.digest(other)


@pytest.mark.parametrize("most", [0, 3, SHRINKS_MAX])
def test_shrinking_ends_after_so_many_tries(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first failure at most so many examples are tried, and one more is what is left."""
    monkeypatch.setattr(machine, "SHRINKS_MAX", most)
    _, episodes = explored(LosesTheThird, tmp_path)
    first = next(i for i, one in enumerate(episodes) if not conforms(CountModel())(one).is_valid)

    assert len(episodes[first + 1 : -1]) <= most
    assert asked(episodes[-1]) == ["add", "add", "add", "read"]


class Breaks(Counter):
    def read(self) -> int:
        raise UsageError("the harness asked for what is not there")


def test_what_breaks_the_harness_is_no_finding(tmp_path: Path) -> None:
    """An error of ours comes out as it is, not as a promise that somebody broke."""
    with pytest.raises(UsageError, match="not there"):
        explored(Breaks, tmp_path)


def test_a_refusal_tells_what_would_have_been_right(tmp_path: Path) -> None:
    _, episodes = explored(LosesTheThird, tmp_path)
    anomaly = shortest(episodes)
    numbers = [one.argument for one in anomaly.evidence[:-1]]

    assert anomaly.accepted == (sum(argument["number"] for argument in numbers),)
