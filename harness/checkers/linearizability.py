"""Checks that a history is linearizable: each operation happens at one instant of its interval.

The search of Wing and Gong ("Testing and verifying concurrent objects", JPDC 1993), with Lowe's two
improvements ("Testing for linearizability", CCPE 2017): operations are linearized just in time,
when one returns that was not linearized yet; and a known configuration is not entered again. It
runs per partition (Horn and Kroening, "Faster linearizability checking via P-compositionality",
FORTE 2015). Four rules make it small, none of which changes a verdict:

- An operation that only observes is linearized as soon as it is legal: it blocks no other.
- Of two configurations that differ only in which doubtful operations happened, the one with fewer
  of them can do everything that the other can, so the other is not entered.
- Operations with the same call and the same outcome take the same steps, in order of their ends.
- States that no operation of the history can separate are merged, where the model can say so.

The module knows no clock: a counted budget ends a search, and then the verdict is *unknown*.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Any, NamedTuple, TypeAlias

from harness.checkers.conformance import known_at
from harness.core.checker import Checker
from harness.core.contract import Promise
from harness.core.history import History, Operation, Outcome
from harness.core.model import Model, Refusal, State
from harness.core.verdict import VALID, Anomaly, Verdict
from harness.models.narrowing import Narrowing, Observing


@dataclass(frozen=True, slots=True)
class Budget:
    """How far the search of one partition may go before the verdict is unknown.

    `steps` counts the open operations that it examines, `entries` the configurations in memory.
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

    `partition` names the independent object that an operation concerns; `counts` says which
    operations are judged at all. A step of the model may depend on the call and its outcome, not
    on the process or the time. An *info* operation may take effect at any time after its
    invocation, or never; one that carries a completion, not after that.

    The evidence is a proof by itself: no order explains these operations, but an order explains
    what was known of the others before the last one ended. Where that proof costs too much, the
    evidence is the operation that fits no order, and those that overlap it. Partitions are searched
    from small to large, up to the first anomaly.
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
    """An operation that was invoked and has not returned yet. Sorts by its end."""

    end: float
    number: int
    bit: int  # set in a configuration in which it has happened
    doubtful: bool  # it may never happen
    observes: bool
    successors: dict[Any, tuple[Any, ...]]  # by state, as far as known; shared by its shape
    operation: Operation


# The moves of one state: the bits of the legal calls that only read, and for each legal call that
# changes the state its bit, its twin, and the states after it.
_Moves: TypeAlias = tuple[int, list[tuple[int, int, tuple[Any, ...]]]]


class _Return(NamedTuple):
    """A return, and the calls that are open then, in order of their ends: the first one returns.

    A call's twin is the bit of the call of its shape with the next earlier end, which happens
    before it; or 0.
    """

    returned: int  # the bit of the first call
    calls: tuple[_Call, ...]
    twins: tuple[int, ...]
    doubtful: int  # the bits of the calls that may never happen
    moves: dict[Any, _Moves]  # by state, as far as known


def _returns(operations: Sequence[Operation], model: Model[Any]) -> list[_Return]:
    """Cut a history at its returns. A bit is used again once its operation has returned."""
    observes = model.observes if isinstance(model, Observing) else _observes_nothing
    begun, ends = [], []
    for operation in sorted(operations, key=lambda operation: operation.invoked_ns):
        doubtful, reads = operation.outcome is Outcome.INFO, observes(operation)
        if doubtful and reads:
            continue  # it may never happen, and has no effect if it does
        begun.append((operation, doubtful, reads))
        if operation.completed_ns is not None:
            ends.append(operation.completed_ns)
    shapes: dict[str, dict[Any, tuple[Any, ...]]] = {}
    calls: list[_Call] = []
    fresh = (1 << position for position in count())
    free: list[int] = []
    returns: list[_Return] = []
    number = doubts = 0
    for end_ns in sorted(ends):
        while number < len(begun) and begun[number][0].invoked_ns <= end_ns:
            operation, doubtful, reads = begun[number]
            bit = free.pop() if free else next(fresh)
            doubts |= bit if doubtful else 0
            successors = shapes.setdefault(_shape(operation), {})
            insort(
                calls, _Call(_end(operation), number, bit, doubtful, reads, successors, operation)
            )
            number += 1
        bit = calls[0].bit
        returns.append(_Return(bit, tuple(calls), _twins(calls), doubts, {}))
        del calls[0]
        doubts &= ~bit
        free.append(bit)
    return returns


