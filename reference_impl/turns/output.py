"""What an agent writes into the journal of its run: parts of a reply, thoughts, tools, costs."""

from __future__ import annotations

from typing import Any

from reference_impl.turns.run import Run

TOKEN_CHARS_MAX = 16_384
TOOL_CHARS_MAX = 16_384


class RunOutput:
    """The output of one run."""

    def __init__(self, run: Run) -> None:
        assert run.writer is not None
        self.cancelled = run.cancelled
        self.asked = run.asked
        self._emit = run.writer.emit
        self._spent = run.spent

    def token(self, text: str) -> None:
        """Write a part of the reply, in as many rows as needed."""
        for at in range(0, len(text), TOKEN_CHARS_MAX):
            self._emit("token", {"text": text[at : at + TOKEN_CHARS_MAX]})

    def reasoning(self, text: str) -> None:
        """Write a thought, in as many rows as needed."""
        for at in range(0, len(text), TOKEN_CHARS_MAX):
            self._emit("reasoning", {"text": text[at : at + TOKEN_CHARS_MAX]})

    def tool(self, name: str, arguments: Any) -> None:
        """Report a tool call."""
        self._emit("tool", {"name": name, "arguments": arguments})

    def spent(self, **counts: float) -> None:
        """Add to what the run costs."""
        self._spent.append(counts)

    def tool_complete(self, name: str, output: str) -> None:
        """Report a tool's output, or its beginning."""
        clipped = output[:TOOL_CHARS_MAX]
        self._emit("tool_complete", {"name": name, "output": clipped, "output_chars": len(output)})
