"""Executes one stored schedule again, and packs it into a text that fits on a command line."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from harness.core.errors import UsageError
from harness.schedule.executor import Executor, Settings, known_modules
from harness.schedule.finding import Finding, raised_at, traced
from harness.schedule.locks import LockRules
from harness.schedule.program import Body, Run
from harness.schedule.story import Recorder
from harness.schedule.strategies import Replay
from harness.schedule.tasks import ESCAPED, NONDETERMINISTIC, LostError

_PACKED = (
    *("choices", "level", "modules", "timers", "points", "order", "stock", "adopted"),
    *("strategy", "schedule", "seed"),
)
_UNPACKED: dict[str, Any] = {
    "kind": "",
    "message": "",
    "task": "",
    "steps": (),
    "stacks": (),
    "feasible": True,
    "replayed": 0,
    "replays": 0,
}


@dataclass(frozen=True)
class Marked:
    """A test that is a body itself: its argument `run` is the schedule's."""

    function: Callable[..., object]
    arguments: dict[str, Any]

    def __call__(self, run: Run) -> None:
        """Run one schedule."""
        self.function(**self.arguments, run=run)


def again(body: Body, finding: Finding, *, rules: LockRules | None = None) -> Finding | None:
    """Execute the finding's schedule once more; return what is found now, or None if all is well.

    The failure may be another one, as the body may have changed since.
    """
    setting = Settings(
        finding.level,
        known_modules(finding.modules),
        rules=rules,
        timers=finding.timers,
        points=finding.points,
        order=finding.order,
        stock=finding.stock,
        adopted=finding.adopted,
    )
    executor = Executor(body, setting)
    recorder = Recorder(executor.scheduler)
    chooser = Replay(finding.choices)
    chooser.begin()
    try:
        execution = executor.supervise(lambda: executor.execute(chooser, recorder))
    except LostError:
        return None
    ending = execution.ending
    if ending is None or ending.kind in (ESCAPED, NONDETERMINISTIC):
        return None
    return replace(
        finding,
        kind=ending.kind,
        message=ending.message,
        task=ending.task,
        steps=recorder.steps,
        feasible=recorder.feasible,
        out_of_turn=execution.out_of_turn,
        replayed=1,
        replays=1,
        stacks=ending.stacks,
        trace=traced(ending),
        error="" if ending.error is None else type(ending.error).__name__,
        place=raised_at(ending),
        accesses=finding.accesses,
    )


def packed(finding: Finding, **notes: Any) -> str:
    """Pack the schedule of a finding, and notes that are JSON, into letters, digits, - and _."""
    whole = finding.to_json()
    data = {**notes, "finding": {name: whole[name] for name in _PACKED}}
    text = json.dumps(data, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(zlib.compress(text, 9)).decode().rstrip("=")


def unpacked(text: str) -> tuple[Finding, dict[str, Any]]:
    """Return the schedule and the notes of `packed`. Raises UsageError for another text."""
    try:
        raw = zlib.decompress(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        notes = dict(json.loads(raw))
        finding = Finding.from_json({**_UNPACKED, **notes.pop("finding")})
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        shown = text if len(text) <= 20 else f"{text[:20]}..."  # noqa: PLR2004  a hint
        raise UsageError(f"{shown!r} is no packed schedule, expected all of its text") from error
    return finding, notes
