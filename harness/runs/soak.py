"""Soaks a target: uses it for long, samples its sizes, and names what grows.

The run folder holds the plan, and the samples as they were taken, one *episode* for each host. A
soak that was killed is therefore resumed from its folder: the time that passed counts, and
a new host begins another episode and warms up again.

Growth is judged during the soak whenever there are an eighth more samples; a soak that has found
growth ends. Stacks and a flame graph of the host are taken before it ends, and a second, shorter
and traced episode finds the lines that allocate.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.checkers.growth import GROWTH, SAMPLE, GrowsWithin, Growth
from harness.contract.checkers.server.container_sizes import AllOf
from harness.contract.workloads.session_churn import Churn
from harness.core import history
from harness.core.errors import TargetLostError, UsageError
from harness.core.history import History, Journal, Operation, Outcome
from harness.core.trend import READINGS_MIN
from harness.core.verdict import Verdict, merge
from harness.engine import runner
from harness.engine.scenario import Scenario
from harness.engine.suite import choose
from harness.engine.target import Instance, Target
from harness.processes import probe
from harness.processes.remote import RefusedError
from harness.report import folder, judgement, machine_formats, soaking
from harness.report.judgement import Record
from harness.report.origin import setting
from harness.runs.pytest_run import Progress
from harness.runs.scratch import scratch
from harness.targets.registry import find_target

SCENARIO = "soak-churn"
HTTP_ABILITY = "soak_served"
SAMPLES = "samples.jsonl"
CPU, RSS = "process/cpu_s", "process/rss_bytes"
PERIOD_MIN_S, PERIOD_MAX_S = 0.25, 1.0
SAMPLES_WANTED = 10_000
SAMPLES_MAX = 4_000  # of an episode, in memory; above that every other one is dropped
MORE = 9 / 8  # samples than when growth was judged last
PROGRESS_S = 5.0
FLAME_S = 5.0
IDLE_EVERY_S, IDLE_S = 60.0, 2.0
IDLE_COSTS = ("cpu_s", "wakeups")  # a second
TRACED_TIMES = 4
TRACED_OPERATIONS = 150
REFUSALS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class SoakPlan:
    """The target and the length in seconds or operations; the soak ends at the first of both."""

    target: str
    seed: int
    seconds: float | None = None
    operations: int | None = None
    over_http: bool = False

    @property
    def period_s(self) -> float:
        """The time between two samples."""
        wanted = (self.seconds or 0.0) / SAMPLES_WANTED
        return min(max(wanted, PERIOD_MIN_S), PERIOD_MAX_S)

    @property
    def scenario(self) -> Scenario:
        """The scenario that judges it, with the ability that the target must offer."""
        scenario = choose([SCENARIO])[SCENARIO]
        return replace(scenario, ability=HTTP_ABILITY) if self.over_http else scenario

    def begin(self, reports: Path) -> Path:
        """Make the run folder. Raises UsageError where the target lacks the ability."""
        target = find_target(self.target)
        if self.scenario.ability not in target.abilities:
            raise UsageError(f"target {target.name!r} has no ability {self.scenario.ability!r}")
        plan = {"target": target.name, "scenarios": [SCENARIO], "soak": asdict(self)}
        run = folder.create(reports, "soak", self.seed, {**plan, **setting(target)})
        (run / SCENARIO).mkdir()
        (run / SCENARIO / runner.HISTORY).symlink_to(SAMPLES)
        return run

    @classmethod
    def of(cls, run: Path) -> SoakPlan:
        """The plan in a run folder. Raises UsageError for a folder of another kind of run."""
        file = run / folder.PLAN
        try:
            return cls(**folder.read_json(file)["soak"])
        except (KeyError, TypeError) as error:
            raise UsageError(f"{file}: expected the plan of a soak; {error!r}") from error


@dataclass(frozen=True, slots=True)
class SoakTotals:
    """Sums over the episodes of a soak."""

    episodes: int = 0
    seconds: float = 0.0
    operations: int = 0
    sessions: int = 0

    @classmethod
    def of(cls, episodes: Iterable[History]) -> SoakTotals:
        """Add up the last sample of each episode."""
        count, seconds, operations, sessions = 0, 0.0, 0, 0
        for episode in episodes:
            count += 1
            for last in list(episode.happened)[-1:]:
                seconds += last.argument["elapsed_s"]
                operations += last.argument["operations"]
                sessions += last.argument["sessions"]
        return cls(count, seconds, operations, sessions)


@dataclass
class SoakResult:
    """The verdict of a soak, its totals and costs, what grows, its holders and lines."""

    run: Path
    plan: SoakPlan
    verdict: Verdict
    totals: SoakTotals
    growths: list[Growth] = field(default_factory=list)
    costs: dict[str, float] = field(default_factory=dict)
    sites: list[Mapping[str, Any]] = field(default_factory=list)
    holders: list[Mapping[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Render as one JSON document."""
        return {
            "conclusion": str(self.verdict.validity),
            "exit_code": self.verdict.validity.exit_code,
            "run": str(self.run),
            "plan": asdict(self.plan),
            "totals": asdict(self.totals),
            "verdict": self.verdict.to_json(),
            "slopes": [
                {
                    "reading": growth.reading,
                    "promise": growth.promise.id,
                    "first": growth.first,
                    "last": growth.last,
                    **asdict(growth.trend),
                    "too_fast": growth.too_fast,
                }
                for growth in self.growths
            ],
            "costs": self.costs,
            "sites": [dict(site) for site in self.sites],
            "holders": [dict(holder) for holder in self.holders],
            "notes": self.notes,
        }


