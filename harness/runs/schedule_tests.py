"""Explores the bodies of one test: stored failures first, then a search, with its progress.

A failure is stored by the test's name and the number of the body within the test, so that the next
run asks it first and fails at once. A search that finds nothing forgets it.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from inspect import signature
from itertools import count
from pathlib import Path
from typing import Any

from harness.core.errors import UsageError
from harness.core.verdict import Validity
from harness.schedule.again import again, packed, unpacked
from harness.schedule.asyncio_tasks.order import LoopOrder
from harness.schedule.explorer import PORTFOLIO, Budget, Result, explore
from harness.schedule.finding import Finding
from harness.schedule.locks import LockRules
from harness.schedule.program import Body
from harness.schedule.trace import Level

PROGRESS_S = 5.0
_DEFAULT = Budget()
OPTION = "--schedules-replay"


class FailedError(AssertionError):
    """A schedule of the body failed, or the search proves nothing; the message is for the user."""


class OtherTestError(Exception):
    """The schedule that was asked for belongs to another test."""


class Schedules:
    """Explores bodies: what the fixture `schedules` returns.

    `budget`, `seed`, `level` and the other settings are those of `explore`; the marker of a test
    states what its bodies have in common. An exploration fails the test if a schedule fails. It
    fails it too if the verdict is *unknown*, as this is no proof; `allow_unknown` accepts it.
    """

    def __init__(
        self,
        test: str,
        defaults: dict[str, Any],
        *,
        folder: Path | None = None,
        replay: str = "",
        report: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Explore for the test with that node id; `folder` is where failures are stored."""
        self._command = test
        self._test = test.rpartition("/")[2]  # the folder depends on where pytest was started
        self._defaults = defaults
        self._folder = folder
        self._replay = replay
        self._report = report
        self._numbers = count(1)

    def __call__(self, body: Body, **settings: Any) -> Result | None:
        """Explore a body. Raises FailedError; returns None where only one schedule was asked for.

        Raises UsageError for an unknown setting.
        """
        chosen = {**self._defaults, **settings}
        known = set(signature(self._explore).parameters) - {"body", "number"}
        if unknown := sorted(chosen.keys() - known):
            raise UsageError(
                f"schedules: unknown setting {unknown[0]!r}, known: {', '.join(sorted(known))}"
            )
        if not callable(body):
            raise UsageError(f"schedules: {body!r} is no body, expected a function of a run")
        return self._explore(body, next(self._numbers), **chosen)

    def _explore(  # noqa: PLR0913 - the settings of `explore`
        self,
        body: Body,
        number: int,
        *,
        budget: Budget | int = _DEFAULT,
        seed: int = 0,
        strategies: Sequence[str] = PORTFOLIO,
        level: Level | str = Level.SYNC,
        modules: Sequence[str] = (),
        rules: LockRules | None = None,
        order: LoopOrder | str = LoopOrder.DRIFT,
        stock: bool = False,
        seconds: float | None = None,
        allow_unknown: bool = False,
    ) -> Result | None:
        if self._replay:
            self._ask_only(body, number, rules)
            return None
        if not isinstance(budget, Budget):
            budget = Budget(schedules=_number(budget))
        if level not in tuple(Level):
            known = ", ".join(Level)
            raise UsageError(f"schedules: unknown level {level!r}, known: {known}")
        self._ask_first(body, number, rules)
        result = explore(
            body,
            budget=budget if seconds is None else replace(budget, seconds=seconds),
            seed=seed,
            strategies=strategies,
            level=Level(level),
            modules=modules,
            rules=rules,
            order=order,
            stock=stock,
            progress=self._progress(),
        )
        if result.finding is not None:
            self._store(result.finding, number)
            self._fail(result.finding, number)
        if result.validity is Validity.UNKNOWN and not allow_unknown:
            raise FailedError(f"no schedule failed, but the verdict is unknown: {result}")
        self._forget(number)
        return result

    def _progress(self) -> Callable[[int], None]:
        """Report the number of schedules every now and then."""
        began_s = last_s = time.monotonic()

        def report(schedules: int) -> None:
            nonlocal last_s
            now_s = time.monotonic()
            if now_s - last_s >= PROGRESS_S:
                last_s = now_s
                took = f"{now_s - began_s:.0f} s"
                self._report(f"{self._test}: {schedules:,} schedules in {took}, none failed")

        return report

    # Failures of earlier runs

    def _ask_only(self, body: Body, number: int, rules: LockRules | None) -> None:
        finding, notes = unpacked(self._replay)
        if notes.get("test") != self._test:
            raise OtherTestError(f"{OPTION} is a schedule of {notes.get('test')}")
        if notes.get("body") == number and (now := again(body, finding, rules=rules)) is not None:
            self._fail(now, number)

    def _ask_first(self, body: Body, number: int, rules: LockRules | None) -> None:
        path = self._path(number)
        if path is None or not path.is_file():
            return
        now = None
        # What an earlier version stored, or a body that has changed, is no reason to fail.
        with suppress(ValueError, KeyError, TypeError, UsageError):
            stored = Finding.from_json(json.loads(path.read_text(encoding="utf-8")))
            now = again(body, stored, rules=rules)
        if now is not None:
            self._fail(now, number, note="a failure of an earlier run, asked first")

    def _store(self, finding: Finding, number: int) -> None:
        if (path := self._path(number)) is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(finding.to_json()), encoding="utf-8")

    def _forget(self, number: int) -> None:
        if (path := self._path(number)) is not None:
            path.unlink(missing_ok=True)

    def _path(self, number: int) -> Path | None:
        if self._folder is None:
            return None
        name = hashlib.sha256(f"{self._test}/{number}".encode()).hexdigest()[:20]
        return self._folder / f"{name}.json"

    def _fail(self, finding: Finding, number: int, note: str = "") -> None:
        text = packed(finding, test=self._test, body=number)
        lines = [note] if note else []
        lines += [finding.story, "", "execute this schedule again:"]
        lines += [f"pytest {shlex.quote(self._command)} {OPTION}={text}"]
        raise FailedError("\n".join(lines))


def _number(budget: object) -> int:
    """The number of schedules that a budget is. Raises UsageError for something else."""
    if isinstance(budget, int) and not isinstance(budget, bool):
        return budget
    raise UsageError(f"schedules: budget {budget!r}, expected a Budget or a number of schedules")
