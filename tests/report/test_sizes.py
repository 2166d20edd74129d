"""Tests of sizes: whatever a target answers, no report is too long to be read."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.contract import promises
from harness.core.history import Operation, Outcome
from harness.core.text import shortened, within
from harness.core.verdict import Anomaly, Verdict
from harness.report import junit, summary
from harness.report.judgement import Record

LONG = "x" * 200_000


def conclusion(anomalies: int) -> dict[str, object]:
    """Many scenarios with many anomalies, all with a padded message as argument and answer."""
    padded = Operation(0, "append", {"text": LONG}, Outcome.OK, 1, 2, result=LONG)
    found = tuple(
        Anomaly(promise, f"append(text={LONG!r}) lost it", (padded,) * 60, "", (), (), LONG, LONG)
        for promise in (promises.D1, promises.S2, promises.W1)[:anomalies]
    )
    records = [
        Record(f"scenario-{n}", "model", ("D1",), Verdict(found), 1, 1, "digest", 1.0)
        for n in range(30)
    ]
    return {
        "conclusion": "invalid",
        "target": "reference",
        "seed": 1,
        "seconds": 1.0,
        "scenarios": [record.to_json() for record in records],
        "skipped": {},
        "unfinished": [],
        "broken": {"late": LONG},
        "canaries": {},
    }


@given(st.text(max_size=300), st.integers(1, 400))
def test_shortened_text_keeps_both_ends(text: str, limit: int) -> None:
    short = shortened(text, limit)

    assert len(short) <= limit
    assert short == text or len(text) > limit
    if len(text) > limit > 80:
        assert short[:20] == text[:20]
        assert short[-10:] == text[-10:]
        assert f"{len(text):,} characters" in short


@given(st.lists(st.text(max_size=50), max_size=60), st.integers(200, 1000))
def test_cut_lines_say_where_the_rest_is(lines: list[str], limit: int) -> None:
    kept = within(lines, limit, "verdict.json")

    assert sum(len(line) + 1 for line in kept) <= limit
    assert kept == lines or kept[-1].endswith("more lines are in verdict.json")


@pytest.mark.parametrize("anomalies", [1, 3])
def test_reports_of_padded_messages_stay_readable(anomalies: int) -> None:
    """Summary, JUnit cases, lines and page keep their limits."""
    document = conclusion(anomalies)

    text = summary.markdown(document)
    assert len(text) <= summary.MARKDOWN_CHARS_MAX
    assert max(map(len, text.splitlines())) < 1_000
    suite = ET.fromstring(junit.render(document).encode())  # noqa: S314  a document of this test
    cases = [ET.tostring(found) for found in suite.iterfind("./testcase/*")]
    assert len(cases) == 31
    assert max(map(len, cases)) <= 8_000
