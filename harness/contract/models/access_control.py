"""Model of access control: which requests a server lets in, by its address and its password.

On loopback without a password every request is let in. With a password only requests that carry it
are, and elsewhere without a password none is.

Operations: `open(is_loopback, password)` boots a server (an empty password is none) and reports
whether the address `is_available` on this machine, and whether the server `serves` there;
`knock(scheme, word)` sends several requests with those credentials, and reports the statuses. A
server that must listen elsewhere without a password may refuse to serve, or serve and let no
request in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.contract import promises
from harness.core.errors import UsageError
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

ADMITTED = (200,)
DENIED = (401, 403, 429)  # 429: after many wrong passwords
REQUESTS = 3  # of one knock


@dataclass(frozen=True, slots=True)
class Access:
    """Where a server listens, and with which password."""

    is_loopback: bool = True
    password: str = ""
    serves: bool = False

    def admits(self, scheme: str, word: str) -> bool:
        """Whether these credentials suffice."""
        if not self.password:
            return self.is_loopback
        return bool(scheme) and word == self.password


class AccessControlModel:
    """Which servers start, and which requests they let in."""

    name = "access-control"

    def initial(self) -> Access:
        """No server is open yet."""
        return Access()

    def step(self, state: Access, operation: Operation) -> tuple[Access] | Refusal:
        """The access rules after the operation, or the promise it broke."""
        argument = operation.argument or {}
        if operation.outcome is Outcome.FAIL:
            return Refusal(promises.H1, f"{operation.call} got no answer", expected="an answer")
        if operation.function == "open":
            return _opened(Access(**argument), operation)
        if operation.function != "knock":
            raise UsageError(f"{self.name} has no function {operation.function!r}")
        if operation.outcome is not Outcome.OK:
            return (state,)
        allowed: tuple[int, ...] = ()
        if not state.serves:
            problem = "was answered although no server listens"
        elif state.admits(**argument):
            allowed, problem = ADMITTED, "was refused although its credentials suffice"
        else:
            address = "loopback" if state.is_loopback else "a foreign address"
            allowed = DENIED
            problem = f"was let in on {address} although its credentials do not suffice"
        count = REQUESTS if state.serves else 0
        statuses = operation.result
        if len(statuses) == count and all(status in allowed for status in statuses):
            return (state,)
        return Refusal(
            promises.H1,
            f"{operation.call} {problem}",
            expected=f"{count} statuses of {', '.join(map(str, allowed))}",
        )


def _opened(state: Access, operation: Operation) -> tuple[Access] | Refusal:
    """Judge the boot: only beyond loopback and without a password a server may refuse to start."""
    if operation.outcome is not Outcome.OK:
        return (state,)
    is_available, serves = operation.result["is_available"], operation.result["serves"]
    must_serve = is_available and (state.is_loopback or bool(state.password))
    if (state.is_loopback and not is_available) or (serves and not is_available):
        problem, expected = "the address is missing, and the server listens there", "an address"
    elif must_serve and not serves:
        problem, expected = "the server did not start", "serves = True"
    else:
        return (replace(state, serves=serves),)
    return Refusal(promises.H1, f"{operation.call}: {problem}", expected=expected)
