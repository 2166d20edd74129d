"""Judges code mutants of the source, and counts how many are detected.

A mutant is *detected* if a broken promise is proven of it, twice, and the clean source is valid
beside it on the same seed. It is *inconclusive* if it is neither proven nor valid: it cannot be
asked, times out, or does not reach an expectation. It *survives* if every scenario that reaches its
block is valid, or if none does.

Two steps keep that affordable. First each mutant is asked alone, by the scenarios that reach its
block, in the order of detections for each second as learned so far; the search ends with the first
proof, or where a detection becomes unlikely. What passes is asked in groups: several mutants in one
copy, by every scenario that reaches one of them, with more questions. A group that is not valid is
halved until the mutants that cause it are found.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from harness.core.errors import HarnessError
from harness.core.share import wilson
from harness.engine.suite import find_scenarios, suite_with_source
from harness.mutation.blocks import place_of
from harness.mutation.mutants import Mutant, breed, prepared_copy, source_folder
from harness.runs.gate import reason_to_skip
from harness.runs.mutation_session import RESULTS, Clean, MutationSession, Status, Stored
from harness.runs.pytest_run import Progress, Results
from harness.runs.scratch import scratch
from harness.runs.warm_worker import Trial, WarmWorker
from harness.targets.registry import find_target
from harness.worker import reach as recorder

CLEAN_TIMEOUT_S = 300.0
STARTING_S, SLOWER = 15.0, 4.0  # the timeout of a question: to start, and times the clean source's
FRESH_S = 300.0  # for so long a valid answer of the clean source stands beside a detection
LIKELY = 0.12  # a mutant is asked alone while a detection is at least as likely as this,
ALONE_S = 10.0  # and by scenarios that take as long as this in all on the clean source
INCONCLUSIVE_MAX = 3  # scenarios without a verdict, after which a mutant is left
TIMEOUT = "not finished in time"
UNREACHED = "no scenario reaches it"
EVIDENCE_CHARS, REASON_CHARS = 4000, 160
NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Finding:
    """What one scenario found: a status, the broken promises or why there is no verdict."""

    status: Status
    scenario: str
    reason: str
    evidence: str = ""


ALL_VALID = Finding(Status.SURVIVED, "", "")
Judge = Callable[[Trial], tuple[Results, float]]


@dataclass
class MutationRun:
    """The session to work on, and how much to ask.

    `effort` is for mutants that are asked alone, `deep_effort` for groups of `group` mutants.
    `ends_at`, a value of `time.monotonic`, ends the run; what is left stays in the session.
    """

    session: MutationSession
    sample: int
    seed: int
    effort: float
    deep_effort: float
    workers: int
    group: int = 8
    ends_at: float = math.inf
    judge_in: Callable[[], WarmWorker] = WarmWorker
    _fresh: dict[tuple[str, float], float] = field(default_factory=dict)
    _claiming: threading.Lock = field(default_factory=threading.Lock)

    def run(self, progress: Progress) -> list[Stored]:
        """Judge the clean source, and then the mutants. Raises HarnessError if it is invalid."""
        with scratch() as memory, ExitStack() as opened:
            self._progress, self._scratch = progress, Path(memory)
            self._copy = prepared_copy(self._scratch / "source")
            self._source = {
                path.relative_to(self._copy / source_folder().name).as_posix(): path.read_text()
                for path in self._copy.rglob("*.py")
            }
            workers = [opened.enter_context(closing(self.judge_in())) for _ in range(self.workers)]
            self._prepare(workers)
            self._reached = self.session.reached()
            self._at = {
                effort: self.session.clean(effort) for effort in (self.effort, self.deep_effort)
            }
            # A scenario that runs less of the source is more likely about what it runs.
            ran = Counter(name for names in self._reached.values() for name in names)
            self._priors = {
                name: 0.5 - 0.4 * ran[name] / len(self._reached) for name in self._at[self.effort]
            }
            with ThreadPoolExecutor(len(workers)) as pool:
                list(pool.map(self._work, workers))
        return self.session.results(self.sample)

    # The clean source

    def _prepare(self, workers: Sequence[WarmWorker]) -> None:
        """Measure the clean source: the seconds of each scenario, its verdict and its reach."""
        target = find_target(suite_with_source().target)
        able = [
            name
            for name, scenario in find_scenarios().items()
            if reason_to_skip(scenario, target) is None
        ]
        known, measured = self.session.clean(self.effort), self.session.measured()
        jobs = [(self._measure_seconds, name) for name in able if name not in known]
        jobs += [(self._measure_reach, name) for name in able if name not in measured]
        left = iter(jobs)

        def work(worker: WarmWorker) -> None:
            for measure, name in _shared(left, self._claiming):
                if time.monotonic() < self.ends_at:
                    measure(worker, name)

        with ThreadPoolExecutor(len(workers)) as pool:
            list(pool.map(work, workers))

    def _measure_seconds(self, worker: WarmWorker, name: str) -> None:
        results, seconds = self._ask_clean(worker, name, self.effort)
        self._store_clean(name, self.effort, results, seconds)

    def _measure_reach(self, worker: WarmWorker, name: str) -> None:
        with _temporary(self._scratch) as lines:
            settings = recorder.settings(Path(lines), source_folder())
            results, seconds = self._ask_clean(worker, name, self.deep_effort, settings)
            self._store_clean(name, self.deep_effort, results, seconds)
            self.session.store_reached(name, recorder.lines_in(Path(lines)) | {("", 0)})

    def _ask_clean(
        self,
        worker: WarmWorker,
        name: str,
        effort: float,
        settings: Mapping[str, str] = NO_SETTINGS,
    ) -> tuple[Results, float]:
        target = suite_with_source().target
        with _temporary(self._scratch) as run:
            trial = Trial(name, target, self.seed, effort, Path(run), CLEAN_TIMEOUT_S, settings)
            return worker.judge(trial)

    def _store_clean(self, name: str, effort: float, results: Results, seconds: float) -> None:
        record = results.records.get(name)
        if record is not None and record.verdict.anomalies:
            raise HarnessError(f"the clean source is invalid: {record.summary()}")
        validity = str(record.verdict.validity) if record is not None else "unknown"
        self.session.store_clean(name, effort, Clean(seconds, validity))
        self._fresh[name, effort] = time.monotonic()
        self._progress(f"clean {name}: {validity}, {seconds:.1f} s at effort {effort:g}")

    def _is_clean_valid(self, worker: WarmWorker, name: str, effort: float) -> bool:
        """Whether the clean source is valid now, beside a detection."""
        with self._claiming:
            if time.monotonic() - self._fresh.get((name, effort), -math.inf) < FRESH_S:
                return True
        results, _ = self._ask_clean(worker, name, effort)
        record = results.records.get(name)
        if record is not None and record.verdict.anomalies:
            self._progress(f"the clean source is judged invalid: {record.summary()}")
        is_valid = record is not None and record.verdict.is_valid
        if is_valid:
            with self._claiming:
                self._fresh[name, effort] = time.monotonic()
        return is_valid

    # Mutants

    def _work(self, worker: WarmWorker) -> None:
        """Ask mutants and groups until none is left, or the time is over."""
        while time.monotonic() < self.ends_at:
            with self._claiming:
                single, group = self._next()
            for stored in single:
                self._decide(self._judge_alone(worker, stored))
            if group:
                self._judge_group(worker, group)
            if not single and not group:
                return

    def _next(self) -> tuple[list[Stored], list[Stored]]:
        """A mutant, or a group where enough are undecided or no mutant is left."""
        undecided = self.session.claim(Status.UNDECIDED, self.sample, self.group)
        if len(undecided) < self.group:
            single = self.session.claim(Status.OPEN, self.sample)
            if single:
                self.session.release(stored.id for stored in undecided)
                return single, []
        chosen = apart(undecided)
        self.session.release(stored.id for stored in undecided if stored not in chosen)
        return [], chosen

    def _decide(self, stored: Stored) -> None:
        self.session.decide(stored)
        self._progress(str(stored))

    def _judge_alone(self, worker: WarmWorker, stored: Stored) -> Stored:
        """Ask the most telling scenarios until one proves a broken promise."""
        began = time.monotonic()
        reaching = self._reaching(stored.mutant, self.effort)
        if not reaching:
            return replace(stored, status=Status.SURVIVED, reason=UNREACHED)
        chances = self._chances(stored.mutant.file)
        clean = self._at[self.effort]
        order = sorted(reaching, key=lambda name: -chances[name] / (0.1 + clean[name].seconds))
        inconclusive: list[Finding] = []
        asked_s = 0.0
        with self._bred([stored.mutant]) as target:
            for name in order:
                is_unlikely = chances[name] < LIKELY or asked_s + clean[name].seconds > ALONE_S
                if asked_s and is_unlikely and not inconclusive:
                    continue
                asked_s += clean[name].seconds
                finding = self._found(worker, name, target, self.effort, stored.id)
                if finding.status is Status.DETECTED:
                    return _decided(stored, finding, began)
                if finding.status is Status.INCONCLUSIVE:
                    inconclusive.append(finding)
                    if len(inconclusive) >= INCONCLUSIVE_MAX or finding.reason == TIMEOUT:
                        break
        if inconclusive:
            return _decided(stored, inconclusive[0], began)
        return replace(stored, status=Status.UNDECIDED, seconds=time.monotonic() - began)

    def _found(
        self, worker: WarmWorker, name: str, target: str, effort: float, id_: int
    ) -> Finding:
        """What a scenario finds in one mutant; all but a valid answer is asked twice."""
        finding, seconds = self._ask(worker, name, target, effort)
        self.session.note(id_, name, effort, str(finding.status), seconds)
        if finding.status is Status.SURVIVED or finding.reason == TIMEOUT:
            return finding
        again, _ = self._ask(worker, name, target, effort)
        if finding.status is Status.INCONCLUSIVE:
            if again.status is not Status.DETECTED:
                return again
            finding, again = again, self._ask(worker, name, target, effort)[0]
        if again.status is not Status.DETECTED:
            return Finding(Status.INCONCLUSIVE, name, f"once {finding.reason}, and then not")
        if not self._is_clean_valid(worker, name, effort):
            return Finding(Status.INCONCLUSIVE, name, f"{finding.reason}, but the clean source too")
        return finding

    def _judge_group(self, worker: WarmWorker, group: Sequence[Stored]) -> None:
        """Ask several mutants in one copy; halve the group where a scenario is not valid."""
        began = time.monotonic()
        left = list(group)
        wanted = Counter(
            name for stored in group for name in self._reaching(stored.mutant, self.deep_effort)
        )
        clean = self._at[self.deep_effort]
        for name in sorted(wanted, key=lambda name: -wanted[name] / (0.1 + clean[name].seconds)):
            if time.monotonic() > self.ends_at:
                self.session.release(stored.id for stored in left)
                return
            asked = [
                stored for stored in left if name in self._reaching(stored.mutant, self.deep_effort)
            ]
            for culprit, finding in self._culprits(worker, name, asked):
                left.remove(culprit)
                share_began = time.monotonic() - (time.monotonic() - began) / len(group)
                self._decide(_decided(culprit, finding, share_began))
        spent = (time.monotonic() - began) / len(group)
        for stored in left:
            reason = f"{len(self._reaching(stored.mutant, self.deep_effort))} scenarios are valid"
            seconds = stored.seconds + spent
            self._decide(replace(stored, status=Status.SURVIVED, reason=reason, seconds=seconds))

    def _culprits(
        self, worker: WarmWorker, name: str, group: Sequence[Stored]
    ) -> list[tuple[Stored, Finding]]:
        """The mutants of a group of which this scenario is not valid, and what it found."""
        if not group:
            return []
        ids = [stored.id for stored in group]
        with self._bred([stored.mutant for stored in group]) as target:
            if len(group) == 1:
                finding = self._found(worker, name, target, self.deep_effort, ids[0])
                return [] if finding.status is Status.SURVIVED else [(group[0], finding)]
            finding, seconds = self._ask(worker, name, target, self.deep_effort)
        self.session.note_group(ids, name, self.deep_effort, str(finding.status), seconds)
        if finding.status is Status.SURVIVED:
            return []
        middle = len(group) // 2
        return [
            *self._culprits(worker, name, group[:middle]),
            *self._culprits(worker, name, group[middle:]),
        ]

    def _ask(
        self, worker: WarmWorker, name: str, target: str, effort: float
    ) -> tuple[Finding, float]:
        with _temporary(self._scratch) as run:
            timeout_s = STARTING_S + SLOWER * self._at[effort][name].seconds
            results, seconds = worker.judge(
                Trial(name, target, self.seed, effort, Path(run), timeout_s)
            )
        return worst_finding(results), seconds

    def _reaching(self, mutant: Mutant, effort: float) -> set[str]:
        """The scenarios that run the mutant's block, and are valid for the clean source."""
        lines = place_of(self._source[mutant.file], mutant.line)
        found = set[str]().union(*(self._reached.get((mutant.file, n), ()) for n in lines))
        clean = self._at[effort]
        return {name for name in found if name in clean and clean[name].validity == "valid"}

    def _chances(self, file: str) -> Mapping[str, float]:
        """How likely each scenario detects a mutant of this file, by what was asked so far."""
        asked, detected = Counter[str](), Counter[str]()
        asked_here, detected_here = Counter[str](), Counter[str]()
        for other, name, count, hits in self.session.experience():
            asked[name] += count
            detected[name] += hits
            if other == file:
                asked_here[name] += count
                detected_here[name] += hits
        general = {
            name: (detected[name] + 2 * self._priors[name]) / (asked[name] + 2)
            for name in self._priors
        }
        return {
            name: (detected_here[name] + 2 * general[name]) / (asked_here[name] + 2)
            for name in general
        }

    @contextmanager
    def _bred(self, mutants: Collection[Mutant]) -> Iterator[str]:
        """The target whose source is a copy with these edits."""
        with _temporary(self._scratch) as copy:
            breed(mutants, Path(copy) / "m", self._copy)
            yield f"{suite_with_source().target}@{Path(copy) / 'm'}"


