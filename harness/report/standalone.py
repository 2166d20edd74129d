"""Renders a failure as a stand-alone pytest file, which fails while the promise is broken.

Where the target's adapter stands alone, its source is in the file, which then needs no harness. For
all other failures, such as races of threads, killed processes and conversations over HTTP, the
harness replays the operations, and the scenario's checker judges the answers.
"""

from __future__ import annotations

import pprint
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

from harness.core.history import Operation, Outcome
from harness.core.verdict import Anomaly

REPLAYS = 3  # a race or a kill may miss its moment
TRIES = 10  # answers that depend on timing may differ from the observed ones

_FILE = Template('''\
"""$promise: $sentence

$message

Found on $target by the scenario $scenario, seed $seed. The test fails while the promise is broken.
Run it with `pytest $file`.
"""

import pytest

$adapter

TRIES = $tries
# Function, argument and the observed answer; None is a lost reply, which any answer may replace.
STEPS = $steps

$expectation


def attempt(adapter, function, argument):
    try:
        return getattr(adapter, function)(**argument)
    except (Exception, SystemExit) as error:
        return f"raised {type(error).__name__}"


def play(folder):
    """Return the last answer, and whether all answers before it are the observed ones."""
    folder.mkdir()
    adapter = open_adapter(folder)
    try:
        answers = [[attempt(adapter, function, argument)] for function, argument, _ in STEPS]
    finally:
        adapter.close()
    observed = [answer if old is None else old for answer, (_, _, old) in zip(answers, STEPS)]
    return answers[-1][0], answers[:-1] == observed[:-1]


def test_$name(tmp_path):
    for number in range(TRIES):
        answer, is_comparable = play(tmp_path / str(number))
        if is_comparable:
            $assertion
            return
    pytest.skip(f"in {TRIES} tries the answers before the last differed from the observed ones")
''')

_REPLAY = Template('''\
"""$promise: $sentence

$message

Found on $target by the scenario $scenario, seed $seed. The test fails while the promise is broken.
Run it with `pytest $file`. It needs hermes-harness, which replays the failure.
"""

import os

import pytest

$needed
from harness.core.errors import UsageError
from harness.runs.replay import failure_of, run

$story

FAILURE = $failure

TARGET = $target_name


def test_$name():
    for _ in range($tries):
        try:
            replayed = run(failure_of(FAILURE), TARGET)
        except UsageError as error:
            pytest.skip(f"needs what was judged: {error}")
        assert not replayed.verdict.anomalies
    if replayed.verdict.unknowns:
        pytest.skip(f"could not be judged: {replayed.verdict.unknowns[0]}")
''')


def render_replay(
    failure: Mapping[str, Any], anomaly: Anomaly, file: str, *, needed: str, target_name: str
) -> str:
    """Render a failure that needs the harness to replay it; `failure` is the stored document.

    `needed` is source that skips the test without the harness; `target_name` is an expression for
    the name under which another process finds what was judged.
    """
    story = failure["notes"].get("story", "").splitlines()
    return _REPLAY.substitute(
        promise=anomaly.promise.id,
        sentence=anomaly.promise.sentence,
        message=_prose(_finding(anomaly)),
        target=failure["target"],
        scenario=failure["scenario"],
        seed=failure["seed"],
        file=file,
        needed=needed.strip(),
        tries=REPLAYS,
        target_name=target_name,
        story="\n".join(f"# {line}".rstrip() for line in story),
        failure=pprint.pformat(failure, width=96, sort_dicts=False),
        name=anomaly.promise.id.lower(),
    )


def render(  # noqa: PLR0913  the facts of one failure
    anomaly: Anomaly, *, adapter: str, target: str, scenario: str, seed: int, file: str
) -> str:
    """Render a failure; `adapter` is source that defines `open_adapter(folder)`."""
    expectation, assertion = _expectation(anomaly)
    return _FILE.substitute(
        promise=anomaly.promise.id,
        sentence=anomaly.promise.sentence,
        message=_prose(_finding(anomaly)),
        target=target,
        scenario=scenario,
        seed=seed,
        file=file,
        adapter=adapter.strip(),
        tries=TRIES,
        steps=pprint.pformat(_steps(anomaly.evidence), width=96, sort_dicts=False),
        expectation=expectation,
        name=anomaly.promise.id.lower(),
        assertion=assertion,
    )


def _steps(evidence: Sequence[Operation]) -> list[tuple[str, Any, list[Any] | None]]:
    return [
        (operation.function, operation.argument, _observed(operation)) for operation in evidence
    ]


def _observed(operation: Operation) -> list[Any] | None:
    """The answer as the file compares it, in a list; None for a lost reply."""
    match operation.outcome:
        case Outcome.OK:
            return [operation.result]
        case Outcome.FAIL:
            return [f"raised {operation.error.split(':')[0]}"]
        case Outcome.INFO:
            return None


def _expectation(anomaly: Anomaly) -> tuple[str, str]:
    if anomaly.accepted:
        accepted = pprint.pformat(list(anomaly.accepted), width=96, sort_dicts=False)
        return f"ACCEPTED = {accepted}", "assert answer in ACCEPTED"
    refused = pprint.pformat(_observed(anomaly.evidence[-1]), width=96, sort_dicts=False)
    return f"REFUSED = {refused}", "assert [answer] != REFUSED"


def _finding(anomaly: Anomaly) -> str:
    """The message, and what was expected and observed, a line each."""
    lines = [anomaly.message]
    lines += [f"expected: {anomaly.expected}"] if anomaly.expected else []
    lines += [f"observed: {anomaly.observed}"] if anomaly.observed else []
    return "\n".join(lines)


def _prose(message: str) -> str:
    """The message with the characters escaped that cannot stand in a docstring."""
    lines = message.replace("\\", "\\\\").replace('"""', "'''").split("\n")
    return "\n".join(
        "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
        for line in lines
    )
