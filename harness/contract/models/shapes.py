"""Model of sessions of many shapes: each route shows the same of them, and all that was said."""

from __future__ import annotations

from harness.contract import promises
from harness.contract.models.facts import NOT_ANSWERED, FactsModel
from harness.contract.models.walks import Asked
from harness.core.contract import Promise

LISTS = {"rounds": Asked("round", "kind"), "round": Asked("fact", "name")}
KEEPS = "all messages, in their order, each once"
# What each view, or change, must show, and the promises about that; the first one is named.
_VIEWS: dict[str, tuple[str, tuple[Promise, ...]]] = {
    "made": ("a session", (promises.S15, promises.H2)),
    "whole": (KEEPS, (promises.S14, promises.S2, promises.S13)),
    "tail": ("the end of all messages", (promises.S14, promises.S15)),
    "paged": ("pages that are all messages", (promises.S14, promises.C3)),
    "listed": ("the same title and count", (promises.S14, promises.S15, promises.S11)),
    "found": ("what is there, and no more", (promises.S14, promises.S15)),
    "unchanged": ("the time of the last change", (promises.S8,)),
    "idle": ("no run", (promises.T3, promises.S14)),
    "sound": ("no failure of a turn that ended well", (promises.T3, promises.S14)),
    "exported": (KEEPS, (promises.S14, promises.S2)),
    "marked": ("each mark that was set", (promises.S15, promises.S14)),
    "former": ("what was said before", (promises.S2, promises.S14)),
    "linked": ("the session that it comes from", (promises.S14, promises.S2)),
    "ordered": ("each call in its turn", (promises.S14,)),
    "fields": ("each field of a message", (promises.S14, promises.S2)),
    "called": ("each call of a tool, once", (promises.S14, promises.S2)),
    "context": ("a history for the agent that has the same", (promises.S14, promises.S6)),
    "heard": ("a history for the agent that has it", (promises.S13, promises.S14)),
    "reported": ("the error that was shown", (promises.S13, promises.S14)),
    "elsewhere": ("the same sessions", (promises.H7, promises.S15)),
    "metadata": ("the same count without messages", (promises.S14, promises.S15)),
    "again": ("the same, read twice", (promises.S14, promises.S15)),
    **dict.fromkeys(
        ("row", "short", "status", "usage", "download", "stored", "recorded"),
        ("the same as the session", (promises.S14, promises.S15, promises.S11)),
    ),
    "doors": ("one answer to one question", (promises.S15, promises.H2, promises.S12)),
    "asked": ("an answer to a page", (promises.S15, promises.H2)),
    "managed": ("what was done, or no trace", (promises.S15, promises.S14, promises.T9)),
    "exchanged": ("what was exported", (promises.S14, promises.S2)),
    "imported again": ("all messages of the other program", (promises.S2, promises.S14)),
    "shown kinds": ("the sessions of the kinds that it shows", (promises.S15, promises.S11)),
    "guarded": ("the same refusals", (promises.S14, promises.S2)),
    "drafted": ("the draft", (promises.S15,)),
    "set": ("the other settings as they were", (promises.S15, promises.S14)),
    "settings": ("each setting that was set", (promises.S15, promises.S14)),
    "insights": ("each session once", (promises.S14, promises.S11)),
    "projects": ("each project that was made", (promises.S15, promises.S14, promises.S6)),
    "recovered": ("what recovery did, and what it could not do", (promises.S16,)),
    "copied": ("what the files have, or what no file has any more", (promises.S14, promises.S2)),
    "no others": ("the sessions that were made", (promises.S11, promises.S6, promises.S14)),
    "continued": ("a turn that knows all messages", (promises.S14, promises.S2)),
    "given": ("the settings that its session shows", (promises.T9, promises.S14)),
    "routed": ("a refusal, without a trace", (promises.H2, promises.S14)),
    "filtered": ("the rows of the whole list", (promises.S14, promises.S15, promises.S11)),
    "window": ("the same as the session", (promises.S14, promises.S15)),
    "beside a lock": (
        "a file that only the holder of its lock writes",
        (promises.S7, promises.S9, promises.S2),
    ),
    "cut short": ("a session without its last turn", (promises.S6, promises.S15)),
    "forks": ("the first messages", (promises.S14, promises.S2)),
    "copies": (KEEPS, (promises.S14, promises.S2, promises.S3)),
    "asked aside": ("an answer", (promises.S15, promises.T3)),
    "questions": ("each question in its session", (promises.C5, promises.T3)),
    "worked aside": ("one result", (promises.T3, promises.S15)),
    "deleted": ("a session that is gone", (promises.S15, promises.S6)),
    "gone": ("nothing of a deleted session", (promises.S6, promises.S14, promises.S11)),
}
# The promise of a difference, by how it begins.
_KINDS = (
    ("lost to the agent", promises.S13),
    ("lost", promises.S2),
    ("surplus", promises.S6),
    ("it is not listed", promises.S11),
    ("it is listed twice", promises.S11),
    ("it waits", promises.H6),
    ("a search finds what was removed", promises.S6),
    *NOT_ANSWERED,
)

SHAPE_FACTS = FactsModel("shapes", LISTS, _VIEWS, _KINDS)