def _shared(
    items: Iterator[tuple[Callable[..., None], str]], lock: threading.Lock
) -> Iterator[tuple[Callable[..., None], str]]:
    """Draw items that several threads share."""
    while True:
        with lock:
            item = next(items, None)
        if item is None:
            return
        yield item


def _temporary(parent: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder that ends with the block, even if what a trial left still writes into it."""
    return tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True)


def apart(group: Iterable[Stored]) -> list[Stored]:
    """The mutants whose edits do not overlap those of an earlier one."""
    chosen: list[Stored] = []
    for stored in group:
        mutant = stored.mutant
        if not any(
            mutant.file == other.mutant.file
            and mutant.start < other.mutant.end
            and other.mutant.start < mutant.end
            for other in chosen
        ):
            chosen.append(stored)
    return chosen


def _decided(stored: Stored, finding: Finding, began: float) -> Stored:
    return replace(
        stored,
        status=finding.status,
        scenario=finding.scenario,
        reason=finding.reason,
        evidence=finding.evidence,
        seconds=stored.seconds + time.monotonic() - began,
    )


def worst_finding(results: Results) -> Finding:
    """The worst finding of any scenario in the results; ALL_VALID where there is none."""
    for name, record in results.records.items():
        if record.verdict.anomalies:
            broken = " ".join(anomaly.promise.id for anomaly in record.verdict.anomalies)
            evidence = record.summary()[:EVIDENCE_CHARS]
            return Finding(Status.DETECTED, name, broken, evidence)
    for name, error in results.broken.items():
        return Finding(Status.INCONCLUSIVE, name, error.splitlines()[0][:REASON_CHARS])
    for name, record in results.records.items():
        if not record.verdict.is_valid:
            unmet = (expectation.name for expectation in record.verdict.unmet)
            reasons = (*unmet, *record.verdict.unknowns)
            return Finding(Status.INCONCLUSIVE, name, f"unknown: {reasons[0]}")
    for name in results.unfinished:
        return Finding(Status.INCONCLUSIVE, name, TIMEOUT)
    return ALL_VALID


def source_digest() -> str:
    """A digest of the source that mutants are made of."""
    digest = hashlib.sha256()
    for path in sorted(source_folder().rglob("*.py")):
        digest.update(path.relative_to(source_folder()).as_posix().encode() + b"\0")
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def diff(mutant: Mutant, context: int = 2) -> str:
    """The edit as a unified diff with a few lines around it."""
    source = (source_folder() / mutant.file).read_text("utf-8")
    after = source[: mutant.start] + mutant.after + source[mutant.end :]
    name = f"{source_folder().name}/{mutant.file}"
    lines = difflib.unified_diff(
        source.splitlines(), after.splitlines(), f"a/{name}", f"b/{name}", n=context, lineterm=""
    )
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class MutationScore:
    """How many mutants have which result, and the share that is detected.

    `low` and `high` bound the share of all mutants (95 %, Wilson's score interval); a mutant that
    is undecided counts as not detected for `low`, and not at all for `high`.
    """

    counts: Mapping[Status, int]
    seconds_median: float

    @property
    def asked(self) -> int:
        """The mutants that were asked at least alone."""
        return sum(n for status, n in self.counts.items() if status is not Status.OPEN)

    @property
    def share(self) -> float:
        """Detected mutants among those with a result."""
        decided = sum(self.counts[status] for status in RESULTS)
        return self.counts[Status.DETECTED] / (decided or 1)

    @property
    def low(self) -> float:
        """The lower bound."""
        return wilson(self.counts[Status.DETECTED], self.asked)[0]

    @property
    def high(self) -> float:
        """The upper bound."""
        decided = sum(self.counts[status] for status in RESULTS)
        return wilson(self.counts[Status.DETECTED], decided)[1]

    def to_json(self) -> dict[str, object]:
        """Render as a JSON object."""
        return {
            **{str(status): self.counts[status] for status in Status},
            "share": round(self.share, 4),
            "low": round(self.low, 4),
            "high": round(self.high, 4),
            "seconds_median": round(self.seconds_median, 2),
        }


def score(results: Sequence[Stored]) -> MutationScore:
    """Count the results by status, and take the median of the seconds that one took."""
    counts = Counter(stored.status for stored in results)
    asked = [stored.seconds for stored in results if stored.status in RESULTS]
    return MutationScore(counts, statistics.median(asked) if asked else 0.0)
