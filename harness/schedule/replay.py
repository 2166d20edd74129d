"""Replays a finding from its recorded choices, and writes it as a stand-alone test file."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from functools import reduce
from typing import Any

from harness.core.errors import UsageError
from harness.schedule.asyncio_tasks.order import LoopOrder
from harness.schedule.executor import Execution, Executor, Settings, known_modules
from harness.schedule.finding import Finding, signature
from harness.schedule.locks import LockRules
from harness.schedule.program import Body
from harness.schedule.strategies import Replay
from harness.schedule.tasks import Ending, LostError
from harness.schedule.trace import Level


def replay(  # noqa: PLR0913 - all but two have defaults
    body: Body,
    choices: Sequence[int],
    *,
    times: int = 1,
    level: Level = Level.SYNC,
    modules: Sequence[str] = (),
    rules: LockRules | None = None,
    timers: int = 0,
    points: Sequence[str] = (),
    order: LoopOrder | str = LoopOrder.DRIFT,
    stock: bool = False,
    adopted: Sequence[str] = (),
) -> tuple[Execution, ...]:
    """Execute one schedule `times` times. Raises LostError if the body escapes control.

    `timers`, `points`, `order`, `stock` and `adopted` are those of the finding: they say where
    there is a choice.
    """
    setting = Settings(
        Level(level),
        known_modules(modules),
        rules=rules,
        timers=timers,
        points=tuple(points),
        order=LoopOrder(order),
        stock=stock,
        adopted=tuple(adopted),
    )
    executor = Executor(body, setting)

    def again() -> tuple[Execution, ...]:
        executions = []
        for _ in range(times):
            chooser = Replay(choices)
            chooser.begin()
            executions.append(executor.execute(chooser))
        return tuple(executions)

    return executor.supervise(again)


def reproduced(
    body: Body, finding: Finding, *, times: int = 100, rules: LockRules | None = None
) -> int:
    """Return how many of `times` replays of the finding fail in the same way.

    A failure is the same if kind, exception type and the line that raises are.
    """
    executions = replay_finding(body, finding, times=times, rules=rules)
    return sum(
        execution.ending is not None and is_same(execution.ending, finding)
        for execution in executions
    )


def is_same(ending: Ending, finding: Finding) -> bool:
    """Whether a schedule ended with the failure of the finding."""
    if finding.error:
        return signature(ending) == finding.signature
    kind, error, rule = signature(ending)  # a finding of an earlier version has no exception type
    return (kind, rule) == (finding.kind, finding.signature[2]) or (
        bool(error) and (kind, ending.message) == (finding.kind, finding.message)
    )


def replay_finding(
    body: Body, finding: Finding, *, times: int = 1, rules: LockRules | None = None
) -> tuple[Execution, ...]:
    """Execute the finding's schedule `times` times, with the choices that its search had."""
    return replay(
        body,
        finding.choices,
        times=times,
        level=finding.level,
        modules=finding.modules,
        rules=rules,
        timers=finding.timers,
        points=finding.points,
        order=finding.order,
        stock=finding.stock,
        adopted=finding.adopted,
    )


def as_pytest(finding: Finding, body: str) -> str:
    """Write a stand-alone test file that replays the finding, and fails while the bug is present.

    `body` is the location of the body, as `module:name`. Raises UsageError if it is not found.
    """
    resolve(body)
    module, _, name = body.partition(":")
    story = "\n".join(f"# {line}".rstrip() for line in finding.story.splitlines())
    slug = re.sub(r"\W+", "_", f"{finding.kind} in {name}").lower()
    keywords = f", level={str(finding.level)!r}" if finding.level is not Level.SYNC else ""
    keywords += f", order={str(finding.order)!r}" if finding.order is not LoopOrder.DRIFT else ""
    for option in ("modules", "timers", "points", "stock", "adopted"):
        value = getattr(finding, option)
        keywords += f", {option}={value!r}" if value else ""
    return f'''"""One schedule of {name}, under which it once failed.

Run it with pytest. It needs hermes-harness, and the module that it imports below.
"""

{story}

import {module}
from harness.schedule import replay

CHOICES = {finding.choices!r}


def test_{slug}() -> None:
    """The schedule must not end with {finding.kind}."""
    (execution,) = replay({module}.{name}, CHOICES{keywords})
    ending = execution.ending
    assert ending is None, f"{{ending.kind}}: {{ending.message}}"
'''


def resolve(body: str) -> Any:
    """Find a body by `module:name`. Raises UsageError if it is not found."""
    module, _, name = body.partition(":")
    try:
        return reduce(getattr, name.split("."), importlib.import_module(module))
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"no body at {body!r}, expected MODULE:NAME: {error}") from error


__all__ = [
    "LostError",
    "as_pytest",
    "is_same",
    "replay",
    "replay_finding",
    "reproduced",
    "resolve",
]
