"""How scenarios are run under pytest: `--target`, `--seed`, `--effort`, and the judge."""

from __future__ import annotations
from collections.abc import Callable
from pathlib import Path
import pytest
from harness.runner import run
from harness.scenario import Scenario
from harness.verdict import Verdict
from harness.targets.reference import ReferenceTarget

Judge = Callable[[Scenario], Verdict]


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    def j(s: Scenario) -> Verdict:
        t = ReferenceTarget()
        t.prepare()
        r = run(s, t, 1, 1.0, tmp_path)
        print(r.episodes, r.operations, r.verdict.assumptions, r.digest)
        for a in r.verdict.anomalies:
            print(a.promise, a.message)
            [print("   ", o) for o in a.evidence]
        return r.verdict

    return j