def _observes_nothing(_: Operation) -> bool:
    return False


def _shape(operation: Operation) -> str:
    call = (operation.function, operation.argument, operation.outcome is Outcome.INFO)
    return repr((call, operation.result, operation.error))


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


def _moves(current: _Return, state: Hashable, model: Model[Any]) -> _Moves:
    """The moves of this state, stored for the next time."""
    reads = 0
    changes = []
    for call, twin in zip(current.calls, current.twins, strict=True):
        _, _, bit, doubtful, observes, successors, operation = call
        after = successors.get(state)
        if after is None:
            step = model.step(state, operation)
            after = successors[state] = () if isinstance(step, Refusal) else step
        if doubtful:
            after = tuple([other for other in after if other != state])
        if observes and after:
            reads |= bit
        elif after:
            changes.append((bit, twin, after))
    changes.reverse()  # the call that returns first is tried first: a stack returns the last item
    moves = current.moves[state] = reads, changes
    return moves


class _Search(NamedTuple):
    """The result of a search: `linearizable` is None if the budget ended it.

    `stuck` holds the returns up to the one that no configuration could pass.
    """

    linearizable: bool | None
    steps: int
    entries: int
    stuck: list[_Return]


def _search(operations: Sequence[Operation], model: Model[Any], budget: Budget) -> _Search:
    """Search with the smallest model that judges these operations the same."""
    if isinstance(model, Narrowing):
        model = model.narrowed(operations)
    return _explore(operations, model, budget)


def _explore(operations: Sequence[Operation], model: Model[Any], budget: Budget) -> _Search:
    """Search configurations depth first: the number of passed returns, the state, what happened.

    Only the bits of open operations are needed: a returned one has happened, or was doubtful.
    """
    returns = _returns(operations, model)
    met: list[dict[tuple[Any, int], list[int]]] = [{} for _ in returns]
    todo: list[tuple[int, Any, int]] = [(0, model.initial(), 0)]
    steps = entries = deepest = 0
    while todo:
        past, state, done = todo.pop()
        while past < len(returns):  # until an open call has to be chosen
            current = returns[past]
            reads, changes = current.moves.get(state) or _moves(current, state, model)
            steps += len(current.calls)
            done |= reads
            if not done & current.returned:
                break
            done &= ~current.returned
            past += 1
        else:
            return _Search(linearizable=True, steps=steps, entries=entries, stuck=[])
        deepest = max(deepest, past)
        happened = done & current.doubtful
        alike = met[past].setdefault((state, done ^ happened), [])
        if happened in alike or any(other & happened == other for other in alike):
            continue  # the same with fewer doubtful operations is known: it can do all this can
        alike.append(happened)
        entries += 1
        if steps > budget.steps or entries + len(todo) > budget.entries:
            return _Search(linearizable=None, steps=steps, entries=entries, stuck=[])
        for bit, twin, after in changes:
            if not done & bit and done & twin == twin:
                todo += [(past, other, done | bit) for other in after]
        if current.returned & current.doubtful:
            todo.append((past + 1, state, done))
    stuck = returns[: deepest + 1]
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
    states, refusals = _refusals(evidence, model)
    accepted = _accepted(refusals)
    return Anomaly(
        promise,
        f"{last.call} by process {last.process} fits no order of the other operations{where}",
        evidence,
        "not-linearizable",
        accepted,
        also=_promises(refusals, promise),
        expected=" or ".join(map(repr, accepted)) or "a result that some order explains",
        observed=last.answer,
        state=known_at(model, states[0], last, refusals[0]) if len(states) == 1 else (),
    )


