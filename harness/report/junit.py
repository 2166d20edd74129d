"""Renders a gate's conclusion as JUnit XML: one test case for each scenario."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET

from harness.core.verdict import Anomaly, Validity
from harness.report.judgement import Record

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
            message = "; ".join(map(_in_one_line, record.verdict.anomalies))
            ET.SubElement(case, "failure", message=message).text = record.summary()
        elif validity is Validity.UNKNOWN:
            ET.SubElement(case, "error", message="unknown").text = record.summary()
    for name, reason in conclusion["skipped"].items():
        ET.SubElement(_case(suite, name, 0.0), "skipped", message=reason)
    for name in conclusion["unfinished"]:
        ET.SubElement(_case(suite, name, 0.0), "error", message="not finished within the budget")
    for name, error in conclusion["broken"].items():
        ET.SubElement(_case(suite, name, 0.0), "error", message="the harness failed").text = error
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(suite.findall("./testcase/failure"))))
    suite.set("errors", str(len(suite.findall("./testcase/error"))))
    ET.indent(suite)
    text = ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _in_one_line(anomaly: Anomaly) -> str:
    parts = [f"{anomaly.promise.id} broken: {anomaly.message}"]
    parts += [f"expected {anomaly.expected}"] if anomaly.expected else []
    parts += [f"observed {anomaly.observed}"] if anomaly.observed else []
    return "; ".join(parts)


def _case(suite: ET.Element, name: str, seconds: float) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname="scenarios", name=name, time=str(seconds))
