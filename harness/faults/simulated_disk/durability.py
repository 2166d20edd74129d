"""The state of a simulated disk: what is durable, and the later changes that are not yet."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from .image import Image

Entry = tuple[int, str]  # a folder's node, and a name in it
ROOT = 0


@dataclass(slots=True)
class NameChange:
    """An atomic change of names: the node of each entry afterwards, None for a removed entry."""

    number: int
    entries: Mapping[Entry, int | None]
    unsynced: set[int]  # the folders whose sync makes the change durable
    is_lost: bool = False  # a failed sync dropped it, and no later sync repairs that

    @property
    def is_durable(self) -> bool:
        """Whether every folder that the change touches was synced since."""
        return not self.unsynced

    @property
    def outcomes(self) -> int:
        """The number of outcomes that a power loss can give the change."""
        return 2


@dataclass(slots=True)
class ContentChange:
    """A change of a file's content: bytes at an offset, or (`data` is None) a new size."""

    number: int
    offset: int
    data: bytes | None
    is_durable: bool = False
    is_lost: bool = False

    @property
    def outcomes(self) -> int:
        """The number of outcomes that a power loss can give the change."""
        return 3 if self.data is not None and len(self.data) > 1 else 2

    def apply(self, content: bytearray, outcome: int) -> None:
        """Apply the change, whole or torn, to the content."""
        if len(content) < self.offset:
            content.extend(bytes(self.offset - len(content)))
        if self.data is None:
            del content[self.offset :]
        else:
            data = self.data if outcome == APPLIED else self.data[: len(self.data) // 2]
            content[self.offset : self.offset + len(data)] = data


Change = NameChange | ContentChange
DROPPED, APPLIED, TORN = 0, 1, 2


@dataclass(slots=True)
class DurableState:
    """The durable content of a disk, and the changes since then that may be lost, in order."""

    contents: dict[int, bytes] = field(default_factory=dict)  # of files, by node
    folders: set[int] = field(default_factory=lambda: {ROOT})
    entries: dict[Entry, int] = field(default_factory=dict)
    name_changes: list[NameChange] = field(default_factory=list)
    content_changes: dict[int, list[ContentChange]] = field(default_factory=dict)  # by node
    changes: int = 0

    def name(self, entries: Mapping[Entry, int | None]) -> None:
        """Record a change of these entries together."""
        self.changes += 1
        folders = {folder for folder, _ in entries}
        self.name_changes.append(NameChange(self.changes, dict(entries), folders))

    def write(self, node: int, offset: int, data: bytes | None) -> None:
        """Record a change of a file's content."""
        self.changes += 1
        self.content_changes.setdefault(node, []).append(ContentChange(self.changes, offset, data))

    def pending(self) -> list[Change]:
        """Return the changes that a power loss may drop, in order."""
        changes: list[Change] = [*self.name_changes]
        for content_changes in self.content_changes.values():
            changes += content_changes
        pending = (change for change in changes if not change.is_durable)
        return sorted(pending, key=lambda change: change.number)

    def sync(self, node: int) -> None:
        """Make the changes of a file or folder durable, except those that a failed sync lost."""
        for name_change in self.name_changes:
            if not name_change.is_lost:
                name_change.unsynced.discard(node)
        for content in self.content_changes.get(node, ()):
            content.is_durable |= not content.is_lost
        self._settle(node)

    def mark_lost(self, node: int) -> None:
        """Record a failed sync: the system no longer writes the pending changes of this node."""
        for name_change in self.name_changes:
            name_change.is_lost |= node in name_change.unsynced
        for content in self.content_changes.get(node, ()):
            content.is_lost = True

    def _settle(self, node: int) -> None:
        """Merge the changes that are durable and follow no pending one into the durable content."""
        while self.name_changes and self.name_changes[0].is_durable:
            _rename(self.entries, self.name_changes.pop(0))
        content_changes = self.content_changes.get(node, [])
        while content_changes and content_changes[0].is_durable:
            content = bytearray(self.contents[node])
            content_changes.pop(0).apply(content, APPLIED)
            self.contents[node] = bytes(content)
        pending_nodes = (change.entries.values() for change in self.name_changes)
        named = {*self.entries.values()}.union(*pending_nodes)
        for unnamed in self.content_changes.keys() - named:
            del self.content_changes[unnamed]

    def image(self, outcomes: Mapping[int, int]) -> Image:
        """Return the folder's content, given the outcome of each pending change by number."""
        entries = dict(self.entries)
        for name_change in self.name_changes:
            if name_change.is_durable or outcomes[name_change.number] != DROPPED:
                _rename(entries, name_change)
        contents = dict(self.contents)
        for node, content_changes in self.content_changes.items():
            content = bytearray(contents[node])
            for content_change in content_changes:
                outcome = APPLIED if content_change.is_durable else outcomes[content_change.number]
                if outcome != DROPPED:
                    content_change.apply(content, outcome)
            contents[node] = bytes(content)
        return self._walk(entries, contents)

    def _walk(self, entries: Mapping[Entry, int], contents: Mapping[int, bytes]) -> Image:
        files: dict[str, bytes] = {}
        folders: set[str] = set()
        inside: dict[int, list[tuple[str, int]]] = {}
        for (folder, name), node in sorted(entries.items()):
            inside.setdefault(folder, []).append((name, node))
        todo = [(ROOT, "")]
        while todo:
            folder, path = todo.pop()
            for name, node in inside.get(folder, ()):
                if node in self.folders:
                    folders.add(path + name)
                    todo.append((node, f"{path}{name}/"))
                else:
                    files[path + name] = contents[node]
        return Image(files, frozenset(folders))


def _rename(entries: dict[Entry, int], change: NameChange) -> None:
    for entry, node in change.entries.items():
        if node is None:
            entries.pop(entry, None)
        else:
            entries[entry] = node


def combinations(changes: Sequence[Change], random: Random, count: int) -> Iterator[Sequence[int]]:
    """Yield outcomes of the changes: all combinations if at most `count`, else endless samples."""
    ranges = [range(change.outcomes) for change in changes]
    if math.prod(map(len, ranges)) <= count:
        yield from itertools.product(*ranges)
        return
    many = range(len(changes))
    is_name = [isinstance(change, NameChange) for change in changes]
    yield [APPLIED if name else DROPPED for name in is_name]  # names reach the disk before data
    yield [DROPPED if name else APPLIED for name in is_name]
    for at in (*many, len(changes)):
        yield [APPLIED if other < at else DROPPED for other in many]
        yield [DROPPED if other < at else APPLIED for other in many]
    for at in many:
        yield [DROPPED if other == at else APPLIED for other in many]
        yield [APPLIED if other == at else DROPPED for other in many]
        yield [ranges[at][-1] if other == at else APPLIED for other in many]
    while True:
        yield [random.choice(outcomes) for outcomes in ranges]
