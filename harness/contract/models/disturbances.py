"""Model of a disturbed server: no turn, reader or request suffers from what comes in its way."""

from __future__ import annotations

from typing import Any

from harness.contract import promises
from harness.contract.models.walks import Asked, Walks, walked
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

OK, REFUSED, FAILED, UNANSWERED = 200, 400, 500, 0
ANSWERS = (200, 400, 404, 409, 422)  # done, refused, or not offered
LISTS = {
    "changes": Asked("interfere", "change"),
    "parents": Asked("outlived", "by"),
    "lock_database": Asked("beside_locked", "name"),
    "commit": Asked("beside_committing", "name"),
    "readers": Asked("followed", "opened"),
    "noise": Asked("woken_beside", "kind"),
}
BEFORE, AFTER = "before", "after"  # what the two processes print


class DisturbancesModel:
    """Each answer states facts about one situation; the state is what is still to be asked."""

    name = "disturbances"
    shows_state = False

    def initial(self) -> Walks:
        """Nothing was named."""
        return ()

    def adopt(self, state: Walks, operation: Operation) -> tuple[Walks]:
        """Go on with what is still to be asked, if that is known."""
        after = walked(state, operation, LISTS)
        return (state if isinstance(after, str) else after,)

    def step(self, state: Walks, operation: Operation) -> tuple[Walks] | Refusal:
        """Judge one answer."""
        if operation.outcome is not Outcome.OK:
            return Refusal(
                promises.H2,
                f"{operation.function} was not answered",
                also=(promises.H6,),
                expected="an answer",
            )
        after = walked(state, operation, LISTS)
        if isinstance(after, str):
            return Refusal(promises.H2, f"{operation.function}: wrong names", expected=after)
        judge = _JUDGES.get(operation.function)
        refusal = None if judge is None else judge(operation.argument, operation.result)
        if refusal is None:
            return (after,)
        promise, problem, expected, also = refusal
        return Refusal(promise, f"{operation.function}: {problem}", also=also, expected=expected)


_Problem = tuple[Promise, str, str, tuple[Promise, ...]] | None


def _interfered(argument: Any, result: Any) -> _Problem:
    change = argument["change"]
    if result["status"] >= FAILED or result["status"] == UNANSWERED:
        return promises.H2, f"{change} during a turn failed", "an answer", (promises.H6,)
    if result["status"] not in ANSWERS:
        return promises.H2, f"{change} during a turn had a strange answer", f"one of {ANSWERS}", ()
    if result["torn"]:
        return (
            *(promises.A2, f"{change} closed the database of an agent at work"),
            *("an agent that keeps its handle until its turn is over", (promises.A5,)),
        )
    is_made = result["status"] < REFUSED
    may_cut = is_made and not result["keeps"] and result["two"] == 0  # what is under way, too
    if not may_cut and (result["two"] != 1 or not result["whole"]):
        what = "lost the turn under way" if result["two"] != 1 else "lost the reply of that turn"
        return promises.S2, f"{change} {what}", "the turn with its reply", (promises.T3,)
    stays = result["keeps"] or not is_made
    if result["one"] != int(stays):
        promise = promises.S2 if stays else promises.S6
        what = "lost an earlier turn" if stays else "removed nothing, or it came back"
        return promise, f"{change} during a turn {what}", f"{int(stays)} message", (promises.S14,)
    return None


def _outlived(argument: Any, result: Any) -> _Problem:
    if result is True:
        return None
    problem = f"the database of a child at work was closed by {argument['by']}"
    return promises.A2, problem, "a handle that stays open for the child", (promises.A5,)


def _raced(argument: Any, result: Any) -> _Problem:
    kind = argument["kind"]
    if result["begun"] != 1:
        return promises.T1, f"{kind}: {result['begun']} turns began", "one turn", ()
    if result["status"] != OK:
        return promises.T3, f"{kind}: the next turn was refused", "status 200", (promises.T8,)
    if not result["once"]:
        return promises.S2, f"{kind}: a message is not there once", "each once", (promises.T4,)
    if not result["whole"]:
        return promises.T3, f"{kind}: the next turn has no whole reply", "a reply", (promises.S2,)
    return None


def _beside_locked(argument: Any, result: Any) -> _Problem:
    name, status = argument["name"], result["status"]
    if status >= FAILED or status == UNANSWERED:
        expected = "an answer, after the lock if need be"
        return promises.D3, f"{name} failed beside a locked database", expected, (promises.H6,)
    if status not in ANSWERS:
        return promises.H2, f"{name} had a strange answer", f"one of {ANSWERS}", (promises.D3,)
    if not result.get("kept", True):
        expected = "the turn with its reply, and its rows"
        return promises.D3, f"{name} is not kept as a whole", expected, (promises.S2, promises.S14)
    return None


def _beside_committing(argument: Any, result: Any) -> _Problem:
    if result in ANSWERS:
        return None
    name = argument["name"]
    if UNANSWERED < result < FAILED:
        return promises.H2, f"{name} had a strange answer", f"one of {ANSWERS}", (promises.L14,)
    problem = f"{name} was not answered while a memory provider was slow"
    return promises.L14, problem, "an answer that does not wait for it", (promises.H6,)


def _followed(argument: Any, result: Any) -> _Problem:
    if result is True:
        return None
    problem = f"a reader that opened an idle session ({argument['opened']}) learns of no turn"
    return promises.C3, problem, "its events, or a snapshot", (promises.C7,)


def _woken_beside(argument: Any, result: Any) -> _Problem:
    kind = argument["kind"]
    found = [word for word in result if word in (BEFORE, AFTER)]
    if len(found) != len(result) or len(set(found)) != len(found):
        expected = "no wakeup but those of ended processes"
        return promises.W13, f"{kind} was taken for the end of a process", expected, (promises.W1,)
    if found != [BEFORE, AFTER]:
        expected = "one wakeup of each process"
        return (
            promises.W2,
            f"{kind} kept the end of a process from its session",
            expected,
            (
                promises.W1,
                promises.W5,
            ),
        )
    return None


_JUDGES = {
    "interfere": _interfered,
    "outlived": _outlived,
    "raced": _raced,
    "beside_locked": _beside_locked,
    "beside_committing": _beside_committing,
    "followed": _followed,
    "woken_beside": _woken_beside,
}
