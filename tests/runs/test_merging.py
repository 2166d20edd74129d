"""Tests of several runs that are put together: verdicts, counts, histograms, reach, what lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main as command
from harness.contract import promises
from harness.core.errors import UsageError
from harness.core.histogram import Histogram
from harness.core.verdict import VALID, Anomaly, ExpectationCount, Verdict
from harness.engine.suite import find_scenarios
from harness.mutation.known_bugs import find_bugs
from harness.report import folder
from harness.report import load as load_report
from harness.report.judgement import Record
from harness.runs import gate as gate_module
from harness.runs.accepted import Accepted, Sorted
from harness.runs.gate import REACH, Conclusion, Gate, store
from harness.runs.merging import merge_gates, read_parts
from harness.runs.pytest_run import Results, no_progress

LOST = Anomaly(promises.S2, "a message is lost")
BACK = Anomaly(promises.S6, "a removed message is back")


def record(name: str, verdict: Verdict = VALID, operations: int = 5) -> Record:
    return Record(name, "model", ("S2",), verdict, 2, operations, f"digest of {name}", 1.0)


def a_run(
    path: Path, records: Sequence[Record], chosen: Sequence[str] = (), seed: int = 1, **more: Any
) -> Path:
    """The folder of a gate with a failure file for each anomaly."""
    run = path.parent / "runs" / path.name
    run.mkdir(parents=True)
    names = [each.scenario for each in records]
    plan = {"what": "gate", "target": "reference", "effort": 0.8, "seed": seed, "scenarios": names}
    folder.write_json(run / folder.PLAN, {**plan, "chosen": list(chosen or names)})
    placed = []
    for each in records:
        (run / each.scenario).mkdir()
        if each.verdict.anomalies:
            (run / each.scenario / folder.FAILURE).write_text(path.name, encoding="utf-8")
            line = f"harness replay /elsewhere/{each.scenario}/{folder.FAILURE}"
            each = replace(each, reproduce=(line,))  # noqa: PLW2901
        placed.append(each)
    store(Conclusion("reference", seed, run, 3.0, placed, **more))
    return run


def merged(reports: Path, *runs: Path) -> Conclusion:
    return merge_gates(read_parts(runs), reports / "merged", 20)


def test_shards_become_one_run(tmp_path: Path) -> None:
    """Each record as it was; counts added; failures at their new place."""
    every = ["a", "b"]
    one = a_run(tmp_path / "1", [record("a", Verdict((LOST,)))], every, canaries={"c": True})
    two = a_run(tmp_path / "2", [record("b")], every, canaries={"c": True, "d": True})
    whole = merged(tmp_path, two, one)

    assert [(r.scenario, r.operations, r.digest) for r in whole.records] == [
        ("a", 5, "digest of a"),
        ("b", 5, "digest of b"),
    ]
    assert whole.bought["operations"] == 10
    assert (whole.word, whole.exit_code) == ("invalid", 1)
    assert whole.canaries == {"c": True, "d": True}
    assert whole.records[0].reproduce == (f"harness replay {whole.run}/a/{folder.FAILURE}",)
    assert (whole.run / "a" / folder.FAILURE).read_text(encoding="utf-8") == "1"
    assert folder.read_json(whole.run / folder.VERDICT)["conclusion"] == "invalid"


def test_missing_share_makes_the_whole_unknown(tmp_path: Path) -> None:
    """One share alone knows what the others were to judge."""
    one = a_run(tmp_path / "1", [record("a")], ["a", "b"])
    whole = merged(tmp_path, one)

    assert whole.unfinished == ["b"]
    assert (whole.word, whole.exit_code) == ("unknown", 2)


def test_surviving_canary_of_a_share_counts(tmp_path: Path) -> None:
    """Another share that detected it does not make up for it."""
    one = a_run(tmp_path / "1", [record("a")], ["a", "b"], canaries={"c": False})
    two = a_run(tmp_path / "2", [record("b")], ["a", "b"], canaries={"c": True})

    assert merged(tmp_path, one, two).word == "untrustworthy"


def test_seeds_of_a_scenario_add_up(tmp_path: Path) -> None:
    """Counts and expectations are added; each signature stays once, with its own failure."""
    few = Verdict((LOST,), (ExpectationCount("restarts", 1, 3),))
    more = Verdict((LOST, BACK), (ExpectationCount("restarts", 2, 3),))
    one = a_run(tmp_path / "1", [record("a", few)])
    two = a_run(tmp_path / "2", [record("a", replace(more, anomalies=(BACK,)))], seed=2)
    whole = merged(tmp_path, one, two)

    (joined,) = whole.records
    assert (joined.operations, joined.episodes) == (10, 4)
    assert joined.verdict.unmet == ()
    assert [anomaly.promise.id for anomaly in joined.verdict.anomalies] == ["S2", "S6"]
    files = [Path(line.removeprefix("harness replay ")) for line in joined.reproduce]
    assert [file.read_text(encoding="utf-8") for file in files] == ["1", "2"]


def test_new_finding_of_a_share_is_new(tmp_path: Path) -> None:
    """Known ones stay known; what is mended in one share and seen in another is not mended."""
    known = Accepted("reference", "S2", LOST.signature, "its design")
    other = Accepted("reference", "S6", BACK.signature, "its design")
    sorts = [Sorted([known], [], [other]), Sorted([], [BACK], [])]
    one = a_run(tmp_path / "1", [record("a", Verdict((LOST,)))], findings=sorts[0])
    two = a_run(tmp_path / "2", [record("b", Verdict((BACK,)))], findings=sorts[1])
    whole = merged(tmp_path, one, two)

    assert whole.findings is not None
    assert [entry.reason for entry in whole.findings.known] == ["its design"]
    assert [anomaly.promise.id for anomaly in whole.findings.new] == ["S6"]
    assert whole.findings.mended == []


def test_finding_is_mended_by_all_shares_together(tmp_path: Path) -> None:
    """Each share asked some of the scenarios that put its promise on trial."""
    unseen = [{"S2 a": ["b"], "S6 a": ["b", "c"]}, {"S2 a": ["a"], "S6 a": ["a", "c"]}]
    sorts = [Sorted(unseen=rows) for rows in unseen]
    one = a_run(tmp_path / "1", [record("a", Verdict())], findings=sorts[0])
    two = a_run(tmp_path / "2", [record("b", Verdict())], findings=sorts[1])
    whole = merged(tmp_path, one, two)

    assert whole.findings is not None
    assert [entry.signature for entry in whole.findings.mended] == ["S2 a"]
    assert whole.findings.unseen == {"S6 a": ["c"]}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, "both judged a with seed 1, and would count twice"),
        ({"target": "other", "seed": 2}, "target 'other'; expected 'reference'"),
        ({"effort": 2.0, "seed": 2}, "effort 2.0; expected 0.8"),
        ({"what": "soak"}, "expected a run of gate, load, prove, merge; got one of 'soak'"),
    ],
)
def test_runs_that_are_no_one_run_are_refused(
    change: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    """The message names the run and what differs."""
    one = a_run(tmp_path / "1", [record("a")])
    two = a_run(tmp_path / "2", [record("a")])
    plan = {**folder.read_json(two / folder.PLAN), **change}
    folder.write_json(two / folder.PLAN, plan)

    with pytest.raises(UsageError, match=sentence):
        read_parts([one, two])


def test_reach_is_the_union_of_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block counts that any share ran; without a record of one share nothing is said."""
    source = tmp_path / "source.py"
    source.write_text(
        "".join(f"def f{n}():\n    return {n}\n\n\n" for n in range(3)), encoding="utf-8"
    )
    lines = {"1": {("source.py", 2)}, "2": {("source.py", 6)}}
    monkeypatch.setattr("harness.runs.merging.source_of", lambda _: source)
    monkeypatch.setattr("harness.runs.merging.excuses_for", lambda *_: {})
    monkeypatch.setattr(
        "harness.runs.merging.recorder.lines_in", lambda place: lines[place.parent.name]
    )
    runs = [a_run(tmp_path / n, [record(f"s{n}")], ["s1", "s2"]) for n in ("1", "2")]
    (runs[0] / REACH).mkdir()
    assert merged(tmp_path, *runs).reached is None
    (runs[1] / REACH).mkdir()
    reached = merged(tmp_path, *runs).reached
    assert reached is not None
    assert [block.function for block in reached.missed] == ["f2"]


