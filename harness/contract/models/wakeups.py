"""Model of wakeups: each report about a background process starts one turn, in its own session.

Operations are those of the *wakeups* ability (`harness.targets`). A report waits in the queue of
its session. Only the head of the queue may be started, only while the session is idle, and by
whichever call finds it first. An answer lists every attempt to deliver, in order; what is still
owed according to the registry; and the sizes of the bookkeeping. The model predicts all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from harness.contract import promises
from harness.contract.agent_script import WakeupPrompt
from harness.core.contract import Promise
from harness.core.history import Operation, Outcome
from harness.core.model import Refusal

PATIENCE_S = 60.0  # after this time a start that failed must have been retried
HOLD_MAX_S = 100.0  # after this time a session is no longer left free for a user
HOLD_MIN_S = 0.5  # for this time it is
WAKEUPS_MAX = 6  # that a user who retries at a steady pace is refused for
PACE_MAX_S = 40.0  # the slowest such pace
UNROUTED_MAX = 256  # reports without a session that are remembered
INDEX_MAX = 4096
COMMAND_CHARS_MAX = 1000
OUTPUT_CHARS_MAX = 4000
JOINED_MAX = 16  # reports that a user's turn takes along
OWED_SHOWN = 40  # an answer names this many of the owed reports
MISSING = ("no take", "no is_consumed", "no mark_consumed", "take gives text")
JOINS = ("joined", "had")  # a user's turn takes a report along, that its session has perhaps
SILENT = ("is_consumed answers text", "mark_consumed marks nothing")
BROKEN_ERROR = "RegistryContractError"
_ALPHABET = "0123456789 abc äß 漢字 🙂 "


def sized(size: int) -> str:
    """Make a text of that many characters; any two parts of it differ in their line numbers."""
    lines: list[str] = []
    chars = 0
    while chars < size:
        lines.append(f"{len(lines):06} {_ALPHABET}\n")
        chars += len(lines[-1])
    return "".join(lines)[:size]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A report that waits for its delivery, and what happened meanwhile."""

    event: str
    process: str
    owner: str | None
    key: str
    prompt: str
    was_deferred: bool = False
    has_failed: bool = False
    was_restarted: bool = False
    is_delivered: bool = False  # but not marked
    is_given_up: bool = False  # it was missed before, and was reported

    @property
    def promises(self) -> tuple[Promise, ...]:
        """The promises that demand its delivery now, the most specific first."""
        reasons = {
            promises.W4: self.was_restarted,
            promises.W5: self.has_failed,
            promises.W3: self.was_deferred,
        }
        return tuple(promise for promise, holds in reasons.items() if holds) or (promises.W2,)


@dataclass(frozen=True, slots=True)
class User:
    """A user who was refused because of wakeups, and since when each of their gaps lasts."""

    refusals: int
    refused_at_s: float
    gap_min_s: float = float("inf")
    gap_max_s: float = 0.0

    @property
    def is_steady(self) -> bool:
        """Whether the user returns at one pace."""
        return self.gap_max_s <= min(1.4 * self.gap_min_s, PACE_MAX_S)


@dataclass(frozen=True, slots=True)
class State:
    """Reports by where they wait, the runs of sessions, and the present faults.

    Pairs are sorted by their first element, except the index, which is in order of use.
    """

    now_s: float = 0.0
    owed: tuple[Waiting, ...] = ()  # in the registry
    published: tuple[Waiting, ...] = ()  # not collected yet
    queues: tuple[tuple[str, tuple[Waiting, ...]], ...] = ()
    unrouted: tuple[Waiting, ...] = ()
    index: tuple[tuple[str, str], ...] = ()
    runs: tuple[tuple[str, str], ...] = ()  # session and source
    users: tuple[tuple[str, User], ...] = ()
    refusing: frozenset[str] = frozenset()  # sessions whose present wakeup refused a user
    held: tuple[tuple[str, float], ...] = ()
    delayed: tuple[tuple[str, float], ...] = ()
    delivered: tuple[tuple[str, str], ...] = ()  # event and the session that got its turn
    deleted: frozenset[str] = frozenset()
    failing: int = 0
    unmarkable: int = 0
    broken: str = ""
    offsets: tuple[tuple[str, int], ...] = ()  # of sizes, after a wrong one was reported


