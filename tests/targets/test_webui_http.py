"""Tests of the http ability of a hermes-webui server, where it differs from the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.contract.clients.message_format import translated
from harness.targets.hermes_webui import http
from harness.targets.hermes_webui.http import WebuiHttpAdapter
from harness.targets.hermes_webui.server import WebuiLaunch


def test_empty_session_is_created_again_after_a_kill(launch: WebuiLaunch, tmp_path: Path) -> None:
    """A session with messages is not: if the server loses it, it stays lost."""
    adapter = WebuiHttpAdapter(tmp_path, launch)
    try:
        adapter.new("s1")
        adapter.new("s2")
        adapter.send("s2", "r1", "hello")
        assert adapter.sessions() == ["s1", "s2"]
        adapter.kill()

        assert adapter.sessions() == ["s1"]
        nothing: dict[str, Any] = {"said": [], "woken": [], "pending": None, "heard": []}
        assert adapter.messages("s1") == nothing
    finally:
        adapter.close()


def test_missing_endpoints_of_older_releases_are_replaced(
    launch: WebuiLaunch, tmp_path: Path
) -> None:
    """The active run comes from the session; a missing stream has no events and offers no run."""
    adapter = WebuiHttpAdapter(tmp_path, launch)
    try:
        adapter.new("s1")
        adapter.send("s1", "r1", "hello")

        assert adapter.status("s1") == {"busy": False, "active": None}
        assert adapter.events("r1", 0) == {"ids": [], "names": [], "closed": True}
        assert adapter.watch("s1") is None
    finally:
        adapter.close()


def test_events_without_numbers_are_counted(
    launch: WebuiLaunch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older releases do not number them; a stream that stays open is left behind its last event."""
    monkeypatch.setattr(http, "CLOSING_S", 0.01)
    adapter = WebuiHttpAdapter(tmp_path, launch)
    try:
        adapter.new("s1")
        adapter.send("s1", "r1", "stay open")

        relay = adapter.events("r1", 0)
    finally:
        adapter.close()

    assert relay == {"ids": [1, 2], "names": ["token", "stream_end"], "closed": False}


def test_reply_says_what_its_agent_was_shown(
    launch: WebuiLaunch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number in the reply, beside the users' messages that precede it."""
    rows = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "That was turn 3 of 0a1b."},
        {"role": "user", "content": "b"},
    ]
    found = {"messages": rows, "pending_user_message": "b"}
    adapter = WebuiHttpAdapter(tmp_path, launch)
    monkeypatch.setattr(adapter, "_get", lambda _: {"session": found})
    adapter._sessions["s1"] = "0a1b"

    messages = adapter.messages("s1")

    assert messages["heard"] == [[3, 1]]
    assert [text for _, text, _ in messages["said"]] == ["a", "That was turn 3 of s1."]


def test_messages_are_translated_to_the_reference_format() -> None:
    """A message that only reports how a turn ended becomes a mark on the user's message."""
    messages = translated(
        [
            {"role": "user", "content": "stop me"},
            {"role": "assistant", "content": "0 1", "_partial": True},
            {"role": "assistant", "content": "**Task cancelled:** by you", "_error": True},
            {"role": "user", "content": "kill me"},
            {"role": "assistant", "content": "...", "_error": True, "type": "interrupted"},
            {"role": "user", "content": "[IMPORTANT: Background process p completed]"},
            {"role": "assistant", "content": "**Error:** scripted", "_error": True},
        ]
    )

    assert [row["content"][:7] for row in messages] == [
        *("stop me", "0 1", "kill me", "[IMPORT", "**Error"),
    ]
    assert [bool(row.get("cancelled")) for row in messages] == [True, False, False, False, False]
    assert [bool(row.get("interrupted")) for row in messages] == [False, False, True, False, False]
    assert [row.get("source") for row in messages] == [None, None, None, "process_wakeup", None]


def test_messages_in_the_reference_format_stay_unchanged() -> None:
    """Existing marks and sources are preserved."""
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "hello", "cancelled": True},
        {"role": "assistant", "content": "task cancelled? no"},
        {"role": "user", "content": "[IMPORTANT: Background process", "source": "process_wakeup"},
    ]

    assert translated(messages) == messages
