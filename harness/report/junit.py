"""Renders a gate's conclusion as JUnit XML: one test case for each scenario."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET

from harness.core.text import shortened, within
from harness.core.verdict import Anomaly, Validity
from harness.report.judgement import HEADLINE_CHARS_MAX, Record

CASE_CHARS_MAX = 7_000  # of the text of a failure or error, and so of its lines
MESSAGE_CHARS_MAX = 900

# Characters that XML 1.0 cannot hold, not even escaped.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(conclusion: Mapping[str, Any]) -> str:
    """Render a conclusion. Invalid is a failure; unknown, unfinished and broken are errors."""
    suite = ET.Element("testsuite", name="harness", time=str(conclusion["seconds"]))
    for row in conclusion["scenarios"]:
        record = Record.from_json(row)
        case = _case(suite, record.scenario, record.seconds)
        validity = record.verdict.validity
        if validity is Validity.INVALID:
            message = shortened(
                "; ".join(map(_in_one_line, record.verdict.anomalies)), MESSAGE_CHARS_MAX
            )
            ET.SubElement(case, "failure", message=message).text = _text(record)
        elif validity is Validity.UNKNOWN:
            ET.SubElement(case, "error", message="unknown").text = _text(record)
    for name, reason in conclusion["skipped"].items():
        ET.SubElement(_case(suite, name, 0.0), "skipped", message=reason)
    for name in conclusion["unfinished"]:
        ET.SubElement(_case(suite, name, 0.0), "error", message="not finished within the budget")
    for name, error in conclusion["broken"].items():
        case = _case(suite, name, 0.0)
        ET.SubElement(case, "error", message="the harness failed").text = shortened(
            error, CASE_CHARS_MAX
        )
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(suite.findall("./testcase/failure"))))
    suite.set("errors", str(len(suite.findall("./testcase/error"))))
    ET.indent(suite)
    text = ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _text(record: Record) -> str:
    lines = record.summary().splitlines()
    return "\n".join(within(lines, CASE_CHARS_MAX, f"{record.scenario}/failure.json"))


def _in_one_line(anomaly: Anomaly) -> str:
    parts = [f"{anomaly.promise.id} broken: {shortened(anomaly.message, HEADLINE_CHARS_MAX)}"]
    values = {"expected": anomaly.expected, "observed": anomaly.observed}
    parts += [f"{name} {shortened(v, HEADLINE_CHARS_MAX)}" for name, v in values.items() if v]
    return "; ".join(parts)


def _case(suite: ET.Element, name: str, seconds: float) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname="scenarios", name=name, time=str(seconds))
