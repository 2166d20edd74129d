"""The gate: judges one target by all scenarios, within a budget, and draws one conclusion.

For each mode a *canary* is judged too: a known bug that must be detected. If one survives, the
checkers cannot be trusted, and the conclusion is *untrustworthy*, never *valid*.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any

from harness.core.errors import HarnessError, UsageError
from harness.core.extent import total
from harness.core.extras import missing_extra
from harness.core.partition import WHOLE, part_of
from harness.core.verdict import Anomaly, Validity, Verdict, merge
from harness.engine import runner
from harness.engine.scenario import Mode, Scenario
from harness.engine.suite import choose, chosen_folders
from harness.engine.target import Target
from harness.mutation.known_bugs import KnownBug, canaries, find_bugs, plant
from harness.report import folder, judgement, junit, machine_formats, page, summary
from harness.report.judgement import Record
from harness.report.origin import setting
from harness.runs.accepted import Accepted, Sorted, sort
from harness.runs.canary_memory import CanaryMemory
from harness.runs.differences import Difference, StoredRun, compare, figures_of, stored
from harness.runs.pytest_run import Progress, Results, Session, run_session
from harness.runs.reached import Reached, blocks_in, excuses_for, hit, source_of, top_of
from harness.runs.seed_ledger import read_ledger, remember, to_ask, with_proofs
from harness.runs.sources import digest_of
from harness.runs.warm_trials import WarmWorkers, judge_warm, quickest_first
from harness.targets.registry import find_target
from harness.worker import reach as recorder

EFFORT_SECONDS = 190.0  # a budget of this many seconds is effort 1
GRACE = 2.0  # times the budget: a slow or busy machine takes longer for what it asks
CANARY_EFFORT = 0.25
CANARY_TIMEOUT_S = 60.0  # for any budget: a canary that had too little time shows nothing
REACH = "reach"  # the folder of a run in which its processes record the lines that they run
LEDGER_SHARE = 0.25  # of the budget, in addition to it, for the failing seeds of earlier gates
UNABLE = "the target cannot do it"


@dataclass(frozen=True)
class Conclusion:
    """The result of a gate: its records, and why other scenarios have none.

    `skipped` gives the reason by scenario, `broken` the error of the harness, and `canaries` says
    of each known bug whether it was detected. `untried` has the promises, and the titles of their
    families, of each scenario without a verdict. `remembered` says when a canary was detected that
    was not judged now, in seconds of the epoch. `reached` are the blocks that ran, where a gate
    measures them; `findings` are sorted where known ones are accepted, and `since` is what changed
    after an earlier run.
    """

    target: str
    seed: int
    run: Path
    seconds: float
    records: Sequence[Record]
    skipped: Mapping[str, str] = field(default_factory=dict)
    unfinished: Sequence[str] = ()
    broken: dict[str, str] = field(default_factory=dict)
    canaries: dict[str, bool] = field(default_factory=dict)
    untried: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    remembered: Mapping[str, float] = field(default_factory=dict)
    reached: Reached | None = None
    findings: Sorted | None = None
    since: Difference | None = None

    @property
    def bought(self) -> dict[str, int]:
        """How much was asked, and how different it was; with reach, where that was measured."""
        asked = {
            "operations": sum(record.operations for record in self.records),
            "examples": sum(record.episodes for record in self.records),
            **total(record.extent for record in self.records),
        }
        if self.reached is not None:
            asked["blocks_reached"] = len(self.reached.reached)
            asked["blocks"] = len(self.reached.blocks)
        return asked

    @property
    def verdict(self) -> Verdict:
        """All verdicts in one; a scenario that did not finish makes it unknown.

        Where a file of accepted findings was given, only new ones count.
        """
        unknowns = tuple(f"{name}: not finished within the budget" for name in self.unfinished)
        if not self.records:
            unknowns += ("no scenario came to a verdict",)
        if self.since is not None:
            lost = self.skipped.keys() & self.since.earlier.judged.keys()
            before = self.since.earlier.name
            unknowns += tuple(f"{n}: judged in {before}; skipped now" for n in sorted(lost))
        verdicts = [record.verdict for record in self.records]
        if self.findings is not None:
            verdicts = [replace(verdict, anomalies=()) for verdict in verdicts]
            verdicts.append(Verdict(tuple(self.findings.new)))
        return merge([*verdicts, Verdict(unknowns=unknowns)])

    @property
    def is_trustworthy(self) -> bool:
        """Whether the harness itself works: nothing of it failed, and each canary was detected."""
        return not self.broken and all(self.canaries.values())

    @property
    def word(self) -> str:
        """The conclusion in one word. An anomaly is a proof, so *invalid* stands by itself."""
        validity = self.verdict.validity
        if validity is not Validity.INVALID and not self.is_trustworthy:
            return "untrustworthy"
        return str(validity)

    @property
    def canary_words(self) -> dict[str, str]:
        """What is known of each canary, as text."""
        return {
            name: self._canary_word(name, is_detected=is_detected)
            for name, is_detected in self.canaries.items()
        }

    def _canary_word(self, name: str, *, is_detected: bool) -> str:
        if not is_detected:
            return "SURVIVED"
        at = self.remembered.get(name)
        return "detected" if at is None else time.strftime("detected on %Y-%m-%d", time.gmtime(at))

    @property
    def exit_code(self) -> int:
        """0 valid, 1 invalid, 2 unknown, 255 untrustworthy."""
        if self.word == "untrustworthy":
            return HarnessError.exit_code
        return self.verdict.validity.exit_code

    def to_json(self) -> dict[str, Any]:
        """Render as one JSON document."""
        return {
            "conclusion": self.word,
            "exit_code": self.exit_code,
            "target": self.target,
            "seed": self.seed,
            "run": str(self.run),
            "seconds": round(self.seconds, 1),
            "bought": self.bought,
            "scenarios": [record.to_json() for record in self.records],
            "skipped": dict(self.skipped),
            "unfinished": list(self.unfinished),
            "broken": self.broken,
            "untried": dict(self.untried),
            "canaries": self.canary_words,
            **({} if self.reached is None else {"reach": self.reached.to_json()}),
            **({} if self.findings is None else {"findings": self.findings.to_json()}),
            **({} if self.since is None else {"since": self.since.to_json()}),
        }


def _require_patches() -> None:
    """Raise UsageError where a suite names a canary that it has no patch for."""
    find_bugs(canaries().values())


@dataclass(frozen=True)
class Gate:
    """The target, the budget, and the scenarios by name or glob, promise ID and mode.

    With `fails_fast` the first scenario that is not valid ends the run. Findings that `accepted` or
    the `earlier` run has do not make it invalid. `share` (k, n) is the k-th of n shares of the
    scenarios. Failing seeds in the `ledger` are asked first, and those of this gate are added.
    """

    target: str
    seed: int
    budget_s: float
    reports: Path
    workers: int
    scenarios: tuple[str, ...] = ()
    keep: int = 20
    promises: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    fails_fast: bool = False
    asks_canaries: bool = True
    measures_reach: bool = False
    source: Path | None = None
    accepted: tuple[Accepted, ...] | None = None
    earlier: StoredRun | None = None
    share: tuple[int, int] = WHOLE
    ledger: Path | None = None

    def run(self, progress: Progress) -> Conclusion:
        """Run the scenarios and the canaries, and write the run folder.

        Raises UsageError where no scenario fits the selection, a canary has no patch, or the target
        cannot be prepared.
        """
        began = time.monotonic()
        target = find_target(self.target)
        target.prepare()
        chosen = choose(self.scenarios, self.promises, self.modes)
        if not chosen:
            raise UsageError(f"no scenario fits all of {self._selection()}")
        if self.asks_canaries:
            _require_patches()
        every = sorted(chosen)
        chosen = {name: chosen[name] for name in shared(every, self.share, "scenarios")}
        skipped = {
            name: reason
            for name, scenario in chosen.items()
            if (reason := reason_to_skip(scenario, target)) is not None
        }
        able = {name: scenario for name, scenario in chosen.items() if name not in skipped}
        effort = self.budget_s / EFFORT_SECONDS
        source, settings = source_of(target, self.source), {}
        plan = {
            "target": target.name,
            "sources": digest_of([source, *chosen_folders()]),
            **setting(target, source),
            "effort": effort,
            "budget_s": self.budget_s,
            "workers": self.workers,
            "scenarios": list(able),
            "chosen": every,
            "share": list(self.share),
            "suites": list(map(str, chosen_folders())),
            "skipped": skipped,
            "declared": {name: declared(scenario) for name, scenario in able.items()},
        }
        run = folder.create(self.reports, "gate", self.seed, plan)
        session = Session(
            *(list(able), target.name, self.seed, effort, self.workers, self.fails_fast)
        )
        if self.measures_reach:
            blocks = blocks_in(source)
            (run / REACH).mkdir()
            settings = recorder.settings(run / REACH, top_of(source))
        again = self._ask_failing_seeds(session, run, progress)
        results = Results()
        if able:
            results = run_session(session, run, GRACE * self.budget_s, progress, settings)
        self._judge_unfinished(results, able, target, run)
        self._add_failing_seeds(results, target.name, effort, again)
        canaries, remembered = self._judge_canaries(able.values(), results, progress)
        conclusion = conclude(run, results, canaries, time.monotonic() - began)
        conclusion = replace(conclusion, remembered=remembered)
        if self.measures_reach:
            ran = frozenset(hit(blocks, recorder.lines_in(run / REACH)))
            reached = Reached(blocks, {"gate": ran}, {}, excuses_for(source, blocks))
            conclusion = replace(conclusion, reached=reached)
        if self.accepted is not None or self.earlier is not None:
            accepted = self.accepted or ()
            today, trials = date.today(), trials_on(target)  # noqa: DTZ011
            findings = sort(conclusion.records, accepted, target.name, today, trials)
            conclusion = replace(conclusion, findings=findings)
        if self.earlier is not None:
            conclusion = since(conclusion, self.earlier)
        store(conclusion)
        page.retain(self.reports, self.keep)
        return conclusion

    def _selection(self) -> str:
        options = {"scenario": self.scenarios, "promise": self.promises, "mode": self.modes}
        given = (f"--{name} {value}" for name, values in options.items() for value in values)
        return ", ".join(given) or "the suites: they have none"

    def _ask_failing_seeds(
        self, session: Session, run: Path, progress: Progress
    ) -> list[tuple[int, float, Record]]:
        """Ask the ledger's seeds, in a share of the budget on top of it: what broke, with seeds."""
        if self.ledger is None:
            return []
        entries = read_ledger(self.ledger)
        own = (self.seed, session.effort)
        ends_at = time.monotonic() + LEDGER_SHARE * self.budget_s
        broken = []
        for (seed, effort), names in to_ask(entries, self.target, session.scenarios, own).items():
            left_s = ends_at - time.monotonic()
            if left_s <= 0:
                progress("failing seeds: their time is over")
                break
            place = run / f"seed-{seed}-{effort:g}"
            place.mkdir()
            asked = replace(session, scenarios=names, seed=seed, effort=effort)
            found = run_session(asked, place, left_s, progress).records
            broken += [(seed, effort, r) for r in found.values() if r.verdict.anomalies]
        return broken

    def _add_failing_seeds(
        self,
        results: Results,
        target: str,
        effort: float,
        again: Sequence[tuple[int, float, Record]],
    ) -> None:
        """Keep the seeds that fail, and add what they broke to the records."""
        if self.ledger is None:
            return
        own = [(self.seed, effort, record) for record in results.records.values()]
        remember(self.ledger, target, [*own, *again], time.time())
        for _, _, record in again:
            name = record.scenario
            results.records[name] = with_proofs(results.records.get(name), record)
            if name in results.unfinished:
                results.unfinished.remove(name)

    def _judge_unfinished(
        self, results: Results, scenarios: Mapping[str, Scenario], target: Target, run: Path
    ) -> None:
        """Judge what was journalled before the budget ended: an anomaly in it counts.

        Nothing else is known of the scenario, and its record says so.
        """
        for name in [name for name in results.unfinished if (run / name / runner.HISTORY).exists()]:
            judged = runner.judge(scenarios[name], run / name, is_whole=False)
            if (verdict := judged.verdict).anomalies:
                unknowns = (*verdict.unknowns, "not finished within the budget")
                judged = replace(judged, verdict=replace(verdict, unknowns=unknowns))
                record = judgement.store(judged, target, self.seed, self.budget_s, run / name)
                results.records[name] = record
                results.unfinished.remove(name)

    def _judge_canaries(
        self, scenarios: Iterable[Scenario], results: Results, progress: Progress
    ) -> tuple[dict[str, bool], dict[str, float]]:
        """Which canaries are detected, and when those that were detected before.

        One that cannot be judged is a failure of the harness.
        """
        if not self.asks_canaries:
            return {}, {}
        modes = {scenario.mode for scenario in scenarios}
        every = find_bugs()
        bugs = {name: every[name] for mode, name in canaries().items() if mode in modes}
        memory = CanaryMemory(self.reports)
        known = {name: memory.detected_at(bug) for name, bug in bugs.items()}
        remembered = {name: at for name, at in known.items() if at is not None}
        names = [
            name
            for name, bug in bugs.items()
            if name not in remembered and missing_extra(extras_of(bug)) is None
        ]

        took = {name: record.seconds for name, record in results.records.items()}
        workers = WarmWorkers()

        def judge_canary(name: str) -> bool | None:
            try:
                return is_detected(bugs[name], self.seed, CANARY_TIMEOUT_S, workers, took)
            except HarnessError as error:
                results.broken[f"canary {name}"] = str(error)
                return None
            finally:
                progress(f"canary {name}")

        with workers, ThreadPoolExecutor(self.workers) as pool:
            judged = zip(names, pool.map(judge_canary, names), strict=True)
            detections = {name: detected for name, detected in judged if detected is not None}
        for name in [name for name, detected in detections.items() if detected]:
            memory.remember(bugs[name])
        return {**dict.fromkeys(remembered, True), **detections}, remembered


