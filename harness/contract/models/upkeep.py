"""Model of a server's upkeep: nothing grows, no request hangs, and idling costs nothing."""

from __future__ import annotations

from harness.contract import promises
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

NAMES = ("churn", "changes", "lock", "parts", "starters")  # they say what is asked next
FAILED = 500  # a status
_KEPT = {"same": True, "copied": True}
# What a container holds, by words of its name, and the promise about that; the first one counts.
_OF_WORDS = (
    (("bg_task", "process", "wakeup", "completion", "_emit"), promises.W9),
    (("agent_cache", "agents_cached", "aiagent"), promises.A1),
    (("session_lifecycle", "lifecycle"), promises.L9),
    (("journal",), promises.T6),
    (("subscriber", "queue.queue", "streamchannel"), promises.C11),
    (("channel",), promises.C9),
    (("stream", "active_run", "cancel_flag", "meter"), promises.T3),
    (("sqlite", "state_db"), promises.D8),
)


class UpkeepModel:
    """A model without state: each answer is a fact about one container, request, part or start."""

    name = "upkeep"

    def initial(self) -> None:
        """No state."""

    def adopt(self, state: None, operation: Operation) -> tuple[None]:  # noqa: ARG002
        """No state either."""
        return (None,)

    def step(self, state: None, operation: Operation) -> tuple[None] | Refusal:  # noqa: PLR0911
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
                    also=(promises.H8, *_of(argument["name"])),
                    expected="no growth with the number of sessions ever seen",
                )
            case "kept" if result["status"] >= FAILED:
                return Refusal(
                    promises.S3,
                    f"kept: {argument['change']} of a session that was not in memory failed",
                    also=(promises.H2, promises.S15),
                    expected="a change of the whole session",
                )
            case "kept" if {key: result[key] for key in _KEPT} != _KEPT:
                return Refusal(
                    promises.S2,
                    f"kept: {argument['change']} lost messages of a session, or of its copy",
                    also=(promises.S3, promises.S14),
                    expected=f"{_KEPT}",
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


def _of(name: str) -> tuple[Promise, ...]:
    """The promise about what the container of this name holds, as far as its name says that."""
    words = name.lower()
    return next(
        ((promise,) for parts, promise in _OF_WORDS if any(map(words.__contains__, parts))), ()
    )