def _proof(
    operations: Sequence[Operation], search: _Search, model: Model[Any]
) -> tuple[Operation, ...] | None:
    """Find a few operations that fit no order whatever the others did, the stuck one last.

    An operation whose outcome is forgotten can only allow more orders. So the outcomes of all
    operations are forgotten except the few without which an order exists. Of the forgotten ones,
    those are restored without which the others' outcomes before the last one would have no order
    either. None if that costs too much, measured by the search before.
    """
    stuck = search.stuck[-1].calls[0].operation
    assert stuck.completed_ns is not None
    now_ns = stuck.completed_ns
    seen = [op for op in operations if op.invoked_ns <= now_ns and op is not stuck]
    seen.sort(key=lambda op: (_end(op) < now_ns, _end(op)))  # the latest ends matter most
    steps = search.steps + 500_000

    def linearizable(chosen: Sequence[Operation]) -> bool | None:
        nonlocal steps
        again = _search(chosen, model, Budget(steps))
        steps = max(steps - again.steps - len(chosen), 0)
        return again.linearizable

    def contradict(chosen: Sequence[Operation]) -> bool:
        forgotten = [_doubted(operation, now_ns) for operation in _without(seen, chosen)]
        return linearizable([*forgotten, *chosen, stuck]) is False

    certain = _fewest([op for op in seen if op.outcome is not Outcome.INFO], contradict)
    if certain is None:
        return None

    def explain(chosen: Sequence[Operation]) -> bool:
        known = [_known(operation, now_ns) for operation in (*certain, *chosen)]
        return linearizable(known) is True

    needed = _fewest(_without(seen, certain), explain) or []
    return (*sorted((*certain, *needed), key=lambda op: op.invoked_ns), stuck)


def _end(operation: Operation) -> float:
    return inf if operation.completed_ns is None else operation.completed_ns


def _doubted(operation: Operation, now_ns: int) -> Operation:
    """The same operation with an unknown outcome."""
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
    """The operation with the outcome that was known just before that time."""
    ended_ns = operation.completed_ns
    return operation if ended_ns is not None and ended_ns < now_ns else _doubted(operation, now_ns)


def _without(operations: Sequence[Operation], dropped: Sequence[Operation]) -> list[Operation]:
    ids = {id(operation) for operation in dropped}
    return [operation for operation in operations if id(operation) not in ids]


def _fewest(
    operations: Sequence[Operation], suffice: Callable[[Sequence[Operation]], bool]
) -> list[Operation] | None:
    """Drop operations that are not needed: all but the last few, then ever smaller pieces of those.

    None if not even the last 256 suffice.
    """
    for size in (0, 4, 16, 64, 256):
        chosen = list(operations[max(len(operations) - size, 0) :])
        if suffice(chosen):
            break
    else:
        return None
    piece = len(chosen) // 2
    while piece:
        start = 0
        while start < len(chosen):
            fewer = chosen[:start] + chosen[start + piece :]
            if suffice(fewer):
                chosen = fewer
            else:
                start += piece
        piece //= 2
    return chosen


def _overlap(stuck: Sequence[_Return]) -> tuple[Operation, ...]:
    """The operation that fits no order, and before it those that overlap it."""
    last, *others = (call.operation for call in stuck[-1].calls)
    ended = (current.calls[0].operation for current in stuck[:-1])
    return (*(op for op in ended if not op.precedes(last)), *others, last)


def _refusals(
    evidence: Sequence[Operation], model: Model[Any]
) -> tuple[list[Hashable], list[Refusal]]:
    """The states that the others can lead to, and why each refuses the last operation.

    None where that is unknown.
    """
    *others, last = evidence
    assert last.completed_ns is not None
    known = [_known(operation, last.completed_ns) for operation in others]
    search = _explore([*known, last], model, Budget(steps=500_000))
    if search.linearizable is not False or search.stuck[-1].calls[0].operation is not last:
        return [], []
    states = [*search.stuck[-1].moves]
    steps = [model.step(state, last) for state in states]
    refusals = [step for step in steps if isinstance(step, Refusal)]
    return (states, refusals) if len(refusals) == len(steps) else ([], [])


def _accepted(refusals: Sequence[Refusal]) -> tuple[Any, ...]:
    """Every result that the last operation could have had, if the model can list them."""
    if not all(refusal.accepted for refusal in refusals):
        return ()
    accepted: list[Any] = []
    for refusal in refusals:
        accepted += (result for result in refusal.accepted if result not in accepted)
    return tuple(accepted)


def _promises(refusals: Sequence[Refusal], promise: Promise) -> tuple[Promise, ...]:
    """The further promises that the last operation breaks in whatever order the others happened."""
    named = [(refusal.promise, *refusal.also) for refusal in refusals]
    first, *others = named or [()]
    return tuple(
        broken
        for broken in dict.fromkeys(first)
        if broken != promise and all(broken in also for also in others)
    )
