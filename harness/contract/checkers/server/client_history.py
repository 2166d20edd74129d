"""Visits: what many clients of one server asked and saw, by session, by run and by message.

A view of a history that checkers share. Its functions are those of `harness/contract/clients/session_client.py`, and the
server's lives: `boot`, `kill`, `terminate`, `kept`. A message's text is never sent for two
purposes: a text that is sent again was refused before.

When the storm is over somebody asks the server to `rest`. Whatever is read after that is *quiet*,
and the last of it is the truth about what nobody knows.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from harness.core.history import History, Operation, Outcome

OK, CONFLICT = 200, 409
HOLDS = re.compile(r"\[(?:sleep=\d{3,}|hang)\]")  # until it is cancelled, or for ever
FAILS = re.compile(r"\[(?:fail|exit)\]")
TOKENS = re.compile(r"\[tokens=(\d+)\]")
TERMINAL = frozenset({"stream_end", "cancel", "apperror", "error"})
NO_WRITES = "writes no file"  # in the name of a fault that refuses the server its disk
Row = tuple[str, str, str]


class Visits:
    """One history, looked at in many ways."""

    def __init__(self, history: History) -> None:
        """Sort the operations by their functions."""
        self.history = history
        self._by_function: dict[str, list[Operation]] = defaultdict(list)
        for operation in history:
            self._by_function[operation.function].append(operation)

    def all(self, *functions: str) -> list[Operation]:
        """Every operation of these functions, whatever became of it."""
        return [op for function in functions for op in self._by_function[function]]

    def done(self, *functions: str) -> list[Operation]:
        """Those that are known to have happened."""
        return [op for op in self.all(*functions) if op.outcome is Outcome.OK]

    # Turns

    @cached_property
    def accepted(self) -> list[Operation]:
        """The sends that were acknowledged, in the order in which they were."""
        sent = [op for op in self.done("send") if op.result["status"] == OK]
        return sorted(sent, key=lambda op: op.completed_ns or 0)

    @cached_property
    def sends(self) -> dict[str, list[Operation]]:
        """All sends by their texts."""
        return _grouped(self.all("send"), "text")

    @cached_property
    def accepted_in(self) -> dict[str, list[Operation]]:
        """The acknowledged sends by session."""
        return _grouped(self.accepted, "session")

    @cached_property
    def runs(self) -> dict[str, Operation]:
        """The acknowledged sends by their runs."""
        return {op.result["run"]: op for op in self.accepted}

    @cached_property
    def relays(self) -> dict[str, list[Operation]]:
        """What was read of each run."""
        return _grouped(self.done("relay"), "run")

    @cached_property
    def cancels(self) -> dict[str, list[Operation]]:
        """Who wanted to cancel each run."""
        return _grouped(self.all("cancel"), "run")

    # What was removed

    @cached_property
    def cuts(self) -> dict[str, list[Operation]]:
        """What may have removed messages, by session."""
        cuts = [op for op in self.all("clear", "truncate") if op.outcome is not Outcome.FAIL]
        return _grouped(cuts, "session")

    @cached_property
    def deletes(self) -> dict[str, list[Operation]]:
        """What may have deleted sessions, by session."""
        deletes = [op for op in self.all("delete") if op.outcome is not Outcome.FAIL]
        return _grouped(deletes, "session")

    def removers(self, session: str, text: str, since: Operation) -> list[Operation]:
        """What may have removed a message that was seen or sent by this operation."""
        late = [op for op in self.cuts.get(session, ()) if not op.precedes(since)]
        cuts = [op for op in late if text not in spared(op)]
        return [*cuts, *(op for op in self.deletes.get(session, ()) if not op.precedes(since))]

    # What was seen

    @cached_property
    def reads(self) -> dict[str, list[Operation]]:
        """What was read of each session."""
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

    # What befell the server

    def deaths_since(self, operation: Operation) -> list[Operation]:
        """The server's deaths in the storm that this operation may have met, or that came later.

        One that comes when all is at rest strikes nothing.
        """
        rests = self.done("rest")[:1]
        deaths = self.all("kill", "terminate")
        late = (op for op in deaths if not op.precedes(operation))
        return [op for op in late if not any(rest.precedes(op) for rest in rests)]

    def is_refused_since(self, operation: Operation) -> bool:
        """Whether the server was refused its disk, when this operation was made or later."""
        faults = (fault for fault in self.history.faults if NO_WRITES in fault.name)
        return any(
            fault.healed_ns is None or fault.healed_ns > operation.invoked_ns for fault in faults
        )


def rows(read: Operation) -> list[Row]:
    """What a read saw: role, text and mark."""
    return [(role, text, mark) for role, text, mark in read.result["rows"]]


def texts(read: Operation) -> list[str]:
    """The users' messages that a read saw."""
    return [text for role, text, _ in rows(read) if role == "user"]


def spared(cut: Operation) -> list[str]:
    """The texts that a cut was to leave."""
    kept: list[str] = cut.argument["seen"][: cut.argument.get("keep", 0)]
    return kept


def removed(cut: Operation) -> list[str]:
    """The texts that a cut was to remove."""
    gone: list[str] = cut.argument["seen"][cut.argument.get("keep", 0) :]
    return gone


def _grouped(operations: Iterable[Operation], name: str) -> dict[str, list[Operation]]:
    groups: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        groups[operation.argument[name]].append(operation)
    return dict(groups)


def shown(relay: Operation) -> str:
    """The tokens that a reader saw."""
    return "".join(text for _, name, text in relay.result["rows"] if name == "token")


def places(values: Iterable[Any]) -> dict[Any, int]:
    """Where each value comes first."""
    found: dict[Any, int] = {}
    for place, value in enumerate(values):
        found.setdefault(value, place)
    return found