def shared(names: Sequence[str], share: tuple[int, int], what: str) -> list[str]:
    """The names of a share. Raises UsageError for more shares than names."""
    part = part_of(names, share)
    if not part:
        raise UsageError(f"--shard {share[0]}/{share[1]}: there are {len(names)} {what} only")
    return part


def reason_to_skip(scenario: Scenario, target: Target) -> str | None:
    """Why a gate leaves this scenario out, on this target and in this environment, if it does."""
    if scenario.ability not in target.abilities:
        return UNABLE
    return missing_extra(scenario.extras)


def trials_on(target: Target) -> dict[str, list[str]]:
    """The names of all scenarios by the IDs of their promises, of those that the target can do."""
    trials: dict[str, list[str]] = {}
    for name, scenario in choose().items():
        for promise in scenario.promises if scenario.ability in target.abilities else ():
            trials.setdefault(promise.id, []).append(name)
    return trials


def declared(scenario: Scenario) -> dict[str, Any]:
    """What a scenario puts on trial: the IDs of its promises, and the titles of their families."""
    return {
        "promises": [promise.id for promise in scenario.promises],
        "families": {promise.prefix: promise.family for promise in scenario.promises},
    }


def is_detected(
    bug: KnownBug,
    seed: int,
    budget_s: float,
    workers: WarmWorkers,
    scenario_s: Mapping[str, float],
) -> bool:
    """Whether the scenarios of the bug's mode and promise judge a planted copy invalid by it.

    `scenario_s` says how long a scenario takes, where that is known; the first that detects the
    bug ends the others. Raises HarnessError where the bug cannot be planted, or the session fails.
    """
    names = quickest_first(trials_of(bug), scenario_s)
    with tempfile.TemporaryDirectory(prefix="harness-canary-") as scratch:
        planted = plant(bug, Path(scratch) / "planted")
        run = Path(scratch) / "run"
        run.mkdir()
        session = Session(
            *(names, bug.target_in(planted), seed, CANARY_EFFORT),
            goes_on=False,
            enough=bug.promise.id,
        )
        results = judge_warm(session, run, budget_s, workers)
        if results.broken:
            raise HarnessError("; ".join(results.broken.values()))
        finished = [a for record in results.records.values() for a in record.verdict.anomalies]
        cut_short = chain.from_iterable(proven_unfinished(results, run).values())
    return any(bug.promise in anomaly.promises for anomaly in (*finished, *cut_short))


