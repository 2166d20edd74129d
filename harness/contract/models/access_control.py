"""Who is let in: here anybody, unless there is a password; elsewhere nobody without one.

Operations: `open(is_loopback, password)` boots a server (an empty password is none) and tells
whether the address `can_be_had` on this machine, and whether it `serves` there; `knock(scheme,
word)` asks for several things with those credentials, and tells the statuses. A server that is to
listen elsewhere without a password may refuse to serve, or serve and let nobody in. One that does
not come up, or does not answer, lets nobody in, and is somebody else's business.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.errors import UsageError
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal
from harness.core.promises import Promise

REFUSED = 400  # a status, and those above


@dataclass(frozen=True, slots=True)
class Door:
    """Where a server listens, and with which password."""

    is_loopback: bool = True
    password: str = ""

    def opens_to(self, scheme: str, word: str) -> bool:
        """Whether these credentials are enough."""
        if not self.password:
            return self.is_loopback
        return bool(scheme) and word == self.password


class DoorsModel:
    """Which servers come up, and whom they let in."""

    name = "doors"

    def initial(self) -> Door:
        """Nothing is open yet."""
        return Door()

    def step(self, state: Door, operation: Operation) -> tuple[Door] | Refusal:
        """Which door is open after the operation, or the promise it broke."""
        argument = operation.argument or {}
        if operation.function == "open":
            return (Door(**argument),)
        if operation.function != "knock":
            raise UsageError(f"{self.name} has no function {operation.function!r}")
        if operation.outcome is not Outcome.OK:
            return (state,)
        refused = [status >= REFUSED for status in operation.result]
        if state.opens_to(**argument) and any(refused):
            return Refusal(Promise.H1, f"whoever knows the password is turned away: {operation}")
        if not state.opens_to(**argument) and not all(refused):
            where = "here" if state.is_loopback else "from elsewhere"
            return Refusal(Promise.H1, f"somebody came in {where} without it: {operation}")
        return (state,)
