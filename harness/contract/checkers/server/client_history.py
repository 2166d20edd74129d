"""Indexes of a history of many clients of one server: by session, by run and by message text.

The functions of such a history are those of `harness/contract/clients/session_client.py`, and the
life cycle of the server: `boot`, `kill`, `terminate`, `kept`. No text is sent for two purposes: a
text that is sent again was refused before.

After all faults a client asks the server to `rest`. Reads after that are *quiet*; the last quiet
read of a session decides what became of calls whose outcome is unknown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from harness.core.history import History, Operation, Outcome

OK, CONFLICT = 200, 409
TERMINAL = frozenset({"stream_end", "cancel", "apperror", "error"})
NO_WRITES = "writes no file"  # in the name of a fault that refuses the server its disk
Row = tuple[str, str, str]


class ClientHistory:
    """One history with indexes, each computed when it is first used."""

    def __init__(self, history: History) -> None:
        """Group the operations by function."""
        self.history = history
        self._by_function: dict[str, list[Operation]] = defaultdict(list)
        for operation in history:
            self._by_function[operation.function].append(operation)

    def all(self, *functions: str) -> list[Operation]:
        """Every operation of these functions, of any outcome."""
        return [op for function in functions for op in self._by_function[function]]

    def done(self, *functions: str) -> list[Operation]:
        """The operations of these functions with outcome ok."""
        return [op for op in self.all(*functions) if op.outcome is Outcome.OK]

    # Turns

    @cached_property
    def accepted(self) -> list[Operation]:
        """The acknowledged sends, in the order of their acknowledgements."""
        sends = [op for op in self.done("send") if op.result["status"] == OK]
        return sorted(sends, key=lambda op: op.completed_ns or 0)

    @cached_property
    def sends(self) -> dict[str, list[Operation]]:
        """All sends by text."""
        return _grouped(self.all("send"), "text")

    @cached_property
    def accepted_in(self) -> dict[str, list[Operation]]:
        """The acknowledged sends by session."""
        return _grouped(self.accepted, "session")

    @cached_property
    def runs(self) -> dict[str, Operation]:
        """The acknowledged sends by run."""
        return {op.result["run"]: op for op in self.accepted}

    @cached_property
    def relays(self) -> dict[str, list[Operation]]:
        """The reads of run streams by run."""
        return _grouped(self.done("relay"), "run")

    @cached_property
    def cancels(self) -> dict[str, list[Operation]]:
        """The cancels, of any outcome, by run."""
        return _grouped(self.all("cancel"), "run")

    # Removals

    @cached_property
    def cuts(self) -> dict[str, list[Operation]]:
        """The calls that may have removed messages, by session."""
        cuts = [op for op in self.all("clear", "truncate") if op.outcome is not Outcome.FAIL]
        return _grouped(cuts, "session")

    @cached_property
    def deletes(self) -> dict[str, list[Operation]]:
        """The calls that may have deleted sessions, by session."""
        deletes = [op for op in self.all("delete") if op.outcome is not Outcome.FAIL]
        return _grouped(deletes, "session")

    def removers(self, session: str, text: str, since: Operation) -> list[Operation]:
        """The calls that may have removed a message which `since` sent or observed."""
        late = [op for op in self.cuts.get(session, ()) if not op.precedes(since)]
        cuts = [op for op in late if text not in spared(op)]
        return [*cuts, *(op for op in self.deletes.get(session, ()) if not op.precedes(since))]

    # Reads

    @cached_property
    def reads(self) -> dict[str, list[Operation]]:
        """The reads by session."""
        return _grouped(self.done("read"), "session")

    @cached_property
    def _quiet(self) -> list[Operation]:
        rests = self.done("rest")[:1]
        return [op for op in self.done("read") if rests and rests[0].precedes(op)]

    @cached_property
    def first(self) -> dict[str, Operation]:
        """The first quiet read of each session."""
        return {op.argument["session"]: op for op in reversed(self._quiet)}

    @cached_property
    def final(self) -> dict[str, Operation]:
        """The last quiet read of each session."""
        return {op.argument["session"]: op for op in self._quiet}

    # Faults

    def deaths_since(self, operation: Operation) -> list[Operation]:
        """The kills and terminations that this operation overlaps, or that came later.

        A death after the server came to rest interrupts nothing, and is left out.
        """
        rests = self.done("rest")[:1]
        deaths = self.all("kill", "terminate")
        late = (op for op in deaths if not op.precedes(operation))
        return [op for op in late if not any(rest.precedes(op) for rest in rests)]

    def is_refused_since(self, operation: Operation) -> bool:
        """Whether the server was refused its disk, during this operation or later."""
        faults = (fault for fault in self.history.faults if NO_WRITES in fault.name)
        return any(
            fault.healed_ns is None or fault.healed_ns > operation.invoked_ns for fault in faults
        )


def rows(read: Operation) -> list[Row]:
    """The rows of a read: role, text and mark."""
    return [(role, text, mark) for role, text, mark in read.result["rows"]]


def texts(read: Operation) -> list[str]:
    """The users' messages in a read."""
    return [text for role, text, _ in rows(read) if role == "user"]


def spared(cut: Operation) -> list[str]:
    """The texts that a cut keeps."""
    kept: list[str] = cut.argument["seen"][: cut.argument.get("keep", 0)]
    return kept


def removed(cut: Operation) -> list[str]:
    """The texts that a cut removes."""
    gone: list[str] = cut.argument["seen"][cut.argument.get("keep", 0) :]
    return gone


def _grouped(operations: Iterable[Operation], name: str) -> dict[str, list[Operation]]:
    groups: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        groups[operation.argument[name]].append(operation)
    return dict(groups)


def shown(relay: Operation) -> str:
    """The tokens that a reader of a run's stream received."""
    return "".join(text for _, name, text in relay.result["rows"] if name == "token")


def positions(values: Iterable[Any]) -> dict[Any, int]:
    """The index at which each value comes first."""
    found: dict[Any, int] = {}
    for index, value in enumerate(values):
        found.setdefault(value, index)
    return found