class SoakEpisode:
    """One host from its start to its end: performs operations, and keeps the samples alone."""

    def __init__(self, instance: Instance, journal: Journal, seed: str) -> None:
        self.samples: list[Operation] = []
        self.refused: Counter[str] = Counter()
        self._instance = instance
        self._journal = journal
        self._began_ns = time.monotonic_ns()
        self._idle_costs: dict[str, float] = {}
        self._taken = 0
        self._judge_at = READINGS_MIN
        self._churn = Churn(self._ask, random.Random(f"{seed}/churn"))

    @property
    def elapsed_s(self) -> float:
        """Seconds since its start."""
        return (time.monotonic_ns() - self._began_ns) / 1e9

    @property
    def operations(self) -> int:
        """Number of operations so far."""
        return self._churn.operations

    def step(self) -> None:
        """Perform one act."""
        self._churn.step()

    def run_until(self, until_s: float) -> None:
        """Perform acts until that many seconds have passed, and take a sample."""
        while self.elapsed_s < until_s:
            self.step()
        facts = {"elapsed_s": round(self.elapsed_s, 3), **self._idle_costs}
        self.samples.append(self._churn.sample(**facts))
        self._taken += 1
        if len(self.samples) > SAMPLES_MAX:
            del self.samples[::2]

    def idle(self, seconds: float) -> None:
        """Ask nothing for a while; later samples contain what that cost."""
        used = self.call("idle", seconds=seconds)
        self._idle_costs = {f"idle/{name}": used[name] / used["seconds"] for name in IDLE_COSTS}

    def is_to_be_judged(self) -> bool:
        """Whether there are enough samples, and enough more than the last time."""
        if self._taken < self._judge_at:
            return False
        self._judge_at = round(self._taken * MORE) + 1
        return True

    def call(self, function: str, **argument: Any) -> Any:
        """Ask the host without counting it as an operation."""
        return self._instance.call(function, argument)

    def _ask(self, function: str, argument: dict[str, Any]) -> Operation:
        """Ask, and journal a sample. Raises TargetLostError."""
        invoked_ns = time.monotonic_ns()
        outcome, result, refusal = Outcome.OK, None, ""
        try:
            result = self._instance.call(function, argument)
        except (TargetLostError, UsageError):
            raise
        except Exception as error:  # noqa: BLE001  any exception is a refusal
            outcome, refusal = Outcome.FAIL, f"{type(error).__name__}: {error}"
            self.refused[f"{function}: {refusal}"[:120]] += 1
        ended_ns = time.monotonic_ns()
        operation = Operation(0, function, argument, outcome, invoked_ns, ended_ns, result, refusal)
        if function == SAMPLE:
            self._journal.record(operation)
        return operation


