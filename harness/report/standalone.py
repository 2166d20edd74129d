"""A failure as a pytest file that stands alone: run it anywhere, and it fails on its first run.

Where the target is an outside one the file imports nothing of ours: the adapter's source is in it.
Only what one client's questions cannot show, threads that meet and processes that are killed, needs
the harness to play it again.
"""

from __future__ import annotations

import pprint
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

from harness.core.history import Operation, Outcome
from harness.core.verdict import Anomaly

TRIES = 10  # a target whose answers depend on timing may need some to give the same ones

_FILE = Template('''\
"""$promise: $sentence

$message

Found on $target by the scenario $scenario, seed $seed. It fails for as long as the promise is
broken: run it with `pytest $file`.
"""

import pytest

$adapter

TRIES = $tries
# What is asked, and what was answered; None is a reply that was lost, and could be any.
STEPS = $steps

$expectation


def attempt(adapter, function, argument):
    try:
        return getattr(adapter, function)(**argument)
    except (Exception, SystemExit) as error:
        return f"raised {type(error).__name__}"


def play(folder):
    """The last answer, and whether those before it were the ones that it was judged by."""
    folder.mkdir()
    adapter = open_adapter(folder)
    try:
        answers = [[attempt(adapter, function, argument)] for function, argument, _ in STEPS]
    finally:
        adapter.close()
    seen = [answer if seen is None else seen for answer, (_, _, seen) in zip(answers, STEPS)]
    return answers[-1][0], answers[:-1] == seen[:-1]


def test_$name(tmp_path):
    for number in range(TRIES):
        answer, is_comparable = play(tmp_path / str(number))
        if is_comparable:
            $assertion
            return
    pytest.skip("its answers led elsewhere each time, and nothing wrong was seen there")
''')

_REPLAY = Template('''\
"""$promise: $sentence

$message

Found on $target by the scenario $scenario, seed $seed. It fails for as long as the promise is
broken: run it with `pytest $file`. It needs hermes-harness, which plays it again.
"""

from harness.runs.replay import failure_of, run

$story

FAILURE = $failure


def test_$name():
    replayed = run(failure_of(FAILURE), FAILURE["target"])
    assert not replayed.verdict.anomalies
''')


def render_replay(failure: Mapping[str, Any], anomaly: Anomaly, file: str) -> str:
    """Render a failure that asking again does not show; `failure` is what `replay` reads."""
    story = failure["notes"].get("story", "").splitlines()
    return _REPLAY.substitute(
        promise=anomaly.promise.id,
        sentence=anomaly.promise.sentence,
        message=_prose(anomaly.message),
        target=failure["target"],
        scenario=failure["scenario"],
        seed=failure["seed"],
        file=file,
        story="\n".join(f"# {line}".rstrip() for line in story),
        failure=pprint.pformat(failure, width=96, sort_dicts=False),
        name=anomaly.promise.id.lower(),
    )


def render(  # noqa: PLR0913  the facts of one failure
    anomaly: Anomaly, *, adapter: str, target: str, scenario: str, seed: int, file: str
) -> str:
    """Render the file. `adapter` is source that defines `open_adapter(folder)`."""
    expectation, assertion = _expectation(anomaly)
    return _FILE.substitute(
        promise=anomaly.promise.id,
        sentence=anomaly.promise.sentence,
        message=_prose(anomaly.message),
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
    return [(operation.function, operation.argument, _seen(operation)) for operation in evidence]


def _seen(operation: Operation) -> list[Any] | None:
    """What was answered, as the file would see it, in a list; None if nothing was."""
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
    refused = pprint.pformat(_seen(anomaly.evidence[-1]), width=96, sort_dicts=False)
    return f"REFUSED = {refused}", "assert [answer] != REFUSED"


def _prose(message: str) -> str:
    """The message as it can stand in a docstring, where not every character can."""
    lines = message.replace("\\", "\\\\").replace('"""', "'''").split("\n")
    return "\n".join(
        "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
        for line in lines
    )