def test_latencies_are_merged_as_histograms() -> None:
    """The median of all events is that of neither load."""

    def account(micros: int, count: int) -> load_report.Account:
        histogram = Histogram([micros] * count)
        second = load_report.Second(
            1.0, 1, 5, 5, {"wall_s": 1.0, "events": count}, 0.1, 0.2, {"event": histogram}
        )
        facts = dict.fromkeys(
            ("seconds", "events checked", "generator CPU seconds", "target CPU seconds"), 1.0
        )
        return load_report.Account([second], [], [], [(1.0, 0.5, 10.0)], [], facts)

    whole = load_report.together([account(100_000, 1), account(1_000, 9)])
    (event,) = whole.latencies
    assert (event.count, round(event.p50)) == (10, 1)
    assert round(event.worst) == 100
    assert (whole.seconds[0].users, whole.seconds[0].counts["events"]) == (10, 10)
    assert whole.target == [(1.0, 1.0, 20.0)]


def proof(path: Path, detections: int, **plan: Any) -> Path:
    path.mkdir()
    row = {
        "bug": "b",
        "promise": "S2",
        "tries": 1,
        "detections": detections,
        "detections_by_another": {} if detections else {"S6": 1},
        "clean": "valid",
        "seconds_to_detect": 1.0,
        "detected": bool(detections),
    }
    folder.write_json(path / folder.PLAN, {"what": "prove", "target": "known bugs", **plan})
    folder.write_json(path / folder.VERDICT, {"bugs": [row]})
    return path


