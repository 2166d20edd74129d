"""The soak: a target is lived in for as long as was asked, and whatever grows is named.

Its run folder holds all there is: the plan, and the samples as they were taken, an episode for each
*life*. So a soak that was killed, with its machine or without, is resumed there: the time that was
lived counts, and a new host begins its life, and warms up again.

Live, growth is judged again whenever there are an eighth more samples; a soak that has found some
ends there. It is looked at then while it still lives (what its threads do, where the time goes),
and lived in once more, for a short while and slowly, to see where the memory is allocated.
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

from harness.checkers.growth import SAMPLE, GrowsWithin, Growth
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
from harness.report import folder, judgement
from harness.runs.pytest_run import Progress, scratch
from harness.targets.registry import find_target

SCENARIO = "soak-churn"
SERVED = "soak_served"
SAMPLES = "samples.jsonl"
CPU, RSS = "process/cpu_s", "process/rss_bytes"
EVERY_MIN_S, EVERY_MAX_S = 0.25, 1.0
SAMPLES_WANTED = 10_000
KEPT_MAX = 4_000  # in memory, of a life; then every other one is forgotten
MORE = 9 / 8  # samples than when it was judged last
PROGRESS_S = 5.0
FLAME_S = 5.0
IDLE_EVERY_S, IDLE_S = 60.0, 2.0
IDLE_COSTS = ("cpu_s", "wakeups")  # a second
TRACED_TIMES = 4
TRACED_OPERATIONS = 150
REFUSALS_TOLD = 3


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a soak: how long in seconds, or in operations; whichever ends first."""

    target: str
    seed: int
    seconds: float | None = None
    operations: int | None = None
    over_http: bool = False

    @property
    def every_s(self) -> float:
        """How often a sample is taken."""
        wanted = (self.seconds or 0.0) / SAMPLES_WANTED
        return min(max(wanted, EVERY_MIN_S), EVERY_MAX_S)

    @property
    def scenario(self) -> Scenario:
        """Which life is lived, and how it is judged."""
        scenario = choose([SCENARIO])[SCENARIO]
        return replace(scenario, ability=SERVED) if self.over_http else scenario

    def begin(self, reports: Path) -> Path:
        """Make the run folder. Raises UsageError where the target cannot do it."""
        target = find_target(self.target)
        if self.scenario.ability not in target.abilities:
            raise UsageError(f"{target.name} has no ability {self.scenario.ability!r}")
        plan = {"target": target.name, "scenarios": [SCENARIO], "asked": asdict(self)}
        run = folder.create(reports, "soak", self.seed, plan)
        (run / SCENARIO).mkdir()
        (run / SCENARIO / runner.HISTORY).symlink_to(SAMPLES)
        return run

    @classmethod
    def of(cls, run: Path) -> Asked:
        """What was asked of a run. Raises UsageError for a folder that is no soak's."""
        try:
            return cls(**folder.read_json(run / folder.PLAN)["asked"])
        except (KeyError, TypeError) as error:
            raise UsageError(f"{run}: that is no soak's folder: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Lived:
    """What was lived so far."""

    lives: int = 0
    seconds: float = 0.0
    operations: int = 0
    sessions: int = 0

    @classmethod
    def of(cls, lives: Iterable[History]) -> Lived:
        """Add up lives by the last sample of each."""
        count, seconds, operations, sessions = 0, 0.0, 0, 0
        for life in lives:
            count += 1
            for last in list(life.happened)[-1:]:
                seconds += last.argument["lived_s"]
                operations += last.argument["operations"]
                sessions += last.argument["sessions"]
        return cls(count, seconds, operations, sessions)


@dataclass
class Soaked:
    """What a soak came to."""

    run: Path
    asked: Asked
    verdict: Verdict
    lived: Lived
    growths: list[Growth] = field(default_factory=list)
    costs: dict[str, float] = field(default_factory=dict)
    sites: list[Mapping[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Render as one JSON document."""
        return {
            "conclusion": str(self.verdict.validity),
            "exit_code": self.verdict.validity.exit_code,
            "run": str(self.run),
            "asked": asdict(self.asked),
            "lived": asdict(self.lived),
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
            "notes": self.notes,
        }


class Life:
    """One host from its birth to its end, asked by us; samples alone are kept."""

    def __init__(self, instance: Instance, journal: Journal, seed: str) -> None:
        self.samples: list[Operation] = []
        self.refused: Counter[str] = Counter()
        self._instance = instance
        self._journal = journal
        self._born_ns = time.monotonic_ns()
        self._idling: dict[str, float] = {}
        self._taken = 0
        self._judge_at = READINGS_MIN
        self._churn = Churn(self._ask, random.Random(f"{seed}/churn"))

    @property
    def lived_s(self) -> float:
        """Its age in seconds."""
        return (time.monotonic_ns() - self._born_ns) / 1e9

    @property
    def operations(self) -> int:
        """How many there were."""
        return self._churn.operations

    def step(self) -> None:
        """Do one thing."""
        self._churn.step()

    def go_on(self, until_s: float) -> None:
        """Live until that age, and take a sample."""
        while self.lived_s < until_s:
            self.step()
        told = {"lived_s": round(self.lived_s, 3), **self._idling}
        self.samples.append(self._churn.sample(**told))
        self._taken += 1
        if len(self.samples) > KEPT_MAX:
            del self.samples[::2]

    def idle(self, seconds: float) -> None:
        """Ask nothing for a while; what that cost is told with the samples from now on."""
        used = self.call("idle", seconds=seconds)
        self._idling = {f"idle/{name}": used[name] / used["seconds"] for name in IDLE_COSTS}

    def is_to_be_judged(self) -> bool:
        """Whether there are enough samples, and enough more than the last time."""
        if self._taken < self._judge_at:
            return False
        self._judge_at = round(self._taken * MORE) + 1
        return True

    def call(self, function: str, **argument: Any) -> Any:
        """Ask the host what is no part of its life."""
        return self._instance.call(function, argument)

    def _ask(self, function: str, argument: dict[str, Any]) -> Operation:
        """Ask, and keep a sample. Raises TargetLostError."""
        asked_ns = time.monotonic_ns()
        told: dict[str, Any] = {}
        outcome = Outcome.OK
        try:
            told["result"] = self._instance.call(function, argument)
        except (TargetLostError, UsageError):
            raise
        except Exception as error:  # noqa: BLE001  a refusal, whatever its type
            outcome = Outcome.FAIL
            told["error"] = f"{type(error).__name__}: {error}"
            self.refused[f"{function}: {told['error']}"[:120]] += 1
        asked = (0, function, argument, outcome, asked_ns, time.monotonic_ns())
        operation = Operation(*asked, **told)
        if function == SAMPLE:
            self._journal.record(operation)
        return operation


def go_on(run: Path, progress: Progress) -> Soaked:
    """Live what is left of a soak, judge it, and write everything down."""
    asked = Asked.of(run)
    scenario, place = asked.scenario, run / SCENARIO
    _mend(place / SAMPLES)
    target = find_target(asked.target)
    target.prepare()
    soaked = Soaked(run, asked, Verdict(), Lived.of(history.read(place / SAMPLES)))
    began = time.monotonic()
    try:
        _live(soaked, scenario, target, progress)
    except TargetLostError as error:
        soaked.verdict = Verdict(unknowns=(f"the host went away: {error}",))
    judged = runner.judge(scenario, place)
    judgement.store(judged, target, asked.seed, time.monotonic() - began, place)
    soaked.verdict = merge([judged.verdict, soaked.verdict])
    _look_back(soaked, _checker(scenario))
    if judged.verdict.anomalies:
        progress("looking for where it is allocated")
        (blamed,) = judged.verdict.anomalies[0].evidence[-1].result
        _find_sites(soaked, target, asked.seed, blamed)
    folder.write_json(run / folder.VERDICT, soaked.to_json())
    return soaked


def _look_back(soaked: Soaked, checker: GrowsWithin) -> None:
    """What was lived; and what the last life that was long enough came to."""
    lives = history.read(soaked.run / SCENARIO / SAMPLES)
    soaked.lived = Lived.of(lives)
    for life in [life for life in lives if checker.judgeable(life)][-1:]:
        samples = checker.warm(life)
        soaked.growths = list(checker.growths(samples))
        soaked.costs = _costs(samples[0], samples[-1])


def _costs(first: Operation, last: Operation) -> dict[str, float]:
    """Memory at the end, and processor time for each operation; where the samples tell."""
    cpu_s = last.result.get(CPU, 0.0) - first.result.get(CPU, 0.0)
    operations = last.argument["operations"] - first.argument["operations"]
    costs = {"rss_bytes": last.result.get(RSS), "cpu_us_an_operation": 1e6 * cpu_s / operations}
    return {name: value for name, value in costs.items() if value}


def _checker(scenario: Scenario) -> GrowsWithin:
    assert isinstance(scenario.checker, GrowsWithin)
    return scenario.checker


def _mend(path: Path) -> None:
    """Cut off a line that a kill has torn, so that the next one is not glued to it."""
    path.touch()
    whole = path.read_bytes()
    with path.open("r+b") as samples:
        samples.truncate(whole.rfind(b"\n") + 1)


def _live(soaked: Soaked, scenario: Scenario, target: Target, progress: Progress) -> None:
    """Live one more life, until all is lived or something grows."""
    asked, before = soaked.asked, soaked.lived
    if _is_over(asked, before, None):
        return
    seed = f"{asked.seed}/{SCENARIO}/{before.lives}"
    place = soaked.run / SCENARIO
    with Journal(place / SAMPLES, time.monotonic_ns) as journal, scratch() as host:
        journal.episode(seed=seed, life=before.lives)
        instance = target.open(scenario.ability, Path(host))
        try:
            life = Life(instance, journal, seed)
            _until_over(soaked, scenario, life, progress)
        finally:
            instance.close()
    for refusal, count in life.refused.most_common(REFUSALS_TOLD):
        soaked.notes.append(f"refused {count} times: {refusal}")


def _until_over(soaked: Soaked, scenario: Scenario, life: Life, progress: Progress) -> None:
    asked, checker = soaked.asked, _checker(scenario)
    told_at_s, idle_at_s, fastest = 0.0, IDLE_EVERY_S, ""
    while not _is_over(asked, soaked.lived, life):
        life.go_on(life.lived_s + asked.every_s)
        lived = History(tuple(life.samples))
        if life.is_to_be_judged() and checker.judgeable(lived):
            growths = list(checker.growths(checker.warm(lived)))
            fastest = str(max(growths, key=lambda growth: growth.trend.slope / growth.too_fast))
            if any(growth.is_growing for growth in growths) and _is_proven(soaked, scenario):
                _look(soaked, life, progress)
                return
        if asked.over_http and life.lived_s >= idle_at_s:
            idle_at_s = life.lived_s + IDLE_EVERY_S
            life.idle(IDLE_S)
        if life.lived_s - told_at_s >= PROGRESS_S:
            told_at_s = life.lived_s
            done = f"{life.operations:,} operations in {life.lived_s:,.0f} s"
            progress(f"{done}{fastest and ' · fastest: '}{fastest}")


def _is_over(asked: Asked, before: Lived, life: Life | None) -> bool:
    seconds = before.seconds + (life.lived_s if life else 0.0)
    operations = before.operations + (life.operations if life else 0)
    is_late = asked.seconds is not None and seconds >= asked.seconds
    return is_late or (asked.operations is not None and operations >= asked.operations)


def _is_proven(soaked: Soaked, scenario: Scenario) -> bool:
    """Whether all samples, as they are on disk, say so too."""
    return bool(runner.judge(scenario, soaked.run / SCENARIO).verdict.anomalies)


def _look(soaked: Soaked, life: Life, progress: Progress) -> None:
    """See what the host does while it is lived in: stacks, and a flame graph."""
    progress("something grows: looking at the host")
    pid = life.call("pid")
    threads = probe.cost_of(pid).threads
    flame = soaked.run / "flame.svg"

    def draw() -> None:
        _note(soaked, lambda: probe.flame(pid, FLAME_S, threads, flame), "a flame graph")

    _note(soaked, lambda: folder.write_text(soaked.run / "stacks.txt", probe.stacks(pid)), "stacks")
    drawing = threading.Thread(target=draw)
    drawing.start()
    while drawing.is_alive():
        life.go_on(life.lived_s + soaked.asked.every_s)
    drawing.join()


def _note(soaked: Soaked, look: Callable[[], object], what: str) -> None:
    """Look, or note that it is not to be seen."""
    try:
        look()
    except probe.UnavailableError as error:
        soaked.notes.append(f"{what}: unavailable: {error}")


def _find_sites(soaked: Soaked, target: Target, seed: int, blamed: str) -> None:
    """Live once more, slowly and for a short while, and see which lines allocate what stays."""
    ability = choose([SCENARIO])[SCENARIO].ability  # in a process that can be asked about itself
    with scratch() as host:
        instance = target.open(ability, Path(host))
        try:
            with Journal(Path(host) / SAMPLES, time.monotonic_ns) as journal:
                life = Life(instance, journal, f"{seed}/sites")
                life.call("trace")
                _step(life, _checker(soaked.asked.scenario).warm_up)
                for _ in range(TRACED_TIMES):
                    life.call("mark")
                    _step(life, life.operations + TRACED_OPERATIONS)
                soaked.sites = life.call("sites", reading=blamed)
        except (TargetLostError, RefusedError) as error:
            soaked.notes.append(f"allocation sites: unavailable: {error}")
        finally:
            with suppress(TargetLostError):
                instance.close()


def _step(life: Life, until: int) -> None:
    while life.operations < until:
        life.step()