class WakeupsModel:
    """Which wakeup turns may be started, and what remains of them."""

    name = "wakeups"

    def initial(self) -> State:
        """No report waits, and no session is busy."""
        return State()

    def step(self, state: State, operation: Operation) -> tuple[State] | Refusal:
        """The state after the operation, or the promise it broke."""
        draft = _Draft(state, operation)
        draft.judge()
        return draft.problems[0] if draft.problems else (draft.frozen(),)

    def adopt(self, state: State, operation: Operation) -> tuple[State, ...]:
        """Go on with the attempts, owed reports and sizes that were observed, if any were."""
        if operation.outcome is not Outcome.OK:
            return ()
        draft = _Draft(state, operation)
        draft.judge()
        draft.adopt()
        return (draft.frozen(),)


@dataclass
class _Draft:
    """The state during one operation, and what is wrong with its answer."""

    state: State
    operation: Operation
    problems: list[Refusal] = field(default_factory=list)

    def __post_init__(self) -> None:
        state = self.state
        self.now_s = state.now_s
        self.owed, self.published = list(state.owed), list(state.published)
        self.queues = {name: list(queue) for name, queue in state.queues}
        self.unrouted, self.index = list(state.unrouted), dict(state.index)
        self.runs, self.users = dict(state.runs), dict(state.users)
        self.refusing, self.delivered = set(state.refusing), dict(state.delivered)
        self.held, self.delayed = dict(state.held), dict(state.delayed)
        self.deleted = set(state.deleted)
        self.failing, self.unmarkable = state.failing, state.unmarkable
        self.broken, self.offsets = state.broken, dict(state.offsets)
        self.attempted: set[str] = set()
        self.to_mark: list[tuple[str, str]] = []  # session and event of what was delivered
        self.dropped: list[str] = []
        self.joining: str | None = None  # the session whose user's turn takes reports along

    def frozen(self) -> State:
        values = {item.name: getattr(self, item.name) for item in fields(State)}
        for name in ("queues", "runs", "users", "held", "delayed", "delivered", "offsets"):
            values[name] = tuple(sorted(values[name].items()))
        values["queues"] = tuple((name, tuple(q)) for name, q in values["queues"] if q)
        values["index"] = tuple(self.index.items())
        for name in ("owed", "published", "unrouted"):
            values[name] = tuple(values[name])
        for name in ("refusing", "deleted"):
            values[name] = frozenset(values[name])
        return State(**values)

    def refuse(self, promise: Promise, problem: str, expected: str, *also: Promise) -> None:
        message = f"{self.operation.call} {problem}"
        self.problems.append(Refusal(promise, message, expected=expected, also=also))

    # The call

    def judge(self) -> None:
        operation = self.operation
        if operation.outcome is not Outcome.OK:
            broken = promises.W8 if self.broken else promises.W5
            self.refuse(broken, "raised", "the call returns; a failed start is retried")
            return
        argument = operation.argument
        if operation.function == "open_broken":
            self._expect_error(is_due=True)
            return
        ended = self._apply(operation.function, argument)
        drains = operation.function in ("drain", "advance")
        collects = drains or ended is not None or self.joining is not None
        is_reported = self.broken in MISSING or (
            self.broken == SILENT[0] and any(self._is_new(event) for event in self.published)
        )
        if collects and is_reported:
            self._expect_error(is_due=True)  # first: what goes on without it is a consequence
        if collects and self.broken in ("", *SILENT) and not is_reported:
            self._collect()
        elif operation.function != "index":
            self._announced([])
        self._finish_call(operation.function, argument)
        self._attempts(is_allowed=not (self.broken and (is_reported or not collects)))
        marked = any(how == "marked" for _, _, how, _ in operation.result["attempts"])
        self._expect_error(is_due=collects and (is_reported or bool(self.broken and marked)))
        if not self.broken:
            self._find_missed(ended)
        self._compare_owed()
        if operation.function == "pending":
            self._compare_rest()
        elif not self.broken:
            self._compare_sizes()

    def _apply(  # noqa: C901  one case for each call
        self, function: str, argument: Mapping[str, Any]
    ) -> str | None:
        """Apply the call itself; returns the session whose run it ended, if any."""
        session = argument.get("session", "")
        match function:
            case "complete":
                self._complete(argument)
            case "index":
                self._index(argument)
            case "begin_run" | "join_run":
                self._come(session, joins=function == "join_run")
            case "end_run" if session in self.runs:
                return self._end(session)
            case "delete":
                self.deleted.add(session)
                self.users.pop(session, None)
                if session in self.runs:
                    return self._end(session)
            case "fail_starts":
                self.failing = argument["times"]
            case "fail_marks":
                self.unmarkable = argument["times"]
            case "break_registry":
                self.broken = argument["kind"]
            case "advance":
                self.now_s += argument["seconds"]
            case "restart":
                self._restart()
        return None

    def _finish_call(self, function: str, argument: Mapping[str, Any]) -> None:
        """Apply what a call does after the reports that came until then were collected."""
        if function == "delete":
            self._drop_keys(argument["session"])
        if self.joining is not None:
            self._join(self.joining, fails=argument["fails"])

    def _complete(self, argument: Mapping[str, Any]) -> None:
        count = argument.get("count", 1)
        names = [argument["process"]] if count == 1 else []
        names = names or [f"{argument['process']}.{number}" for number in range(count)]
        known = {other.event for other in self.owed} | self.delivered.keys()
        for process in names:
            waiting = waiting_of(argument, process)
            if waiting.event not in known:
                self.owed.append(waiting)
                self.published.append(waiting)

    def _index(self, argument: Mapping[str, Any]) -> None:
        keys = argument["keys"]
        moved: list[Waiting] = []
        for key in [f"{keys}{number}" for number in range(argument["count"])] or [keys]:
            self.index.pop(key, None)
            self.index[key] = argument["session"]
            while len(self.index) > INDEX_MAX:
                del self.index[next(iter(self.index))]
            if self.unrouted:
                moved += [event for event in self.unrouted if event.key == key]
        for event in moved:
            self.unrouted.remove(event)
        self._announced([self._enqueue(argument["session"], event) for event in moved])

    def _drop_keys(self, session: str) -> None:
        """A deleted session has no keys; what came while its run ended was still its own."""
        for key in [key for key, sid in self.index.items() if sid == session]:
            del self.index[key]

    def _come(self, session: str, *, joins: bool) -> None:
        """A user begins a turn, or is refused; one that takes reports along collects them first."""
        if not joins or session in self.runs:
            self._begin(session)
        elif session not in self.deleted:
            self.joining = session

    def _begin(self, session: str) -> None:
        source = self.runs.get(session)
        if source is None:
            self.runs[session] = "user"
            self.users.pop(session, None)
            self.held.pop(session, None)
            self.delayed.pop(session, None)
        elif source == "wakeup":
            self._refused(session)

    def _refused(self, session: str) -> None:
        """A user was refused because of a wakeup."""
        user = self.users.get(session)
        if user is None:
            self.users[session] = User(1, self.now_s)
        else:
            gap_s = self.now_s - user.refused_at_s
            self.users[session] = User(
                user.refusals + (session not in self.refusing),
                self.now_s,
                min(user.gap_min_s, gap_s),
                max(user.gap_max_s, gap_s),
            )
        self.refusing.add(session)
        user = self.users[session]
        if user.is_steady and user.refusals > WAKEUPS_MAX:
            problem = f"refused a user because of {user.refusals} wakeups in a row"
            self.refuse(promises.W10, problem, f"at most {WAKEUPS_MAX}")

    def _end(self, session: str) -> str:
        if self.runs.pop(session) == "wakeup" and session in self.refusing:
            self.held[session] = self.now_s
        self.refusing.discard(session)
        for number, waiting in enumerate(self.queues.get(session, ())):
            self.queues[session][number] = replace(waiting, was_deferred=True)
        return session

    def _restart(self) -> None:
        for name in ("queues", "runs", "users", "held", "delayed", "offsets", "index"):
            getattr(self, name).clear()
        self.refusing.clear()
        self.unrouted.clear()
        self.broken = ""
        self.owed = [replace(waiting, was_restarted=True) for waiting in self.owed]
        self.published = list(self.owed)

    # Collection

    def _is_new(self, waiting: Waiting) -> bool:
        lines = (self.unrouted, *self.queues.values())
        return not any(waiting.event == other.event for line in lines for other in line)

    def _collect(self) -> None:
        announced = []
        for waiting in self.published:
            session = waiting.owner or self.index.get(waiting.key)
            if session is not None:
                announced.append(self._enqueue(session, waiting))
                continue
            self.unrouted.append(waiting)
            if len(self.unrouted) > UNROUTED_MAX:
                self.dropped.append(self.unrouted.pop(0).event)
        self.published.clear()
        self._announced(announced)

    def _enqueue(self, session: str, waiting: Waiting) -> list[str]:
        was_deferred = waiting.was_deferred or session in self.runs
        # Without a mark only the record of the session itself says that its turn was started.
        is_delivered = self.delivered.get(waiting.event) == session
        waiting = replace(waiting, was_deferred=was_deferred, is_delivered=is_delivered)
        self.queues.setdefault(session, []).append(waiting)
        return [session, waiting.event]

    def _announced(self, expected: list[list[str]]) -> None:
        observed = self.operation.result["announced"]
        if observed == expected:
            return
        elsewhere = {event: session for session, event in expected}
        broken = promises.W2
        if any(elsewhere.get(event, session) != session for session, event in observed):
            broken = promises.W7
        elif any(other.event == event for other in self.unrouted for _, event in observed):
            broken = promises.W6
        elif len(observed) > len(expected):
            broken = promises.W1
        elif sorted(observed) == sorted(expected):
            broken = promises.W3
        self.refuse(broken, f"announced {observed}", f"announced = {expected}", promises.W6)

    # Attempts

    def _join(self, session: str, *, fails: bool) -> None:
        """A user's turn takes the first reports along, and marks them once it is saved."""
        queue = self.queues.get(session, [])
        attempts = self.operation.result["attempts"]
        joined = [attempt for attempt in attempts if attempt[2] in JOINS]
        self._compare_joined(session, queue[:JOINED_MAX], joined)
        if fails:
            return
        self._begin(session)
        for _, event, _, _ in joined:
            self.delivered[event] = session
            self.to_mark.append((session, event))
        self.queues[session] = [
            replace(e, is_delivered=e.is_delivered or (session, e.event) in self.to_mark)
            for e in queue
        ]

    def _compare_joined(
        self, session: str, due: Sequence[Waiting], joined: Sequence[Sequence[str]]
    ) -> None:
        expected = [
            [session, e.event, "had" if e.is_delivered else "joined", e.prompt] for e in due
        ]
        if [*joined] == expected:
            return
        wanted, came = [e.event for e in due], [event for _, event, _, _ in joined]
        others = {e.event for name, queue in self.queues.items() if name != session for e in queue}
        missing = [e for e in due if e.event not in came]
        broken, *also = missing[0].promises if missing else (promises.W1,)
        if others & {*came}:
            broken = promises.W6
        elif came != wanted and sorted(came) == sorted(wanted):
            broken = promises.W3
        self.refuse(broken, f"took {came} along", f"a turn that takes {wanted} along", *also)

    def _attempts(self, *, is_allowed: bool) -> None:
        for session, event, how, message in self.operation.result["attempts"]:
            if how in JOINS and self.joining is not None:
                continue  # judged by `_join`
            if not is_allowed:
                problem = f"went on although {self.broken or 'nothing was due'}"
                self.refuse(promises.W8, problem, "no attempt, and an 'error'")
            if how in ("marked", "unmarked"):
                self._mark(session, event, how)
                continue
            if self.to_mark:
                self.refuse(promises.W5, f"did not mark {self.to_mark[0]}", "a mark of it")
                self.to_mark.clear()
            self.attempted.add(session)
            self._attempt(session, event, how, message)
        if self.to_mark:
            self.refuse(promises.W5, f"did not mark {self.to_mark[0]}", "a mark of it")
        if self.dropped:
            self.refuse(promises.W9, f"kept {self.dropped}", "reports without session are bounded")

    def _attempt(self, session: str, event: str, how: str, message: str) -> None:
        queue = self.queues.get(session, [])
        head = queue[0] if queue else None
        if how == "started":
            self._started(session, event, message)
        elif head is None or head.event != event:
            wanted = head.event if head else "nothing"
            broken = promises.W1 if event in self.delivered else promises.W3
            self.refuse(broken, f"tried {event} of {session}", f"{wanted} first")
        elif how == "failed":
            if self.failing == 0:
                self.refuse(promises.W5, f"failed to start {event}", "starts work")
            self.failing = max(0, self.failing - 1)
            self._delay(session, replace(head, has_failed=True))
        elif how == "again" and not head.is_delivered:
            self.refuse(promises.W1, f"found {event} delivered", f"a turn for {event}")
        elif how == "gone" and session not in self.deleted:
            self.refuse(promises.W5, f"found {session} gone", f"a turn for {event}")
        if how in ("started", "again", "gone"):
            self.to_mark.append((session, event))
        elif how != "failed":
            self.refuse(promises.W5, f"made an attempt {how!r}", "a known attempt")

    def _started(  # noqa: C901  one branch for each way to be wrong
        self, session: str, event: str, message: str
    ) -> None:
        def refuse(promise: Promise, problem: str, expected: str) -> None:
            self.refuse(promise, f"started a turn of {session} for {event}, {problem}", expected)

        owners = [name for name, queue in self.queues.items() for e in queue if e.event == event]
        queue = self.queues.get(session, [])
        if any(event == other.event for other in self.unrouted):
            refuse(promises.W6, "whose owner is unknown", f"no turn for {event} before its key")
        elif event in self.delivered and not self._is_rerouted(session, event):
            refuse(promises.W1, "which was delivered before", f"no further turn for {event}")
        elif not owners:
            refuse(promises.W1, "which never ended", f"no turn for {event}")
        elif owners != [session]:
            refuse(promises.W6, "which belongs to another", f"a turn of {', '.join(owners)}")
        elif session in self.runs:
            refuse(promises.W3, "which has to wait", f"no turn of {session} while it is busy")
        elif queue[0].event != event:
            refuse(promises.W3, "which was not first", f"a turn for {queue[0].event} first")
        elif session in self.held and self.now_s - self.held[session] < HOLD_MIN_S:
            refuse(promises.W10, "which a refused user has to precede", f"{session} is left free")
        elif queue[0].prompt != message:
            broken = promises.W13 if "#" in event else promises.W1
            refuse(broken, f"with the prompt {message!r}", f"the prompt {queue[0].prompt!r}")
        self.delivered[event] = session
        self.runs[session] = "wakeup"
        self.refusing.discard(session)
        for name in owners:
            self.queues[name] = [
                replace(e, is_delivered=e.event == event or e.is_delivered, was_deferred=True)
                for e in self.queues[name]
            ]

    def _is_rerouted(self, session: str, event: str) -> bool:
        """Whether a report without proof of its owner may start a turn of this session too.

        It is delivered as indexed (W6). Its former turn was not marked, and the host that knew of
        it is gone; now its key is that of another session.
        """
        return any(
            waiting.event == event and waiting.owner is None and waiting.was_restarted
            for waiting in self.queues.get(session, ())
        ) and self.delivered[event] not in ("", session)

    def _mark(self, session: str, event: str, how: str) -> None:
        if self.dropped and event == self.dropped[0] and how == "marked":
            self.dropped.pop(0)
            self._forget(event)
            return
        if not self.to_mark or self.to_mark[0][1] != event:
            is_due = any(
                event == waiting.event for queue in self.queues.values() for waiting in queue
            )
            never = (promises.W1,) if is_due else ()  # no turn ever tells of it now
            problem = f"marked {event} undelivered"
            self.refuse(promises.W5, problem, "no mark before delivery", *never)
        expected = "unmarked" if self.unmarkable and not self.broken else "marked"
        if how != expected:
            self.refuse(promises.W5, f"{how} {event}", expected)
        self.to_mark = self.to_mark[1:]
        if how == "unmarked":
            if self.joining is not None:
                self.to_mark.clear()  # those behind it are marked when it is
            self.unmarkable = max(0, self.unmarkable - 1)
            queue = self.queues.get(session, [])
            if queue:
                self._delay(session, replace(queue[0], has_failed=True))
        elif self.broken != SILENT[1]:
            self._forget(event)
            self.delayed.pop(session, None)
            self.held.pop(session, None)

    def _delay(self, session: str, head: Waiting) -> None:
        self.queues[session][0] = head
        self.delayed[session] = self.now_s

    def _forget(self, event: str) -> None:
        self.delivered.setdefault(event, "")
        for waiting in (self.owed, self.unrouted, *self.queues.values()):
            for number, other in enumerate(waiting):
                if other.event == event:
                    del waiting[number]
                    break

    def _find_missed(self, ended: str | None) -> None:
        """Find what the call left waiting in an idle session although it had to start it."""
        drains = self.operation.function in ("drain", "advance")
        for session, queue in self.queues.items():
            if session in self.runs or not queue or queue[0].is_given_up:
                continue
            if not drains and (session != ended or session in self.attempted):
                continue
            if self._may_wait(session):
                continue
            head = queue[0]
            broken, *also = (promises.W9,) if session in self.deleted else head.promises
            problem = f"started no turn for {head.event} although {session} is idle"
            self.refuse(broken, problem, f"a turn of {session} for {head.event}", *also)
            queue[0] = replace(head, is_given_up=True)

    def _may_wait(self, session: str) -> bool:
        was_tried = session in self.attempted
        delay_s = self.now_s - self.delayed.get(session, -HOLD_MAX_S)
        hold_s = self.now_s - self.held.get(session, -HOLD_MAX_S)
        return (session in self.delayed and (was_tried or delay_s < PATIENCE_S)) or (
            session in self.held and hold_s < HOLD_MAX_S
        )

    # What remains

    def _expect_error(self, *, is_due: bool) -> None:
        error = self.operation.result["error"]
        expected = BROKEN_ERROR if is_due else None
        if error != expected:
            self.refuse(promises.W8, f"reported {error}", f"error = {expected!r}")

    def _compare_owed(self) -> None:
        result = self.operation.result
        expected = [waiting.event for waiting in self.owed]
        if [result["owed"], result["owed_count"]] != [expected[:OWED_SHOWN], len(expected)]:
            observed = result["owed"]
            is_lost = any(event not in observed for event in expected[:OWED_SHOWN])
            broken = promises.W5 if is_lost else promises.W1
            self.refuse(broken, f"left {observed} owed", f"owed = {expected[:OWED_SHOWN]}")

    def _sizes(self) -> dict[str, int]:
        queued = sum(map(len, self.queues.values()))
        wakeups = sum(source == "wakeup" for source in self.runs.values())
        sizes = {
            "events": queued + len(self.unrouted),
            "unrouted": len(self.unrouted),
            "index": len(self.index),
            "runs": wakeups,
        }
        return {name: size + self.offsets.get(name, 0) for name, size in sizes.items()}

    def _compare_sizes(self) -> None:
        observed, expected = self.operation.result["sizes"], self._sizes()
        if observed != expected:
            self.refuse(promises.W9, f"left {observed}", f"sizes = {expected}")

    def _compare_rest(self) -> None:
        """Judge every size once nothing is under way."""
        observed, expected = self.operation.result["sizes"], self._sizes()
        if self.runs or any(self.queues.values()):
            observed = {name: observed[name] for name in expected}
        else:
            expected |= {"lines": 0, "ready": 0, "timers": 0}
        if observed != expected:
            self.refuse(promises.W9, f"left {observed}", f"sizes = {expected} at rest")

    def adopt(self) -> None:
        """Take the observed answer for the truth."""
        result = self.operation.result
        if "owed" not in result:
            return
        self._adopt_owed(result["owed"], result["owed_count"])
        if result.get("sizes") and self.operation.function != "pending":
            for name, size in self._sizes().items():
                offset = result["sizes"].get(name, size) - size
                self.offsets[name] = self.offsets.get(name, 0) + offset

    def _adopt_owed(self, observed: Sequence[str], count: int) -> None:
        if count > OWED_SHOWN:
            return
        known = {waiting.event: waiting for waiting in (*self.state.owed, *self.owed)}
        for name, queue in self.queues.items():
            self.queues[name] = [e for e in queue if e.event in observed]
        delivered = self.delivered
        self.owed = [
            replace(known[event], is_delivered=event in delivered)
            for event in observed
            if event in known
        ]


def waiting_of(argument: Mapping[str, Any], process: str) -> Waiting:
    """The report that `complete` publishes about this process."""
    session, is_match = argument["session"], "match" in argument
    command = sized(argument.get("command_size", 9))
    if len(command) > COMMAND_CHARS_MAX:
        command = f"{command[:COMMAND_CHARS_MAX]}..."
    output = sized(argument.get("output_size", 5))[-OUTPUT_CHARS_MAX:]
    code = argument.get("exit_code", 0)
    if is_match:
        suppressed = argument.get("suppressed", 0)
        more = f", and {suppressed} more before" if suppressed else ""
        cause = f"printed a line with {argument['match']!r}{more}"
    elif code is None:
        cause = "was lost when its host was killed (exit_code=unknown)"
    else:
        cause = f"completed (exit_code={code})"
    prompt = str(WakeupPrompt(process, cause, command, output))
    is_owned = argument.get("is_owned", True)
    event = f"{process}#1" if is_match else process
    return Waiting(
        event, process, session if is_owned else None, argument.get("key", session), prompt
    )
