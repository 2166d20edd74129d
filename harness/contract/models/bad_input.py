"""Model of bad input: the server refuses it with an error message and changes no file.

The workload says of each request whether it is *bad*, by the server's own description or by HTTP's
rules, and which promise then applies. A bad request gets a 4xx and touches no file. Any other
request is answered too, in whatever way, but by no 5xx and no stack trace. The files of bystanders
never change.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from harness.contract import promises
from harness.contract.models.answers import difference
from harness.contract.models.endpoints import description
from harness.contract.promises import SESSION_SERVER
from harness.core.contract import Promise
from harness.core.errors import UsageError
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

REFUSED, FAILED = 400, 500  # the first status of each kind
ACCEPTED = (200,)
MALFORMED = (400, 411, 413, 414, 431, 501, 505)
_LENGTH = re.compile(r"Content-Length: ([0-9]{1,3})\r\n")
OTHERS = {"health": 200, "sessions": 200}  # what other clients get beside slow ones
NEW = "/api/session/new"
DIGEST = re.compile("[0-9a-f]{64}")
SIDECAR = re.compile(r"(?:.*/)?sessions/[0-9A-Za-z-][0-9A-Za-z_-]*\.json")
# Files that belong to no session: an accepted request may change them.
SHARED = re.compile(r"(?:.*/)?(?:_index[^/]*|_turn_journal\.jsonl|models_cache\.json)")
Files = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class State:
    """Every file by its name at the last look; None if unknown.

    Since then a request `was_accepted`, and `made` sessions were created.
    """

    files: Files | None = None
    bystanders: Files | None = None
    was_accepted: bool = False
    made: int = 0


class BadInputModel:
    """What a server may answer to arbitrary bytes."""

    name = "bad-input"

    def initial(self) -> State:
        """The files are unknown."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State] | Refusal:  # noqa: PLR0911
        """What is known after the operation, or the promise it broke."""
        if operation.outcome is Outcome.INFO:
            return Refusal(
                promises.H2,
                f"{operation.call} lost its connection",
                expected="an HTTP answer on a connection that the server ends",
            )
        if operation.outcome is Outcome.FAIL:
            return Refusal(
                promises.H2, f"{operation.call} got no HTTP answer", expected="an HTTP answer"
            )
        match operation.function:
            case "begin":
                if operation.result is None:
                    return (state,)
                return Refusal(
                    promises.H2, f"{operation.call} answers something", (None,), expected="null"
                )
            case "describe":
                return _described(state, operation)
            case "ask_badly" | "send_bytes" | "send_size":
                return _answered(state, operation)
            case "files":
                return _unchanged(state, operation)
            case "converse":
                return _conversed(state, operation)
            case "dawdle":
                return _attended(state, operation)
        raise UsageError(f"{self.name} has no function {operation.function!r}")

    def adopt(self, state: State, operation: Operation) -> tuple[State, ...]:
        """Go on after an answer that was refused; what it did to the files is unknown."""
        if operation.function == "files" and operation.outcome is Outcome.OK:
            result = operation.result
            return (State(_pairs(result["files"]), _pairs(result["bystanders"])),)
        return (replace(state, files=None),)


def _answered(state: State, operation: Operation) -> tuple[State] | Refusal:
    """Judge the answer to one request, or to bytes that may be several requests."""
    statuses = operation.result["statuses"]
    if refusal := _forbidden(operation, statuses):
        return refusal
    if refusal := _missing(operation, statuses):
        return refusal
    if not operation.argument["bad"] and operation.function == "ask_badly":
        changes = _changes_files(operation.argument) and _succeeded(statuses)
        made = operation.argument["path"] == NEW and changes
        if len(statuses) == 1:
            was_accepted = state.was_accepted or changes
            return (replace(state, was_accepted=was_accepted, made=state.made + made),)
    elif not operation.argument["bad"] and len(statuses) == operation.argument["times"]:
        return (state,)
    if len(statuses) > 1:
        return Refusal(
            promises.H2,
            f"{operation.call}: another number of requests was read, {len(statuses)}",
            expected=f"{operation.argument.get('times', 1)} statuses",
        )
    return (state,)


def _forbidden(operation: Operation, statuses: list[int]) -> Refusal | None:
    """What no answer may be, whatever the request was."""
    if operation.result["traced"]:
        return Refusal(
            promises.H2,
            f"the answer to {operation.call} shows a stack trace",
            expected="an error message without internals of the server",
        )
    if any(status >= FAILED for status in statuses):
        promise = SESSION_SERVER.promise(operation.argument["promise"])
        return Refusal(
            promise,
            f"the server failed on {operation.call}",
            also=_also(promise),
            expected=f"every status below {FAILED}",
        )
    if any(status >= REFUSED for status in statuses) and operation.result["error"] is None:
        return Refusal(
            promises.H2,
            f"{operation.call} was refused without an error message",
            expected="a body with a non-empty text 'error'",
        )
    return None


