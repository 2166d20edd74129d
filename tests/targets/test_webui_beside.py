"""Tests of what the turns of a checkout show of what happens beside them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.core.errors import TargetLostError
from harness.engine.http import Event, StatusError
from harness.processes import waiting
from harness.targets.hermes_webui import turns_beside
from harness.targets.hermes_webui.server import WebuiLaunch
from harness.targets.hermes_webui.turns_beside import WebuiTurnsBesideAdapter
from harness.targets.server.turns import Turn
from harness.worker import server_probe

HELD_S = 10.0


class Stream:
    """The stream of a server: its events, or what it raises."""

    def __init__(self, *events: Any) -> None:
        self._events = events

    def __enter__(self) -> Iterator[Event]:
        return self._read()

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""

    def _read(self) -> Iterator[Event]:
        for event in self._events:
            if isinstance(event, Exception):
                raise event
            yield event


@pytest.fixture
def adapter(unbooted: WebuiLaunch, tmp_path: Path) -> Iterator[Any]:
    """The turns of a checkout that is never booted."""
    adapter: Any = WebuiTurnsBesideAdapter(tmp_path / "state", unbooted)
    adapter._server = SimpleNamespace(boot=lambda: {"port": 1}, state=tmp_path, close=lambda: None)
    yield adapter
    adapter.close()


@pytest.fixture
def turn() -> Turn:
    """A turn that is over."""
    return Turn("changed", "s", "text", [], run="r")


def test_setting_that_is_lost_is_seen(adapter: Any, turn: Turn) -> None:
    """In the session, or in the list, if that has it at all."""
    adapter._changes["s"] = {"model": "m", "composer_draft": "d"}
    adapter._session = lambda _: {"model": "m", "composer_draft": {"text": "d"}}
    adapter._row = lambda _: None
    assert adapter._unset(turn) == ""

    adapter._row = lambda _: {"model": "former"}
    assert adapter._unset(turn) == "another model in the list: former, not m"
    adapter._session = lambda _: {"model": "m", "composer_draft": {"text": ""}}
    assert adapter._unset(turn).startswith(("another model", "another composer_draft"))


def test_origin_that_is_lost_is_seen(adapter: Any, turn: Turn) -> None:
    """A turn of a user has none; any other is kept with its message."""
    row = {"role": "user", "content": "text"}
    adapter._session = lambda _: {"messages": [row]}
    adapter._origins["r"] = "webui"
    assert adapter._without_origin(turn) == ""

    adapter._origins["r"] = "process_wakeup"
    assert adapter._without_origin(turn).startswith("its message lacks its origin")
    row["_source"] = "process_wakeup"
    assert adapter._without_origin(turn) == ""


def test_session_that_is_not_woken_is_seen(adapter: Any, turn: Turn) -> None:
    """Only a run behind the first one is a wakeup."""
    adapter._patience_s = 0.0
    adapter._session = lambda _: {"active_stream_id": "first"}
    adapter._start = adapter._follow = lambda *_: None

    adapter._wake(Turn("woken", "s", "", [], run="first"), turn)

    assert turn.problems == {"woken": "no wakeup: its process ended"}


def test_turn_beside_a_slow_model_goes_on(adapter: Any, turn: Turn) -> None:
    """It ends, or it is late."""
    adapter._end = lambda turn: turn.events.append(Event("r:1", "token", {}))
    adapter._begin_beside(turn)
    assert turn.problems["begun"].startswith("its turn does not go on")

    adapter._end = lambda turn: turn.events.append(Event("r:2", "done", {}))
    adapter._begin_beside(turn)
    assert turn.problems["begun"] == ""


def test_aside_that_is_kept_is_seen(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its conversation nor the list has anything of it."""
    rows: list[Any] = []
    web = SimpleNamespace(
        post=lambda *_, **__: {"session_id": "a", "stream_id": "r"}, get=lambda _: {}
    )
    monkeypatch.setattr(WebuiTurnsBesideAdapter, "_web", web)
    monkeypatch.setattr(turns_beside, "LACKING_S", 0.0)
    adapter._turn = lambda kind, _: Turn(kind, "s", "text", [])
    adapter._end = adapter._follow = lambda *_: None
    adapter._row = lambda _: rows[0] if rows else None
    adapter._session = lambda _: {"messages": rows[1:]}
    assert adapter._ask_aside(Turn("aside", "", "text", [])) == ""

    rows.append({"session_id": "a"})
    assert adapter._tried_aside(Turn("aside", "", "text", [])).startswith("the list has it")
    adapter._follow = lambda *_: rows.append("message")
    assert adapter._ask_aside(Turn("aside", "", "text", [])).startswith("its conversation has it")


