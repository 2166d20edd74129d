"""Checks that turns on a failing disk are stored once, end once, and that all copies agree.

For histories of `turn`s, one of them `struck` by a fault, with a `look` whenever all is settled: at
rest, after the next turn or another host. A look holds the messages, the rows of each stream and
the states of the turn journal, by run, and what the clients were shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from harness.contract import promises
from harness.contract.checkers.threads.run_facts import wrong
from harness.core.history import History, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict

WORDS = ("one ", "two")
ENDS = {"done": ["done", "stream_end"], "cancel": ["cancel"], "apperror": ["apperror"]}
STATES = {"done": "completed", "cancel": "interrupted", "apperror": "interrupted"}
FITTING = {  # the ends of a run whose turn is stored with a mark
    "": ("done",),
    "cancelled": ("cancel", "apperror"),  # a host that died after the save wrote no cancel
    "error": ("apperror",),
    "interrupted": ("apperror",),
}
OWN_ENDS = {"talk": "done", "fail": "apperror", "cancel": "cancel"}
KILLS = ("kill", "kill torn")


@dataclass(frozen=True, slots=True)
class Copies:
    """All that a look found of one run, and the calls that made it."""

    run: str
    attempts: tuple[Operation, ...]
    look: Operation
    is_restarted: bool

    @property
    def messages(self) -> list[list[str]]:
        """Its stored messages, as rows of role, text and mark."""
        return list(self.look.result["messages"].get(self.run, []))

    @property
    def requests(self) -> list[list[str]]:
        """Its stored user messages."""
        return [row for row in self.messages if row[0] == "user"]

    @property
    def mark(self) -> str:
        """How the stored turn is marked."""
        return next((row[2] for row in self.messages if row[2]), "")

    @property
    def text(self) -> str:
        """The stored reply."""
        return "".join(row[1] for row in self.messages if row[0] == "assistant")

    @property
    def shown(self) -> list[str]:
        """The words and events that its clients have."""
        return list(self.look.result["shown"].get(self.run, []))

    @property
    def streams(self) -> list[list[list[Any]]]:
        """The rows of each of its streams."""
        return list(self.look.result["streams"].get(self.run, []))

    @property
    def states(self) -> list[str]:
        """Its states in the turn journal."""
        return list(self.look.result["turns"].get(self.run, []))

    @property
    def is_wakeup(self) -> bool:
        """Whether it is the turn of a wakeup."""
        return bool(self.attempts[0].argument.get("wakeup"))

    @property
    def is_acknowledged(self) -> bool:
        """Whether its start returned."""
        return bool(self.shown) or any(op.outcome is Outcome.OK for op in self.attempts)

    @property
    def met_errors(self) -> bool:
        """Whether the disk refused a change of it."""
        strikes = [op.argument["strike"] for op in self.attempts if op.function == "struck"]
        return any(strike not in KILLS for strike in strikes)

    @property
    def has_failed_write(self) -> bool:
        """Whether the disk refused a change of it, without a restart since."""
        return self.met_errors and not self.is_restarted

    @property
    def fitting_ends(self) -> tuple[str, ...]:
        """The ends of its streams that fit what is stored.

        A save that the disk reported as failed may be there all the same, as its host cannot know;
        or the next turn settles it, whatever its clients were shown.
        """
        fitting = FITTING[self.mark] if self.requests else ("apperror",)
        if self.met_errors and self.mark == "interrupted":
            return (*fitting, "cancel")
        return (*fitting, "apperror") if self.met_errors else fitting


def check_struck_turns(history: History) -> Verdict:
    """Judge a history by each of its looks."""
    for anomaly in _anomalies(history):
        return Verdict(anomalies=(anomaly,))
    return Verdict()


def _anomalies(history: History) -> Iterator[Anomaly]:
    yield from _calls(history)
    operations = list(history)
    for number, look in enumerate(operations):
        if look.function != "look" or look.outcome is not Outcome.OK:
            continue
        before = operations[:number]
        turns = [op for op in before if op.function in ("turn", "struck")]
        restarts = [n for n, op in enumerate(before) if _is_restart(op)]
        for run in dict.fromkeys(op.argument["run"] for op in turns):
            attempts = tuple(op for op in turns if op.argument["run"] == run)
            is_restarted = bool(restarts) and before.index(attempts[-1]) <= restarts[-1]
            yield from _of_run(Copies(run, attempts, look, is_restarted))
        yield from _at_rest(look, turns)


def _is_restart(operation: Operation) -> bool:
    is_dead = operation.function == "struck" and operation.outcome is Outcome.INFO
    return is_dead or operation.function == "restart"


def _calls(history: History) -> Iterator[Anomaly]:
    """A call that failed without a fault, or that answered something else."""
    for op in history:
        if op.function == "struck":
            yield from _struck(op)
        elif op.outcome is not Outcome.OK or (op.function == "restart" and op.result is not None):
            yield wrong(
                promises.T3, "failed-call", f"{op.call} failed", (op,), "it succeeds", op.answer
            )
        elif op.function == "turn":
            is_again = op.result["start"] == "again" and op.argument.get("wakeup", False)
            is_cancelled = True if op.argument["script"] == "cancel" and not is_again else None
            start = "again" if is_again else "begun"
            expected = {"start": start, "cancelled": is_cancelled, "ended": True}
            if op.result != expected:
                yield wrong(
                    promises.T3,
                    "wrong-turn",
                    f"{op.call} did not end",
                    (op,),
                    f"{expected}",
                    op.answer,
                )


def _struck(op: Operation) -> Iterator[Anomaly]:
    """A struck turn that failed by another error than its fault, or that never ended."""
    if op.outcome is Outcome.FAIL:
        wanted = (
            "OSError: [Errno 5]"
            if op.argument["strike"] == "broken once"
            else "OSError: [Errno 28]"
        )
        if op.argument["strike"] in KILLS or not op.error.startswith(wanted):
            yield wrong(
                promises.T3, "wrong-error", f"{op.call} failed otherwise", (op,), wanted, op.answer
            )
    elif op.outcome is Outcome.OK:
        is_cancelled = (True, False) if op.argument["script"] == "cancel" else (None,)
        has_ended = op.result["start"] == "begun" and op.result["ended"] is True
        if not has_ended or op.result["cancelled"] not in is_cancelled:
            yield wrong(
                promises.T3,
                "never-ended",
                f"{op.call} did not end its run",
                (op,),
                f"a run that begins and ends, cancelled in {is_cancelled}",
                op.answer,
            )
        is_counted = op.result["changes"] >= op.argument["at"]
        possible = {
            "broken once": (is_counted,),
            "full": (False, is_counted),  # not every change needs space
            "full once": (False, is_counted),
        }.get(op.argument["strike"], (False,))  # a kill is no answer
        if op.result["struck"] not in possible:
            yield wrong(
                promises.T3,
                "struck",
                f"{op.call} was hit otherwise than by its fault",
                (op,),
                f"struck in {possible}",
                op.answer,
            )


def _of_run(copies: Copies) -> Iterator[Anomaly]:
    """Judge the copies of one run."""
    yield from _stored(copies)
    yield from _streamed(copies)
    yield from _agreed(copies)
    yield from _shaped(copies)
    yield from _whole(copies)


def _stored(copies: Copies) -> Iterator[Anomaly]:
    """A message that is missing or repeated, or a reply without what was shown."""
    evidence = (*copies.attempts, copies.look)
    script = copies.attempts[0].argument["script"]
    requests = copies.requests
    is_refused = all(op.outcome is Outcome.FAIL for op in copies.attempts)
    if len(requests) > 1:
        yield wrong(
            promises.W1 if copies.is_wakeup else promises.S13,
            "repeated",
            f"the message of run {copies.run} is there {len(requests)} times",
            evidence,
            "once",
            copies.messages,
            promises.S13,
            promises.S2,
        )
    if not requests and copies.is_acknowledged:
        yield wrong(
            promises.W4 if copies.is_wakeup else promises.T2,
            "lost",
            f"run {copies.run} was acknowledged, and its message is lost",
            evidence,
            "its message",
            copies.messages,
            promises.S2,
            promises.S13,
        )
    if not requests:
        return
    if requests[0][1] != f"{copies.run} {script}":
        yield wrong(
            promises.S2,
            "wrong-text",
            "another message",
            evidence,
            f"{copies.run} {script}",
            requests,
        )
    if is_refused and copies.mark != "interrupted":
        yield wrong(
            promises.S10,
            "refused-stored",
            f"the start of run {copies.run} was refused, and its turn is stored",
            evidence,
            "no turn, or an interrupted one",
            copies.messages,
            promises.T2,
            promises.T3,
        )
    words = "".join(text for text in copies.shown if text in WORDS)
    if not copies.text.startswith(words) or not "".join(WORDS).startswith(copies.text):
        yield wrong(
            promises.S13,
            "reply",
            f"the stored reply of run {copies.run} is not what was shown",
            evidence,
            repr(words),
            copies.messages,
            promises.S2,
            promises.T4,
        )


def _streamed(copies: Copies) -> Iterator[Anomaly]:
    """A stream with wrong numbers, or with other than one end."""
    evidence = (*copies.attempts, copies.look)
    for rows in copies.streams:
        if [row[0] for row in rows] != list(range(1, len(rows) + 1)):
            yield wrong(
                promises.T5, "numbers", f"the rows of run {copies.run}", evidence, "1, 2, 3", rows
            )
        words = [row[2] for row in rows if row[1] == "token"]
        names = [row[1] for row in rows if row[1] != "token"]
        allowed = [*ENDS.values(), *([[], ["done"]] if copies.has_failed_write else [])]
        if not words and any(op.outcome is not Outcome.OK for op in copies.attempts):
            allowed.append([])  # of a start that did not return
        if names not in allowed or words != list(WORDS[: len(words)]):
            yield wrong(
                promises.T3,
                "stream",
                f"a stream of run {copies.run} has the ends {names}",
                evidence,
                f"one of {allowed}",
                rows,
                promises.C6,
            )
    ends = [row[1] for rows in copies.streams for row in rows if row[1] in ENDS]
    shown = [event for event in copies.shown if event in ENDS]
    is_unwritten = any(event not in ends for event in shown) and not copies.has_failed_write
    if len(shown) > 1 or is_unwritten:
        yield wrong(
            promises.T3,
            "shown-end",
            f"the clients of run {copies.run} were shown {shown}, and its streams end by {ends}",
            evidence,
            f"{shown[:1]}",
            ends,
        )


def _agreed(copies: Copies) -> Iterator[Anomaly]:
    """Copies of one run that differ in how it ended."""
    evidence = (*copies.attempts, copies.look)
    ends = [row[1] for rows in copies.streams for row in rows if row[1] in ENDS]
    fitting = copies.fitting_ends
    may_lack = copies.has_failed_write or not copies.is_acknowledged
    # A start that was repeated leaves what its earlier attempts ended by.
    earlier = ["apperror"] * (len(copies.attempts) - 1)
    unfitting = [end for end in ends if end not in (*fitting, *earlier)]
    has_own = any(end in fitting for end in ends)
    if unfitting or not (has_own or may_lack):
        yield wrong(
            promises.T3,
            "copies",
            f"run {copies.run} is stored as {copies.mark!r}, and its streams end by {ends}",
            evidence,
            " or ".join(fitting),
            ends,
            promises.S14,
            promises.S13,
        )
    wanted = {STATES[end] for end in fitting}
    states = [
        state
        for state in copies.states
        if state not in (wanted if not earlier else {*wanted, "interrupted"})
    ]
    is_open = set(states) <= {"submitted", "started"} and copies.has_failed_write
    if (states and not is_open) or not (copies.states or may_lack):
        yield wrong(
            promises.T3,
            "journal",
            f"run {copies.run} is stored as {copies.mark!r}, and journalled as {copies.states}",
            evidence,
            " or ".join(sorted(wanted)),
            copies.states,
            promises.S14,
            promises.W4,
        )
    is_quiet = all(op.function == "turn" for op in copies.attempts)
    own = OWN_ENDS[copies.attempts[0].argument["script"]]
    if is_quiet and own not in ends:
        yield wrong(
            promises.T3, "wrong-end", f"run {copies.run} ended by {ends}", evidence, own, ends
        )


def _shaped(copies: Copies) -> Iterator[Anomaly]:
    """A part that a fault of no kind explains: an order, a repetition, or a strange value."""
    evidence = (*copies.attempts, copies.look)
    roles = [row[0] for row in copies.messages]
    if roles not in ([], ["user"], ["user", "assistant"]):
        yield wrong(
            promises.S2,
            "roles",
            f"the messages of run {copies.run} are no request and reply",
            evidence,
            "a request, and perhaps a reply",
            copies.messages,
            promises.S13,
        )
    rest = copies.shown
    for _ in copies.attempts:
        rest = _without_turn(rest)
    if rest:
        yield wrong(
            promises.T5,
            "shown",
            f"the clients of run {copies.run} were shown something else than words and an end",
            evidence,
            f"some of {[*WORDS]} in order, and one end, for each start",
            copies.shown,
            promises.C1,
        )
    strange = [
        row
        for rows in copies.streams
        for row in rows
        if len(row) != 3 or (row[1] != "token" and row[2] is not None)  # noqa: PLR2004
    ]
    most = max(len(copies.streams), len(copies.states))
    if strange or most > len(copies.attempts):
        yield wrong(
            promises.T3,
            "rows",
            f"run {copies.run} has rows of no run, or more streams or turns than starts",
            evidence,
            f"at most {len(copies.attempts)} streams and turns, with text in tokens only",
            {"streams": copies.streams, "turns": copies.states},
        )


def _without_turn(shown: list[str]) -> list[str]:
    """What was shown after the words and the end of one turn."""
    words = next(n for n in (2, 1, 0) if shown[:n] == list(WORDS[:n]))
    rest = shown[words:]
    ends = (*ENDS.values(), ["done"])  # the disk may refuse the last row
    return next((rest[len(end) :] for end in ends if rest[: len(end)] == end), rest)


def _whole(copies: Copies) -> Iterator[Anomaly]:
    """A run that met no fault, and of which something is missing or not as its script says."""
    if not all(_is_sound(op) for op in copies.attempts):
        return
    script = copies.attempts[0].argument["script"]
    end = OWN_ENDS[script]
    mark = {"cancel": "cancelled", "apperror": "error"}.get(end, "")
    rows: list[list[Any]] = [["token", word] for word in WORDS]
    rows += [[event, None] for event in ENDS[end]]
    again = ["interrupted"] * (len(copies.attempts) - 1)  # a wakeup that was delivered before
    wanted = {
        "messages": [
            ["user", f"{copies.run} {script}", "" if mark == "error" else mark],
            ["assistant", "".join(WORDS), mark],
        ],
        "streams": [[[number, *row] for number, row in enumerate(rows, start=1)]],
        "shown": [*WORDS, *ENDS[end]],
        "turns": [STATES[end], *again],
    }
    found = {
        "messages": copies.messages,
        "streams": copies.streams,
        "shown": copies.shown,
        "turns": copies.states,
    }
    different = [name for name in wanted if found[name] != wanted[name]]
    if different:
        yield wrong(
            promises.T3,
            "not-whole",
            f"run {copies.run} met no fault, and its {different[0]} are not whole",
            (*copies.attempts, copies.look),
            f"{wanted[different[0]]}",
            found[different[0]],
            promises.S14,
        )


def _is_sound(op: Operation) -> bool:
    return op.outcome is Outcome.OK and not op.result.get("struck", False)


def _at_rest(look: Operation, turns: list[Operation]) -> Iterator[Anomaly]:
    """A session that is busy, or a registry that holds a run, when no run is left."""
    if look.result["busy"] or look.result["left"]:
        yield wrong(
            promises.T3,
            "left",
            "runs that are over are still registered, or mark their session",
            (*turns, look),
            "empty registries, and an idle session",
            {"busy": look.result["busy"], **look.result["left"]},
            promises.S13,
        )
    unknown = {*look.result["messages"]} - {op.argument["run"] for op in turns}
    if unknown:
        yield wrong(
            promises.S2, "unknown", "messages of no run", (*turns, look), "none", sorted(unknown)
        )
