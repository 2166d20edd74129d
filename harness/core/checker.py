"""What a checker is: one judgement of one history.

Pure: the same history always gets the same verdict, so that a stored run can be judged again by a
better checker. A checker that needs a promise, a model or a budget is made by a function that
takes them and returns the checker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from harness.core.history import History
from harness.core.verdict import Verdict

Checker: TypeAlias = Callable[[History], Verdict]