def proven_unfinished(results: Results, run: Path) -> dict[str, tuple[Anomaly, ...]]:
    """The anomalies in the histories of scenarios that time cut short, by scenario."""
    return {
        name: runner.judge(choose([name])[name], run / name, is_whole=False).verdict.anomalies
        for name in results.unfinished
        if (run / name / runner.HISTORY).exists()
    }


def trials_of(bug: KnownBug) -> list[str]:
    """Names of the scenarios that should detect the bug, of those that its target can do."""
    abilities = find_target(bug.suite.target).abilities
    return [
        scenario.name
        for scenario in choose(()).values()
        if scenario.mode is Mode(bug.mode)
        and bug.promise in scenario.promises
        and scenario.ability in abilities
    ]


def extras_of(bug: KnownBug) -> set[str]:
    """The optional packages that the scenarios need which should detect the bug."""
    scenarios = choose()
    return {extra for name in trials_of(bug) for extra in scenarios[name].extras}


def conclude(run: Path, results: Results, canaries: dict[str, bool], seconds: float) -> Conclusion:
    """Join the plan in a run folder with the results of its session."""
    plan = folder.read_json(run / folder.PLAN)
    missing = {*results.unfinished, *results.broken} & plan.get("declared", {}).keys()
    return Conclusion(
        plan["target"],
        plan["seed"],
        run,
        seconds,
        list(results.records.values()),
        plan["skipped"],
        results.unfinished,
        results.broken,
        canaries,
        {name: plan["declared"][name] for name in sorted(missing)},
    )


