"""The context: where a workload meets fresh instances of a target, one episode after another.

Hands out chance, folders and clients; writes the journal. It knows neither the scenario's checker
nor what a promise is.
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


@dataclass(frozen=True)
class Episode:
    """A fresh instance, and the client that asks it."""

    instance: Instance
    client: RecordingClient
    folder: Path


@dataclass(frozen=True)
class Context:
    """One run of one scenario: its target, chance and journal.

    `examples` is how many episodes the workload should explore; a workload that explores by other
    means scales what it does by it. A workload that `goes_on` asks on after an anomaly; one that
    does not ends with the first.
    """

    target: Target
    ability: str
    seed: str
    examples: int
    journal: Journal
    goes_on: bool = True

    def rng(self, hand: str) -> random.Random:
        """A stream of chance of its own for each hand, so that adding one disturbs no other."""
        return random.Random(f"{self.seed}/{hand}")

    def open(self, **notes: Any) -> Episode:
        """Begin an episode; whoever opens it also closes it."""
        folder = Path(tempfile.mkdtemp(prefix="harness-"))
        instance = self.target.open(self.ability, folder)
        self.journal.episode(**notes)
        return Episode(instance, RecordingClient(instance, self.journal), folder)

    def go_on(self, **notes: Any) -> None:
        """Begin another episode with an instance that is open."""
        self.journal.episode(**notes)

    def close(self, episode: Episode) -> None:
        """End an episode and leave nothing of it behind."""
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


Workload = Callable[[Context], None]
Replay = Callable[[Context, History], None]


def ask_again(context: Context, failed: History) -> None:
    """Replay a failure by asking its questions again, one after another."""
    with context.episode(**failed.notes) as episode:
        for operation in failed:
            episode.client.ask(operation.function, operation.argument)
