"""A server and the world around it: who writes its database, and who offers it models."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

from harness.checkers.conformance import Fold, conforms
from harness.contract.models.catalog_over_http import OffersModel
from harness.contract.models.gateway_watcher import HIDDEN, WatcherModel
from harness.core.history import History
from harness.core.model import Model
from harness.core.promises import Promise
from harness.engine.client import RecordingClient
from harness.engine.context import Stage, Workload
from harness.engine.scenario import Expectation, Mode, Scenario
from scenarios.conftest import Judge

Question = tuple[str, dict[str, Any]]
WRITES = 8
ASKERS = 3


def asking(model: Model[Any], questions: Callable[[random.Random], Iterator[Question]]) -> Workload:
    """Make the workload that asks these in turn, until the model refuses an answer."""

    def workload(stage: Stage) -> None:
        rng = stage.rng("questions")
        for _ in range(stage.examples):
            with stage.episode() as episode:
                if not _asked(episode.client, Fold(model), questions(rng)):
                    return

    return workload


def _asked(client: RecordingClient, fold: Fold[Any], questions: Iterator[Question]) -> bool:
    return not any(fold.step(client.ask(function, argument)) for function, argument in questions)


def writing(rng: random.Random) -> Iterator[Question]:
    """Let another process write; each time somebody listens for what it comes to."""
    sources = {"s1": "cli", "s2": "telegram", "s3": rng.choice(HIDDEN), "s4": rng.choice(HIDDEN)}
    for session, source in sources.items():
        yield "create", {"session": session, "source": source}
        yield "poll", {"awaited": source not in HIDDEN}
    numbers = itertools.count(1)
    for _ in range(WRITES):
        session = rng.choice(sorted(sources))
        texts = [f"t{next(numbers)}" for _ in range(2)]
        # Twice the same number of messages: what was rewritten is a change all the same.
        writes: list[Question] = [
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


def choosing(rng: random.Random) -> Iterator[Question]:
    """Show models, and ask for them, of a provider that does not answer at first."""
    del rng  # there is but one order in which a provider is new
    yield "shown", {}
    yield "rebuilt", {"askers": ASKERS, "hangs": True}
    yield "shown", {}
    yield "rebuilt", {"askers": ASKERS, "hangs": False}
    yield "shown", {}


def _announced(history: History) -> int:
    polls = (op for op in history.happened if op.function == "poll")
    return sum(op.result["announced"] is not None for op in polls)


def _quiet(history: History) -> int:
    polls = (op for op in history.happened if op.function == "poll")
    return sum(op.result["announced"] is None for op in polls)


def _asked_live(history: History) -> int:
    return sum(op.result["asked"] for op in history.happened if op.function == "rebuilt")


WRITTEN = Scenario(
    name="server-and-another-writer",
    mode=Mode.HTTP,
    ability="outside",
    promises=(Promise.G1, Promise.G2, Promise.G3),
    workload=asking(WatcherModel(), writing),
    checker=conforms(WatcherModel()),
    expectations=(
        Expectation("a change was announced", _announced),
        Expectation("a change was none of those who watch", _quiet),
    ),
    examples=1,
)

OFFERED = Scenario(
    name="server-and-a-silent-provider",
    mode=Mode.HTTP,
    ability="outside",
    promises=(Promise.M1, Promise.M2),
    workload=asking(OffersModel(), choosing),
    checker=conforms(OffersModel()),
    expectations=(Expectation("the provider was asked", _asked_live),),
    examples=1,
)


def test_what_another_process_writes_is_announced(judge: Judge) -> None:
    """By the gateway's stream, once; what nobody is shown is not."""
    assert judge(WRITTEN).is_valid


def test_nobody_waits_for_a_provider_that_is_silent(judge: Judge) -> None:
    """Showing asks nobody, and asking ends with the budget."""
    assert judge(OFFERED).is_valid
