"""Scenarios of a server whose database another process writes, and whose model provider hangs."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

from harness.checkers.conformance import Fold, conforms
from harness.contract import promises
from harness.contract.models.catalog_over_http import CatalogOverHttpModel
from harness.contract.models.gateway_watcher import HIDDEN, GatewayWatcherModel
from harness.core.history import History
from harness.core.model import Model
from harness.engine.client import RecordingClient
from harness.engine.context import Context, Workload
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

Step = tuple[str, dict[str, Any]]
WRITES = 8
CALLERS = 3


def checked(model: Model[Any], steps: Callable[[random.Random], Iterator[Step]]) -> Workload:
    """Make the workload that runs these steps, until the model rejects a result."""

    def workload(context: Context) -> None:
        rng = context.rng("steps")
        for _ in range(context.examples):
            with context.episode() as episode:
                if not _conform(episode.client, Fold(model), steps(rng)):
                    return

    return workload


def _conform(client: RecordingClient, fold: Fold[Any], steps: Iterator[Step]) -> bool:
    return not any(fold.step(client.ask(function, argument)) for function, argument in steps)


def writing(rng: random.Random) -> Iterator[Step]:
    """Let another process write, and poll for the announcement after each write."""
    sources = {"s1": "cli", "s2": "telegram", "s3": rng.choice(HIDDEN), "s4": rng.choice(HIDDEN)}
    for session, source in sources.items():
        yield "create", {"session": session, "source": source}
        yield "poll", {"awaited": source not in HIDDEN}
    numbers = itertools.count(1)
    for _ in range(WRITES):
        session = rng.choice(sorted(sources))
        texts = [f"t{next(numbers)}" for _ in range(2)]
        # A rewrite keeps the number of messages, and is a change all the same.
        writes: list[Step] = [
            ("append", {"session": session, "text": texts[0]}),
            ("rename", {"session": session, "title": texts[1]}),
            ("rewrite", {"session": session, "texts": texts}),
            ("rewrite", {"session": session, "texts": [*texts[::-1]]}),
        ]
        for write in rng.sample(writes, 2) if rng.random() < 0.5 else writes[2:]:
            yield write
            yield "poll", {"awaited": sources[session] not in HIDDEN}
    for function in ("end", "delete"):
        yield function, {"session": "s1"}
        yield "poll", {"awaited": True}


def cataloguing(rng: random.Random) -> Iterator[Step]:
    """Show, resolve and rebuild the models of a provider that hangs at first."""
    ways = ("session", "turn")
    yield "resolved", {"by": rng.choice(ways)}  # makes the store of secrets, without a catalog
    yield "shown", {}
    yield "rebuilt", {"askers": CALLERS, "hangs": True}
    yield "shown", {}
    for way in rng.sample(ways, len(ways)):
        yield "resolved", {"by": way}
    yield "rebuilt", {"askers": CALLERS, "hangs": False}
    for way in rng.sample(ways, len(ways)):
        yield "resolved", {"by": way}
    yield "shown", {}


def _announced(history: History) -> int:
    polls = history.happened.of("poll")
    return sum(op.result["announced"] is not None for op in polls)


def _quiet(history: History) -> int:
    polls = history.happened.of("poll")
    return sum(op.result["announced"] is None for op in polls)


def _live_queries(history: History) -> int:
    return sum(op.result["asked"] for op in history.happened.of("rebuilt"))


EXTERNAL_WRITER = Scenario(
    name="server-and-another-writer",
    mode=Mode.HTTP,
    ability="outside",
    promises=(promises.G1, promises.G2, promises.G3),
    workload=checked(GatewayWatcherModel(), writing),
    checker=conforms(GatewayWatcherModel()),
    expectations=(
        Expectation("a change was announced", _announced),
        Expectation("a hidden change was not announced", _quiet),
    ),
    examples=1,
)

HANGING_PROVIDER = Scenario(
    name="server-and-a-silent-provider",
    mode=Mode.HTTP,
    ability="outside",
    promises=(promises.M1, promises.M2, promises.M4),
    workload=checked(CatalogOverHttpModel(), cataloguing),
    checker=conforms(CatalogOverHttpModel()),
    expectations=(
        Expectation("the provider was queried", _live_queries),
        Expectation("a model was resolved", lambda h: len(h.happened.of("resolved")), 5),
    ),
    examples=1,
)


def test_foreign_writes_are_announced_once(judge: Judge) -> None:
    """Changes of listed sessions are announced, those of hidden ones are not."""
    assert judge(EXTERNAL_WRITER).is_valid


def test_hanging_provider_delays_no_catalog(judge: Judge) -> None:
    """A display queries no provider, and a rebuild ends within its budget."""
    assert judge(HANGING_PROVIDER).is_valid
