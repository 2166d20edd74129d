"""Model of access control: which requests a server lets in, by its address and its password.

On loopback without a password every request is let in. With a password only requests that carry it
are, and elsewhere without a password none is.

Operations: `open(is_loopback, password)` boots a server (an empty password is none) and reports
whether the address `is_available` on this machine, and whether the server `serves` there;
`knock(scheme, word)` sends several requests with those credentials, and reports the statuses. A
server that must listen elsewhere without a password may refuse to serve, or serve and let no
request in. A server that does not start, or does not answer, lets no request in; other promises
judge that.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.contract import promises
from harness.core.errors import UsageError
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

REFUSED = 400  # this status and all above refuse a request


@dataclass(frozen=True, slots=True)
class Access:
    """Where a server listens, and with which password."""

    is_loopback: bool = True
    password: str = ""

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
        if operation.function == "open":
            return (Access(**argument),)
        if operation.function != "knock":
            raise UsageError(f"{self.name} has no function {operation.function!r}")
        if operation.outcome is not Outcome.OK:
            return (state,)
        refused = [status >= REFUSED for status in operation.result]
        if state.admits(**argument) and any(refused):
            return Refusal(
                promises.H1,
                f"{operation.call} was refused although its credentials suffice",
                expected=f"every status below {REFUSED}",
            )
        if not state.admits(**argument) and not all(refused):
            address = "loopback" if state.is_loopback else "a foreign address"
            return Refusal(
                promises.H1,
                f"{operation.call} was let in on {address} although its credentials do not suffice",
                expected=f"every status {REFUSED} or above",
            )
        return (state,)
