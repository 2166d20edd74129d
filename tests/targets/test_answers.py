"""Tests that a strange answer is a finding, and a defect of an adapter is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from harness.core.errors import AdapterError
from harness.core.history import Journal
from harness.engine.client import RecordingClient
from harness.engine.http import NotReachedError, StatusError
from harness.engine.target import AdapterInstance
from harness.targets.server.answers import JsonObject, problem_of
from harness.targets.server.turns import Turn, TurnsAdapter

ANSWER = json.loads('{"session": {"title": null}, "rows": []}', object_hook=JsonObject)
OWN: dict[str, Any] = {}


@pytest.mark.parametrize(
    "act",
    [
        lambda: ANSWER["session"]["messages"],
        lambda: ANSWER["session"]["title"]["text"],
        lambda: ANSWER["rows"].get("text"),
        lambda: ANSWER["rows"][0],
        lambda: int(ANSWER["session"]["title"]),
    ],
)
def test_strange_answer_is_a_finding(act: Callable[[], str]) -> None:
    assert problem_of(act).startswith("a strange answer")


@pytest.mark.parametrize(
    "act",
    [
        lambda: OWN["text"],
        lambda: Turn("plain", "s", "", []).texts,  # type: ignore[attr-defined]
        problem_of,
    ],
)
def test_defect_of_the_adapter_is_no_finding(act: Callable[[], str], tmp_path: Path) -> None:
    """The client does not take it for a refusal either."""

    class Adapter:
        def look(self) -> str:
            return problem_of(act)

    with Journal(tmp_path / "history.jsonl", lambda: 0) as journal:
        client = RecordingClient(AdapterInstance(Adapter()), journal)
        with pytest.raises(AdapterError):
            client.ask("look", {})


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (
            StatusError("GET /api/chat/stream?x", 500, ""),
            "GET /api/chat/stream had the status 500: ",
        ),
        (NotReachedError("the kill came first"), ""),
    ],
)
def test_reader_of_a_struck_turn_is_heard(error: Exception, found: str, tmp_path: Path) -> None:
    adapter: Any = TurnsAdapter(tmp_path, lambda *_: None)  # type: ignore[arg-type]
    follower = Future[None]()
    follower.set_exception(error)
    adapter._note_readers([Turn("plain", "s", "", [])], [follower], "struck")
    assert adapter.fact("plain, struck: answered") == found
