"""Model of the state database: what each call may answer, and the state that follows.

Operations are those of the *state_db* ability (`harness.targets`). Where the contract is silent the
model is lenient: it ignores times; a call about an unknown session may be refused or do nothing
(adding tokens may create it); whether an age that equals the limit is older is open, as is what a
search for other characters than letters and digits finds. A later `create` may fill what the
session lacks, perhaps all but its user, or change nothing; a later model and billing mode may
replace the first, or not.

Which promise is broken:

- D1: an acknowledged message, session, title, count of tokens or end is missing, messages changed
  their order, or a removed item has come back;
- D2: a message or session is there that was never acknowledged, or two sessions have one title; or
  only a part of a write is there: `message_count` or `tool_call_count` drifted, the search index
  differs from the messages;
- D3: a write was refused because of a lock, though no other call writes;
- D8: a read, or opening the file, was refused because of a lock;
- D10: a call was refused for another reason though it should succeed, or its error has no text.
- D13: a system prompt, a tool call, the reason of an end or another column is missing, a title is
  not sanitised, or `prune` went by another age than that of the start.

`harness.contract.models.fault_outcomes` wraps this model, and judges what a fault leaves behind
(D9, and D5 after a kill).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from harness.contract import promises
from harness.contract.models.state_db_adopted import ADOPTS
from harness.contract.models.state_db_answers import ANSWERS, TAKE_NO_LOCK, Answers
from harness.contract.models.state_db_blame import BLAMES, blame_answer
from harness.contract.models.state_db_values import State
from harness.core.errors import UsageError
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

_LOCKED = r"\block(ed|ing)?\b|\bbusy\b|Patience"  # in an error because of a lock


class StateDbModel:
    """What the state database may answer to sequential calls."""

    name = "state-db"

    def initial(self) -> State:
        """No session exists."""
        return State()

    def adopt(self, state: State, operation: Operation) -> tuple[State, ...]:
        """Take the observed answer for the truth; none where the content is unknown."""
        answers = ANSWERS[operation.function](state, **operation.argument or {})
        if operation.outcome is Outcome.FAIL:
            afters = (answer.after for answer in answers.possible)
            return tuple(dict.fromkeys((state, *afters)))
        adopt = ADOPTS.get(operation.function)
        return (state,) if adopt is None else adopt(state, operation)

    def step(self, state: State, operation: Operation) -> tuple[State, ...] | Refusal:
        """The states after the operation, or the promise it broke."""
        ask = ANSWERS.get(operation.function)
        if ask is None:
            raise UsageError(f"{self.name} has no function {operation.function!r}")
        answers = ask(state, **operation.argument or {})
        match operation.outcome:
            case Outcome.OK:
                return _judge_result(state, operation, answers)
            case Outcome.FAIL:
                return _judge_error(state, operation, answers)
            case Outcome.INFO:
                afters = (answer.after for answer in answers.possible)
                return tuple(dict.fromkeys((state, *afters)))


def _judge_result(
    state: State, operation: Operation, answers: Answers
) -> tuple[State, ...] | Refusal:
    afters = [answer.after for answer in answers.possible if answer.result == operation.result]
    if afters:
        return tuple(dict.fromkeys(afters))
    accepted = tuple(answer.result for answer in answers.possible)
    if not accepted:
        return Refusal(
            promises.D2,
            f"{operation.call} succeeded although it has to be refused",
            also=(promises.D13,) if operation.function == "create" else (),  # of a parent
            expected="an error",
        )
    blame = BLAMES.get(operation.function, blame_answer)(state, operation, accepted[0])
    message = f"{operation.call}: {blame.problem}"
    return Refusal(blame.promise, message, accepted, blame.also, expected=_either(accepted))


def _either(accepted: Iterable[Any]) -> str:
    return " or ".join(dict.fromkeys(map(repr, accepted))) or "an error that says why"


def _naming(text: str) -> Callable[[str], bool]:
    """Whether the text has a name as a word of its own."""
    return lambda name: re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


def _judge_error(
    state: State, operation: Operation, answers: Answers
) -> tuple[State, ...] | Refusal:
    accepted = tuple(answer.result for answer in answers.possible)
    if answers.may_fail:
        _, _, text = operation.error.partition(":")
        if not text.strip():
            return Refusal(
                promises.D10,
                f"{operation.call} failed with an error that has no text",
                accepted,
                expected="an error whose text says why, or a result",
            )
        is_waiting = re.search(_LOCKED, text) is not None
        if answers.because and not is_waiting and not any(map(_naming(text), answers.because)):
            return Refusal(
                promises.D13,
                f"{operation.call} failed with an error that does not say who has the title",
                accepted,
                also=(promises.D10,),
                expected=f"an error that names {' or '.join(map(repr, answers.because))}",
            )
        return (state,)
    if re.search("no such column|has no column", operation.error):
        return Refusal(
            promises.D13,
            f"{operation.call} found a column missing",
            accepted,
            expected=_either(accepted),
        )
    if not re.search(_LOCKED, operation.error):
        return Refusal(
            promises.D10,
            f"{operation.call} failed although it has to succeed",
            accepted,
            also=(promises.D13,) if "constraint" in operation.error else (),
            expected=_either(accepted),
        )
    return Refusal(
        promises.D8 if operation.function in TAKE_NO_LOCK else promises.D3,
        f"{operation.call} was refused because of a lock although no other call writes",
        accepted,
        expected=_either(accepted),
    )
