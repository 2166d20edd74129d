"""Model of a server's upkeep: nothing grows, no request hangs, and idling costs nothing."""

from __future__ import annotations

from harness.contract import promises
from harness.contract.models.walks import Asked, Walks, walked
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

LISTS = {
    "churn": Asked("grew", "name"),
    "changes": Asked("kept", "change"),
    "lock": Asked("answered", "call"),
    "parts": Asked("idle_without", "part"),
    "starters": Asked("started_at_once", "starter"),
}
ANSWERS = (200, 400, 404, 409, 422)  # done, refused, or not offered
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
    """Each answer is a fact about a container, request, part or start that was named before."""

    name = "upkeep"
    shows_state = False

    def initial(self) -> Walks:
        """Nothing was named."""
        return ()

    def adopt(self, state: Walks, operation: Operation) -> tuple[Walks]:
        """Go on with what is still to be asked, if that is known."""
        after = walked(state, operation, LISTS)
        return (state if isinstance(after, str) else after,)

    def step(self, state: Walks, operation: Operation) -> tuple[Walks] | Refusal:  # noqa: PLR0911
        """Judge one answer."""
        argument, result = operation.argument, operation.result
        if operation.outcome is not Outcome.OK:
            return Refusal(
                promises.H4 if operation.function == "churn" else promises.H2,
                f"{operation.function} was not answered",
                expected="an answer",
            )
        after = walked(state, operation, LISTS)
        if isinstance(after, str):
            return Refusal(promises.H4, f"{operation.function}: wrong names", expected=after)
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
            case "kept" if result["status"] not in ANSWERS:
                return Refusal(
                    promises.H2,
                    f"kept: {argument['change']} had a strange answer",
                    also=(promises.S3,),
                    expected=f"one of {ANSWERS}",
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
        return (after,)


def _of(name: str) -> tuple[Promise, ...]:
    """The promise about what the container of this name holds, as far as its name says that."""
    words = name.lower()
    return next(
        ((promise,) for parts, promise in _OF_WORDS if any(map(words.__contains__, parts))), ()
    )