def test_proofs_add_their_tries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bug is detected if each try did; a bug of no share makes it unknown."""
    one = proof(tmp_path / "1", 1, seed=1)
    two = proof(tmp_path / "2", 0, seed=2)
    lone = proof(tmp_path / "3", 1, seed=3, chosen=["b", "c"])
    reports = ["--reports", str(tmp_path / "merged")]

    assert command.run_command(["merge", str(one), str(two), *reports]) == 1
    assert "1/2 !" in capsys.readouterr().out
    assert command.run_command(["merge", str(lone), *reports]) == 2
    assert "not tried: c" in capsys.readouterr().out


def test_shards_of_a_gate_are_disjoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together they ask what one run asks, with the same seed and effort."""
    asked: list[Any] = []

    def note(session: Any, *_: object) -> Results:
        asked.append(session)
        return Results()

    monkeypatch.setattr(gate_module, "run_session", note)
    monkeypatch.setattr(gate_module, "EFFORT_SECONDS", 90.0)

    def gate(share: tuple[int, int]) -> list[str]:
        Gate(
            *("reference", 1, 9.0, tmp_path, 1),
            modes=("schedule", "model"),
            asks_canaries=False,
            share=share,
        ).run(no_progress)
        return list(asked[-1].scenarios)

    whole, shares = gate((1, 1)), [gate((k, 3)) for k in (1, 2, 3)]
    assert sorted(name for share in shares for name in share) == sorted(whole)
    assert len(whole) > 3
    assert {(session.seed, session.effort) for session in asked} == {(1, 0.1)}


def test_more_shares_than_scenarios_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The message says how many there are."""
    name = next(iter(find_scenarios()))
    assert command.run_command(["gate", "--scenario", name, "--shard", "2/2"]) == 254
    assert "--shard 2/2: there are 1 scenarios only" in capsys.readouterr().err
    bug = next(iter(find_bugs()))
    assert command.run_command(["prove", bug, "--shard", "3/3"]) == 254
    assert "--shard 3/3: there are 1 known bugs only" in capsys.readouterr().err
