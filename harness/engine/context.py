"""The context of a workload: it opens fresh instances of a target, one episode after another.

It supplies random streams, folders and clients, and writes the journal. It knows neither the
scenario's checker nor its promises.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.history import History, Journal
from harness.engine.client import RecordingClient
from harness.engine.target import Instance, Target

EPILOGUE = "epilogue"  # a function of some adapters: the last call of an instance


@dataclass(frozen=True)
class Episode:
    """A fresh instance, the client that asks it, and its folder."""

    instance: Instance
    client: RecordingClient
    folder: Path


@dataclass(frozen=True)
class Context:
    """One run of one scenario: its target, seed and journal.

    `examples` is how many episodes the workload should explore; a workload that explores by other
    means scales what it does by it. With `goes_on` the workload asks on after an anomaly; without,
    it ends with the first. With `minimizes` it makes failures small; without, the first proof will
    do.
    """

    target: Target
    ability: str
    seed: str
    examples: int
    journal: Journal
    goes_on: bool = True
    minimizes: bool = True

    def rng(self, name: str) -> random.Random:
        """A random stream for each name, so that another name changes no other stream."""
        return random.Random(f"{self.seed}/{name}")

    def open(self, **notes: Any) -> Episode:
        """Begin an episode with a fresh instance; the caller closes it."""
        folder = Path(tempfile.mkdtemp(prefix="harness-"))
        instance = self.target.open(self.ability, folder)
        self.journal.episode(**notes)
        return Episode(instance, RecordingClient(instance, self.journal), folder)

    def go_on(self, **notes: Any) -> None:
        """Begin another episode with an instance that is open already."""
        self.journal.episode(**notes)

    def close(self, episode: Episode, *, is_whole: bool = True) -> None:
        """End an episode: ask its instance's epilogue, if it has one, and delete its folder.

        An episode that is not whole stopped amid its calls, and has no epilogue: what they left
        open is no one's fault.
        """
        if is_whole and getattr(episode.instance, "has_epilogue", False):
            episode.client.ask(EPILOGUE, {})
        episode.instance.close()
        shutil.rmtree(episode.folder, ignore_errors=True)

    @contextmanager
    def episode(self, **notes: Any) -> Iterator[Episode]:
        """An episode that ends with the block."""
        episode = self.open(**notes)
        try:
            yield episode
        finally:
            self.close(episode)

    @contextmanager
    def part(self, **notes: Any) -> Iterator[Episode]:
        """An episode of some calls of another one: it ends with the block, without an epilogue."""
        episode = self.open(**notes)
        try:
            yield episode
        finally:
            self.close(episode, is_whole=False)


Workload = Callable[[Context], None]
Replay = Callable[[Context, History], None]


def ask_again(context: Context, failed: History) -> None:
    """Replay a failure by asking its operations again, one after another."""
    with context.part(**failed.notes) as episode:
        for operation in failed:
            episode.client.ask(operation.function, operation.argument)