def since(conclusion: Conclusion, earlier: StoredRun) -> Conclusion:
    """The conclusion with its changes after an earlier run, whose findings count as known."""
    name, records = conclusion.run.name, conclusion.records
    figures = figures_of(conclusion.to_json(), records)
    later = stored(name, conclusion.target, conclusion.word, records, figures)
    sorted_ = conclusion.findings or sort(records, (), conclusion.target, date.max, {})
    known = [anomaly for anomaly in sorted_.new if earlier.knows(anomaly)]
    reason = f"as in {earlier.name}"
    entries = [Accepted(conclusion.target, a.promise.id, a.signature, reason) for a in known]
    findings = replace(
        sorted_,
        known=(*sorted_.known, *entries),
        new=[anomaly for anomaly in sorted_.new if anomaly not in known],
    )
    return replace(conclusion, findings=findings, since=compare(earlier, later))


class NotStoredError(HarnessError):
    """The files of a run could not be written; `conclusion` is what they would say."""

    def __init__(self, conclusion: Conclusion, reason: OSError) -> None:
        super().__init__(f"{conclusion.run}: the results could not be written: {reason}")
        self.conclusion = conclusion
        if conclusion.verdict.validity is Validity.INVALID:  # a proof stands
            self.exit_code = Validity.INVALID.exit_code


def store(conclusion: Conclusion) -> None:
    """Write the run's verdict, summary and page, and what programs read.

    Raises NotStoredError where that fails.
    """
    try:
        _store(conclusion)
    except OSError as error:
        raise NotStoredError(conclusion, error) from error


def _store(conclusion: Conclusion) -> None:
    run = conclusion.run
    folder.write_json(run / folder.VERDICT, conclusion.to_json())
    folder.write_text(run / "summary.md", summary.markdown(conclusion.to_json()))
    folder.write_text(run / "junit.xml", junit.render(conclusion.to_json()))
    folder.write_text(run / page.PAGE, page.render(conclusion.to_json(), run))
    machine_formats.write(conclusion.to_json(), run)
