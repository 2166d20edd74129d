"""Mutants differ from the reference in one place; what nobody puts up with counts."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import pytest

from harness.contract import promises
from harness.core.errors import HarnessError, UsageError
from harness.core.verdict import VALID, Anomaly, Assumption, Verdict
from harness.mutation.mutants import (
    Operator,
    breed,
    find_mutants,
    mutants_of,
    mutated,
    source_folder,
)
from harness.report.judgement import Record
from harness.runs import mutation_score as mutation
from harness.runs.mutation_score import Fate, Mutation, score
from harness.runs.pytest_run import Results, Session

SOURCE = '''
@dataclass(slots=True)
class Möbel:
    """Said to nobody."""

    _KEPT = 1

    def __init__(self) -> None:
        self.count = 0

    def take(self, wanted: int = 1) -> bool:
        with self._lock:
            if self.count < wanted and self.open:
                log.info("%d", self.count + 1)
                return False
            über = self.count - wanted
            self.count = über
            self.notify()
        if self.done:
            raise ValueError(f"{self.count + 1} are {'too' + ' many'}")
        return True
'''


def test_every_operator_finds_its_place_and_no_other() -> None:
    """Characters of two bytes stand before some of them."""
    told = {(one.operator, one.before, one.after) for one in mutants_of("x.py", SOURCE)}
    test = "self.count < wanted and self.open"

    assert told == {
        (Operator.CONSTANT, "1", "2"),
        (Operator.CONSTANT, "0", "1"),
        (Operator.LOCK, "with self._lock", "if True"),
        (Operator.CONNECTOR, test, "(self.count < wanted or self.open)"),
        (Operator.NEGATION, test, f"(not ({test}))"),
        (Operator.RELATION, "self.count < wanted", "(self.count <= wanted)"),
        (Operator.CONSTANT, "False", "True"),
        (Operator.ARITHMETIC, "self.count - wanted", "(self.count + wanted)"),
        (Operator.DELETION, "self.count = über", "pass"),
        (Operator.DELETION, "self.notify()", "pass"),
        (Operator.NEGATION, "self.done", "(not (self.done))"),
        (Operator.CONSTANT, "True", "False"),
    }


def test_every_mutant_of_the_reference_is_another_program() -> None:
    """It can be read, and says something else."""
    folder = source_folder()
    sources = {
        path.relative_to(folder).as_posix(): path.read_text("utf-8")
        for path in folder.rglob("*.py")
    }
    trees = {name: ast.dump(ast.parse(source)) for name, source in sources.items()}
    mutants = find_mutants()

    assert len(mutants) > 1000
    for mutant in mutants:
        assert ast.dump(ast.parse(mutated(sources[mutant.file], mutant))) != trees[mutant.file]


def test_a_mutant_is_bred_in_a_copy(tmp_path: Path) -> None:
    """The reference itself is never touched."""
    mutant = find_mutants(["storage/durable_map.py"])[0]
    before = (source_folder() / "storage/durable_map.py").read_text("utf-8")
    breed(mutant, tmp_path)

    assert (tmp_path / "reference_impl" / "storage/durable_map.py").read_text("utf-8") == mutated(
        before, mutant
    )
    assert (source_folder() / "storage/durable_map.py").read_text("utf-8") == before


def test_a_file_that_is_not_there_is_a_wrong_question() -> None:
    """And says so."""
    with pytest.raises(UsageError, match="no file 'nothing"):
        find_mutants(["nothing.py"])


BROKEN = Verdict(anomalies=(Anomaly(promises.T3, "twice"),))
UNMET = Verdict(assumptions=(Assumption("somebody came", 0, 1),))


Said = Verdict | str | None
"""A verdict, how the judge broke, or nothing before the time was over."""


class Judge:
    """Stands in for a session: all scenarios say valid, but one says what it is told to say.

    That is `clean` of the reference, and of a mutant one of `said` after the other.
    """

    def __init__(self, scenario: str, clean: Said, *said: Said) -> None:
        self.asked: list[str] = []
        self._scenario, self._clean = scenario, clean
        self._said = itertools.chain(said, itertools.repeat(VALID))

    def __call__(self, session: Session, *_: object) -> Results:
        """Ask the scenarios in turn."""
        results = Results()
        names = list(session.scenarios)
        while names:
            said = self._say(names[0], is_clean="@" not in session.target)
            if said is None:
                results.unfinished = names
                return results
            name = names.pop(0)
            if isinstance(said, str):
                results.broken[name] = said
                continue
            results.records[name] = Record(name, "model", ("T3",), said, 1, 1, "", 1.0)
            if session.stops_early and not said.is_valid:
                results.unfinished = names
                return results
        return results

    def _say(self, name: str, *, is_clean: bool) -> Said:
        if not is_clean:
            self.asked.append(name)
        if name != self._scenario:
            return VALID
        return self._clean if is_clean else next(self._said)


@pytest.mark.parametrize(
    ("judge", "fate", "reason"),
    [
        (Judge("days", VALID), Fate.SURVIVED, ""),
        (Judge("days", VALID, BROKEN), Fate.KILLED, "T3"),
        (Judge("days", VALID, UNMET, UNMET), Fate.NOTICED, "unknown: somebody came"),
        (Judge("days", VALID, UNMET, VALID), Fate.SURVIVED, ""),
        (Judge("days", VALID, UNMET, BROKEN), Fate.KILLED, "T3"),
        (Judge("days", VALID, "ImportError: x", "ImportError: x"), Fate.NOTICED, "ImportError: x"),
        (Judge("days", VALID, None, None), Fate.NOTICED, "not finished"),
        (Judge("days", UNMET, BROKEN), Fate.SURVIVED, ""),
    ],
    ids=["valid", "broken", "unmet", "unmet-once", "then-broken", "error", "hangs", "clean-unmet"],
)
def test_the_last_word_on_a_mutant(
    judge: Judge, fate: Fate, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing is proven a scenario is asked twice, and only if the clean one was valid."""
    monkeypatch.setattr(mutation, "run_session", judge)
    (ending,) = Mutation(find_mutants(["storage/durable_map.py"])[:1], 1, 0.25, tmp_path, 1).run(
        silence
    )[1]

    assert (ending.fate, ending.word.reason) == (fate, reason)
    assert score([ending])[fate] == 1.0


def test_where_the_clean_reference_is_invalid_no_mutant_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge would be wrong of each."""
    monkeypatch.setattr(mutation, "run_session", Judge("days", BROKEN))
    with pytest.raises(HarnessError, match="the clean reference is invalid"):
        Mutation(find_mutants(["storage/durable_map.py"])[:1], 1, 0.25, tmp_path, 1).run(silence)


def test_who_killed_in_a_file_is_asked_first_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the next mutant of that file dies at once."""
    judge = Judge("watcher-threads", VALID, BROKEN, BROKEN)
    monkeypatch.setattr(mutation, "run_session", judge)
    Mutation(find_mutants(["storage/durable_map.py"])[:2], 1, 0.25, tmp_path, 1).run(silence)

    assert judge.asked[-2:] == ["watcher-threads", "watcher-threads"]


def silence(_: str) -> None:
    """Nobody looks."""
