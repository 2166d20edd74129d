"""Tests that a slow server is waited for before it is accused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.engine.http import Event
from harness.processes import waiting
from harness.targets.hermes_webui.server import WebuiLaunch
from harness.targets.hermes_webui.turns import WebuiTurnsAdapter
from harness.targets.server import stored, turns
from harness.targets.server.turns import Turn

BOOT_S = 100.0
SLOW_S = 10.0  # longer than a view that lacks something is waited for afterwards


class Clock:
    """A clock that moves when something waits."""

    def __init__(self) -> None:
        """It begins at zero."""
        self.now_s = 0.0

    def monotonic(self) -> float:
        """The time."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of what waits for a fact."""
    clock = Clock()
    monkeypatch.setattr(waiting, "time", clock)
    monkeypatch.setattr(turns, "time", clock)
    return clock


@pytest.fixture
def adapter(unbooted: WebuiLaunch, tmp_path: Path) -> Iterator[Any]:
    """The turns of a checkout whose source names no route, which is never booted."""
    adapter = WebuiTurnsAdapter(tmp_path / "state", unbooted)
    yield adapter
    adapter.close()


def test_slow_boot_takes_no_time_to_settle(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A server boots for longer than its sessions may take, and then needs a moment."""
    adapter: Any = stored.StoredFilesAdapter(tmp_path, SimpleNamespace())
    monkeypatch.setattr(adapter, "_server", SimpleNamespace(boot=lambda: clock.sleep(BOOT_S)))
    monkeypatch.setattr(adapter, "_is_waiting", lambda _: clock.now_s < BOOT_S + 1)

    adapter._settle(["cut off"])

    assert BOOT_S + 1 <= clock.now_s < BOOT_S + 2


def test_question_that_is_shown_late_is_shown(clock: Clock, adapter: Any) -> None:
    """Only once a view lacked one, others are waited for not as long."""

    class Late(list[Event]):
        def __iter__(self) -> Iterator[Event]:
            shown = [Event("r:1", "approval", {"command": "w"})] if clock.now_s > SLOW_S else []
            return iter(shown)

    turn = Turn("approval", "s", "", [], events=Late())
    adapter._look_asked(turn, "approval", "w", [])
    assert turn.problems == {}

    turn.events = []
    adapter._look_asked(turn, "approval", "w", [])
    assert turn.problems["asked"].startswith("not by the stream of its run")
    began_s = clock.now_s
    adapter._look_asked(turn, "approval", "w", [])
    assert clock.now_s - began_s < SLOW_S


def test_turns_that_are_back_late_are_kept(clock: Clock, adapter: Any) -> None:
    """A server may need a while after a kill; a call that is refused is asked again."""
    assert turns.SETTLED_S < SLOW_S < turns.PATIENCE_S
    turn = Turn("plain", "s", "", [])

    def lacks(_: Turn) -> str:
        if not clock.now_s:
            raise TimeoutError
        return "" if clock.now_s > SLOW_S else "lost text: w"

    adapter._server = SimpleNamespace(kill=lambda: None, boot=dict, close=lambda: None)
    adapter._struck = lambda: [turn]
    adapter._start = adapter._follow = lambda *_: turn.reached.set()
    adapter._lacks = lacks
    adapter._unlike_before_a_kill = lambda _: ""

    assert adapter.way("struck") == [
        "plain, struck: answered",
        "plain, struck: kept",
        "any turn, struck: again",
    ]
    assert {adapter.fact(name) for name in adapter._facts} == {""}


def test_late_look_has_its_own_time_to_settle(clock: Clock, adapter: Any) -> None:
    """A slow machine comes to it after the time of the first looks; a lack is waited for once."""
    clock.now_s = began_s = adapter._settled_at + SLOW_S

    assert adapter._settles("titled", lambda: clock.now_s > began_s + 1)

    assert not adapter._settles("titled", lambda: False)
    began_s = clock.now_s
    assert not adapter._settles("titled", lambda: False)
    assert clock.now_s - began_s < 1
    assert adapter._settles("left", lambda: clock.now_s > began_s + 1)
