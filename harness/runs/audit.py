"""The audit: how many changed answers each scenario's checker notices.

Stored histories of a valid run are changed in one leaf of one answer and judged again. A change is
*noticed* if the verdict is no longer valid. Where no change of a field is noticed, the checker does
not look at that field. No target is asked, so thousands of changes a minute are judged.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from harness.core import history
from harness.core.contract import Unpredictable
from harness.core.errors import HistoryDamagedError, UsageError
from harness.core.history import History
from harness.core.partition import WHOLE
from harness.core.verdict import Validity
from harness.engine.runner import HISTORY, where_histories_are
from harness.engine.scenario import Scenario
from harness.engine.suite import choose, find_suites
from harness.mutation.answers import AnswerMutant, Change, differing_fields, mutants_of
from harness.runs.gate import shared
from harness.runs.pytest_run import Progress


@dataclass(frozen=True, slots=True)
class Row:
    """One function, field and change of one scenario: how many were changed, how many noticed."""

    scenario: str
    function: str
    field: str
    change: str
    changed: int
    noticed: int
    excused: str = ""  # why the field is unpredictable, where it is declared so

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        return {
            "scenario": self.scenario,
            "function": self.function,
            "field": self.field,
            "change": self.change,
            "changed": self.changed,
            "noticed": self.noticed,
            **({"excused": self.excused} if self.excused else {}),
        }


@dataclass(frozen=True, slots=True)
class Score:
    """A scenario's answer score over its predictable fields."""

    scenario: str
    changed: int
    noticed: int
    fields: int
    excused_fields: int
    seconds: float
    unjudged: str = ""  # why its histories could not be audited

    @property
    def share(self) -> float:
        """The share of changes that were noticed; 1 where nothing was changed."""
        return self.noticed / self.changed if self.changed else 1.0

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        return {
            "scenario": self.scenario,
            "changed": self.changed,
            "noticed": self.noticed,
            "share": round(self.share, 4),
            "fields": self.fields,
            "excused_fields": self.excused_fields,
            "seconds": round(self.seconds, 2),
            **({"unjudged": self.unjudged} if self.unjudged else {}),
        }


@dataclass(frozen=True)
class Audit:
    """A run folder, the scenarios by name or glob, and how many changes of each field to judge.

    `share` (k, n) is the k-th of n shares of the scenarios.
    """

    run_folder: Path
    seed: int
    per_field: int
    workers: int
    seconds_per_scenario: float
    scenarios: tuple[str, ...] = ()
    share: tuple[int, int] = WHOLE

    def run(self, progress: Progress) -> tuple[list[Score], list[Row]]:
        """Audit every scenario of the run that left a valid history.

        Raises UsageError for a folder that holds no history of a known scenario.
        """
        names = self._audited()
        scores: list[Score] = []
        rows: list[Row] = []
        with ProcessPoolExecutor(self.workers) as pool:
            jobs = [pool.submit(self._audit, name) for name in names]
            for job in as_completed(jobs):
                score, found = job.result()
                scores.append(score)
                rows += found
                progress(f"{score.scenario}: {score.noticed} of {score.changed} noticed")
        return sorted(scores, key=lambda score: score.share), sorted(rows, key=_order)

    def _audited(self) -> list[str]:
        known = choose(self.scenarios)
        names = [name for name in known if (self.run_folder / name / HISTORY).exists()]
        if not names:
            raise UsageError(
                f"{self.run_folder}: expected SCENARIO/{HISTORY} of a known scenario; found none. "
                f"{where_histories_are(self.run_folder)}"
            )
        return shared(names, self.share, "scenarios")

    def _audit(self, name: str) -> tuple[Score, list[Row]]:
        scenario = choose([name])[name]
        began = time.monotonic()
        try:
            histories = history.read(self.run_folder / name / HISTORY)
        except HistoryDamagedError as error:
            return Score(name, 0, 0, 0, 0, 0.0, str(error)), []
        excuses = [excuse for suite in find_suites() for excuse in suite.suite.unpredictable]
        counted = self._count(scenario, histories, began + self.seconds_per_scenario, excuses)
        rows = [
            Row(name, function, field, change, *counts, _excuse(name, function, field, excuses))
            for (function, field, change), counts in counted.items()
        ]
        return _score(name, rows, time.monotonic() - began), rows

    def _count(
        self,
        scenario: Scenario,
        histories: Sequence[History],
        ends_at: float,
        excuses: Sequence[Unpredictable],
    ) -> Mapping[tuple[str, str, str], tuple[int, int]]:
        """Changed and noticed by function, field and change, until the time is over."""
        rng = Random(f"{self.seed}/{scenario.name}")
        counted: dict[tuple[str, str, str], tuple[int, int]] = {}
        order = list(histories)
        rng.shuffle(order)
        for episode in order:
            if time.monotonic() > ends_at:
                break
            if scenario.checker(episode).validity is not Validity.VALID:
                continue
            for mutant in self._wanted(mutants_of(episode, rng, self.per_field), counted):
                if time.monotonic() > ends_at:
                    break
                key = (mutant.function, mutant.field, str(mutant.change))
                if _is_excused(mutant, episode, scenario.name, excuses):
                    continue
                changed, noticed = counted.get(key, (0, 0))
                is_noticed = _is_noticed(scenario, mutant.applied(episode))
                counted[key] = (changed + 1, noticed + is_noticed)
        return counted

    def _wanted(
        self,
        mutants: Iterable[AnswerMutant],
        counted: Mapping[tuple[str, str, str], tuple[int, int]],
    ) -> Iterable[AnswerMutant]:
        """The mutants of fields and changes of which too few were judged yet."""
        for mutant in mutants:
            key = (mutant.function, mutant.field, str(mutant.change))
            if counted.get(key, (0, 0))[0] < self.per_field:
                yield mutant


def _is_noticed(scenario: Scenario, changed: History) -> bool:
    """Whether the verdict is no longer valid; an exception of the checker counts as noticed."""
    try:
        return scenario.checker(changed).validity is not Validity.VALID
    except (LookupError, TypeError, ValueError, AttributeError, AssertionError):
        return True


def _is_excused(
    mutant: AnswerMutant, episode: History, scenario: str, excuses: Iterable[Unpredictable]
) -> bool:
    """Whether an older answer differs from this one in unpredictable fields only."""
    if mutant.change is not Change.OLDER:
        return False
    before = episode.operations[mutant.index].result
    different = differing_fields(before, mutant.after.result)
    return all(_excuse(scenario, mutant.function, field, excuses) for field in different)


def _excuse(scenario: str, function: str, field: str, excuses: Iterable[Unpredictable]) -> str:
    fitting = (excuse.reason for excuse in excuses if excuse.covers(scenario, function, field))
    return next(fitting, "")


def _score(name: str, rows: Sequence[Row], seconds: float) -> Score:
    judged = [row for row in rows if not row.excused]
    fields = {(row.function, row.field) for row in rows}
    excused = {(row.function, row.field) for row in rows if row.excused}
    return Score(
        name,
        sum(row.changed for row in judged),
        sum(row.noticed for row in judged),
        len(fields),
        len(excused),
        seconds,
        "" if rows else "no valid history with answers",
    )


def _order(row: Row) -> tuple[str, str, str, str]:
    return row.scenario, row.function, row.field, row.change
