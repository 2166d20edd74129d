"""The blocks of a source that were reached, by scenario and by room, and those that were missed.

A block is reached if one of its lines ran. A missed block may be excused, with a reason, in a file
of the repository; an excuse names the function and the first line of the block, so that it stays
right when lines move.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core.errors import UsageError
from harness.engine.suite import find_suites, suite_with_source
from harness.engine.target import Target
from harness.mutation.blocks import Block, blocks_of

EXCUSES = "unreached.json"  # in the folder of a suite


@dataclass(frozen=True)
class Reached:
    """Every block of the source, and the blocks that each scenario reached."""

    blocks: tuple[Block, ...]
    by_scenario: Mapping[str, frozenset[Block]]
    validity: Mapping[str, str] = field(default_factory=dict)
    excuses: Mapping[Block, str] = field(default_factory=dict)

    @property
    def reached(self) -> frozenset[Block]:
        """The blocks that any scenario reached."""
        return frozenset().union(*self.by_scenario.values())

    @property
    def missed(self) -> list[Block]:
        """The blocks that no scenario reached, in order."""
        return [block for block in self.blocks if block not in self.reached]

    @property
    def unexplained(self) -> list[Block]:
        """The missed blocks without a reason."""
        return [block for block in self.missed if block not in self.excuses]

    @property
    def share(self) -> float:
        """The share of blocks that were reached."""
        return len(self.reached) / len(self.blocks)

    def rooms(self) -> list[tuple[str, int, int]]:
        """For each folder of the source: its name, the blocks reached, and all of its blocks."""
        names = dict.fromkeys(_room(block) for block in self.blocks)
        reached = self.reached
        return [
            (
                name,
                sum(block in reached for block in self.blocks if _room(block) == name),
                sum(_room(block) == name for block in self.blocks),
            )
            for name in names
        ]

    def to_json(self) -> dict[str, Any]:
        """Render as a JSON object."""
        return {
            "blocks": len(self.blocks),
            "reached": len(self.reached),
            "rooms": [
                {"room": name, "reached": reached, "blocks": blocks}
                for name, reached, blocks in self.rooms()
            ],
            "missed": [
                {"block": str(block), "reason": self.excuses.get(block, "")}
                for block in self.missed
            ],
            "scenarios": {
                name: {"reached": len(blocks), "verdict": self.validity.get(name, "unknown")}
                for name, blocks in self.by_scenario.items()
            },
        }


def blocks_in(source: Path) -> tuple[Block, ...]:
    """The blocks of every module below a folder, or of one file. Raises UsageError for none."""
    files = [source] if source.is_file() else sorted(source.rglob("*.py"))
    top = top_of(source)
    found = [
        block
        for file in files
        for block in blocks_of(file.relative_to(top).as_posix(), file.read_text(encoding="utf-8"))
    ]
    if not found:
        raise UsageError(f"{source}: expected Python modules with functions; found none")
    return tuple(found)


def top_of(source: Path) -> Path:
    """The folder from which the names of files are counted."""
    return source.parent if source.is_file() else source


def hit(blocks: Iterable[Block], lines: set[tuple[str, int]]) -> list[Block]:
    """The blocks of which a line ran."""
    return [
        block
        for block in blocks
        if any((block.file, line) in lines for line in range(block.first, block.last + 1))
    ]


def _room(block: Block) -> str:
    return block.file.partition("/")[0] if "/" in block.file else os.curdir


def source_of(target: Target, source: Path | None = None) -> Path:
    """The folder of the code on trial: the one given, the target's own, or the suite's."""
    own: Path | None = getattr(target, "source", None)
    return (source or own or suite_with_source().source or Path()).resolve()


def excuses_for(source: Path, blocks: Iterable[Block]) -> dict[Block, str]:
    """The reasons that a suite gives for blocks of its own source; none for another source."""
    for loaded in find_suites():
        own = loaded.suite.source
        if own is not None and own.resolve() == source:
            return read_excuses(loaded.folder / EXCUSES, source, blocks)
    return {}


def read_excuses(file: Path, source: Path, blocks: Iterable[Block]) -> dict[Block, str]:
    """The reasons in a file for blocks that no scenario reaches; none where there is no file.

    The file is a list of objects with `file`, `function`, `line` (its text) and `reason`. Raises
    UsageError for one that fits no block.
    """
    if not file.exists():
        return {}
    top = top_of(source)
    texts: dict[str, list[str]] = {}
    places: dict[tuple[str, str, str], list[Block]] = {}
    for block in blocks:
        if block.file not in texts:
            texts[block.file] = (top / block.file).read_text(encoding="utf-8").splitlines()
        line = texts[block.file][block.first - 1].strip()
        places.setdefault((block.file, block.function, line), []).append(block)
    found = {}
    for excuse in json.loads(file.read_text(encoding="utf-8")):
        place = (excuse["file"], excuse["function"], excuse["line"])
        if place not in places:
            raise UsageError(f"{file}: {place} is no block of {source}; remove or mend the entry")
        found.update(dict.fromkeys(places[place], excuse["reason"]))
    return found
