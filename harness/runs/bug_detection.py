"""The proof: every known bug is planted and judged, beside the clean reference, on equal seeds.

A bug is *killed* only if the planted copy is judged invalid by the promise that the bug names, and
the clean reference is valid under the very same questions. Any other anomaly is a kill by another
promise: it is shown, and does not count.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import HarnessError
from harness.core.verdict import Anomaly, Validity
from harness.mutation.known_bugs import KnownBug, plant
from harness.report import folder
from harness.runs.gate import trials_of
from harness.runs.pytest_run import Progress, Results, Session, run_session


@dataclass(frozen=True)
class Kill:
    """How one bug fared: tries, kills by its own promise, and by which others."""

    bug: KnownBug
    tries: int
    own: int
    others: Mapping[str, int]
    clean: Validity
    seconds: float

    @property
    def is_killed(self) -> bool:
        """Whether every try caught it by its own promise alone, and the clean one is valid."""
        return self.own == self.tries and not self.others and self.clean is Validity.VALID

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        return {
            "bug": self.bug.name,
            "promise": self.bug.promise.id,
            "mode": str(self.bug.mode),
            "tries": self.tries,
            "kills": self.own,
            "kills_by_another": dict(self.others),
            "clean": str(self.clean),
            "seconds_to_kill": round(self.seconds, 2),
            "killed": self.is_killed,
        }


@dataclass(frozen=True)
class Proof:
    """What is asked of a proof."""

    bugs: Sequence[KnownBug]
    seeds: Sequence[int]
    effort: float
    reports: Path
    workers: int
    keep: int = 20
    timeout_s: float = 120.0

    def run(self, progress: Progress) -> tuple[Path, list[Kill]]:
        """Judge each bug planted, and the reference clean, once for every seed."""
        plan = {"target": "known bugs", "effort": self.effort, "bugs": [b.name for b in self.bugs]}
        run = folder.create(self.reports, "prove", self.seeds[0], {**plan, "scenarios": []})
        with ThreadPoolExecutor(self.workers) as pool:
            clean = self._judge_clean(run, pool, progress)
            kills = list(pool.map(lambda bug: self._judge(bug, run, clean, progress), self.bugs))
        document = {"kills": [kill.to_json() for kill in kills]}
        folder.write_json(run / folder.VERDICT, document)
        folder.retain(self.reports, self.keep)
        return run, kills

    def _judge_clean(
        self, run: Path, pool: ThreadPoolExecutor, progress: Progress
    ) -> dict[str, Validity]:
        """The clean reference's verdict on each scenario that any of the bugs needs."""
        names = sorted({name for bug in self.bugs for name in trials_of(bug)})
        target = self.bugs[0].suite.target
        trials = [(name, seed) for seed in self.seeds for name in names]

        def judge_one(trial: tuple[str, int]) -> tuple[str, Validity]:
            name, seed = trial
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
    ) -> Kill:
        names = trials_of(bug)
        if not names:
            raise HarnessError(f"{bug.name}: no scenario tries {bug.promise.id} by {bug.mode}")
        own, others, seconds = 0, Counter[str](), list[float]()
        for seed in self.seeds:
            began = time.monotonic()
            anomalies = self._judge_planted(bug, names, seed, run)
            seconds.append(time.monotonic() - began)
            own += any(bug.promise in anomaly.promises for anomaly in anomalies)
            others.update(a.promise.id for a in anomalies if not bug.explains(a.promises))
        progress(f"{bug.name}: {own} of {len(self.seeds)}")
        worst = max(clean[name] for name in names)
        return Kill(bug, len(self.seeds), own, others, worst, sum(seconds) / len(seconds))

    def _judge_planted(
        self, bug: KnownBug, names: Iterable[str], seed: int, run: Path
    ) -> list[Anomaly]:
        with tempfile.TemporaryDirectory(prefix="harness-planted-") as place:
            planted = plant(bug, Path(place))
            where = run / f"{bug.name}-{seed}"
            results = self._session(list(names), bug.target_in(planted), seed, where)
        if results.broken:
            raise HarnessError(f"{bug.name}: {next(iter(results.broken.values()))}")
        return [
            anomaly for record in results.records.values() for anomaly in record.verdict.anomalies
        ]

    def _session(self, names: list[str], target: str, seed: int, where: Path) -> Results:
        where.mkdir(parents=True)
        return run_session(Session(names, target, seed, self.effort), where, self.timeout_s)
