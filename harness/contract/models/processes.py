"""Model of background processes: each reports its end once, and its watched lines at a rate.

Operations are those of the *processes* ability (`harness.targets`). A process prints what `say`
gives it, and ends by `finish` or `kill`. A restart or a kill of its host changes nothing of that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from harness.contract import promises
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

OUTPUT_CHARS_MAX = 4000
WATCH_INTERVAL_S = 15.0
WATCH_EVENTS_MAX = 20
SLACK_S = 5.0  # an advance is never that close to the interval
MARKS = "\n[one]\n\n[two]\n"  # what the adapter prints behind each text
KILLED = -9
TRIES = 3  # to start a process while the disk refuses
UNCHANGED = (
    "proof",
    "left",
    "refused",
    "leave_files",
    "ended",
    "bounded",
    "no_command",
)  # calls that start and end nothing
LOOKS = ("proof", "left", "bounded")


@dataclass(frozen=True, slots=True)
class Running:
    """A process that was started."""

    process: str
    owner: str | None
    exit_code: int
    watches: tuple[str, ...]
    notifies: bool
    output: str = ""
    reported: int = 0
    suppressed: int = 0
    reported_at_s: float | None = None
    is_adopted: bool = False
    key: str = ""

    @property
    def is_kept(self) -> bool:
        """Whether anything of it is to be reported."""
        return self.notifies or bool(self.watches)

    def event(self, kind: str, **differing: Any) -> dict[str, Any]:
        """The event about this process."""
        known = {
            "kind": kind,
            "process": self.process,
            "owner": self.owner,
            "exit_code": None,
            "key": self.key,
        }
        rest = {"output": "", "pattern": "", "suppressed": 0, "command": "its own"}
        return {**known, **rest, **differing}


@dataclass(frozen=True, slots=True)
class State:
    """Running processes, the events that are due, and the lines of the proof."""

    now_s: float = 0.0
    running: tuple[Running, ...] = ()
    due: tuple[tuple[tuple[str, Any], ...], ...] = ()
    proof: tuple[str, ...] = ()
    is_later: bool = False  # whether a host has ended


class ProcessesModel:
    """What the registry reports."""

    name = "processes"

    def initial(self) -> State:
        """No process was started."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        """The state after the operation, or the promise it broke."""
        if operation.outcome is not Outcome.OK:
            return _wrong(promises.W12, operation, "the call succeeds")
        if operation.function == "take":
            return _taken(state, operation)
        if operation.function == "take_some":
            return _taken_some(state, operation)
        answer, promise = _answer(state, operation)
        accepted = _equal(state, operation, answer, promise)
        if isinstance(accepted, Refusal) or operation.function in UNCHANGED:
            return accepted
        argument = operation.argument
        process = next((p for p in state.running if p.process == argument.get("process")), None)
        if operation.function == "kill" and process is None:
            return accepted
        return (_after(state, operation.function, argument, process),)

    def adopt(self, state: State, operation: Operation) -> tuple[State, ...]:
        """The same state after a look, which changes nothing; unknown after another call."""
        is_look = operation.outcome is Outcome.OK and operation.function in LOOKS
        return (state,) if is_look else ()


def _answer(  # noqa: PLR0911 - one for each function
    state: State, operation: Operation
) -> tuple[object, Promise]:
    """The one right answer, and the promise that another one breaks."""
    match operation.function:
        case "proof":
            events = [line.split()[:2] for line in state.proof]
            if [line.split()[:2] for line in operation.result] != events:
                return list(state.proof), promises.W12
            return list(state.proof), _broken_identity(state.proof, operation.result)
        case "left":
            kept = sum(process.is_kept for process in state.running)
            owed = len(state.due)
            gauges = {"running": len(state.running), "pending": owed, "queued": owed}
            wanted = {**gauges, "ledger": owed + kept, "files": kept}
            is_short = any(operation.result[name] < size for name, size in wanted.items())
            return wanted, promises.W12 if is_short else promises.W9
        case "bounded":  # where a file cannot have holes, it may be as long as what was printed
            return None if operation.result is None else True, promises.W9
        case "refused":
            refusals = ["OSError"] * TRIES
            is_refused = operation.result["errors"] == refusals
            promise = promises.H8 if is_refused else promises.W12
            return {"errors": refusals, "files": 0}, promise
        case "no_command" | "spawn_late":
            return "SpawnRefusedError", promises.W12
        case "kill":
            names = {process.process for process in state.running}
            return operation.argument["process"] in names, promises.W12
    return None, promises.W12


def _equal(
    state: State, operation: Operation, expected: object, promise: Promise
) -> tuple[State] | Refusal:
    is_right = operation.result == expected
    return (state,) if is_right else _wrong(promise, operation, f"{expected}")


def _after(state: State, function: str, argument: Any, process: Running | None) -> State:
    if function in ("spawn", "spawn_brief"):
        return _started(state, argument, is_brief=function == "spawn_brief")
    if function == "advance":
        return replace(state, now_s=state.now_s + argument["seconds"])
    if function in ("restart", "kill_host", "spawn_late"):
        adopted = (replace(p, is_adopted=True) for p in state.running if p.is_kept)
        return replace(state, running=tuple(adopted), is_later=True)
    assert process is not None, function
    others = tuple(other for other in state.running if other != process)
    if function == "say":
        text = "x" * argument.get("size", 0) + argument["text"] + MARKS
        return _said(replace(state, running=others), process, text)
    code = KILLED if function == "kill" else process.exit_code
    if function == "finish":
        state = replace(state, proof=(*state.proof, f"{process.process} end"))
    state = replace(state, running=others)
    if not process.notifies:
        return state
    ended = process.event(
        "completion",
        exit_code=code,
        output=process.output[-OUTPUT_CHARS_MAX:],
        suppressed=process.suppressed,
    )
    return replace(state, due=(*state.due, tuple(ended.items())))


def _started(state: State, argument: Any, *, is_brief: bool) -> State:
    """A process that runs, or one that has ended when its start is answered."""
    process = Running(
        argument["process"],
        argument["session"],
        argument.get("exit_code", 0),
        tuple(argument.get("watches") or ()),
        argument.get("notify", True),
        key=argument.get("key", ""),
    )
    proof = (
        *state.proof,
        f"{process.process} start {_environment(process.owner, process.key)}",
    )
    if not is_brief:
        return replace(state, running=(*state.running, process), proof=proof)
    ended = tuple(process.event("completion", exit_code=process.exit_code).items())
    proof = (*proof, f"{process.process} end")
    return replace(state, proof=proof, due=(*state.due, ended))


def _broken_identity(expected: tuple[str, ...], observed: list[str]) -> Promise:
    """T7 if a process finds a session of another turn in its environment, else W14."""
    known = {word.partition("=")[2] for line in expected for word in line.split(" ")[2:]}
    for wanted, line in zip(expected, observed, strict=True):
        found = {word.partition("=")[2] for word in line.split(" ")[2:]}
        if (found & known) - {word.partition("=")[2] for word in wanted.split(" ")[2:]}:
            return promises.T7
    return promises.W14


def _environment(owner: str | None, key: str) -> str:
    """What a process finds of its session; `echo` leaves one space between two."""
    names = {"CHAT_ID": owner, "ID": owner, "KEY": key or owner, "PLATFORM": "webui"}
    return " ".join(f"HERMES_SESSION_{name}={value}" for name, value in names.items() if value)


def _said(state: State, process: Running, text: str) -> State:
    """The lines that are watched, at a limited rate."""
    due = list(state.due)
    for line in text.split("\n"):
        pattern = next((p for p in process.watches if p in line), None)
        if pattern is None:
            continue
        at_s = process.reported_at_s
        is_early = at_s is not None and state.now_s - at_s < WATCH_INTERVAL_S - SLACK_S / 2
        if is_early or process.reported >= WATCH_EVENTS_MAX:
            process = replace(process, suppressed=process.suppressed + 1)
            continue
        event = process.event(
            "watch_match",
            output=line[-OUTPUT_CHARS_MAX:],
            pattern=pattern,
            suppressed=process.suppressed,
        )
        due.append(tuple(event.items()))
        process = replace(
            process, reported=process.reported + 1, suppressed=0, reported_at_s=state.now_s
        )
    process = replace(process, output=(process.output + text)[-2 * OUTPUT_CHARS_MAX :])
    return replace(state, running=(*state.running, process), due=tuple(due))


def _taken(state: State, operation: Operation) -> tuple[State] | Refusal:
    expected = [dict(event) for event in state.due]
    result = operation.result
    if result == expected:
        return (replace(state, due=()),)
    promise = _broken(state, expected, result)
    adopted = {process.process for process in state.running if process.is_adopted}
    is_cut_off = any(due["process"] in adopted and due not in result for due in expected)
    also = (promises.W12,) if is_cut_off and promise != promises.W12 else ()
    refusal = _wrong(promise, operation, f"{expected}", _difference(state, expected, result))
    return replace(refusal, also=also)


def _taken_some(state: State, operation: Operation) -> tuple[State] | Refusal:
    """The first events; what the disk refused to mark is owed, and comes again after a restart."""
    count, marks = operation.argument["count"], operation.argument.get("marks", True)
    events = [dict(event) for event in state.due[:count]]
    expected = {
        "events": events,
        "errors": [] if marks else ["OSError"] * count,
        "owed": 0 if marks else count,
    }
    if operation.result == expected:
        return (replace(state, due=state.due[count:] if marks else state.due),)
    came = operation.result["events"]
    if came != events:
        due = [dict(event) for event in state.due]
        is_overtaken = len(came) == len(events) and all(event in due for event in came)
        broken = promises.W3 if is_overtaken else _broken(state, events, came)
        return _wrong(broken, operation, f"{expected}", _difference(state, events, came))
    return replace(_wrong(promises.W5, operation, f"{expected}"), also=(promises.W1, promises.W4))


def _broken(state: State, expected: list[dict[str, Any]], result: list[dict[str, Any]]) -> Promise:
    """The promise that other events break."""
    if len(result) != len(expected):
        return _broken_by_number(state, expected, result)
    came, due = ([event["process"] for event in events] for events in (result, expected))
    if came != due:
        return promises.W3 if sorted(came) == sorted(due) else promises.W12
    for wanted, event in zip(expected, result, strict=True):
        if wanted["owner"] != event["owner"]:
            return promises.W6
        if wanted != event and "watch_match" in (wanted["kind"], event["kind"]):
            return promises.W13
    return promises.W12


def _broken_by_number(
    state: State, expected: list[dict[str, Any]], result: list[dict[str, Any]]
) -> Promise:
    """The promise that more or fewer events break."""
    running = {process.process for process in state.running}
    if any(event["kind"] == "completion" and event["process"] in running for event in result):
        return promises.W12  # it has not ended
    more = expected if len(expected) > len(result) else result
    if any(event["kind"] == "watch_match" for event in more):
        return promises.W13
    return promises.W1 if more is result else promises.W12


def _difference(state: State, expected: list[dict[str, Any]], result: list[dict[str, Any]]) -> str:
    """What is wrong with events, without values, so that each kind is a finding of its own."""
    when = ", after a host has ended" if state.is_later else ""
    for wanted, event in zip(expected, result, strict=False):
        if (wanted["process"], wanted["kind"]) != (event["process"], event["kind"]):
            return f"has events that are not those in order{when}"
        names = [name for name, value in wanted.items() if event[name] != value]
        if names:
            return f"has a {wanted['kind']} with another {', '.join(names)}{when}"
    if len(result) > len(expected):
        return f"has a {result[len(expected)]['kind']} too many{when}"
    return f"lacks a {expected[len(result)]['kind']}{when}"


def _wrong(
    promise: Promise, operation: Operation, expected: str, how: str = "answered otherwise"
) -> Refusal:
    return Refusal(promise, f"{operation.call} {how}", expected=expected)
