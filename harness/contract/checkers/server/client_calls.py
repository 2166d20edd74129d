"""The calls of the clients of a server, as far as what they answer depends on each other."""

from __future__ import annotations

from functools import cached_property

from harness.contract import promises
from harness.contract.agent_script import Script
from harness.contract.checkers.server.client_history import ClientHistory
from harness.core.history import Operation, Outcome
from harness.core.verdict import Anomaly

SLACK_NS = 1_000_000_000  # between the death of a server and the call that says so
CALL_NS_MAX = 25_000_000_000  # a call that is not answered is given up before that
OPEN_NS_MIN = 15_000_000_000  # a client calls a stream open after a longer silence only
GRACE_NS = 50_000_000_000  # a channel without readers stays at least as long
RUNS_KEPT = 8  # of a session; the journal of an older run may be gone
ENDED = ("bg_task_complete", "process_complete")


class Calls:
    """A history of clients with indexes of what its runs and servers did."""

    def __init__(self, view: ClientHistory) -> None:
        """Each index is computed when it is first used."""
        self.view = view

    @cached_property
    def down(self) -> list[tuple[int, int]]:
        """The intervals in which there was no server, or a dying one."""
        boots = self.view.all("boot")
        intervals = []
        for death in self.view.all("kill", "terminate"):
            later = [boot.completed_ns for boot in boots if boot.invoked_ns >= death.invoked_ns]
            until = later[0] if later and later[0] is not None else 1 << 63
            intervals.append((death.invoked_ns - SLACK_NS, until + SLACK_NS))
        return intervals

    def is_struck(self, operation: Operation) -> bool:
        """Whether the server was down, or a fault active, while this call was under way."""
        ended_ns = operation.completed_ns or operation.invoked_ns + CALL_NS_MAX
        faults = ((fault.began_ns, fault.healed_ns) for fault in self.view.history.faults)
        return any(
            began_ns <= ended_ns and (until_ns is None or until_ns >= operation.invoked_ns)
            for began_ns, until_ns in (*self.down, *faults)
        )

    @cached_property
    def rest(self) -> Operation | None:
        """The first call that found the server at rest."""
        return next((op for op in self.view.done("rest") if not op.result["left"]), None)

    def is_at_rest(self, operation: Operation) -> bool:
        """Whether all clients were done before this call."""
        return self.rest is not None and self.rest.precedes(operation)

    @cached_property
    def spawners(self) -> set[str]:
        """The sessions in which processes were started, or turns of unknown outcome."""
        return {
            op.argument["session"]
            for op in self.view.all("send")
            if op.outcome is Outcome.INFO or Script.parse(op.argument["text"]).processes
        }

    @cached_property
    def has_both_notices(self) -> bool:
        """Whether this server announces each end by both notices."""
        rows_ = (row for op in self.view.done("watch") for row in op.result["rows"])
        return {row[1] for row in rows_}.issuperset(ENDED)

    def removed_since(self, session: str, since: Operation) -> bool:
        """Whether messages of the session may have been removed after an operation began."""
        removals = (*self.view.cuts.get(session, ()), *self.view.deletes.get(session, ()))
        return any(not removal.precedes(since) for removal in removals)

    def effective_cancels(self, run: str, without: Operation | None = None) -> list[Operation]:
        """The cancels of a run that may have ended it."""
        return [
            op
            for op in self.view.cancels.get(run, ())
            if op is not without
            and (op.outcome is Outcome.INFO or (op.outcome is Outcome.OK and op.result is True))
        ]


def malformed_answer(operation: Operation, expected: str) -> Anomaly:
    """The anomaly of an answer that has another form than its function gives."""
    return Anomaly(
        promises.H2,
        f"{operation.call} was answered with something else than {expected}",
        (operation,),
        "malformed",
        also=(promises.T1, promises.S15),
        expected=expected,
        observed=operation.answer,
    )


def is_held(sent: Operation) -> bool:
    """Whether the run that was asked for holds until it is released."""
    return Script.parse(sent.argument["text"]).is_held
