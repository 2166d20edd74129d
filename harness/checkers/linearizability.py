"""Linearizability: does every operation seem to happen at one instant between its two ends?

The search of Wing and Gong ("Testing and verifying concurrent objects", JPDC 1993), with Lowe's two
improvements ("Testing for linearizability", CCPE 2017): operations are linearized just in time,
when one returns that was not yet; and a configuration met before is not entered again. It runs
per partition (Horn and Kroening, "Faster linearizability checking via P-compositionality", FORTE
2015). Four things make it small, none of which changes a verdict:

- An operation that only observes is linearized as soon as it is legal: it stands in nobody's way.
- Of two configurations that differ only in which doubtful operations happened, the one in which
  fewer did can do all that the other can, so the other is not entered.
- Operations that ask and answer the same take the same steps, and happen in order of their ends.
- States that no operation of the history tells apart are one, where the model can say so.

Knows no clock: a search ends by its budget, which is counted, and then the verdict says *unknown*.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Any, NamedTuple, TypeAlias

from harness.core.checker import Checker
from harness.core.history import History, Operation, Outcome
from harness.core.model import Model, Refusal, State
from harness.core.promises import Promise
from harness.core.verdict import VALID, Anomaly, Verdict
from harness.models.narrowing import Narrowing, Observing


@dataclass(frozen=True, slots=True)
class Budget:
    """How far the search of one partition may go before the verdict says unknown.

    `steps` counts the open operations looked at, `entries` the configurations held in memory.
    """

    steps: int = 5_000_000
    entries: int = 500_000


def may_have_happened(operation: Operation) -> bool:
    """Whether the operation is not known to have failed: a *fail* never happened."""
    return operation.outcome is not Outcome.FAIL


def linearizable(
    model: Model[State],
    promise: Promise,
    *,
    partition: Callable[[Operation], Hashable] | None = None,
    counts: Callable[[Operation], bool] = may_have_happened,
    budget: Budget | None = None,
) -> Checker:
    """Make the checker that searches a history for an order that the model explains.

    `partition` names the independent object that an operation is about; `counts` says which
    operations are judged at all. A step of the model may depend on what was asked and answered,
    not on who asked or when. An *info* operation may take effect at any time after its invocation,
    or never; one that carries a completion, not after that.

    The evidence is a proof by itself: no order explains these operations, yet one explains what was
    known of the others before the last one ended. Where finding it costs too much, the evidence is
    the operation that fits no order, and those that overlap it. Partitions are searched from small
    to large, up to the first anomaly.
    """
    limit = budget or Budget()

    def check(history: History) -> Verdict:
        unknowns = []
        for key, operations in _partitioned(filter(counts, history), partition):
            where = "" if partition is None else f" of {key!r}"
            search = _search(operations, model, limit)
            if search.linearizable is None:
                unknowns.append(
                    f"{len(operations)} {model.name} operations{where}: no order of them was found "
                    f"or ruled out in {search.steps} steps and {search.entries} configurations"
                )
            elif not search.linearizable:
                anomaly = _anomaly(operations, search, model, promise, where)
                return Verdict((anomaly,), unknowns=tuple(unknowns))
        return Verdict(unknowns=tuple(unknowns)) if unknowns else VALID

    return check


def _partitioned(
    operations: Iterable[Operation], partition: Callable[[Operation], Hashable] | None
) -> list[tuple[Hashable, list[Operation]]]:
    if partition is None:
        return [(None, list(operations))]
    parts: dict[Hashable, list[Operation]] = {}
    for operation in operations:
        parts.setdefault(partition(operation), []).append(operation)
    return sorted(parts.items(), key=lambda part: len(part[1]))


class _Call(NamedTuple):
    """An operation that was invoked and did not return yet. Sorts by its end."""

    end: float
    number: int
    bit: int  # set in a configuration where it happened already
    doubtful: bool  # it may never happen
    observes: bool
    successors: dict[Any, tuple[Any, ...]]  # by state, as far as known; shared by its shape
    operation: Operation


# What can happen in one state: the bits of the calls that are legal and only look, and of each that
# changes something its bit, its twin, and the states after it.
_Moves: TypeAlias = tuple[int, list[tuple[int, int, tuple[Any, ...]]]]


class _Stage(NamedTuple):
    """A return, and what was open then, in order of their ends: the first is what returns.

    A call's twin is the bit of the call of its shape that ends just sooner, so happens first; or 0.
    """

    returned: int  # the bit of the first
    calls: tuple[_Call, ...]
    twins: tuple[int, ...]
    doubtful: int  # the bits of those that may never happen
    moves: dict[Any, _Moves]  # by state, as far as known


def _stages(operations: Sequence[Operation], model: Model[Any]) -> list[_Stage]:
    """Cut a history at its returns. A bit is used again once its operation has returned."""
    observes = model.observes if isinstance(model, Observing) else _looks_like_a_change
    begun, ends = [], []
    for operation in sorted(operations, key=lambda operation: operation.invoked_ns):
        doubtful, looks = operation.outcome is Outcome.INFO, observes(operation)
        if doubtful and looks:
            continue  # it may never happen, and nobody could tell if it did
        begun.append((operation, doubtful, looks))
        if operation.completed_ns is not None:
            ends.append(operation.completed_ns)
    shapes: dict[str, dict[Any, tuple[Any, ...]]] = {}
    calls: list[_Call] = []
    fresh = (1 << place for place in count())
    free: list[int] = []
    stages: list[_Stage] = []
    number = doubts = 0
    for end_ns in sorted(ends):
        while number < len(begun) and begun[number][0].invoked_ns <= end_ns:
            operation, doubtful, looks = begun[number]
            bit = free.pop() if free else next(fresh)
            doubts |= bit if doubtful else 0
            successors = shapes.setdefault(_shape(operation), {})
            insort(
                calls, _Call(_end(operation), number, bit, doubtful, looks, successors, operation)
            )
            number += 1
        bit = calls[0].bit
        stages.append(_Stage(bit, tuple(calls), _twins(calls), doubts, {}))
        del calls[0]
        doubts &= ~bit
        free.append(bit)
    return stages


def _looks_like_a_change(_: Operation) -> bool:
    return False


def _shape(operation: Operation) -> str:
    asked = (operation.function, operation.argument, operation.outcome is Outcome.INFO)
    return repr((asked, operation.result, operation.error))


def _twins(calls: Sequence[_Call]) -> tuple[int, ...]:
    if len(calls) == 1:
        return (0,)
    sooner: dict[int, int] = {}
    twins = []
    for call in calls:
        shape = id(call.successors)
        twins.append(sooner.get(shape, 0))
        sooner[shape] = call.bit
    return tuple(twins)


def _moves(stage: _Stage, state: Hashable, model: Model[Any]) -> _Moves:
    """What can happen in this state, remembered."""
    looks = 0
    changes = []
    for call, twin in zip(stage.calls, stage.twins, strict=True):
        _, _, bit, doubtful, observes, successors, operation = call
        after = successors.get(state)
        if after is None:
            step = model.step(state, operation)
            after = successors[state] = () if isinstance(step, Refusal) else step
        if doubtful:
            after = tuple([other for other in after if other != state])
        if observes and after:
            looks |= bit
        elif after:
            changes.append((bit, twin, after))
    changes.reverse()  # what returns first is tried first, and a stack gives back the last
    moves = stage.moves[state] = looks, changes
    return moves


class _Search(NamedTuple):
    """How a search ended: `linearizable` is None when its budget did.

    `stuck` are the stages up to that which no configuration got past.
    """

    linearizable: bool | None
    steps: int
    entries: int
    stuck: list[_Stage]


def _search(operations: Sequence[Operation], model: Model[Any], budget: Budget) -> _Search:
    """Search with the smallest model that judges these operations the same."""
    if isinstance(model, Narrowing):
        model = model.narrowed(operations)
    return _explore(operations, model, budget)


def _explore(operations: Sequence[Operation], model: Model[Any], budget: Budget) -> _Search:
    """Go depth first through configurations: how many returns are past, the state, what happened.

    Of the operations still open, that is: whatever returned has happened, or was doubtful.
    """
    stages = _stages(operations, model)
    met: list[dict[tuple[Any, int], list[int]]] = [{} for _ in stages]
    todo: list[tuple[int, Any, int]] = [(0, model.initial(), 0)]
    steps = entries = deepest = 0
    while todo:
        past, state, done = todo.pop()
        while past < len(stages):  # until something open has to be chosen
            stage = stages[past]
            looks, changes = stage.moves.get(state) or _moves(stage, state, model)
            steps += len(stage.calls)
            done |= looks
            if not done & stage.returned:
                break
            done &= ~stage.returned
            past += 1
        else:
            return _Search(linearizable=True, steps=steps, entries=entries, stuck=[])
        deepest = max(deepest, past)
        happened = done & stage.doubtful
        alike = met[past].setdefault((state, done ^ happened), [])
        if happened in alike or any(other & happened == other for other in alike):
            continue  # the same was met, with less of the doubtful done: it can do all this can
        alike.append(happened)
        entries += 1
        if steps > budget.steps or entries + len(todo) > budget.entries:
            return _Search(linearizable=None, steps=steps, entries=entries, stuck=[])
        for bit, twin, after in changes:
            if not done & bit and done & twin == twin:
                todo += [(past, other, done | bit) for other in after]
        if stage.returned & stage.doubtful:
            todo.append((past + 1, state, done))
    stuck = stages[: deepest + 1]
    return _Search(linearizable=False, steps=steps, entries=entries, stuck=stuck)


def _anomaly(
    operations: Sequence[Operation],
    search: _Search,
    model: Model[Any],
    promise: Promise,
    where: str,
) -> Anomaly:
    evidence = _proof(operations, search, model) or _overlap(search.stuck)
    last = evidence[-1]
    message = f"{last}, said to process {last.process}, fits no order of what else was done{where}"
    accepted = _accepted(evidence, model)
    return Anomaly(promise, message, evidence, "not-linearizable", accepted)


def _proof(
    operations: Sequence[Operation], search: _Search, model: Model[Any]
) -> tuple[Operation, ...] | None:
    """Find a few operations that fit no order whatever else happened or not, the stuck one last.

    To forget whether an operation happened, and what it answered, can only allow more orders. So
    all are forgotten but the few without which there is one; and of the forgotten, those are told
    again without which what was known of these few before would fit no order either. None if that
    is too much work, measured by the search before.
    """
    stuck = search.stuck[-1].calls[0].operation
    assert stuck.completed_ns is not None
    now_ns = stuck.completed_ns
    seen = [op for op in operations if op.invoked_ns <= now_ns and op is not stuck]
    seen.sort(key=lambda op: (_end(op) < now_ns, _end(op)))  # what ended last tells most
    steps = search.steps + 500_000

    def linearizable(chosen: Sequence[Operation]) -> bool | None:
        nonlocal steps
        again = _search(chosen, model, Budget(steps))
        steps = max(steps - again.steps - len(chosen), 0)
        return again.linearizable

    def contradict(kept: Sequence[Operation]) -> bool:
        forgotten = [_doubted(operation, now_ns) for operation in _without(seen, kept)]
        return linearizable([*forgotten, *kept, stuck]) is False

    certain = _fewest([op for op in seen if op.outcome is not Outcome.INFO], contradict)
    if certain is None:
        return None

    def explain(kept: Sequence[Operation]) -> bool:
        return linearizable([_known(operation, now_ns) for operation in (*certain, *kept)]) is True

    needed = _fewest(_without(seen, certain), explain) or []
    return (*sorted((*certain, *needed), key=lambda op: op.invoked_ns), stuck)


def _end(operation: Operation) -> float:
    return inf if operation.completed_ns is None else operation.completed_ns


def _doubted(operation: Operation, now_ns: int) -> Operation:
    """The same operation, of which nobody knows whether it happened."""
    ended_ns = operation.completed_ns
    return Operation(
        operation.process,
        operation.function,
        operation.argument,
        Outcome.INFO,
        operation.invoked_ns,
        None if ended_ns is None or ended_ns >= now_ns else ended_ns,
    )


def _known(operation: Operation, now_ns: int) -> Operation:
    """What was known of the operation just before that time."""
    ended_ns = operation.completed_ns
    return operation if ended_ns is not None and ended_ns < now_ns else _doubted(operation, now_ns)


def _without(operations: Sequence[Operation], dropped: Sequence[Operation]) -> list[Operation]:
    ids = {id(operation) for operation in dropped}
    return [operation for operation in operations if id(operation) not in ids]


def _fewest(
    operations: Sequence[Operation], suffice: Callable[[Sequence[Operation]], bool]
) -> list[Operation] | None:
    """Drop what is not needed: all but the last few, then ever smaller pieces of those.

    None if not even the last 256 suffice.
    """
    for size in (0, 4, 16, 64, 256):
        kept = list(operations[max(len(operations) - size, 0) :])
        if suffice(kept):
            break
    else:
        return None
    piece = len(kept) // 2
    while piece:
        start = 0
        while start < len(kept):
            fewer = kept[:start] + kept[start + piece :]
            if suffice(fewer):
                kept = fewer
            else:
                start += piece
        piece //= 2
    return kept


def _overlap(stuck: Sequence[_Stage]) -> tuple[Operation, ...]:
    """The operation that fits no order, and before it those that overlap it."""
    last, *others = (call.operation for call in stuck[-1].calls)
    ended = (stage.calls[0].operation for stage in stuck[:-1])
    return (*(op for op in ended if not op.precedes(last)), *others, last)


def _accepted(evidence: Sequence[Operation], model: Model[Any]) -> tuple[Any, ...]:
    """Every result that the last operation could have had, if the model can list them."""
    *others, last = evidence
    assert last.completed_ns is not None
    known = [_known(operation, last.completed_ns) for operation in others]
    search = _explore([*known, last], model, Budget(steps=500_000))
    if search.linearizable is not False or search.stuck[-1].calls[0].operation is not last:
        return ()
    accepted: list[Any] = []
    for state in search.stuck[-1].moves:
        refusal = model.step(state, last)
        if not isinstance(refusal, Refusal) or not refusal.accepted:
            return ()
        accepted += (result for result in refusal.accepted if result not in accepted)
    return tuple(accepted)