@pytest.mark.parametrize(
    ("name", "events", "problem"),
    [
        ("with a goal", ["goal", "goal_continue"], ""),
        ("with a goal", ["goal"], "another verdict"),
        ("with a goal that is reached", ["goal"], ""),
        ("with a goal that is reached", ["goal", "goal_continue"], "another verdict"),
        ("with a goal", ["done"], "no word on the goal"),
    ],
)
def test_goal_has_its_word(
    adapter: Any, monkeypatch: pytest.MonkeyPatch, name: str, events: list[str], problem: str
) -> None:
    """Behind each turn, and it goes on if it is not reached."""
    web = SimpleNamespace(ask=lambda *_: (200, {"stream_id": "r"}))
    monkeypatch.setattr(WebuiTurnsBesideAdapter, "_web", web)
    adapter._follow = lambda turn, _: turn.events.extend(Event("", each, {}) for each in events)
    turn = Turn(name, "s", "text", [])

    adapter._pursue(turn)

    assert turn.problems["pursued"].partition(":")[0] == problem


@pytest.mark.parametrize(
    ("stream", "problem"),
    [
        (Stream(Event("", "", "heartbeat"), Event("", "session_snapshot", {})), ""),
        (Stream(StatusError("GET", 404, {})), ""),
        (Stream(StatusError("GET", 500, {})), "status 500"),
        (Stream(Event("", "", ""), Event("", "", "")), "silence"),
        (Stream(TimeoutError()), "silence"),
        (Stream(TargetLostError("lost")), "not answered"),
        (Stream(), "it ends without an event"),
    ],
)
def test_bad_cursor_is_answered(
    adapter: Any, monkeypatch: pytest.MonkeyPatch, stream: Stream, problem: str
) -> None:
    """With an event, or with a refusal."""
    web = SimpleNamespace(stream=lambda *_, **__: stream)
    monkeypatch.setattr(turns_beside, "Web", lambda *_: web)
    monkeypatch.setattr(WebuiTurnsBesideAdapter, "_web", SimpleNamespace(port=1))

    assert adapter._answered_wrongly("/path") == problem


@pytest.mark.parametrize(
    ("heard", "problem"),
    [
        (["one", "two"], ""),
        (["two"], "lost text: one"),
        (["one", "one", "two"], "text twice, or in another order: one one two"),
        ([turns_beside.SNAPSHOT, "one", "two"], "a snapshot: its cursor was good"),
    ],
)
def test_good_cursor_goes_on_exactly(
    adapter: Any, monkeypatch: pytest.MonkeyPatch, turn: Turn, heard: list[str], problem: str
) -> None:
    """With each event of the next turn, and no snapshot."""

    def event(word: str) -> Event:
        is_snapshot = word == turns_beside.SNAPSHOT
        return Event("", word if is_snapshot else "token", {"text": f"{word} "})

    monkeypatch.setattr(turns_beside, "LACKING_S", 0.0)
    adapter._patience_s = 0.0
    adapter._start = adapter._open_all = lambda _: None
    adapter._turn = lambda kind, _: Turn(kind, "s", "text", [("say", "one "), ("say", "two ")])
    adapter._follow = lambda turn, _: turn.events.extend(map(event, ["one", "two"]))
    adapter._attend = lambda _, events: events.extend(map(event, heard))

    assert adapter._lost_behind(turn, "/path") == problem


def test_late_reader_reads_a_turns_rest(adapter: Any, turn: Turn) -> None:
    """From behind its first event, if its events have ids."""
    paths: list[str] = []

    def read(path: str) -> tuple[list[Event], bool]:
        paths.append(path)
        return [], True

    adapter._read = read
    turn.events = [Event("", "token", {})]
    adapter._join_late(turn)
    assert turn.others == {}

    turn.events = [Event("r:1", "token", {})]
    adapter._join_late(turn)
    assert turn.others == {"beside its title": []}
    assert [path.partition("?")[2] for path in paths] == ["stream_id=r&after_event_id=r:1"]


def test_gate_is_a_file(adapter: Any, tmp_path: Path) -> None:
    """Each gate of a turn is opened, for agents and for the gateway."""
    adapter._open_all(Turn("gated", "s", "", [("say", "a"), ("gate", "g")]))

    assert [path.name for path in (tmp_path.parent / "spool").iterdir()] == ["g"]
    assert adapter._gateway.opened == {"g"}


def test_worker_is_held_until_it_may_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only threads that have the text as an argument wait."""
    monkeypatch.setattr(threading.Thread, "run", threading.Thread.run)
    begun: list[str] = []
    server_probe.hold_workers([], "s")
    threads = [
        threading.Thread(target=begun.append, args=(text,), daemon=True) for text in ("s", "other")
    ]
    for thread in threads:
        thread.start()

    assert waiting.came_true(lambda: bool(begun), HELD_S)
    assert begun == ["other"]
    server_probe.let_workers([], "s")
    for thread in threads:
        thread.join(HELD_S)
    assert begun == ["other", "s"]


def test_what_another_reader_lacks_is_seen_once(
    adapter: Any, monkeypatch: pytest.MonkeyPatch, turn: Turn
) -> None:
    """It is a finding of the way in which that read, and not of a restart behind it."""
    turn.events = [Event(f"r:{number}", name, {}) for number, name in enumerate(("a", "title"))]
    turn.others = {"beside its title": []}
    replays = iter([turn.events, turn.events[1:]] * 2)
    monkeypatch.setattr(adapter, "_read", lambda _: (next(replays), True))

    assert adapter._replayed(turn) == "no replay: beside its title"
    assert adapter._replayed(turn) == ""
