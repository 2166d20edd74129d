"""Lived: what an install shows hour by hour, while its timers, reapers and watchers do their work.

For histories of `live` operations: each tells what was done in its hour, and answers with what was
seen. An hour ends quietly, so that all that follows from its acts is seen in it. After each hour
there is a `sample`, and in the end `elapsed` tells how much time passed, by both clocks.

That is one *process* of the history, `LIFE`. Two more are its control, and live the same hours by
two clocks, `REAL` and `LAPSED`. If their readings do not move alike, per operation, then the
shorter clock is not to be trusted, and nothing is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

from harness.checkers.growth import SAMPLE, GrowsWithin
from harness.core.history import History, Operation, Outcome
from harness.core.promises import Promise
from harness.core.verdict import Anomaly, Verdict, merge

LIFE, REAL, LAPSED = range(3)
LIVE = "live"
ELAPSED = "elapsed"
DAY_S = 86_400.0
TALKS = ("gateway_talk", "gateway_drop")
TABS = ("open_tab", "close_tab", "delete")

Act = Mapping[str, Any]


def of_process(history: History, process: int) -> History:
    """What one process was asked."""
    return History(tuple(op for op in history if op.process == process), (), history.notes)


# One life


def lived_well(history: History) -> Verdict:
    """Judge one life, of hours that take an hour."""
    hours = [operation for operation in history.happened if operation.function == LIVE]
    for rule in (_woken_twice, _never_woken, _unasked, _unannounced, _channels, _refetched):
        for anomaly in rule(hours):
            return Verdict(anomalies=(anomaly,))
    return Verdict()


def _woken_twice(hours: Sequence[Operation]) -> Iterator[Anomaly]:
    """Every completion starts one turn (W1)."""
    woken = Counter(process for hour in hours for process in hour.result["woken"])
    for process, count in woken.items():
        if count > 1:
            told = (hour for hour in hours if process in hour.result["woken"])
            evidence = tuple(_only(hour, (), "woken") for hour in told)
            message = f"the end of {process} woke {count} times"
            yield Anomaly(Promise.W1, message, evidence, "double-wakeup")


def _never_woken(hours: Sequence[Operation]) -> Iterator[Anomaly]:
    """Every completion starts a turn by the end of the next hour, unless its session goes (W1)."""
    for before, after in pairwise(hours):
        woken = {*before.result["woken"], *after.result["woken"]}
        gone = {act["session"] for act in _acts((before, after), ("delete",))}
        for process, session in before.result["ended"]:
            if session is not None and session not in gone and process not in woken:
                message = f"the end of {process} woke nobody, and belongs to {session!r}"
                evidence = tuple(
                    _only(hour, ("delete",), "ended", "woken") for hour in (before, after)
                )
                yield Anomaly(Promise.W1, message, evidence, "lost-wakeup")


def _unasked(hours: Sequence[Operation]) -> Iterator[Anomaly]:
    """The list is projected once for each change at most, and once at the beginning (G2)."""
    for number, hour in enumerate(hours):
        changes = len(_talks(hour)) + (number == 0)
        projections = hour.result["projections"]
        if projections > changes:
            message = f"{projections} projections in an hour of {changes} relevant changes"
            evidence = _only(hour, TALKS, "projections")
            yield Anomaly(Promise.G2, message, (evidence,), "unasked-projection")


def _unannounced(hours: Sequence[Operation]) -> Iterator[Anomaly]:
    """What others did to a shown session is announced (G1)."""
    for hour in hours:
        announced, shown = hour.result["announced"], hour.result["shown"]
        if _talks(hour) and (announced is None or announced != shown):
            message = "what others did in the hour is not in the list that was announced last"
            evidence = _only(hour, TALKS, "announced", "shown")
            yield Anomaly(Promise.G1, message, (evidence,), "unannounced-change")


def _channels(hours: Sequence[Operation]) -> Iterator[Anomaly]:
    """When the grace is over there are as many channels as sessions that are watched (C9)."""
    tabs: dict[str, str] = {}
    for hour in hours:
        for act in hour.argument["acts"]:
            match act["act"]:
                case "open_tab":
                    tabs[act["tab"]] = act["session"]
                case "close_tab":
                    tabs.pop(act["tab"], None)
                case "delete":
                    tabs = {tab: one for tab, one in tabs.items() if one != act["session"]}
        watched, channels = len(set(tabs.values())), hour.result["channels"]
        if channels != watched:
            kind = "channel-not-collected" if channels > watched else "live-channel-collected"
            message = f"{channels} channels, where {watched} sessions are watched"
            yield Anomaly(Promise.C9, message, (_only(hour, TABS, "channels"),), kind)


def _refetched(hours: Sequence[Operation]) -> Iterator[Anomaly]:
    """Providers are asked once a day, however often tokens rotate (M3)."""
    elapsed_s = 0.0
    fetches = rotations = 0
    for hour in hours:
        elapsed_s += hour.argument["seconds"]
        fetches += hour.result["fetches"]
        rotations += hour.result["rotations"]
        due = 1 + int(elapsed_s / DAY_S)
        if fetches > due:
            message = f"{fetches} fetches in {rotations} rotations of tokens, where {due} were due"
            evidence = _only(hour, (), "fetches", "rotations")
            yield Anomaly(Promise.M3, message, (evidence,), "churning-fingerprint")


def _talks(hour: Operation) -> list[Act]:
    return _acts((hour,), TALKS)


def _acts(hours: Iterable[Operation], kinds: tuple[str, ...]) -> list[Act]:
    return [act for hour in hours for act in hour.argument["acts"] if act["act"] in kinds]


def _only(hour: Operation, kinds: tuple[str, ...], *seen: str) -> Operation:
    """The hour with these kinds of acts, and with this of what was seen."""
    acts = _acts((hour,), kinds)
    result = {name: hour.result[name] for name in seen}
    return replace(hour, argument={**hour.argument, "acts": acts}, result=result)


# Two clocks, and both together


@dataclass(frozen=True, slots=True)
class Bound:
    """How far two clocks may be apart in readings of these names, an operation.

    `readings` is a shell pattern; of several bounds the first that matches counts. Either is
    enough: the difference in itself, or as a part of the greater slope.
    """

    readings: str
    per_operation: float
    part: float = 0.0


@dataclass(frozen=True, slots=True)
class Comparison:
    """One reading's slopes per operation, on the real clock and in the lapse."""

    reading: str
    real: float
    lapsed: float
    bound: Bound

    @property
    def agrees(self) -> bool:
        """Whether they are within the bound."""
        apart = abs(self.real - self.lapsed)
        least = self.bound.part * max(abs(self.real), abs(self.lapsed))
        return apart <= max(self.bound.per_operation, least)

    def __str__(self) -> str:
        return f"{self.reading} moves {self.real:+.3g} an operation, and {self.lapsed:+.3g} lapsed"


