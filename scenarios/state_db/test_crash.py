"""Scenarios of a fault at every SQL statement of every kind of write."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from harness.checkers.conformance import Fold, conforms
from harness.contract import promises
from harness.contract.models.fault_outcomes import FaultOutcomesModel
from harness.contract.models.state_db import StateDbModel
from harness.contract.workloads.database_writers import Step
from harness.core.history import History, Operation, Outcome
from harness.engine.context import Context, Episode
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge
from harness.worker.sql_faults import FAULTS
from harness.workloads.stateful import PromiseBrokenError

UNDER_FAULTS = FaultOutcomesModel(StateDbModel())


class CheckedEpisode:
    """One episode, checked step by step; it ends where the model cannot go on."""

    def __init__(self, episode: Episode) -> None:
        self._client = episode.client
        self._fold = Fold(UNDER_FAULTS)

    def ask(self, step: Step) -> Operation:
        """Call a function. Raises PromiseBrokenError where the model cannot go on."""
        operation = self._client.ask(*step)
        if (anomaly := self._fold.step(operation)) and self._fold.is_lost:
            raise PromiseBrokenError(anomaly)
        return operation

    def read_back(self, sessions: Iterable[str]) -> None:
        """Probe the file, write once more, and read everything back."""
        self.ask(("probe", {}))
        self.ask(_append("s1", "alpha and on"))
        for session in sessions:
            for function in ("counters", "get", "messages", "details", "columns"):
                self.ask((function, {"session": session}))
        self.ask(("list", {}))
        self.ask(("search", {"word": "alpha"}))


@dataclass(frozen=True)
class Kind:
    """A kind of call: the calls before its Nth attempt, and the call itself."""

    write: Callable[[int], Step]
    before: Callable[[int], list[Step]] = lambda _: []


def _create(session: str) -> Step:
    return "create", {"session": session, "source": "cli"}


def _append(
    session: str, text: str, tool_calls: int = 0, more: Mapping[str, Any] | None = None
) -> Step:
    message = {"session": session, "role": "assistant", "text": text, "tool_calls": tool_calls}
    return "append", {**message, "more": more}


S1 = {"session": "s1"}
ABOUT = {"model": "small", "model_config": {"steps": 3}, "parent_session_id": "s2"}
USAGE = {"cache_read_tokens": 2, "reasoning_tokens": 4, "cost_usd": 0.25, "billing_mode": "api"}
DETAILS = {"tool_name": "search", "reasoning": "so", "reasoning_details": [{"text": "so"}]}
KINDS = (
    Kind(lambda n: _append("s1", f"alpha {n}")),
    Kind(lambda n: _append("s1", f"alpha {n}", tool_calls=2, more=DETAILS)),
    Kind(
        lambda n: (
            "replace",
            {
                **S1,
                "messages": [["user", f"alpha {n}"], ["assistant", "beta"]],
                "more": [{}, DETAILS],
            },
        )
    ),
    Kind(lambda _: ("clear", S1), lambda n: [_append("s1", f"alpha {n}")]),
    Kind(lambda n: ("create", {"session": f"new {n}", "source": "cli", "about": ABOUT})),
    Kind(lambda _: ("end", {**S1, "reason": "done"}), lambda _: [("reopen", S1)]),
    Kind(lambda _: ("reopen", S1), lambda _: [("end", {**S1, "reason": "done"})]),
    Kind(lambda n: ("set_title", {**S1, "title": f"plan {n}"})),
    Kind(lambda n: ("set_system_prompt", {**S1, "text": f"beta {n}"})),
    Kind(lambda _: ("add_tokens", {**S1, "input": 3, "output": 5, "more": USAGE})),
    Kind(lambda n: ("add_tokens", {"session": f"new {n}", "input": 3, "output": 5})),
    Kind(lambda n: ("set_tokens", {**S1, "input": n, "output": 2 * n})),
    Kind(
        lambda n: ("delete", {"session": f"gone {n}"}),
        lambda n: [_create(f"gone {n}"), _append(f"gone {n}", "alpha")],
    ),
    Kind(
        lambda _: ("prune", {"days": 5}),
        lambda n: [
            _create(f"old {n}"),
            _append(f"old {n}", "alpha"),
            ("end", {"session": f"old {n}", "reason": "done"}),
            ("advance", {"days": 10}),
        ],
    ),
)
READ_KINDS = (
    Kind(lambda _: ("get", S1)),
    Kind(lambda _: ("details", S1)),
    Kind(lambda _: ("list", {})),
    Kind(lambda _: ("messages", S1), lambda n: [_append("s1", f"alpha {n}")]),
    Kind(lambda _: ("search", {"word": "alpha"}), lambda n: [_append("s1", f"alpha {n}")]),
)
EVERY_KIND = (*KINDS, *READ_KINDS)
EARLIER: tuple[Callable[[random.Random], Step], ...] = (
    lambda rng: _append(rng.choice(["s1", "s2"]), "alpha earlier", rng.randrange(2)),
    lambda rng: ("replace", {"session": "s2", "messages": [["user", "alpha"]] * rng.randrange(3)}),
    lambda rng: ("set_title", {"session": "s2", "title": rng.choice(["plan 1", "plan 2", None])}),
    lambda rng: ("set_tokens", {"session": "s2", "input": rng.randrange(9), "output": 1}),
    lambda _: ("reopen_file", {}),
)
# A kill before statement N + 1 leaves the same as a late kill, after N: one of them is enough.
RAISED_OR_KILLED = tuple(fault for fault in FAULTS if fault != "kill")
STATEMENTS_MAX = 40


def fail_the_nth(context: Context) -> None:
    """Run every kind of call with every fault; later rounds begin with earlier writes."""
    for number in range(context.examples):
        round_, index = divmod(number, len(EVERY_KIND))
        fault = RAISED_OR_KILLED[(round_ + index) % len(RAISED_OR_KILLED)]
        rng = context.rng(f"earlier/{number}")
        with context.episode() as episode, suppress(PromiseBrokenError):
            checked = CheckedEpisode(episode)
            for session in ("s1", "s2"):
                checked.ask(_create(session))
            for _ in range(rng.randrange(6) if round_ else 0):
                checked.ask(rng.choice(EARLIER)(rng))
            _hit_every_statement(checked, EVERY_KIND[index], fault)
            checked.ask(("reopen_file", {}))
            checked.read_back(("s1", "s2"))


def _hit_every_statement(checked: CheckedEpisode, kind: Kind, fault: str) -> None:
    for at in range(1, STATEMENTS_MAX):
        before, (function, argument) = kind.before(at), kind.write(at)
        for step in before:
            checked.ask(step)
        inside = {"function": function, "argument": argument}
        hit = checked.ask(("faulty", {**inside, "at": at, "fault": fault}))
        arguments = [argument, *(argument for _, argument in before)]
        sessions = {given["session"] for given in arguments if "session" in given}
        checked.read_back(sorted({"s1", "s2"} | sessions))
        if hit.outcome is Outcome.OK and hit.result["completed"]:
            return


def _hits(fault: str) -> Expectation:
    def count(history: History) -> int:
        return sum(
            op.function == "faulty"
            and op.argument["fault"] == fault
            and (op.outcome is not Outcome.OK or not op.result["completed"])
            for op in history
        )

    return Expectation(f"a fault hit a write: {fault}", count)


def _completions(history: History) -> int:
    return sum(
        op.function == "faulty" and op.outcome is Outcome.OK and op.result["completed"]
        for op in history
    )


STATE_DB_FAIL_THE_NTH = Scenario(
    name="state-db-fail-the-nth",
    mode=Mode.CRASH,
    ability="state_db_crash",
    promises=(promises.D1, promises.D2, promises.D5, promises.D9, promises.D10),
    workload=fail_the_nth,
    checker=conforms(UNDER_FAULTS),
    expectations=(
        *map(_hits, RAISED_OR_KILLED),
        Expectation("a write completed once all its statements had failed", _completions),
    ),
    examples=len(EVERY_KIND) * len(RAISED_OR_KILLED),
)


def test_write_failed_at_any_statement_has_no_effect(judge: Judge) -> None:
    """After a full disk, an interrupt or a kill the write is complete or absent."""
    assert judge(STATE_DB_FAIL_THE_NTH).is_valid


# Reads beside a writer ---------------------------------------------------------------------------

READS: tuple[Step, ...] = (
    ("get", S1),
    ("list", {}),
    ("messages", S1),
    ("search", {"word": "alpha"}),
    ("reopen_file", {}),
)


def read_beside_a_writer(context: Context) -> None:
    """Make every read-only call while another connection holds the write lock."""
    for _ in range(context.examples):
        with context.episode() as episode, suppress(PromiseBrokenError):
            checked = CheckedEpisode(episode)
            checked.ask(_create("s1"))
            checked.ask(_append("s1", "alpha"))
            for function, argument in READS:
                checked.ask(("beside_a_writer", {"function": function, "argument": argument}))


def _besides(history: History) -> int:
    return len(history.of("beside_a_writer"))


STATE_DB_BESIDE_A_WRITER = Scenario(
    name="state-db-beside-a-writer",
    mode=Mode.CONTENTION,
    ability="state_db_crash",
    promises=(promises.D8,),
    workload=read_beside_a_writer,
    checker=conforms(UNDER_FAULTS),
    expectations=(Expectation("a read ran beside a writer", _besides, len(READS)),),
    examples=1,
)


def test_reads_and_opens_take_no_write_lock(judge: Judge) -> None:
    """A read, and an open of an up-to-date file, does not wait for a writer."""
    assert judge(STATE_DB_BESIDE_A_WRITER).is_valid