def run_soak(run: Path, progress: Progress) -> SoakResult:
    """Run what is left of the soak in a run folder, judge it, and write the result."""
    plan = SoakPlan.of(run)
    folder.hold(run)
    scenario, samples = plan.scenario, run / SCENARIO / SAMPLES
    _cut_torn_line(samples)
    target = find_target(plan.target)
    target.prepare()
    result = SoakResult(run, plan, Verdict(), SoakTotals.of(history.read(samples)))
    began = time.monotonic()
    try:
        _run_episode(result, scenario, target, progress)
    except TargetLostError as error:
        result.verdict = Verdict(unknowns=(f"the host ended: {error}",))
    judged = runner.judge(scenario, run / SCENARIO)
    seconds = time.monotonic() - began
    record = judgement.store(judged, target, plan.seed, seconds, run / SCENARIO)
    result.verdict = merge([judged.verdict, result.verdict])
    _add_figures(result, _checker(scenario))
    for blamed in _blamed(judged.verdict):
        progress("looking for the lines that allocate")
        _find_sites(result, target, plan.seed, blamed)
    folder.write_json(run / folder.VERDICT, result.to_json())
    drawn = soaking.page(result.to_json(), _warm_samples(result, _checker(scenario)))
    folder.write_text(run / soaking.PAGE, drawn)
    _write_for_programs(result, replace(record, verdict=result.verdict), seconds)
    return result


def _blamed(verdict: Verdict) -> list[str]:
    """The reading that grows, if one does."""
    growing = [anomaly for anomaly in verdict.anomalies if anomaly.name == GROWTH]
    return [name for anomaly in growing[:1] for name in anomaly.evidence[-1].result]


def _write_for_programs(result: SoakResult, record: Record, seconds: float) -> None:
    """Write the findings, and the last sample as metrics."""
    document = result.to_json()
    conclusion = {
        **{name: document[name] for name in ("conclusion", "exit_code")},
        "target": result.plan.target,
        "seed": result.plan.seed,
        "seconds": round(seconds, 1),
        "scenarios": [record.to_json()],
        "skipped": {},
        "unfinished": [],
        "broken": {},
        "canaries": {},
    }
    machine_formats.write(conclusion, result.run)
    samples = [
        sample
        for episode in history.read(result.run / SCENARIO / SAMPLES)
        for sample in episode.happened.of(SAMPLE)
    ]
    metrics = machine_formats.open_metrics(document, samples[-1] if samples else None)
    folder.write_text(result.run / machine_formats.METRICS, metrics)


def _add_figures(result: SoakResult, checker: GrowsWithin) -> None:
    """Add the totals, and the growths and costs of the last episode that is long enough."""
    result.totals = SoakTotals.of(history.read(result.run / SCENARIO / SAMPLES))
    if samples := _warm_samples(result, checker):
        result.growths = list(checker.growths(samples))
        result.costs = _costs(samples[0], samples[-1])


def _warm_samples(result: SoakResult, checker: GrowsWithin) -> list[Operation]:
    """The samples of the last life that is long enough, after its warm-up; none without one."""
    episodes = history.read(result.run / SCENARIO / SAMPLES)
    long = [episode for episode in episodes if checker.judgeable(episode)][-1:]
    return checker.warm(long[0]) if long else []


def _costs(first: Operation, last: Operation) -> dict[str, float]:
    """Memory at the end, and processor time for each operation, where the samples have them."""
    cpu_s = last.result.get(CPU, 0.0) - first.result.get(CPU, 0.0)
    operations = last.argument["operations"] - first.argument["operations"]
    costs = {"rss_bytes": last.result.get(RSS), "cpu_us_an_operation": 1e6 * cpu_s / operations}
    return {name: value for name, value in costs.items() if value}


def _checker(scenario: Scenario) -> GrowsWithin:
    checker = scenario.checker
    parts = checker.checkers if isinstance(checker, AllOf) else (checker,)
    return next(part for part in parts if isinstance(part, GrowsWithin))


def _cut_torn_line(path: Path) -> None:
    """Remove a last line that a kill has torn, so that the next one begins a line of its own."""
    path.touch()
    whole = path.read_bytes()
    with path.open("r+b") as samples:
        samples.truncate(whole.rfind(b"\n") + 1)


def _run_episode(
    result: SoakResult, scenario: Scenario, target: Target, progress: Progress
) -> None:
    """Run one more episode, until the soak is over or something grows."""
    plan, before = result.plan, result.totals
    if _is_over(plan, before, None):
        return
    seed = f"{plan.seed}/{SCENARIO}/{before.episodes}"
    samples = result.run / SCENARIO / SAMPLES
    with Journal(samples, time.monotonic_ns) as journal, scratch() as host:
        journal.episode(seed=seed, number=before.episodes)
        instance = target.open(scenario.ability, Path(host))
        try:
            episode = SoakEpisode(instance, journal, seed)
            _run_until_over(result, scenario, episode, progress)
        finally:
            instance.close()
    for refusal, count in episode.refused.most_common(REFUSALS_SHOWN):
        result.notes.append(f"refused {count} times: {refusal}")


