"""Suites and targets for tests of the engine: a counter, written to a folder of a test's own."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.engine.suite import use_folders

SCENARIO = '''
    """A toy scenario: a counter with a total, the added numbers, and a comment."""

    from harness import Anomaly, Expectation, History, Mode, Outcome, Promise, Scenario, Verdict

    P1 = Promise("{prefix}1", "The total is the sum of what was added.", "toy counter")
    P2 = Promise("{prefix}2", "Nothing is forgotten.", "toy counter")


    def add_three_times(context):
        for _ in range(context.examples):
            with context.episode() as episode:
                for number in (3, 1, 2):
                    episode.client.ask("add", {{"number": number}})
                episode.client.ask("read", {{}})


    def check(history):
        """Judge the total and the numbers; ignore the comment."""
        numbers = []
        for operation in history:
            if operation.function == "add" and operation.outcome is Outcome.OK:
                numbers.append(operation.argument["number"])
            expected = {{"total": sum(numbers), "numbers": numbers}}
            is_refused = operation.outcome is not Outcome.OK
            if is_refused or {{**operation.result, "comment": ""}} != {{**expected, "comment": ""}}:
                message = f"{{operation}} is wrong"
                return Verdict((Anomaly(P1, message, (operation,), expected=str(expected)),))
        return Verdict()


    COUNTER = Scenario(
        name="{name}",
        mode=Mode.{mode},
        ability="counter",
        promises=(P1, P2),
        workload=add_three_times,
        checker=check,
        expectations=(Expectation("reads", lambda history: len(list(history)) // 4),),
        examples=2,
    )


    def test_counter(judge):
        assert judge(COUNTER).is_valid
'''
TARGET = '''
    """A toy target: the counter, in this process."""

    from harness import AdapterInstance


    class Counter:
        def __init__(self):
            self.numbers = []

        def add(self, number):
            self.numbers.append(number)
            return self.read()

        def read(self):
            return {"total": sum(self.numbers), "numbers": list(self.numbers), "comment": "fine"}

        def close(self):
            self.numbers.clear()


    class CounterTarget:
        usage = "toy-counter[@MISTAKE]"
        description = "a toy counter"
        abilities = frozenset({"counter"})

        def __init__(self, mistake="0"):
            self.name = f"toy_target:CounterTarget@{mistake}"
            self.mistake = int(mistake)

        def prepare(self):
            """Nothing to prepare."""

        def open(self, ability, folder):
            counter = Counter()
            if self.mistake:
                counter.numbers.append(self.mistake)
            return AdapterInstance(counter)

        def standalone(self, ability):
            return "open_adapter = None"
'''


def write_suite(
    folder: Path, *, name: str = "toy-counter", prefix: str = "P", mode: str = "MODEL"
) -> Path:
    """Write a suite with one scenario into a new package `folder`, and return the folder.

    The name of the folder is the name of the package, so it must be unique in a process.
    """
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    source = textwrap.dedent(SCENARIO).format(name=name, prefix=prefix, mode=mode)
    (folder / "test_counter.py").write_text(source, encoding="utf-8")
    return folder


def write_target(folder: Path, module: str = "toy_target") -> Path:
    """Write the module of the target into a folder, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    source = textwrap.dedent(TARGET).replace("toy_target:", f"{module}:")
    (folder / f"{module}.py").write_text(source, encoding="utf-8")
    return folder


@contextmanager
def judging_by(*folders: Path) -> Iterator[None]:
    """Judge by the suites in these folders until the block ends."""
    use_folders(folders)
    try:
        yield
    finally:
        use_folders([])
