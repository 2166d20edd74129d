"""What a checker is: a pure function from what was seen to what it means."""

from __future__ import annotations

from collections.abc import Callable

from harness.history import History
from harness.verdict import Verdict

Checker = Callable[[History], Verdict]
