"""A failure as a pytest file that stands alone: run it anywhere, and it fails on its first run.

Where the target is an outside one the file imports nothing of ours: the adapter's source is in it.
"""

from __future__ import annotations

import pprint
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

from harness.history import Operation, Outcome
from harness.verdict import Anomaly

_FILE = Template('''\
"""$promise: $sentence

$message

Found on $target by the scenario $scenario, seed $seed. It fails for as long as the promise is
broken: run it with `pytest $file`.
"""

$adapter

STEPS = $steps

$expectation


def attempt(adapter, function, argument):
    try:
        return getattr(adapter, function)(**argument)
    except (Exception, SystemExit) as error:
        return f"raised {type(error).__name__}"


def test_$name(tmp_path):
    adapter = open_adapter(tmp_path)
    try:
        for function, argument in STEPS:
            answer = attempt(adapter, function, argument)
    finally:
        adapter.close()
    $assertion
''')


_SCHEDULE = Template('''\
"""$promise: $sentence

$message

Found on $target by the scenario $scenario, seed $seed. It fails for as long as the promise is
broken: run it with `pytest $file`. It needs hermes-harness, whose scheduler plays it again.
"""

from harness.replay import failure_of, run

$story

FAILURE = $failure


def test_$name():
    replayed = run(failure_of(FAILURE), FAILURE["target"])
    assert not replayed.verdict.anomalies
''')


def render_schedule(failure: Mapping[str, Any], anomaly: Anomaly, file: str) -> str:
    """Render a failing schedule; `failure` is what `harness replay` would read."""
    story = failure["notes"]["story"].splitlines()
    return _SCHEDULE.substitute(
        promise=anomaly.promise.name,
        sentence=anomaly.promise.value,
        message=_prose(anomaly.message),
        target=failure["target"],
        scenario=failure["scenario"],
        seed=failure["seed"],
        file=file,
        story="\n".join(f"# {line}".rstrip() for line in story),
        failure=pprint.pformat(failure, width=96, sort_dicts=False),
        name=anomaly.promise.name.lower(),
    )


def render(  # noqa: PLR0913  the facts of one failure
    anomaly: Anomaly, *, adapter: str, target: str, scenario: str, seed: int, file: str
) -> str:
    """Render the file. `adapter` is source that defines `open_adapter(folder)`."""
    expectation, assertion = _expectation(anomaly)
    return _FILE.substitute(
        promise=anomaly.promise.name,
        sentence=anomaly.promise.value,
        message=_prose(anomaly.message),
        target=target,
        scenario=scenario,
        seed=seed,
        file=file,
        adapter=adapter.strip(),
        steps=pprint.pformat(_steps(anomaly.evidence), width=96, sort_dicts=False),
        expectation=expectation,
        name=anomaly.promise.name.lower(),
        assertion=assertion,
    )


def _steps(evidence: Sequence[Operation]) -> list[tuple[str, Any]]:
    return [(operation.function, operation.argument) for operation in evidence]


def _expectation(anomaly: Anomaly) -> tuple[str, str]:
    if anomaly.accepted:
        accepted = pprint.pformat(list(anomaly.accepted), width=96, sort_dicts=False)
        return f"ACCEPTED = {accepted}", "assert answer in ACCEPTED"
    last = anomaly.evidence[-1]
    answer = last.result if last.outcome is Outcome.OK else f"raised {last.error.split(':')[0]}"
    refused = pprint.pformat(answer, width=96, sort_dicts=False)
    return f"REFUSED = {refused}", "assert answer != REFUSED"


def _prose(message: str) -> str:
    return message.replace("\\", "\\\\").replace('"""', "'''")