def _run_until_over(
    result: SoakResult, scenario: Scenario, episode: SoakEpisode, progress: Progress
) -> None:
    plan, checker = result.plan, _checker(scenario)
    progress_at_s, idle_at_s, fastest = 0.0, IDLE_EVERY_S, ""
    while not _is_over(plan, result.totals, episode):
        episode.run_until(episode.elapsed_s + plan.period_s)
        samples = History(tuple(episode.samples))
        if episode.is_to_be_judged() and checker.judgeable(samples):
            growths = list(checker.growths(checker.warm(samples)))
            fastest = str(max(growths, key=lambda growth: growth.trend.slope / growth.too_fast))
            if any(growth.is_growing for growth in growths) and _is_proven(result, scenario):
                _inspect(result, episode, progress)
                return
        if plan.over_http and episode.elapsed_s >= idle_at_s:
            idle_at_s = episode.elapsed_s + IDLE_EVERY_S
            episode.idle(IDLE_S)
        if episode.elapsed_s - progress_at_s >= PROGRESS_S:
            progress_at_s = episode.elapsed_s
            done = f"{episode.operations:,} operations in {episode.elapsed_s:,.0f} s"
            progress(f"{done}{fastest and ' · fastest: '}{fastest}")


def _is_over(plan: SoakPlan, before: SoakTotals, episode: SoakEpisode | None) -> bool:
    seconds = before.seconds + (episode.elapsed_s if episode else 0.0)
    operations = before.operations + (episode.operations if episode else 0)
    is_late = plan.seconds is not None and seconds >= plan.seconds
    return is_late or (plan.operations is not None and operations >= plan.operations)


def _is_proven(result: SoakResult, scenario: Scenario) -> bool:
    """Whether all samples on disk prove growth too."""
    return bool(runner.judge(scenario, result.run / SCENARIO).verdict.anomalies)


def _inspect(result: SoakResult, episode: SoakEpisode, progress: Progress) -> None:
    """Take stacks and a flame graph of the host while it is in use."""
    progress("something grows: inspecting the host")
    pid = episode.call("pid")
    threads = probe.cost_of(pid).threads
    flame = result.run / "flame.svg"
    stacks = result.run / "stacks.txt"

    def draw() -> None:
        _note(result, lambda: probe.flame(pid, FLAME_S, threads, flame), "a flame graph")

    _note(result, lambda: folder.write_text(stacks, probe.stacks(pid)), "stacks")
    drawing = threading.Thread(target=draw)
    drawing.start()
    while drawing.is_alive():
        episode.run_until(episode.elapsed_s + result.plan.period_s)
    drawing.join()


def _note(result: SoakResult, inspect: Callable[[], object], what: str) -> None:
    """Inspect, or note why that is unavailable."""
    try:
        inspect()
    except probe.UnavailableError as error:
        result.notes.append(f"{what}: unavailable: {error}")


def _find_sites(result: SoakResult, target: Target, seed: int, blamed: str) -> None:
    """Run a short traced episode, and find the lines that allocate what stays."""
    ability = choose([SCENARIO])[SCENARIO].ability  # tracing needs the host's own process
    with scratch() as host:
        instance = target.open(ability, Path(host))
        try:
            with Journal(Path(host) / SAMPLES, time.monotonic_ns) as journal:
                episode = SoakEpisode(instance, journal, f"{seed}/sites")
                episode.call("trace")
                _step(episode, _checker(result.plan.scenario).warm_up)
                for _ in range(TRACED_TIMES):
                    episode.call("mark")
                    _step(episode, episode.operations + TRACED_OPERATIONS)
                result.sites = episode.call("sites", reading=blamed)
                result.holders = episode.call("holders", reading=blamed)
        except (TargetLostError, RefusedError) as error:
            result.notes.append(f"allocation sites and holders: unavailable: {error}")
        finally:
            with suppress(TargetLostError):
                instance.close()


def _step(episode: SoakEpisode, until: int) -> None:
    while episode.operations < until:
        episode.step()
