"""The files, rows and memory that a folder may hold after some operations."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from harness.contract import promises
from harness.contract.models.folder_calls import mend_rows, touch
from harness.contract.models.folder_values import (
    DAMAGED,
    FIELDS,
    State,
    Value,
    World,
    file_names,
    is_busy,
    plain,
    readable,
    row_of,
    sorted_rows,
    text_of,
)
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

_FIELDS_BROKEN: Mapping[str, Promise] = {
    "version": promises.S9,
    "created_at": promises.S9,
    "updated_at": promises.S8,
    "title": promises.S15,
    "intentional_shrink_generation": promises.S6,
    "shrunk_at": promises.S5,
    "truncation_watermark": promises.S6,
}


def wrong_session(
    observed: Value, expected: Value, world: World, function: str
) -> Iterator[tuple[Promise, str]]:
    """Each promise that the differences of two sessions break."""
    if observed.get("messages") != expected.get("messages"):
        seen = Counter(map(str, observed.get("messages") or ()))
        right = Counter(map(str, expected.get("messages") or ()))
        stray, missing = seen - right, right - seen
        if stray and {*stray} <= {*world["removed"]}:
            yield promises.S6, "has a message that the user removed"
        elif stray or not missing:
            yield promises.S1, "has a message that was not written, twice, or in another order"
        if missing:
            promise = promises.S5 if function == "recover" else promises.S2
            yield promise, "lacks a message"
    names = [name for name in expected if observed.get(name) != expected[name]]
    names += [name for name in observed if name not in expected]
    if _counts_more(observed, expected, "intentional_shrink_generation"):
        yield promises.S5, "counts a removal that was none, so nothing lost before it is restored"
    for name in names:
        if name not in ("messages", "message_count"):
            yield _FIELDS_BROKEN.get(name, promises.S2), f"has a wrong {name}"
    if names == ["message_count"]:
        yield promises.S14, "counts its messages wrongly"


def _counts_more(observed: Value, expected: Value, name: str) -> bool:
    """Whether a number is larger than it should be."""
    found, right = observed.get(name), expected[name]
    return isinstance(found, int) and isinstance(right, int) and found > right


def looked(state: State, operation: Operation, seen: Any) -> tuple[State, ...] | Refusal:
    """The worlds that what was seen of the files and of the memory allows."""
    world = state.world
    if operation.outcome is not Outcome.OK or not isinstance(seen, dict) or "disk" not in seen:
        return Refusal(promises.S11, "look() cannot read the folder", expected="its content")
    mend_rows(world)
    if world.pop("unsure", False):
        return (State(text_of(as_observed(world, seen))),)
    worlds = [world, *([json.loads(state.before)] if state.before else [])]
    found = [*_differences(worlds, seen, is_killed=state.was_killed)]
    if not found:
        return (State(text_of(as_observed(world, seen))),)
    promise, message, expected, observed = found[0]
    also = tuple(dict.fromkeys(other for other, *_ in found[1:] if other is not promise))
    return Refusal(
        promise,
        f"look(): {message}",
        also=also,
        expected=json.dumps(expected),
        observed=json.dumps(observed),
    )


Difference = tuple[Promise, str, Any, Any]


def _differences(worlds: list[World], seen: Value, *, is_killed: bool) -> Iterator[Difference]:
    """Each difference between what was seen, and what any of the worlds has."""
    yield from _wrong_sidecars(worlds, seen)
    yield from _wrong_backups(worlds, seen)
    yield from _wrong_files(worlds, seen, is_killed=is_killed)
    is_partial = is_killed or worlds[0].pop("partial", False)
    yield from _wrong_rows(worlds, seen, is_partial=is_partial)
    if not seen["listed"]:
        yield promises.S15, "the list that clients read has other rows", True, False
    yield from _wrong_memory(worlds, seen)


def _wrong_sidecars(worlds: list[World], seen: Value) -> Iterator[Difference]:
    world, disk = worlds[0], seen["disk"]
    reported = world.pop("reported", ())
    for sid in sorted({*disk, *(sid for one in worlds for sid in one["live"])}):
        right = [plain(one["live"].get(sid)) for one in worlds]
        observed = disk.get(sid)
        if sid in reported and observed in right[1:] and observed != right[0]:
            yield promises.S16, f"session {sid} was reported as restored", right[0], observed
        if observed in right:
            continue
        if observed is None:
            yield promises.S2, f"session {sid} is gone", right[0], None
        elif right == [None] * len(right):
            is_old = sid in world["gone"]
            promise = promises.S6 if is_old else promises.S12
            yield promise, f"there is a session {sid}", None, observed
        elif DAMAGED in (observed, right[0]):
            promise = promises.S1 if observed == DAMAGED else promises.S4
            yield promise, f"session {sid} is damaged, or not any more", right[0], observed
        else:
            expected = next(one for one in right if one is not None)
            for promise, problem in wrong_session(observed, expected, world, ""):
                yield promise, f"session {sid} {problem}", expected, observed
            if sid in world.get("restored", ()) and observed["messages"] != expected["messages"]:
                yield promises.S5, f"session {sid} is restored wrongly", expected, observed


def _wrong_backups(worlds: list[World], seen: Value) -> Iterator[Difference]:
    world, disk, baks = worlds[0], seen["disk"], seen["bak"]
    for sid in sorted({*baks, *(sid for one in worlds for sid in one["bak"])}):
        right = [plain(one["bak"].get(sid)) for one in worlds]
        observed = baks.get(sid)
        is_done = len(worlds) > 1 and disk.get(sid) == plain(world["live"].get(sid)) != plain(
            worlds[1]["live"].get(sid)
        )
        if observed in right[: 1 if is_done and observed is None else 2]:
            continue
        if observed == DAMAGED:
            yield promises.S1, f"the backup of {sid} is no whole version", right[0], observed
        promise = promises.S6 if sid in world["gone"] and right[0] is None else promises.S4
        yield promise, f"the backup of {sid} is wrong", right[0], observed


def _wrong_files(worlds: list[World], seen: Value, *, is_killed: bool) -> Iterator[Difference]:
    names: Counter[str] = Counter(seen["files"])
    least, most = file_names(worlds[0]), file_names(worlds[0])
    for world in worlds[1:]:
        least, most = least & file_names(world), most | file_names(world)
    for name in sorted((least - names) + (names - most)):
        if name.endswith((".json", ".json.bak")) and name in {*least, *most}:
            continue  # judged with its content
        if name.endswith(".tmp") and (is_killed or names[name] < least[name]):
            continue  # a process with the same number may have used it again
        if len(worlds) > 1 and name.endswith(".json.deleted"):
            continue
        kind = name.partition(".")[2]
        promise = {
            "tmp": promises.S1,
            "json.damaged": promises.S4,
            "json.deleted": promises.S6,
        }.get(kind, promises.S12)
        was = "is missing" if names[name] < least[name] else "is left over"
        yield promise, f"file {name} {was}", least[name], names[name]
        is_gone = name.partition(".")[0] in worlds[0]["gone"] and names[name] > least[name]
        if kind == "json.deleted" or (kind == "json.damaged" and is_gone):
            yield promises.S14, f"what was removed is found in {name}", least[name], names[name]
    for sid in seen["bak"]:
        was_deleted = sid not in seen["disk"] and all(sid in one["bak"] for one in worlds[1:])
        is_half = len(worlds) > 1 and sid not in worlds[0]["bak"] and was_deleted
        if is_half and f"{sid}.json.deleted" not in names:
            yield promises.S6, f"the backup of {sid} outlives its session", None, seen["bak"][sid]


_ROW_BROKEN = (promises.S11, promises.S14, promises.S15)


def _wrong_rows(worlds: list[World], seen: Value, *, is_partial: bool) -> Iterator[Difference]:
    rows, expected = seen["rows"], sorted_rows(worlds[0]["rows"])
    by_id = {row.get("session_id"): row for row in rows}
    if len(by_id) < len(rows):
        yield promises.S11, "the list has a session twice", len(by_id), len(rows)
    known: dict[str, list[Value | None]] = {}
    for sid in {*by_id, *(sid for world in worlds for sid in world["rows"])}:
        known[sid] = [world["rows"].get(sid) for world in worlds]
        observed = by_id.get(sid)
        if observed not in known[sid]:
            right = known[sid][0]
            if observed is None or right is None:
                was = "lacks" if observed is None else "has"
                is_old = right is None and sid in worlds[0]["gone"]
                promise = promises.S11
                yield promise, f"the list {was} session {sid}", right, observed
                if is_old:
                    yield promises.S6, "the list has a deleted session", right, observed
                continue
            names = [name for name in {*right, *observed} if right.get(name) != observed.get(name)]
            for promise in _ROW_BROKEN if {*names} - {"updated_at"} else (promises.S8,):
                message = f"the row of {sid} has a wrong {', '.join(sorted(names))}"
                yield promise, message, right, observed
        elif (
            len(worlds) > 1
            and not is_partial
            and readable(seen["disk"].get(sid))
            and (observed != row_of(seen["disk"][sid]) if seen["disk"][sid] != DAMAGED else False)
        ):
            yield (
                promises.S11,
                f"the row of {sid} is not the session's",
                seen["disk"][sid],
                observed,
            )
    if rows != sorted_rows(by_id):
        order = [row["session_id"] for row in expected]
        yield promises.S8, "the list is not in order", order, [*by_id]
    if seen["index"] != rows:
        yield promises.S11, "the index on disk is not the list", rows, seen["index"]


def _wrong_memory(worlds: list[World], seen: Value) -> Iterator[Difference]:
    # One whose sidecar was damaged may stay in memory, whose copy may be the only good one.
    doubtful = {sid for sid, session in seen["disk"].items() if session == DAMAGED}
    doubtful |= {name.partition(".")[0] for name in seen["files"] if name.endswith(".damaged")}
    right = [
        [sid for held in mine if (sid := held["session"]["session_id"]) not in doubtful]
        for mine in worlds[0]["held"]
    ]
    observed = [[sid for sid in mine if sid not in doubtful] for mine in seen["held"]]
    if len(worlds) == 1 and observed != right:
        yield promises.A6, "other sessions are in memory", right, observed
    if len(worlds) > 1:
        for mine, world in zip(
            seen["held"], zip(*(one["held"] for one in worlds), strict=True), strict=True
        ):
            busy = [
                {held["session"]["session_id"] for held in one if is_busy(held["session"])}
                for one in world
            ]
            if not busy[0] & busy[-1] <= {*mine}:
                yield promises.A6, "a busy session is not in memory", sorted(busy[0]), mine
    gauges = {"sessions_held": len(seen["held"][0]), "session_index_rows": len(seen["rows"])}
    if seen["gauges"] != gauges:
        yield promises.A6, "the gauges differ from what is in memory", gauges, seen["gauges"]


def as_observed(world: World, seen: Value) -> World:
    """The world as a look shows it."""
    after = dict(world)
    after.pop("unsure", None)
    after.pop("partial", None)
    after.pop("restored", None)

    def value(of: str, sid: str, found: Any) -> Any:
        is_known = found == DAMAGED and plain(world[of].get(sid)) == DAMAGED
        if is_known:
            return world[of][sid]
        return {DAMAGED: "", "head": None} if found == DAMAGED else found

    after["live"] = {sid: value("live", sid, found) for sid, found in seen["disk"].items()}
    after["bak"] = {sid: value("bak", sid, found) for sid, found in seen["bak"].items()}
    kinds = {"json.damaged": "copies", "json.deleted": "deleted", "tmp": "temps"}
    split = [name.partition(".") for name in seen["files"]]
    for kind, where in kinds.items():
        after[where] = sorted(sid for sid, _, ending in split if ending == kind)
    strays, files = Counter[str](world["strays"]), Counter[str](seen["files"])
    after["strays"] = sorted((files & strays).elements())
    after["rows"] = {row["session_id"]: row for row in seen["rows"]}
    after["held"] = [
        [_as_held(sid, mine, after) for sid in sids]
        for sids, mine in zip(seen["held"], world["held"], strict=True)
    ]
    touch(after)
    return after


def _as_held(sid: str, mine: list[Value], world: World) -> Value:
    for held in mine:
        if held["session"]["session_id"] == sid:
            return held
    live = readable(world["live"].get(sid)) or {**FIELDS, "session_id": sid, "messages": []}
    return {"session": live, "proven": True}
