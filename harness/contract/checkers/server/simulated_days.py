"""Checks simulated days of one install, hour by hour, and that the virtual clock is trustworthy.

For histories of `live` operations: the argument lists the acts of one hour, the result holds what
was observed in it. An hour ends quiet, so that every consequence of its acts is observed in it. A
`sample` follows each hour, and at the end `elapsed` reports the time that passed, by both clocks.

That is process `LIFE` of the history. Two more processes are its control: they run the same hours
by the clocks `REAL` and `LAPSED`. Where a gauge's slope per operation differs between the two, the
compressed clock is not trustworthy, and the verdict is unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

from harness.checkers.growth import SAMPLE, GrowsWithin
from harness.contract import promises
from harness.contract.checkers.server.install_sizes import hour_anomalies
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict, merge

LIFE, REAL, LAPSED = range(3)
LIVE = "live"
ELAPSED = "elapsed"
DAY_S = 86_400.0
TALKS = ("gateway_talk", "gateway_drop")
TABS = ("open_tab", "close_tab", "delete")

Act = Mapping[str, Any]


def of_process(history: History, process: int) -> History:
    """The operations of one process."""
    return History(tuple(op for op in history if op.process == process), (), history.notes)


# One install


def check_install_days(history: History) -> Verdict:
    """Judge the days of one install."""
    hours = history.happened.of(LIVE)
    for rule in (
        _double_wakeups,
        _lost_wakeups,
        _needless_projections,
        _unannounced,
        _channels,
        _refetched,
    ):
        for anomaly in rule(hours):
            return Verdict(anomalies=(anomaly,))
    return Verdict()


def _double_wakeups(hours: Sequence[Operation]) -> Iterator[Anomaly]:
    """Every completion starts one turn (W1)."""
    counts = Counter(process for hour in hours for process in hour.result["woken"])
    for process, count in counts.items():
        if count > 1:
            waking = (hour for hour in hours if process in hour.result["woken"])
            yield Anomaly(
                promises.W1,
                f"the end of process {process} woke {count} times",
                tuple(_only(hour, (), "woken") for hour in waking),
                "double-wakeup",
                expected="one wakeup",
                observed=f"{count} wakeups",
            )


def _lost_wakeups(hours: Sequence[Operation]) -> Iterator[Anomaly]:
    """Every completion starts a turn by the end of the next hour, unless its session goes (W1)."""
    for before, after in pairwise(hours):
        wakeups = {*before.result["woken"], *after.result["woken"]}
        gone = {act["session"] for act in _acts((before, after), ("delete",))}
        for process, session in before.result["ended"]:
            if session is not None and session not in gone and process not in wakeups:
                yield Anomaly(
                    promises.W1,
                    f"the end of process {process} woke no session",
                    tuple(_only(hour, ("delete",), "ended", "woken") for hour in (before, after)),
                    "lost-wakeup",
                    expected=f"a wakeup of {session!r} by the end of the next hour",
                    observed=f"wakeups by {sorted(wakeups)}",
                )


def _needless_projections(hours: Sequence[Operation]) -> Iterator[Anomaly]:
    """The list is projected once for each change at most, and once at the beginning (G2)."""
    for number, hour in enumerate(hours):
        changes = len(_talks(hour)) + (number == 0)
        projections = hour.result["projections"]
        if projections > changes:
            yield Anomaly(
                promises.G2,
                f"the watcher projected the list {projections} times in hour {number}",
                (_only(hour, TALKS, "projections"),),
                "unasked-projection",
                expected=f"at most {changes}, the number of relevant changes",
                observed=f"{projections} projections",
            )


def _unannounced(hours: Sequence[Operation]) -> Iterator[Anomaly]:
    """A change by another writer to a listed session is announced (G1)."""
    for number, hour in enumerate(hours):
        announced, shown = hour.result["announced"], hour.result["shown"]
        if _talks(hour) and (announced is None or announced != shown):
            yield Anomaly(
                promises.G1,
                f"the list announced last in hour {number} lacks changes of other writers",
                (_only(hour, TALKS, "announced", "shown"),),
                "unannounced-change",
                expected=f"an announcement of the list {shown!r}",
                observed="no announcement" if announced is None else f"the list {announced!r}",
            )


def _channels(hours: Sequence[Operation]) -> Iterator[Anomaly]:
    """Once the grace is over, there is one channel for each session with a reader (C9)."""
    readers: dict[str, str] = {}
    for number, hour in enumerate(hours):
        for act in hour.argument["acts"]:
            match act["act"]:
                case "open_tab":
                    readers[act["tab"]] = act["session"]
                case "close_tab":
                    readers.pop(act["tab"], None)
                case "delete":
                    readers = {
                        reader: session
                        for reader, session in readers.items()
                        if session != act["session"]
                    }
        wanted, channels = len(set(readers.values())), hour.result["channels"]
        if channels != wanted:
            yield Anomaly(
                promises.C9,
                f"the install holds {channels} channels at the end of hour {number}",
                (_only(hour, TABS, "channels"),),
                "channel-not-collected" if channels > wanted else "live-channel-collected",
                expected=f"{wanted} channels, one for each session with a reader",
                observed=f"{channels} channels",
            )


def _refetched(hours: Sequence[Operation]) -> Iterator[Anomaly]:
    """Providers are queried once a day, however often tokens rotate (M3)."""
    elapsed_s = 0.0
    fetches = rotations = 0
    for hour in hours:
        elapsed_s += hour.argument["seconds"]
        fetches += hour.result["fetches"]
        rotations += hour.result["rotations"]
        due = 1 + int(elapsed_s / DAY_S)
        if fetches > due:
            yield Anomaly(
                promises.M3,
                f"the catalog was fetched {fetches} times in {rotations} token rotations",
                (_only(hour, (), "fetches", "rotations"),),
                "churning-fingerprint",
                expected=f"at most {due} fetches in {elapsed_s / 3600:g} hours",
                observed=f"{fetches} fetches",
            )


def _talks(hour: Operation) -> list[Act]:
    return _acts((hour,), TALKS)


def _acts(hours: Iterable[Operation], kinds: tuple[str, ...]) -> list[Act]:
    return [act for hour in hours for act in hour.argument["acts"] if act["act"] in kinds]


def _only(hour: Operation, kinds: tuple[str, ...], *fields: str) -> Operation:
    """The hour reduced to acts of these kinds and to these fields of the result."""
    acts = _acts((hour,), kinds)
    result = {name: hour.result[name] for name in fields}
    return replace(hour, argument={**hour.argument, "acts": acts}, result=result)


# The comparison of both clocks


@dataclass(frozen=True, slots=True)
class Bound:
    """How far two clocks may be apart in the slopes of these gauges, per operation.

    `readings` is a shell pattern; of several bounds the first that matches counts. A difference is
    within the bound if it is below `per_operation`, or below `part` of the greater slope.
    """

    readings: str
    per_operation: float
    part: float = 0.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """One gauge's slopes per operation, on the real clock and on the compressed one."""

    reading: str
    real: float
    lapsed: float
    bound: Bound

    @property
    def agrees(self) -> bool:
        """Whether the slopes are within the bound."""
        apart = abs(self.real - self.lapsed)
        least = self.bound.part * max(abs(self.real), abs(self.lapsed))
        return apart <= max(self.bound.per_operation, least)

    def __str__(self) -> str:
        return (
            f"{self.reading} moves {self.real:+.3g} an operation on the real clock,"
            f" {self.lapsed:+.3g} on the compressed one"
        )


