"""Scenario of every write after every other write of the same session, walked completely."""

from __future__ import annotations

from typing import Any

from harness.checkers.conformance import conforms
from harness.contract import promises
from harness.contract.models.state_db import StateDbModel
from harness.contract.workloads.database_writers import Step
from harness.core.history import History
from harness.engine.client import RecordingClient
from harness.engine.context import Context
from harness.engine.scenario import Expectation, Mode, Scenario
from harness.pytest_plugin import Judge

WRITES = (
    *("create", "append", "replace", "clear", "set_title", "remove_title", "set_system_prompt"),
    *("add_tokens", "set_tokens", "end", "reopen", "delete", "prune"),
)


def _write(function: str, session: str, number: int) -> Step:
    """The write; `number` makes its values different from those of the write before."""
    on = {"session": session}
    arguments: dict[str, dict[str, Any]] = {
        "create": {**on, "source": "web"},
        "append": {**on, "role": "tool", "text": f"gamma {number}", "tool_calls": number},
        "replace": {**on, "messages": [["user", f"beta {number}"], ["tool", "delta"]]},
        "set_title": {**on, "title": f"plan {session} {number}"},
        "remove_title": {**on, "title": None},
        "set_system_prompt": {**on, "text": f"be brief {number}"},
        "add_tokens": {**on, "input": 3, "output": 5 + number},
        "set_tokens": {**on, "input": 100 + number, "output": 7},
        "end": {**on, "reason": f"reason {number}"},
        "prune": {"days": 5},
    }
    name = "set_title" if function == "remove_title" else function
    return name, arguments.get(function, on)


def _look(client: RecordingClient, session: str) -> None:
    for function in ("get", "messages", "details", "counters"):
        client.ask(function, {"session": session})


def _prune_one_source(client: RecordingClient) -> None:
    """Prune one of two sources whose sessions are equally old, and look at both."""
    for source in ("cli", "web"):
        client.ask("create", {"session": source, "source": source})
        message = {"session": source, "role": "user", "text": f"alpha {source}", "tool_calls": 1}
        client.ask("append", message)
        client.ask("end", {"session": source, "reason": "done"})
    client.ask("advance", {"days": 10})
    client.ask("prune", {"days": 5, "source": "web"})
    for source in ("cli", "web"):
        _look(client, source)


def _set_the_clock_back(client: RecordingClient) -> None:
    """Append, end and list while the clock goes back: what came later stays later."""
    client.ask("create", {"session": "back", "source": "cli"})
    for number, days in enumerate((-10, 5, -10)):
        message = {"session": "back", "role": "user", "text": f"alpha back {number}"}
        client.ask("append", {**message, "tool_calls": number})
        client.ask("advance", {"days": days})
    client.ask("end", {"session": "back", "reason": "done"})
    _look(client, "back")
    client.ask("search", {"word": "back"})
    client.ask("advance", {"days": 15})
    client.ask("delete", {"session": "back"})


def walk_pairs(context: Context) -> None:
    """Make every pair of writes, one kind of first write in each episode.

    Beside the session there is one whose id is longer, which no write concerns. Every tenth day a
    session becomes old; in the end those of one source are pruned. What is read after a reopening
    of the file is read before it, too.
    """
    for number in range(context.examples):
        first = WRITES[number % len(WRITES)]
        with context.episode() as episode:
            client = episode.client
            for index, second in enumerate(WRITES):
                session = f"s{index}"
                for name in (session, f"{session}-other", session.upper()):
                    client.ask("create", {"session": name, "source": "cli"})
                    message = {"session": name, "role": "user", "text": f"alpha {name}"}
                    client.ask("append", {**message, "tool_calls": 2})
                if "prune" in (first, second):
                    client.ask("advance", {"days": 10})
                for order, function in enumerate((first, second)):
                    client.ask(*_write(function, session, order + 1))
                    _look(client, session)
                _look(client, f"{session}-other")
                for word in ("alpha", "beta", "gamma"):
                    client.ask("search", {"word": word})
            _set_the_clock_back(client)
            _prune_one_source(client)
            client.ask("list", {})
            client.ask("reopen_file", {})
            client.ask("list", {})
            for index in range(len(WRITES)):
                _look(client, f"s{index}")
                _look(client, f"S{index}")


def _pairs(history: History) -> int:
    return len(history.of("create"))


STATE_DB_PAIRS = Scenario(
    name="state-db-pairs",
    mode=Mode.MODEL,
    ability="state_db",
    promises=(promises.D1, promises.D2, promises.D13),
    workload=walk_pairs,
    checker=conforms(StateDbModel()),
    expectations=(Expectation("every write followed one of them", _pairs, 3 * len(WRITES) + 2),),
    examples=len(WRITES),
)


def test_every_pair_of_writes_conforms(judge: Judge) -> None:
    """Each write after each other write of the same session leaves what the model predicts."""
    assert judge(STATE_DB_PAIRS).is_valid
