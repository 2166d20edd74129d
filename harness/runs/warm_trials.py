"""Judges the scenarios of a session in forks of warm workers, one after another, in their order.

A session in a pytest process of its own takes seconds to start, and the order of its scenarios is
that of their files. Both cost more than the questions where many planted copies are judged briefly.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Self

from harness.engine.suite import find_scenarios
from harness.runs.pytest_run import Results, Session, breaks
from harness.runs.scratch import scratch
from harness.runs.warm_worker import Trial, WarmWorker


class WarmWorkers:
    """As many warm workers as threads judge at the same time; safe for threads."""

    def __init__(self) -> None:
        self._idle: list[WarmWorker] = []

    def __enter__(self) -> Self:
        """Start none: each starts with its first trial."""
        return self

    def __exit__(self, *_: object) -> None:
        """End those that are idle. One that still judges ends with the command."""
        while self._idle:
            self._idle.pop().close()

    @contextmanager
    def one(self) -> Iterator[WarmWorker]:
        """Lend a worker that no other thread has."""
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = WarmWorker()
        try:
            yield worker
        finally:
            self._idle.append(worker)


def judge_warm(  # noqa: PLR0913  what is asked of whom, and for how long
    session: Session,
    run: Path,
    budget_s: float,
    workers: WarmWorkers,
    settings: Mapping[str, str] = MappingProxyType({}),
    *,
    limits_s: Mapping[str, float] = MappingProxyType({}),
) -> Results:
    """Judge the scenarios for at most `budget_s` seconds, as `run_session` does.

    A scenario with a limit has at most that many of them.

    What does not come to a verdict in time is unfinished. So is what was not asked, because a
    scenario has shown that the promise `enough` is broken. A process that ends without a verdict,
    though it had time, is a failure of the harness: its scenario is broken.
    """
    results, ends_at = Results(), time.monotonic() + budget_s
    is_over = False
    with scratch() as temporary, workers.one() as worker:
        for name in session.scenarios:
            left_s = min(ends_at - time.monotonic(), limits_s.get(name, budget_s))
            if is_over or left_s <= 0:
                results.unfinished.append(name)
                continue
            found, seconds = worker.judge(
                Trial(
                    *(name, session.target, session.seed, session.effort, run, left_s, settings),
                    minimizes=session.goes_on,
                    scratch=temporary,
                )
            )
            results.records.update(found.records)
            results.broken.update(found.broken)
            if found.unfinished and seconds < left_s:
                results.broken[name] = f"its process ended without a verdict (more in {run})"
            elif found.unfinished:
                results.unfinished.append(name)
            is_over = bool(session.enough) and breaks(run / name, session.enough)
    return results


def quickest_first(names: Iterable[str], seconds: Mapping[str, float]) -> list[str]:
    """The order in which scenarios are asked, so that the first detection comes soon.

    `seconds` says how long a scenario takes, where that is known. One that puts few promises on
    trial is taken to be more likely to tell of each of them, so the time is weighed by their
    number. That is the order of least expected time, if the chance is one in that number.
    """
    scenarios, usual_s = find_scenarios(), max(seconds.values(), default=1.0)

    def cost(name: str) -> float:
        return seconds.get(name, usual_s) * len(scenarios[name].promises)

    return sorted(names, key=cost)
