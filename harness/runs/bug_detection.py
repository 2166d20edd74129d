"""Plants every known bug in a copy of the source, and judges it beside the clean source.

A bug is *detected* only if the planted copy is judged invalid by the promise that the bug names,
and the clean source is valid on the same seeds. An anomaly of another promise is listed, and does
not count. One that came behind another anomaly of its episode may be a consequence of that one, and
is not listed.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from harness.core.errors import HarnessError, UsageError
from harness.core.verdict import Anomaly, Validity
from harness.engine.suite import chosen_folders
from harness.mutation.known_bugs import KnownBug, plant
from harness.report import folder, page
from harness.runs.gate import proven_unfinished, trials_of
from harness.runs.pytest_run import Progress, Results, Session
from harness.runs.reached import source_of
from harness.runs.sources import digest_of
from harness.runs.warm_trials import WarmWorkers, judge_warm, quickest_first
from harness.targets import planted
from harness.targets.registry import find_target

SHARE_S_MIN, SHARE_FACTOR = 45.0, 10.0
"""What a scenario of a brief proof may take: at least, and as a multiple of its clean time.

A bug may let a scenario wait at every step. What it shows until then counts, and others go on. The
least is more than the longest patience of a scenario, which ends a wait that is in vain.
"""


@dataclass(frozen=True)
class Detection:
    """The result for one bug: tries, detections by its own promise, and by each other one.

    `clean` is the worst verdict on the clean source; `seconds` is the mean time of a try.
    `detected_in` are the scenarios in which its own promise was seen broken.
    """

    bug: KnownBug
    tries: int
    own: int
    others: Mapping[str, int]
    clean: Validity
    seconds: float
    detected_in: tuple[str, ...] = ()

    @property
    def is_detected(self) -> bool:
        """Whether every try detected it by its own promise alone, and the clean source is valid."""
        return self.own == self.tries and not self.others and self.clean is Validity.VALID

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        return {
            "bug": self.bug.name,
            "promise": self.bug.promise.id,
            "mode": str(self.bug.mode),
            "tries": self.tries,
            "detections": self.own,
            "detections_by_another": dict(self.others),
            "clean": str(self.clean),
            "seconds_to_detect": round(self.seconds, 2),
            "detected_in": list(self.detected_in),
            "detected": self.is_detected,
        }


@dataclass(frozen=True)
class DetectionRun:
    """The bugs to plant, the seeds, and how much each scenario asks.

    `every` are the names of the bugs of all shares, where these are one share.
    `clean` are the verdicts on the clean source that are known, by scenario and seed, and
    `scenario_s` the seconds that a scenario took there. With `is_brief` the scenarios of a bug end
    once one has detected it, and those that tell soonest are asked first: before all others those
    that `detected_in` names for a bug. `keep_result` gets each detection as soon as it is known;
    workers call it at the same time.
    """

    bugs: Sequence[KnownBug]
    seeds: Sequence[int]
    effort: float
    reports: Path
    workers: int
    keep: int = 20
    timeout_s: float = 180.0
    every: Sequence[str] = ()
    clean: Mapping[tuple[str, int], Validity] = field(default_factory=dict)
    scenario_s: Mapping[str, float] = field(default_factory=dict)
    is_brief: bool = False
    detected_in: Mapping[str, Sequence[str]] = field(default_factory=dict)
    keep_result: Callable[[Detection], None] = lambda _: None
    warm_workers: WarmWorkers = field(default_factory=WarmWorkers, repr=False)

    def run(self, progress: Progress) -> tuple[Path, list[Detection]]:
        """Judge each planted bug, and the clean source, once for every seed."""
        names = [bug.name for bug in self.bugs]
        plan = {"target": "known bugs", "effort": self.effort, "bugs": names, "scenarios": []}
        chosen = {"chosen": list(self.every or names), "seeds": list(self.seeds)}
        run = folder.create(self.reports, "prove", self.seeds[0], {**plan, **chosen})
        with self.warm_workers, ThreadPoolExecutor(self.workers) as pool:
            clean = self._judge_clean(run, pool, progress)
            longest_first = sorted(self.bugs, key=self._seconds_at_most, reverse=True)
            judged = pool.map(lambda bug: self._judge(bug, run, clean, progress), longest_first)
            by_name = {detection.bug.name: detection for detection in judged}
        detections = [by_name[bug.name] for bug in self.bugs]
        document = {"bugs": [detection.to_json() for detection in detections]}
        folder.write_json(run / folder.VERDICT, document)
        page.retain(self.reports, self.keep)
        return run, detections

    def _seconds_at_most(self, bug: KnownBug) -> float:
        """What all scenarios of a bug take on the clean source, as far as that is known."""
        return sum(self.scenario_s.get(name, 0.0) for name in trials_of(bug))

    def _judge_clean(
        self, run: Path, pool: ThreadPoolExecutor, progress: Progress
    ) -> dict[str, Validity]:
        """The clean source's worst verdict in each scenario that a bug needs."""
        names = sorted({name for bug in self.bugs for name in trials_of(bug)})
        target = self.bugs[0].suite.target
        trials = [(name, seed) for seed in self.seeds for name in names]

        def judge_one(trial: tuple[str, int]) -> tuple[str, Validity]:
            name, seed = trial
            if trial in self.clean:
                return name, self.clean[trial]
            results = self._session([name], target, seed, run / f"clean-{name}-{seed}")
            progress(f"clean {name}")
            record = results.records.get(name)
            return name, record.verdict.validity if record else Validity.UNKNOWN

        worst = dict.fromkeys(names, Validity.VALID)
        for name, validity in pool.map(judge_one, trials):
            worst[name] = max(worst[name], validity)
        return worst

    def _judge(
        self, bug: KnownBug, run: Path, clean: dict[str, Validity], progress: Progress
    ) -> Detection:
        names = trials_of(bug)
        if not names:
            raise HarnessError(
                f"{bug.name}: expected a scenario of mode {bug.mode} for promise {bug.promise.id}; "
                "found none"
            )
        if self.is_brief:
            names = quickest_first(names, self.scenario_s)
            names.sort(key=lambda name: name not in self.detected_in.get(bug.name, ()))
        own, others, seconds = 0, Counter[str](), list[float]()
        detected_in: set[str] = set()
        for seed in self.seeds:
            began = time.monotonic()
            finished, cut_short = self._judge_planted(bug, names, seed, run)
            seconds.append(time.monotonic() - began)
            telling = {
                name
                for name, anomalies in (*finished.items(), *cut_short.items())
                if any(bug.promise in anomaly.promises for anomaly in anomalies)
            }
            own += bool(telling)
            detected_in |= telling
            others.update(
                anomaly.promise.id
                for anomalies in finished.values()
                for anomaly in anomalies
                if not anomaly.behind and not bug.explains(anomaly.promises)
            )
        progress(f"{bug.name}: {own} of {len(self.seeds)}")
        worst = max(clean[name] for name in names)
        mean_s = sum(seconds) / len(seconds)
        detection = Detection(
            *(bug, len(self.seeds), own, others, worst, mean_s), tuple(sorted(detected_in))
        )
        self.keep_result(detection)
        return detection

    def _judge_planted(
        self, bug: KnownBug, names: list[str], seed: int, run: Path
    ) -> tuple[dict[str, tuple[Anomaly, ...]], dict[str, tuple[Anomaly, ...]]]:
        """The anomalies of each scenario that finished, and of each that time cut short.

        What is missing at the end of the latter may be on its way: they are no reason to list
        another promise.
        """
        with tempfile.TemporaryDirectory(prefix="harness-planted-") as copy:
            plant(bug, Path(copy) / bug.name)
            session_folder = run / f"{bug.name}-{seed}"
            settings = {planted.FOLDER: copy}
            enough = bug.promise.id if self.is_brief else ""
            target = planted.named(bug)
            results = self._session(names, target, seed, session_folder, settings, enough=enough)
        if results.broken:
            raise HarnessError(f"{bug.name}: {next(iter(results.broken.values()))}")
        finished = {name: found.verdict.anomalies for name, found in results.records.items()}
        return finished, proven_unfinished(results, session_folder)

    def _session(  # noqa: PLR0913  what is asked of whom, and how it ends
        self,
        names: list[str],
        target: str,
        seed: int,
        session_folder: Path,
        settings: Mapping[str, str] = MappingProxyType({}),
        *,
        enough: str = "",
    ) -> Results:
        session_folder.mkdir(parents=True)
        session = Session(names, target, seed, self.effort, goes_on=False, enough=enough)
        limits_s = {
            name: max(SHARE_S_MIN, SHARE_FACTOR * clean_s)
            for name, clean_s in self.scenario_s.items()
            if self.is_brief
        }
        return judge_warm(
            *(session, session_folder, self.timeout_s, self.warm_workers, settings),
            limits_s=limits_s,
        )


