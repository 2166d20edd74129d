"""Facts about named views of a server: each is an answer that is empty if the view is right.

A workload walks two lists: one of things, and for each thing one of the facts about it. A wrong
fact says how the view differs; how it begins may name a plainer promise than its view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.contract import promises
from harness.contract.models.walks import Asked, Walks, walked
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

NOT_ANSWERED = (("not answered", promises.H2), ("a strange answer", promises.H2))


@dataclass(slots=True, eq=False)
class FactsModel:
    """Each fact is a view of one thing; the state is what is still to be asked.

    `views` has what each view must show, and the promises about that, of which the first is named.
    `kinds` has the promise of a difference, by how it begins. A fact whose name has `struck` in it
    is about what a kill has cut off (S13).
    """

    name: str
    lists: Mapping[str, Asked]
    views: Mapping[str, tuple[str, tuple[Promise, ...]]]
    kinds: tuple[tuple[str, Promise], ...]
    struck: str | None = None
    shows_state: ClassVar[bool] = False

    def initial(self) -> Walks:
        """Nothing was named."""
        return ()

    def adopt(self, state: Walks, operation: Operation) -> tuple[Walks]:
        """Go on with what is still to be asked, if that is known."""
        after = walked(state, operation, self.lists)
        return (state if isinstance(after, str) else after,)

    def evidence(self, past: Sequence[Operation]) -> tuple[Operation, ...]:
        """The last operation, and those that named what is asked: no fact explains another."""
        *earlier, last = past
        return (*(op for op in earlier if op.function != "fact"), last)

    def step(self, state: Walks, operation: Operation) -> tuple[Walks] | Refusal:
        """Judge one answer."""
        if operation.outcome is not Outcome.OK:
            problem = f"{operation.function} was not answered"
            return Refusal(promises.H2, problem, expected="an answer")
        after = walked(state, operation, self.lists)
        if isinstance(after, str):
            return Refusal(promises.H2, f"{operation.function}: wrong names", expected=after)
        if operation.function != "fact" or operation.result == "":
            return (after,)
        name = operation.argument["name"]
        expected, of_view = self.views[name.rpartition(": ")[2]]
        if self.struck is not None and self.struck in name:
            of_view = (promises.S13, *of_view)
        kind = str(operation.result).partition(":")[0]
        begins = (promise for start, promise in self.kinds if kind.startswith(start))
        named = next(begins, of_view[0])
        also = tuple(promise for promise in of_view if promise != named)
        return Refusal(named, f"fact: {name}: {kind}", also=also, expected=expected)
