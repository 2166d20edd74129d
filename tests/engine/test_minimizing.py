"""Tests of making proofs small: what is about other things goes first, then what is not needed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from harness.contract import promises
from harness.core import history
from harness.core.history import History, Journal, Operation, Outcome
from harness.core.verdict import Anomaly, Verdict
from harness.engine import runner
from harness.engine.context import EPILOGUE, Context, ask_again
from harness.engine.minimizing import LONG, is_walk, names, parts
from harness.engine.scenario import Scenario
from harness.engine.target import AdapterInstance
from harness.targets.reference.target import ReferenceTarget
from scenarios.lifecycle.test_model import OWNERS_AND_FAILURES

SESSIONS = ("s1", "s2", "s3")
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["write", "read", "boot"]), st.sampled_from([*SESSIONS, None]))
)


class Forgetful:
    """Sessions with texts; one of three texts forgets the first. What is open shows at the end."""

    has_epilogue = True

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {}

    def boot(self) -> None:
        pass

    def write(self, session: str, text: str) -> None:
        texts = self.texts.setdefault(session, [])
        texts.append(text)
        if len(texts) > 2:
            del texts[0]

    def read(self, session: str) -> list[str]:
        return list(self.texts.get(session, []))

    def epilogue(self) -> dict[str, Any]:
        return {"left": sorted(self.texts)}

    def close(self) -> None:
        pass


class ForgetfulTarget(ReferenceTarget):
    """A target with that adapter."""

    def open(self, ability: str, folder: Path) -> AdapterInstance:  # noqa: ARG002  as the protocol
        return AdapterInstance(Forgetful())


def lost_texts(episode: History) -> Verdict:
    """S2 is broken by a read that lacks a text; H8 by something left at the end."""
    written: dict[str, list[str]] = {}
    found = []
    for number, operation in enumerate(episode, start=1):
        evidence = episode.operations[:number]
        if operation.function == "write":
            argument = operation.argument
            written.setdefault(argument["session"], []).append(argument["text"])
        elif operation.function == "read":
            if operation.result != written.get(operation.argument["session"], []):
                found.append(Anomaly(promises.S2, "a text is lost", evidence))
        elif operation.function == EPILOGUE and operation.result["left"]:
            found.append(Anomaly(promises.H8, "sessions are left", evidence))
    return Verdict(tuple(found))


def walk(context: Context) -> None:
    """Write to all sessions in turn, and read all of them, until one has lost a text."""
    with context.part() as episode:
        episode.client.ask("boot", {})
        for number in range(4):
            for session in SESSIONS:
                episode.client.ask("write", {"session": session, "text": f"t{number}"})
        for session in SESSIONS:
            episode.client.ask("read", {"session": session})


FORGETFUL: Scenario = replace(
    OWNERS_AND_FAILURES, workload=walk, checker=lost_texts, expectations=(), examples=1
)


def op(function: str, session: str | None = None) -> Operation:
    argument = {} if session is None else {"session": session}
    return Operation(0, function, argument, Outcome.OK, 1, 2, None, "")


@contextmanager
def recorded(folder: Path) -> Iterator[Context]:
    """A context with the forgetful target, and a journal in the folder."""
    with Journal(folder / runner.HISTORY, itertools.count(1).__next__) as journal:
        yield Context(ForgetfulTarget(), "lifecycle", "1", 1, journal)


@given(OPERATIONS)
def test_parts_keep_order_and_the_last_call(drawn: list[tuple[str, str | None]]) -> None:
    """And all that is about what the last call is about."""
    calls = [op("boot"), *(op(*each) for each in drawn), op("read", "s1")]
    few, more = parts(calls)

    for part in (few, more):
        positions = [next(n for n, each in enumerate(calls) if each is kept) for kept in part]
        assert positions == sorted(positions)
        assert part[-1] is calls[-1]
        about = [each for each in calls if names(each) & {"s1"}]
        assert [each for each in part if names(each)] == about
    assert more[0] is few[0] is calls[0]


def test_names_are_found_in_any_depth() -> None:
    """By the argument's key, or as placeholders in a text."""
    body = {"path": "/x/<r2>", "body": {"session_id": "a"}, "calls": [{"run": "b"}], "text": "c"}

    assert names(Operation(0, "call", body, Outcome.OK, 1, 2, None, "")) == {"<r2>", "a", "b"}


def test_long_walk_becomes_a_short_proof(tmp_path: Path) -> None:
    """Of 16 calls the boot, three writes and the read of one session remain at most."""
    judged = runner.run(FORGETFUL, ForgetfulTarget(), 1, 1.0, tmp_path)
    (anomaly,) = judged.verdict.anomalies

    assert [each.function for each in anomaly.evidence] == ["write", "write", "write", "read"]
    assert len({each.argument["session"] for each in anomaly.evidence}) == 1


def test_first_proof_alone_is_not_minimized(tmp_path: Path) -> None:
    judged = runner.run(FORGETFUL, ForgetfulTarget(), 1, 1.0, tmp_path, minimizes=False)

    assert len(judged.verdict.anomalies[0].evidence) > LONG
    assert is_walk(judged.verdict.anomalies[0], judged.found_in[0])


def test_proof_of_two_clients_stays_as_it_is() -> None:
    """Calls that overlapped cannot be asked one after another."""
    calls = tuple(replace(op("write", "s1"), process=number % 2) for number in range(LONG + 1))

    assert not is_walk(Anomaly(promises.S2, "lost", calls), History(calls))


def test_replay_of_a_part_has_no_epilogue(tmp_path: Path) -> None:
    """What the calls of a proof leave open breaks no promise; its own epilogue is asked once."""
    calls = (op("boot"), op("boot"))
    with recorded(tmp_path) as context:
        ask_again(context, History(calls))
        ask_again(context, History((*calls, op(EPILOGUE))))
    part, whole = history.read(tmp_path / runner.HISTORY)

    assert [each.function for each in part] == ["boot", "boot"]
    assert [each.function for each in whole] == ["boot", "boot", EPILOGUE]


def test_part_that_breaks_more_is_no_proof(tmp_path: Path) -> None:
    """What it lacks may be why: here a call without which the checker finds something else."""

    def needs_boot(episode: History) -> Verdict:
        found = lost_texts(episode).anomalies
        if not episode.of("boot"):
            found = (*found, Anomaly(promises.H2, "never booted", episode.operations))
        return Verdict(found)

    strict = replace(FORGETFUL, checker=needs_boot)
    (anomaly,) = runner.run(strict, ForgetfulTarget(), 1, 1.0, tmp_path).verdict.anomalies

    assert anomaly.promise is promises.S2
    assert [each.function for each in anomaly.evidence] == ["boot", *["write"] * 3, "read"]