@dataclass(frozen=True)
class CleanRun:
    """A finished gate of the clean source: its seed, and its effort.

    By scenario it has the verdicts, and the seconds that they took.
    """

    seed: int
    effort: float
    verdicts: Mapping[str, Validity]
    seconds: Mapping[str, float]

    @property
    def by_seed(self) -> dict[tuple[str, int], Validity]:
        """The verdicts, by scenario and seed."""
        return {(name, self.seed): verdict for name, verdict in self.verdicts.items()}


def sources_of(target: str) -> str:
    """A digest of all that decides a proof: the harness, the scenarios, and the target's source."""
    return digest_of([source_of(find_target(target)), *chosen_folders()])


def read_clean_run(run: Path, target: str) -> CleanRun:
    """Read a gate that judged this target as it is now.

    Raises UsageError for a folder without a finished gate, for one of another target, and for one
    of other sources.
    """
    for file in (folder.PLAN, folder.VERDICT):
        if not (run / file).is_file():
            raise UsageError(f"{run}: expected a finished gate; it has no {file}")
    plan, verdict = folder.read_json(run / folder.PLAN), folder.read_json(run / folder.VERDICT)
    if plan.get("what") != "gate" or plan.get("target") != target:
        raise UsageError(
            f"{run}: expected a gate of {target}; found {plan.get('what')} of {plan.get('target')}"
        )
    if plan.get("sources") != sources_of(target):
        raise UsageError(f"{run}: the sources have changed since; run the gate again")
    rows = verdict["scenarios"]
    verdicts = {row["scenario"]: Validity[row["validity"].upper()] for row in rows}
    seconds = {row["scenario"]: row["seconds"] for row in rows}
    return CleanRun(plan["seed"], plan["effort"], verdicts, seconds)