def _missing(operation: Operation, statuses: list[int]) -> Refusal | None:
    """A request without an answer, or with a status that is not one for it."""
    argument = operation.argument
    needed = argument.get("times", 1)
    if len(statuses) < needed:
        return Refusal(
            promises.H2,
            f"{operation.call} got no answer",
            expected=f"{needed} statuses",
        )
    allowed = argument.get("statuses") or (MALFORMED if argument["bad"] else ACCEPTED)
    if wrong := [status for status in statuses if status not in allowed]:
        promise = SESSION_SERVER.promise(argument["promise"])
        return Refusal(
            promise,
            f"{operation.call} "
            + (
                "is bad input, and was accepted"
                if argument["bad"] and _succeeded(wrong)
                else "got another status than such a request gets"
            ),
            also=_also(promise),
            expected=f"one of {', '.join(map(str, allowed))}",
            observed=f"{wrong}",
        )
    if operation.result["error"] is not None and not any(code >= REFUSED for code in statuses):
        return Refusal(
            promises.H2,
            f"{operation.call} succeeded with an error message",
            expected="no error",
        )
    return None


def _changes_files(argument: dict[str, Any]) -> bool:
    """Whether such a request may change files: it is no read, or it renews the models' cache."""
    return bool(argument["method"] != "GET" or argument["path"] == "/api/models")


def _described(state: State, operation: Operation) -> tuple[State] | Refusal:
    """The server's description of itself is that of the contract."""
    found = difference(description(), operation.result)
    if found is None:
        return (state,)
    return Refusal(
        promises.H2,
        f"{operation.call}: the description differs from the contract, at {found.path}",
        expected=f"{found.expected}",
        observed=f"{found.observed!r}",
    )


def is_cut_short(data: str) -> bool:
    """Whether the bytes end inside the head or the body of a request, so that none is there."""
    _, end, body = data.partition("\r\n\r\n")
    length = _LENGTH.search(data)
    return not end or (length is not None and len(body) < int(length[1]))


def _also(promise: Promise) -> tuple[Promise, ...]:
    return () if promise == promises.H2 else (promises.H2,)


def _succeeded(statuses: list[int]) -> bool:
    return any(status < REFUSED for status in statuses)


def _unchanged(state: State, operation: Operation) -> tuple[State] | Refusal:
    """Judge the files on disk."""
    files, bystanders = (_pairs(operation.result[name]) for name in ("files", "bystanders"))
    changed = {name for name, digest in (*files, *bystanders) if not DIGEST.fullmatch(digest)}
    if state.bystanders is not None:
        changed |= {name for name, _ in {*state.bystanders} ^ {*bystanders}}
    if state.files is not None:
        changed |= _wrong_changes(state, files)
    if changed:
        return Refusal(
            promises.H2,
            f"{operation.function}(): refused requests changed files",
            also=(promises.S12, promises.S2),
            expected="the same files with the same content as before the refused requests",
            observed=f"changed, new or missing: {', '.join(sorted(changed))}",
        )
    return (State(files, bystanders),)


def _wrong_changes(state: State, files: Files) -> set[str]:
    """The files that changed without a reason.

    An accepted request is for no session that exists. It may change files that belong to none, and
    each that makes a session adds its sidecar.
    """
    before = state.files or ()
    changed = {name for name, _ in {*before} ^ {*files}}
    if not state.was_accepted:
        return changed
    known = {name for name, _ in before}
    added = {name for name, _ in files if SIDECAR.fullmatch(name)} - known
    if len(added) != state.made:
        return {*changed, f"{len(added)} sidecars of {state.made} new sessions"}
    return {name for name in changed - added if not SHARED.fullmatch(name)}


def _pairs(files: dict[str, Any]) -> Files:
    return tuple(sorted(files.items()))


def _conversed(state: State, operation: Operation) -> tuple[State] | Refusal:
    """Each request of a connection is answered in order, up to one that ends the connection."""
    argument, result = operation.argument, operation.result
    expected = {
        "statuses": argument["wanted"],
        "whole": True,
        "continued": True,
        "closed": argument["closes"],
    }
    if result == expected:
        return (state,)
    is_lacking = len(result["statuses"]) < len(argument["wanted"])
    return Refusal(
        promises.H2,
        f"converse({argument['name']!r}): the requests of one connection were answered otherwise",
        also=(promises.C10,) if is_lacking else (),
        expected=f"{expected}",
        observed=f"{result}",
    )


def _attended(state: State, operation: Operation) -> tuple[State] | Refusal:
    """Other clients are answered while some clients never finish their request."""
    if operation.result == OTHERS:
        return (state,)
    return Refusal(
        promises.C10,
        f"{operation.call}: slow clients kept other clients from an answer",
        also=(promises.H2,),
        expected=f"{OTHERS}",
    )
