"""Scenarios of every write after every other of the same session, and of an older file."""

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

PARENT = "parent"
PLAIN = ("get", "messages", "details", "counters")  # reads of a session
WRITES = (
    *("create", "append", "replace", "clear", "set_title", "remove_title", "set_system_prompt"),
    *("add_tokens", "set_tokens", "end", "reopen", "delete", "prune"),
)


def _write(function: str, session: str, number: int) -> Step:
    """The write; `number` makes its values different from those of the write before."""
    on = {"session": session}
    arguments: dict[str, dict[str, Any]] = {
        "create": {**on, "source": "web", "about": _about(number)},
        "append": {
            **on,
            "role": "tool",
            "text": f"gamma {number}",
            "more": _details(number),
            "tool_calls": {"id": "call-0"} if number == 1 else number,
        },
        "replace": {
            **on,
            "messages": [["user", f"beta {number}"], ["assistant", "delta"]],
            "more": [{}, _details(number)],
        },
        "set_title": {**on, "title": f" plan\u200b\t {session}\n{number} "},
        "remove_title": {**on, "title": None},
        "set_system_prompt": {**on, "text": f"be brief {number}"},
        "add_tokens": {**on, "input": 3, "output": 5 + number, "more": _usage(10 * number)},
        "set_tokens": {**on, "input": 100 + number, "output": 7, "more": _usage(number)},
        "end": {**on, "reason": f"reason {number}"},
        "prune": {"days": 5},
    }
    name = "set_title" if function == "remove_title" else function
    return name, arguments.get(function, on)


def _about(number: int) -> dict[str, Any]:
    return {
        "model": f"model {number}",
        "model_config": {"steps": number, "effort": "高"},
        "system_prompt": f"be exact {number}",
        "user_id": f"user {number}",
        "parent_session_id": PARENT,
    }


def _usage(number: int) -> dict[str, Any]:
    return {
        "cache_read_tokens": 10 + number,
        "cache_write_tokens": 20 + number,
        "reasoning_tokens": 30 + number,
        "cost_usd": number / 4,
        "model": f"model {number}",
        "billing_mode": f"mode {number}",
    }


def _details(number: int) -> dict[str, Any]:
    return {
        "tool_call_id": f"call-{number}",
        "tool_name": f"tool {number}",
        "token_count": 40 + number,
        "finish_reason": f"reason {number}",
        "reasoning": f"so {number} it is, 因此",
        "reasoning_details": [{"type": "text", "text": f"so {number}"}],
    }


def _look(client: RecordingClient, session: str) -> None:
    for function in (*PLAIN, "columns"):
        client.ask(function, {"session": session})


def _look_beside(client: RecordingClient, session: str) -> None:
    """Look at a session that no write concerns."""
    for function in PLAIN:
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


def _raise_children(client: RecordingClient) -> None:
    """Create children of one parent, and of one that does not exist; delete and prune parents."""
    for child, parent in (("first", PARENT), ("second", "first"), ("orphan", "absent")):
        about = {**_about(3), "parent_session_id": parent}
        client.ask("create", {"session": child, "source": "cli", "about": about})
        _look(client, child)
    client.ask("delete", {"session": PARENT})
    client.ask("end", {"session": "first", "reason": "done"})
    client.ask("advance", {"days": 10})
    _look(client, "first")
    client.ask("prune", {"days": 5, "source": "cli"})
    _look(client, "second")
    client.ask("delete", {"session": "second"})


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
            client.ask("create", {"session": PARENT, "source": "web"})
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
                _look_beside(client, f"{session}-other")
                for word in ("alpha", "beta", "gamma"):
                    client.ask("search", {"word": word})
            _set_the_clock_back(client)
            _prune_one_source(client)
            _raise_children(client)
            client.ask("list", {})
            client.ask("reopen_file", {})
            client.ask("list", {})
            for index in range(len(WRITES)):
                _look(client, f"s{index}")
                _look_beside(client, f"S{index}")


def _pairs(history: History) -> int:
    return len(history.of("create"))


STATE_DB_PAIRS = Scenario(
    name="state-db-pairs",
    mode=Mode.MODEL,
    ability="state_db",
    promises=(promises.D1, promises.D2, promises.D13),
    workload=walk_pairs,
    checker=conforms(StateDbModel()),
    expectations=(Expectation("every write followed one of them", _pairs, 3 * len(WRITES) + 6),),
    examples=len(WRITES),
)


def test_every_pair_of_writes_conforms(judge: Judge) -> None:
    """Each write after each other write of the same session leaves what the model predicts."""
    assert judge(STATE_DB_PAIRS).is_valid


# A file of an older schema ------------------------------------------------------------------------


def open_an_older_file(context: Context) -> None:
    """Write every column into a file, take out what an older schema lacks, and go on with it."""
    for _ in range(context.examples):
        with context.episode() as episode:
            client = episode.client
            client.ask("create", {"session": PARENT, "source": "web"})
            for session in ("older", "newer"):
                for order, function in enumerate(("create", "append", "add_tokens", "replace")):
                    client.ask(*_write(function, session, order + 1))
                _look(client, session)
                client.ask("reopen_older" if session == "older" else "reopen_file", {})
                _look(client, "older")
            _look(client, "newer")
            client.ask("search", {"word": "beta"})


def _older_files(history: History) -> int:
    return len(history.happened.of("reopen_older"))


STATE_DB_OLDER_FILE = Scenario(
    name="state-db-older-file",
    mode=Mode.MODEL,
    ability="state_db_older",
    promises=(promises.D1, promises.D13),
    workload=open_an_older_file,
    checker=conforms(StateDbModel()),
    expectations=(Expectation("a file of an older schema was opened", _older_files),),
    examples=1,
)


def test_older_file_is_completed_as_it_is_opened(judge: Judge) -> None:
    """What an older schema lacks is empty, and can be written from then on."""
    assert judge(STATE_DB_OLDER_FILE).is_valid
