"""Model of turns of every kind: what a turn shows is what it is, what is kept, and what ends."""

from __future__ import annotations

from harness.contract import promises
from harness.contract.models.facts import NOT_ANSWERED, FactsModel
from harness.contract.models.walks import Asked
from harness.core.contract import Promise

LISTS = {"ways": Asked("way", "name"), "way": Asked("fact", "name")}
# What each view must show, and the promises about that; the first one is named.
_VIEWS: dict[str, tuple[str, tuple[Promise, ...]]] = {
    "answered": ("an answer, in time", (promises.H2, promises.H6)),
    "ends": ("one end, behind which the stream closes", (promises.T3, promises.C6)),
    "numbered": ("numbers without a gap", (promises.C1, promises.C2, promises.T5)),
    "own": ("its own session and run", (promises.C5, promises.T7)),
    "shown": ("each step, in order, once", (promises.C3, promises.T5)),
    "again": ("the rest, exactly", (promises.C4, promises.C3, promises.C2)),
    "resumable": ("numbers, as a replay has", (promises.C2, promises.C4)),
    "next": ("a turn that begins", (promises.T8, promises.T3)),
    "idle": ("no run", (promises.T3, promises.S14)),
    "busy": ("a run", (promises.C7, promises.S14)),
    "kept": ("all that was shown, once", (promises.S2, promises.S14)),
    "final": ("all that was shown, once", (promises.S14, promises.C3)),
    "kept at its end": ("all that was shown, once", (promises.T4, promises.S2)),
    "titled": ("one title", (promises.S14, promises.S15)),
    "stopped": ("a run that is stopped", (promises.T4, promises.T3)),
    "left": ("no entry for the run", (promises.T3, promises.H4)),
    "counted": ("the tokens of the turn", (promises.S14, promises.D13)),
    "asked": ("the question, in every view", (promises.C7, promises.S15, promises.C3)),
    "asked no more": ("no question", (promises.T3, promises.S14, promises.S15)),
    "answered once": ("no question that was answered", (promises.S15, promises.S14)),
    "agreed": ("the same questions in every view", (promises.S14, promises.S15)),
    "another answer": ("a question that waits on", (promises.T9, promises.T7)),
    "set": ("each setting as it was set", (promises.S15, promises.S9, promises.S14)),
    "woken": ("a turn of the wakeup", (promises.W2, promises.W5)),
    "sourced": ("the same origin, live and kept", (promises.S14, promises.W1)),
    "forgotten": ("nothing of it", (promises.S14, promises.S11)),
    "pursued": ("a word on the goal", (promises.T9, promises.C3)),
    "released": ("what there was before", (promises.H4, promises.C11)),
    "begun": ("a turn that goes on", (promises.H6, promises.T8)),
    "cursor": ("events, a snapshot or a refusal", (promises.C4, promises.H2)),
    "read too": ("the rest, to each of its readers", (promises.C3, promises.C4)),
    "one agent": ("the agent that the session has had", (promises.A1, promises.L7)),
    "named": ("the session of the turn", (promises.T7, promises.T9)),
    "given": ("the settings that its session shows", (promises.T9, promises.S14)),
    "learned": ("a word on the turn", (promises.C3, promises.C7)),
    "alone": ("a message of its own", (promises.S14, promises.T4)),
    "filed": ("its title in the database too", (promises.S14,)),
    "taken": ("an answer that reaches its turn", (promises.T9, promises.S2)),
}
# The promise of a difference, by how it begins.
_KINDS = (
    ("it stays open", promises.C6),
    ("a gap", promises.C3),
    *NOT_ANSWERED,
)

TURN_FACTS = FactsModel("turns of every kind", LISTS, _VIEWS, _KINDS, struck="struck")
