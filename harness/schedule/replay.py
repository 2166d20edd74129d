"""Replay: a finding played again, from its recorded choices, and as a file that anybody can run."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from functools import reduce
from typing import Any

from harness.core.errors import UsageError
from harness.schedule.arena import Arena, Play, Setting
from harness.schedule.finding import Finding
from harness.schedule.locks import LockRules
from harness.schedule.program import Body
from harness.schedule.scheduler import LostError
from harness.schedule.strategies import Replay
from harness.schedule.trace import Level


def replay(  # noqa: PLR0913 - all but two have defaults that suit
    body: Body,
    choices: Sequence[int],
    *,
    times: int = 1,
    level: Level = Level.SYNC,
    modules: Sequence[str] = (),
    rules: LockRules | None = None,
) -> tuple[Play, ...]:
    """Play one schedule so many times. Raises LostError if the body escapes control."""
    arena = Arena(body, Setting(Level(level), tuple(modules), rules=rules))

    def again() -> tuple[Play, ...]:
        plays = []
        for _ in range(times):
            chooser = Replay(choices)
            chooser.begin()
            plays.append(arena.play(chooser))
        return tuple(plays)

    return arena.perform(again)


def reproduced(
    body: Body, finding: Finding, *, times: int = 100, rules: LockRules | None = None
) -> int:
    """How often, out of `times`, the finding's schedule fails in the same way."""
    plays = replay(
        body,
        finding.choices,
        times=times,
        level=finding.level,
        modules=finding.modules,
        rules=rules,
    )
    return sum(
        play.ending is not None
        and (play.ending.kind, play.ending.message) == (finding.kind, finding.message)
        for play in plays
    )


def as_pytest(finding: Finding, body: str) -> str:
    """A stand-alone test file that plays the finding's schedule, and fails while the bug is there.

    `body` says where the body is, as `module:name`. Raises UsageError if it is not there.
    """
    resolve(body)
    module, _, name = body.partition(":")
    story = "\n".join(f"# {line}".rstrip() for line in finding.story.splitlines())
    slug = re.sub(r"\W+", "_", f"{finding.kind} in {name}").lower()
    keywords = f", level={str(finding.level)!r}" if finding.level is not Level.SYNC else ""
    keywords += f", modules={finding.modules!r}" if finding.modules else ""
    return f'''"""One schedule of {name}, under which it once failed.

Run it with pytest. It needs hermes-harness, and the module that it imports below.
"""

{story}

import {module}
from harness.schedule import replay

CHOICES = {finding.choices!r}


def test_{slug}() -> None:
    """{finding.kind}, no more."""
    (play,) = replay({module}.{name}, CHOICES{keywords})
    assert play.ending is None, f"{{play.ending.kind}}: {{play.ending.message}}"
'''


def resolve(body: str) -> Any:
    """Find a body by `module:name`. Raises UsageError if there is none."""
    module, _, name = body.partition(":")
    try:
        return reduce(getattr, name.split("."), importlib.import_module(module))
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"no body is to be had at {body!r}: {error}") from error


__all__ = ["LostError", "as_pytest", "replay", "reproduced", "resolve"]
