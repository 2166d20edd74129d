"""Model of a server's upkeep: nothing grows, no request hangs, and idling costs nothing."""

from __future__ import annotations

from harness.contract import promises
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

NAMES = ("churn", "lock", "parts", "starters")  # their answers only say what is asked next


class UpkeepModel:
    """A model without state: each answer is a fact about one container, request, part or start."""

    name = "upkeep"

    def initial(self) -> None:
        """No state."""

    def adopt(self, state: None, operation: Operation) -> tuple[None]:  # noqa: ARG002
        """No state either."""
        return (None,)

    def step(self, state: None, operation: Operation) -> tuple[None] | Refusal:
        """Judge one answer."""
        argument, result = operation.argument, operation.result
        if operation.outcome is not Outcome.OK:
            return Refusal(
                promises.H4 if operation.function == "churn" else promises.H2,
                f"{operation.function} was not answered",
                expected="an answer",
            )
        match operation.function:
            case "grew" if result is not False:
                return Refusal(
                    promises.H4,
                    f"grew: {argument['name']} grows with each session that was deleted",
                    (False,),
                    also=(promises.H8,),
                    expected="no growth with the number of sessions ever seen",
                )
            case "answered" if result is not True:
                return Refusal(
                    promises.H6,
                    f"answered: {argument['call']} was not answered while a lock was held",
                    (True,),
                    expected="an answer within the bound of its wait",
                )
            case "idle_without" if result is not False:
                lacking = argument["part"] or "no part"
                return Refusal(
                    promises.H5,
                    f"idle_without: a server that lacks {lacking} is busy without a call",
                    (False,),
                    expected="less than a fifth of a core",
                )
            case "started_at_once" if result > 1 or isinstance(result, bool):
                return Refusal(
                    promises.H4,
                    f"started_at_once: {argument['starter']} started several threads",
                    (0, 1),
                    expected="at most one thread",
                )
        return (state,)
