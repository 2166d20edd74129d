"""Tests that the model of the session store accepts right ones, and names broken promises."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.checkers.conformance import Fold
from harness.contract import promises
from harness.contract.models.session_store import SessionStoreModel
from harness.core.contract import Promise
from harness.core.errors import UsageError
from harness.core.history import Operation, Outcome
from harness.core.verdict import Anomaly
from harness.faults.simulated_disk import Call, Image, InjectedFault, SimulatedCrash, SimulatedDisk
from reference_impl.sessions.recovery import recover_all
from reference_impl.sessions.session_files import UnknownSessionError
from reference_impl.sessions.sidecar import Session
from reference_impl.sessions.store import SessionStore

Ask = tuple[str, dict[str, Any]]


class RefusedError(Exception):
    """A toy refuses a call."""


class CrashedError(Exception):
    """A toy crashed: the outcome of the call is unknown."""


# Toys ---------------------------------------------------------------------------------------------


@dataclass
class Stored:
    """A session of a toy; `live` is None for a file that cannot be read."""

    live: list[str] | None
    memory: list[str]
    title: str = "Untitled"
    backup: list[str] | None = None
    asked: bool = False  # the user asked for what the backup undoes
    left: int | None = None  # from this message on, messages are not in the backup
    has_copy: bool = False
    updated_at: int = 0


@dataclass
class Toy:
    """A right session store, in memory."""

    sessions: dict[str, Stored] = field(default_factory=dict)
    now: int = 0

    def _get(self, session: str) -> Stored:
        if session not in self.sessions:
            raise RefusedError(session)
        return self.sessions[session]

    def _readable(self, session: str) -> Stored:
        stored = self._get(session)
        if stored.live is None and not stored.memory:
            raise RefusedError("damaged")
        return stored

    def _save(self, stored: Stored, messages: list[str]) -> None:
        if stored.live is None:
            self._keep_copy(stored)
        stored.live = stored.memory = messages
        self._touch(stored)

    def _keep_copy(self, stored: Stored) -> None:
        stored.has_copy = True

    def _touch(self, stored: Stored) -> None:
        self.now += 1
        stored.updated_at = self.now

    def _back_up(self, stored: Stored, *, asked: bool) -> None:
        whole = self._whole(stored)
        if asked and stored.backup is not None and len(stored.backup) > len(whole):
            whole = stored.backup
        stored.backup, stored.asked, stored.left = whole, asked, None

    def _whole(self, stored: Stored) -> list[str]:
        if stored.left is None or stored.backup is None:
            return stored.memory
        return stored.backup + stored.memory[stored.left :]

    def new(self, session: str) -> None:
        if session in self.sessions:
            raise RefusedError("taken")
        self.sessions[session] = Stored([], [])
        self._touch(self.sessions[session])

    def append(self, session: str, text: str) -> None:
        stored = self._readable(session)
        self._save(stored, [*stored.memory, text])

    def rename(self, session: str, title: str) -> None:
        stored = self._readable(session)
        stored.title = title
        self._save(stored, stored.memory)

    def clear(self, session: str) -> None:
        self._cut(self._readable(session), 0)

    def truncate(self, session: str, keep: int) -> None:
        stored = self._readable(session)
        if keep < len(stored.memory):
            self._cut(stored, keep)

    def undo(self, session: str) -> None:
        stored = self._readable(session)
        if not stored.memory:
            raise RefusedError("nothing to undo")
        self._cut(stored, len(stored.memory) - 1)

    def _cut(self, stored: Stored, keep: int) -> None:
        self._back_up(stored, asked=True)
        self._save(stored, stored.memory[:keep])

    def shrink(self, session: str, keep: int) -> None:
        stored = self._readable(session)
        if keep < len(stored.memory):
            self._back_up(stored, asked=False)
            stored.left = keep
        self._save(stored, stored.memory[:keep])

    def delete(self, session: str) -> None:
        self.sessions.pop(session, None)

    def messages(self, session: str) -> list[str] | None:
        if session not in self.sessions:
            return None
        return list(self._readable(session).memory)

    def list(self) -> list[str]:
        return sorted(self.sessions, key=lambda session: -self.sessions[session].updated_at)

    def row(self, session: str) -> dict[str, Any] | None:
        if session not in self.sessions:
            return None
        stored = self.sessions[session]
        count, at = len(stored.memory), stored.updated_at
        return {"title": stored.title, "message_count": count, "updated_at": at}

    def backup(self, session: str) -> int | None:
        if session not in self.sessions:
            return None
        stored = self._get(session)
        if stored.backup is not None:
            return len(stored.backup)
        return -1 if stored.has_copy else None

    def save_stub(self, session: str) -> None:
        raise RefusedError(session)

    def save_stale(self, session: str, text: str) -> None:
        self._touch(self._get(session))
        raise RefusedError(text)

    def save_refused(self, session: str) -> None:
        raise RefusedError(session)

    def cleanup(self, session: str) -> None:
        self._get(session)

    def corrupt(self, session: str) -> None:
        self._get(session).live = None

    def restart(self) -> None:
        for stored in self.sessions.values():
            if stored.live is None:
                stored.memory = []
        self.recover()

    def recover(self) -> None:
        for stored in self.sessions.values():
            if stored.live is not None:
                stored.live = stored.memory = self._whole(stored)
                stored.left = None
            elif stored.backup is not None and not stored.asked:
                self._keep_copy(stored)
                stored.live = stored.memory = stored.backup
                stored.left = None

    def hostile(self, session_id: str) -> None:
        raise RefusedError(session_id)

    def crash(self, ask: Callable[[], object], rng: Random) -> None:
        """Crash before or after a call."""
        if rng.random() < 0.5:
            with suppress(RefusedError):
                ask()
        for stored in self.sessions.values():
            stored.memory = stored.memory if stored.live is None else stored.live
        raise CrashedError


class Torn(Toy):
    def crash(self, ask: Callable[[], object], rng: Random) -> None:
        before = {session: stored.live for session, stored in self.sessions.items()}
        with suppress(CrashedError):
            super().crash(ask, rng)
        for session, stored in self.sessions.items():
            if stored.live != before.get(session):
                stored.live, stored.memory = None, []
        raise CrashedError


class Doubling(Toy):
    def recover(self) -> None:
        super().recover()
        for stored in self.sessions.values():
            if stored.memory:
                stored.memory = [*stored.memory, stored.memory[-1]]


class Forgetful(Toy):
    def append(self, session: str, text: str) -> None:
        super().append(session, text)
        if int(text) % 3 == 0:
            self.sessions[session].live = self.sessions[session].memory = self.sessions[
                session
            ].memory[:-1]


class LosingWhatCameSince(Toy):
    def _whole(self, stored: Stored) -> list[str]:
        whole = super()._whole(stored)
        return whole if whole is stored.memory else stored.backup or []


class StubSaving(Toy):
    def save_stub(self, session: str) -> None:
        self._save(self._get(session), [])


class KeepingTheLastBackup(Toy):
    def _back_up(self, stored: Stored, *, asked: bool) -> None:
        stored.backup, stored.asked, stored.left = stored.memory, asked, None


class NotKeepingTheDamaged(Toy):
    def _keep_copy(self, stored: Stored) -> None:
        pass


class DyingInRecovery(Toy):
    def recover(self) -> None:
        raise RefusedError("a list has no .get")


class NotRecovering(Toy):
    def recover(self) -> None:
        pass


class Resurrecting(Toy):
    def _back_up(self, stored: Stored, *, asked: bool) -> None:
        super()._back_up(stored, asked=asked)
        if asked:
            stored.asked, stored.left = False, len(stored.memory)


class Undeleting(Toy):
    def delete(self, session: str) -> None:
        self.bin = {session: self.sessions[session]} if session in self.sessions else {}
        super().delete(session)

    def restart(self) -> None:
        self.sessions |= getattr(self, "bin", {})
        super().restart()


class BusyCleaning(Toy):
    def cleanup(self, session: str) -> None:
        self._touch(self._get(session))


class BusyRecovering(Toy):
    def recover(self) -> None:
        super().recover()
        for stored in self.sessions.values():
            self._touch(stored)


class LastWriterWins(Toy):
    def save_stale(self, session: str, text: str) -> None:
        self.append(session, text)


class LastWriterWinsWithAnError(Toy):
    def save_stale(self, session: str, text: str) -> None:
        self.append(session, text)
        raise RefusedError(text)


class Silent(Toy):
    def save_refused(self, session: str) -> None:
        self._get(session)


class Haunted(Toy):
    ghosts: tuple[str, ...] = ()

    def delete(self, session: str) -> None:
        super().delete(session)
        self.ghosts = (session,)

    def list(self) -> list[str]:
        return [*super().list(), *self.ghosts]


class SeeingDouble(Toy):
    def list(self) -> list[str]:
        return [session for session in super().list() for _ in range(2)]


class LaggingRows(Toy):
    def row(self, session: str) -> dict[str, Any] | None:
        row = super().row(session)
        return row and {**row, "message_count": max(0, row["message_count"] - 1)}


class Trusting(Toy):
    def hostile(self, session_id: str) -> None:
        pass


WRONG: list[tuple[type[Toy], Promise]] = [
    (Torn, promises.S1),
    (Doubling, promises.S1),
    (Forgetful, promises.S2),
    (LosingWhatCameSince, promises.S2),
    (StubSaving, promises.S3),
    (KeepingTheLastBackup, promises.S4),
    (NotKeepingTheDamaged, promises.S4),
    (DyingInRecovery, promises.S5),
    (NotRecovering, promises.S5),
    (Resurrecting, promises.S6),
    (Undeleting, promises.S6),
    (BusyCleaning, promises.S8),
    (BusyRecovering, promises.S8),
    (LastWriterWins, promises.S9),
    (LastWriterWinsWithAnError, promises.S9),
    (Silent, promises.S10),
    (Haunted, promises.S11),
    (SeeingDouble, promises.S11),
    (LaggingRows, promises.S11),
    (Trusting, promises.S12),
]


# Programs -----------------------------------------------------------------------------------------

SESSIONS = ("s1", "s2")
ALL_LOOKS = ("messages", "row", "backup")
ACTS: Mapping[str, int] = {
    "append": 8, "rename": 1, "clear": 1, "truncate": 2, "undo": 1, "shrink": 3, "delete": 1,
    "new": 2, "cleanup": 2, "corrupt": 1, "save_stub": 1, "save_stale": 1, "save_refused": 1,
    "restart": 3, "recover": 1, "hostile": 1, "look": 6, "crash": 2,
}  # fmt: skip


def program(rng: Random, length: int) -> Iterator[Ask]:
    """Any calls of two sessions; a restart follows each crash, and reads come last."""
    yield "new", {"session": "s1"}
    for number in range(length):
        function = rng.choices([*ACTS], [*ACTS.values()])[0]
        session = rng.choice(SESSIONS)
        if function == "look":
            yield from look()
        elif function == "crash":
            inner = rng.choice(["append", "clear", "truncate", "shrink", "delete", "rename"])
            yield "crash", {"function": inner, "argument": asked(inner, session, number, rng)}
            yield "restart", {}
        else:
            yield function, asked(function, session, number, rng)
    yield "restart", {}
    yield from look()


def asked(function: str, session: str, number: int, rng: Random) -> dict[str, Any]:
    """The argument of a call."""
    more: dict[str, dict[str, Any]] = {
        "append": {"text": str(number)},
        "save_stale": {"text": f"stale {number}"},
        "rename": {"title": f"title {number}"},
        "truncate": {"keep": rng.randrange(5)},
        "shrink": {"keep": rng.randrange(4)},
    }
    if function in ("restart", "recover"):
        return {}
    if function == "hostile":
        return {"session_id": "../x"}
    return {"session": session, **more.get(function, {})}


def look() -> Iterator[Ask]:
    yield "list", {}
    for session in SESSIONS:
        for function in ALL_LOOKS:
            yield function, {"session": session}


def run(target: Any, asks: Iterator[Ask], rng: Random) -> Anomaly | None:
    """Make the calls, and let the model judge each answer."""
    fold = Fold(SessionStoreModel())
    for function, argument in asks:
        if anomaly := fold.step(answer(target, function, argument, rng)):
            return anomaly
    return None


def answer(target: Any, function: str, argument: dict[str, Any], rng: Random) -> Operation:
    result, outcome = None, Outcome.OK
    try:
        if function == "crash":
            function, argument = argument["function"], argument["argument"]
            method = getattr(target, function)
            result = target.crash(lambda: method(**argument), rng)
        else:
            result = getattr(target, function)(**argument)
    except CrashedError:
        outcome = Outcome.INFO
    except Exception:  # noqa: BLE001  a target may refuse in any way
        outcome = Outcome.FAIL
    return Operation(0, function, argument, outcome, 0, 1, result)


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 60))
def test_right_store_is_accepted(rng: Random, length: int) -> None:
    """For any calls."""
    assert run(Toy(), program(rng, length), rng) is None


def shortest(wrong: type[Toy], asks: list[Ask]) -> Anomaly | None:
    """The anomaly of a wrong toy in the shortest part of the program that has one."""
    blamed = run(wrong(), iter(asks), Random(0))
    at = 0
    while blamed is not None and at < len(asks):
        fewer = [*asks[:at], *asks[at + 1 :]]
        if found := run(wrong(), iter(fewer), Random(0)):
            blamed, asks = found, fewer
        else:
            at += 1
    return blamed


@pytest.mark.parametrize(("wrong", "promise"), WRONG, ids=[wrong.__name__ for wrong, _ in WRONG])
def test_wrong_store_breaks_its_promise(wrong: type[Toy], promise: Promise) -> None:
    """In most shortest programs the anomaly names the promise."""
    programs = [[*program(Random(seed), 40)] for seed in range(200)]
    found = (shortest(wrong, asks) for asks in programs)
    blamed = [*itertools.islice((anomaly.promises for anomaly in found if anomaly), 10)]

    assert len(blamed) >= 5
    assert sum(promise in promises for promises in blamed) >= 0.9 * len(blamed)


def test_text_restored_twice_blames_the_recovery_too() -> None:
    """A shrink had removed one text; after the restart another one is there twice."""
    fold = Fold(SessionStoreModel())
    asks: list[Ask] = [
        ("new", {"session": "s"}),
        *(("append", {"session": "s", "text": text}) for text in "ab"),
        ("shrink", {"session": "s", "keep": 1}),
        ("restart", {}),
    ]
    for function, argument in asks:
        assert fold.step(Operation(0, function, argument, Outcome.OK, 0, 1)) is None
    read = Operation(0, "messages", {"session": "s"}, Outcome.OK, 0, 1, ["a", "b", "b"])
    anomaly = fold.step(read)

    assert anomaly is not None
    assert (anomaly.promise, anomaly.also) == (promises.S1, (promises.S5,))


def test_damaged_session_may_have_older_texts() -> None:
    """The texts before the damage may be there; only the later text is missing."""
    asks: list[Ask] = [
        ("new", {"session": "s"}),
        ("append", {"session": "s", "text": "before"}),
        ("corrupt", {"session": "s"}),
        ("append", {"session": "s", "text": "since"}),
    ]
    fold = Fold(SessionStoreModel())
    for function, argument in asks:
        assert fold.step(Operation(0, function, argument, Outcome.OK, 0, 1)) is None
    read = Operation(0, "messages", {"session": "s"}, Outcome.OK, 0, 1, ["before"])
    anomaly = fold.step(read)

    assert anomaly is not None
    assert anomaly.promises == {promises.S2}


SAID: list[Ask] = [("new", {"session": "s"}), ("append", {"session": "s", "text": "a"})]
SAVED_SINCE: list[Ask] = [
    *SAID,
    ("corrupt", {"session": "s"}),
    ("append", {"session": "s", "text": "b"}),
]
ROW = {"title": "Untitled", "message_count": 1, "updated_at": 1.0}


@pytest.mark.parametrize(
    ("asks", "function", "result", "promise"),
    [
        (SAID, "row", ROW, None),
        (SAID, "row", {**ROW, "title": "x"}, promises.S11),
        (SAID, "backup", 1, None),
        (SAID, "backup", 2, promises.S4),
        (SAID, "backup", Outcome.FAIL, promises.S4),
        ([], "backup", None, None),
        ([], "backup", 1, promises.S11),
        ([], "backup", Outcome.FAIL, promises.S11),
        ([], "held", 1, promises.A6),
        (SAID, "held", -1, promises.A6),
        (SAID, "held", 2, promises.A6),
        (SAVED_SINCE, "list", [], promises.S11),
        (SAVED_SINCE, "rename", Outcome.FAIL, promises.S1),
        (SAVED_SINCE, "undo", Outcome.FAIL, promises.S1),
        (SAVED_SINCE, "new", None, promises.S9),
        (SAVED_SINCE, "new", Outcome.FAIL, None),
        (SAVED_SINCE[:3], "rename", Outcome.FAIL, None),
        (SAVED_SINCE[:3], "delete", Outcome.FAIL, promises.S1),
    ],
)
def test_answer_is_judged_beside_damage(
    asks: list[Ask], function: str, result: Any, promise: Promise | None
) -> None:
    """What is sure of a session is judged; a damaged file that no save replaced may be lost."""
    fold = Fold(SessionStoreModel())
    for name, argument in asks:
        assert fold.step(Operation(0, name, argument, Outcome.OK, 0, 1)) is None
    outcome = result if isinstance(result, Outcome) else Outcome.OK
    given = {} if function in ("held", "list") else {"session": "s"}
    given |= {"title": "t"} if function == "rename" else {}
    value = None if outcome is Outcome.FAIL else result
    found = fold.step(Operation(0, function, given, outcome, 0, 1, value))

    assert (found.promise if found else None) is promise


def test_wrong_count_is_found_by_next_read() -> None:
    """Not before: the messages themselves may be wrong, which is another finding."""
    fold = Fold(SessionStoreModel())
    for name, argument in SAID:
        assert fold.step(Operation(0, name, argument, Outcome.OK, 0, 1)) is None
    row = Operation(0, "row", {"session": "s"}, Outcome.OK, 0, 1, {**ROW, "message_count": 0})
    read = Operation(0, "messages", {"session": "s"}, Outcome.OK, 0, 1, ["a"])

    assert fold.step(row) is None
    found = fold.step(read)
    assert found is not None
    assert found.promise is promises.S11


@pytest.mark.parametrize(("listed", "promise"), [(["t", "s"], None), (["s", "t"], promises.S8)])
def test_new_session_is_first_after_crash(listed: list[str], promise: Promise | None) -> None:
    fold = Fold(SessionStoreModel())
    assert fold.step(Operation(0, "new", {"session": "s"}, Outcome.OK, 0, 1)) is None
    assert fold.step(Operation(0, "new", {"session": "t"}, Outcome.INFO, 0, None)) is None
    found = fold.step(Operation(0, "list", {}, Outcome.OK, 0, 1, listed))

    assert (found.promise if found else None) is promise


def test_unknown_function_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        SessionStoreModel().step(
            SessionStoreModel().initial(), Operation(0, "x", {}, Outcome.OK, 0, 1)
        )


# The reference ------------------------------------------------------------------------------------


class Reference:
    """The reference's store on a simulated disk, which may crash at any call."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = itertools.count(1.0).__next__
        self.dies_at = 0
        self._start()

    def _fault(self, call: Call) -> InjectedFault | None:
        if call.number != self.dies_at:
            return None
        return InjectedFault(SimulatedCrash(call), call.length // 2)

    def crash(self, ask: Callable[[], object], rng: Random) -> object:
        """Crash at one of the next calls, or lose power after the last, and restart."""
        self.dies_at = len(self.disk.calls) + rng.randrange(1, 20)
        try:
            return ask()
        except SimulatedCrash as death:
            raise CrashedError from death
        finally:
            self.dies_at = 0
            left = rng.choice([self.disk.process_crash(), *self.disk.power_losses(rng, 3)])
            self._start_again(left)

    def _start_again(self, left: Image) -> None:
        self.close()
        left.put_into(self.folder)
        self._start()

    def _start(self) -> None:
        self.disk = SimulatedDisk(self.folder, self._fault)
        self.disk.__enter__()
        self.store = SessionStore(self.folder, clock=self.clock)

    def close(self) -> None:
        self.disk.__exit__()

    def new(self, session: str) -> None:
        self.store.new(session)

    def append(self, session: str, text: str) -> None:
        self.store.append(session, {"role": "user", "content": text})

    def rename(self, session: str, title: str) -> None:
        self.store.rename(session, title)

    def clear(self, session: str) -> None:
        self.store.clear(session)

    def truncate(self, session: str, keep: int) -> None:
        self.store.truncate(session, keep)

    def undo(self, session: str) -> None:
        self.store.undo(session)

    def shrink(self, session: str, keep: int) -> None:
        found = self.store.load(session)
        self.store.save(replace(found, messages=found.messages[:keep]))

    def delete(self, session: str) -> None:
        self.store.delete(session)

    def messages(self, session: str) -> list[str] | None:
        try:
            return [message["content"] for message in self.store.load(session).messages]
        except UnknownSessionError:
            return None

    def list(self) -> list[str]:
        return [row["session_id"] for row in self.store.rows()]

    def row(self, session: str) -> dict[str, Any] | None:
        rows = [row for row in self.store.rows() if row["session_id"] == session]
        return dict(rows[0]) if rows else None

    def backup(self, session: str) -> int | None:
        backup = self.store.files.backup(session)
        if backup is not None:
            return backup.message_count
        copies = (self.folder / f"{session}.{kind}" for kind in ("json.bak", "json.damaged"))
        return -1 if any(copy.exists() for copy in copies) else None

    def save_stub(self, session: str) -> None:
        self.store.save(self.store.load_metadata_only(session))

    def save_stale(self, session: str, text: str) -> None:
        stale = self.store.load(session)
        self.store.save(stale)
        self.store.save(stale.appended({"role": "user", "content": text}))

    def save_refused(self, session: str) -> None:
        waiting = self.store.maintain(
            session, lambda found: replace(found, pending_user_message="waiting")
        )
        accident = replace(waiting, messages=())
        try:
            # An empty session cannot be emptied, so save another value that must be refused.
            self.store.save(accident if waiting.messages else replace(accident, version=99))
        finally:
            self.store.maintain(session, lambda found: replace(found, pending_user_message=None))

    def cleanup(self, session: str) -> None:
        def begin(found: Session) -> Session:
            return replace(found, active_stream_id="dead")

        self.store.maintain(session, begin)
        self.store.clean_stale_stream(session, lambda _: False)

    def corrupt(self, session: str) -> None:
        with (self.folder / f"{session}.json").open("r+b") as file:
            file.truncate(len(file.read()) - 9)
            os.fsync(file.fileno())  # so that no power loss undoes it

    def restart(self) -> None:
        self.store = SessionStore(self.folder, clock=self.clock)
        self.recover()

    def recover(self) -> None:
        recover_all(self.store)

    def hostile(self, session_id: str) -> None:
        self.store.load(session_id)


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 40))
def test_reference_is_accepted_after_any_crash(rng: Random, length: int) -> None:
    """With a kill or a power loss at any call of any operation."""
    with tempfile.TemporaryDirectory() as name:
        reference = Reference(Path(name))
        try:
            assert run(reference, program(rng, length), rng) is None
        finally:
            reference.close()
