"""The goals of sessions, in place of those that the scripted agent lacks.

A goal is judged behind each turn: it is reached if its text says so, else the turn goes on. It is
kept in a file, since a server asks each time anew. It imports nothing else but the standard
library.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CONTINUATION_PROMPT_TEMPLATE = "go on with {goal}"
DEFAULT_MAX_TURNS = 20
REACHED = "goal-that-is-reached"  # a goal with this word needs one turn


@dataclass
class GoalState:
    """One goal, with what a server shows of it."""

    goal: str
    status: str = "active"
    turns_used: int = 0
    max_turns: int = DEFAULT_MAX_TURNS
    created_at: float = 0.0
    last_turn_at: float = 0.0
    last_verdict: str | None = None
    last_reason: str | None = None
    paused_reason: str | None = None

    def to_json(self) -> str:
        """The goal as a text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> GoalState:
        """The goal of a text."""
        return cls(**json.loads(text))


def judge_goal(goal: str, _response: str, **_options: Any) -> tuple[str, str]:
    """The verdict on a goal, and its reason; newer agents say more."""
    return ("done" if REACHED in goal else "continue", "as the goal says")


def _path(session_id: str) -> Path:
    return Path(os.environ.get("HERMES_HOME", ".")) / "goals" / f"{session_id}.json"


def save_goal(session_id: str, state: GoalState | None) -> None:
    """Keep a goal, or none."""
    path = _path(session_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(state.to_json() if state else "", encoding="utf-8")


def load_goal(session_id: str) -> GoalState | None:
    """The goal that is kept."""
    path = _path(session_id)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return GoalState.from_json(text) if text else None


class GoalManager:
    """The goal of one session."""

    def __init__(self, session_id: str, default_max_turns: int = DEFAULT_MAX_TURNS) -> None:
        """Load the goal that is kept."""
        self.session_id = session_id
        self._max_turns = default_max_turns
        self._state = load_goal(session_id)

    @property
    def state(self) -> GoalState | None:
        """The goal, if there is one."""
        return self._state

    def is_active(self) -> bool:
        """Whether turns go on for it."""
        return self._state is not None and self._state.status == "active"

    def has_goal(self) -> bool:
        """Whether there is one that is not reached."""
        return self._state is not None and self._state.status in ("active", "paused")

    def status_line(self) -> str:
        """One line about it."""
        state = self._state
        return f"{state.status}: {state.goal}" if state else "No active goal."

    def set(self, goal: str, *, max_turns: int | None = None) -> GoalState:
        """Set a goal."""
        return self._kept(GoalState(goal, max_turns=max_turns or self._max_turns))

    def pause(self, reason: str = "user-paused") -> GoalState | None:
        """Let no turn go on for it."""
        return self._changed("paused", reason)

    def resume(self, *, reset_budget: bool = True) -> GoalState | None:
        """Let turns go on for it again."""
        if self._state is not None and reset_budget:
            self._state.turns_used = 0
        return self._changed("active", None)

    def clear(self) -> None:
        """Forget it."""
        self._state = None
        save_goal(self.session_id, None)

    def evaluate_after_turn(self, last_response: str, **_options: Any) -> dict[str, Any]:
        """What follows a turn: another one, or none."""
        state = self._state
        if state is None or state.status != "active":
            return {"should_continue": False, "verdict": "inactive", "message": ""}
        state.turns_used += 1
        verdict, reason = judge_goal(state.goal, last_response)
        state.status = "done" if verdict == "done" else "active"
        self._kept(state)
        return {
            "status": state.status,
            "should_continue": verdict != "done",
            "continuation_prompt": self.next_continuation_prompt(),
            "verdict": verdict,
            "reason": reason,
            "message": f"Goal: {verdict}",
        }

    def next_continuation_prompt(self) -> str | None:
        """What the next turn is asked."""
        if self._state is None or self._state.status != "active":
            return None
        return CONTINUATION_PROMPT_TEMPLATE.format(goal=self._state.goal)

    def _changed(self, status: str, reason: str | None) -> GoalState | None:
        if self._state is None:
            return None
        self._state.status, self._state.paused_reason = status, reason
        return self._kept(self._state)

    def _kept(self, state: GoalState) -> GoalState:
        self._state = state
        save_goal(self.session_id, state)
        return state