def compare(real: History, lapsed: History, bounds: Sequence[Bound]) -> list[Comparison]:
    """Every reading that has a bound, by both clocks; none where a life was not lived."""
    ones, others = slopes(real), slopes(lapsed)
    if not (ones and others):
        return []
    compared = []
    for reading in sorted(ones.keys() | others.keys()):
        bound = next((bound for bound in bounds if fnmatchcase(reading, bound.readings)), None)
        if bound is not None:
            pair = ones.get(reading, 0.0), others.get(reading, 0.0)
            compared.append(Comparison(reading, *pair, bound))
    return compared


def slopes(history: History) -> dict[str, float]:
    """How much each reading moved an operation, from the first sample to the last."""
    samples = [operation for operation in history.happened if operation.function == SAMPLE]
    if len(samples) < 2:  # noqa: PLR2004 - a line needs two points
        return {}
    first, last = samples[0], samples[-1]
    done = last.argument["operations"] - first.argument["operations"]
    return {
        reading: (last.result[reading] - first.result.get(reading, 0)) / done
        for reading in last.result
    }


@dataclass(frozen=True, slots=True)
class LivedWell:
    """The checker of a life and its control: every hour, whatever grew, and then the clock."""

    grown: GrowsWithin
    bounds: Sequence[Bound]

    def __call__(self, history: History) -> Verdict:
        """Judge a history. One with a gap proves nothing, nor does a clock that is in doubt."""
        doubts = tuple(self._doubts(history))
        if doubts:
            return Verdict(unknowns=doubts)
        life = of_process(history, LIFE)
        return merge([lived_well(life), self.grown(life)])

    def judgeable(self, history: History) -> int:
        """How often it can be judged what grew: once, or not at all."""
        return self.grown.judgeable(of_process(history, LIFE))

    def comparisons(self, history: History) -> list[Comparison]:
        """Every reading of the control that has a bound, by both clocks."""
        lives = of_process(history, REAL), of_process(history, LAPSED)
        return compare(*lives, self.bounds)

    def _doubts(self, history: History) -> Iterator[str]:
        for operation in history:
            if operation.outcome is not Outcome.OK:
                yield f"{operation.function} was not answered: {operation.error}"
                return
        compared = self.comparisons(history)
        apart = [str(one) for one in compared if not one.agrees]
        if apart or not compared:
            told = "; ".join(apart) or "there is no control"
            yield f"the compression is untrustworthy: {told}"


def elapsed(history: History) -> Mapping[str, float]:
    """How many seconds the life took, by each clock; empty where nobody told."""
    told = (operation for operation in history.happened if operation.function == ELAPSED)
    return next((operation.result for operation in told), {})