def compare(real: History, lapsed: History, bounds: Sequence[Bound]) -> list[Comparison]:
    """Compare every gauge that has a bound; empty where one of the controls has no samples."""
    real_slopes, lapsed_slopes = slopes(real), slopes(lapsed)
    if not (real_slopes and lapsed_slopes):
        return []
    compared = []
    for reading in sorted(real_slopes.keys() | lapsed_slopes.keys()):
        bound = next((bound for bound in bounds if fnmatchcase(reading, bound.readings)), None)
        if bound is not None:
            pair = real_slopes.get(reading, 0.0), lapsed_slopes.get(reading, 0.0)
            compared.append(Comparison(reading, *pair, bound))
    return compared


def slopes(history: History) -> dict[str, float]:
    """The change of each gauge per operation, from the first sample to the last."""
    samples = history.happened.of(SAMPLE)
    if len(samples) < 2:  # noqa: PLR2004 - a line needs two points
        return {}
    first, last = samples[0], samples[-1]
    done = last.argument["operations"] - first.argument["operations"]
    return {
        reading: (last.result[reading] - first.result.get(reading, 0)) / done
        for reading in last.result
    }


@dataclass(frozen=True, slots=True)
class InstallDaysChecker:
    """The checker of an install's days and their control: every hour, growth, then the clock."""

    grown: GrowsWithin
    bounds: Sequence[Bound]

    def __call__(self, history: History) -> Verdict:
        """Judge a history; unknown where a call was not answered, or the clock is in doubt."""
        doubts = tuple(self._doubts(history))
        if doubts:
            return Verdict(unknowns=doubts)
        life = of_process(history, LIFE)
        verdict = check_install_days(life)
        if verdict.is_valid:
            wrong = next(hour_anomalies(life.operations), None)
            verdict = Verdict(anomalies=(wrong,) if wrong else ())
        return verdict if not verdict.is_valid else merge([verdict, self.grown(life)])

    def judgeable(self, history: History) -> int:
        """1 if growth can be judged, else 0."""
        return self.grown.judgeable(of_process(history, LIFE))

    def comparisons(self, history: History) -> list[Comparison]:
        """Every gauge of the control that has a bound, by both clocks."""
        controls = of_process(history, REAL), of_process(history, LAPSED)
        return compare(*controls, self.bounds)

    def _doubts(self, history: History) -> Iterator[str]:
        for operation in history:
            if operation.outcome is not Outcome.OK:
                yield f"{operation.function} was not answered: {operation.error}"
                return
        compared = self.comparisons(history)
        apart = [str(comparison) for comparison in compared if not comparison.agrees]
        if apart or not compared:
            reason = "; ".join(apart) or "there is no control"
            yield f"the compression is untrustworthy: {reason}"


def elapsed(history: History) -> Mapping[str, float]:
    """The seconds that passed by each clock; empty where no operation reports them."""
    reports = history.happened.of(ELAPSED)
    return next((operation.result for operation in reports), {})
