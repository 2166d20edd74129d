"""A run as JUnit XML, for CI systems that show such: a test case a scenario."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as ET

from harness.core.verdict import Validity
from harness.report.judgement import Record

# Characters that XML 1.0 cannot hold, not even escaped.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(conclusion: Mapping[str, Any]) -> str:
    """Render a gate's conclusion. Invalid is a failure; unknown and broken are errors."""
    suite = ET.Element("testsuite", name="harness", time=str(conclusion["seconds"]))
    for row in conclusion["scenarios"]:
        record = Record.from_json(row)
        case = _case(suite, record.scenario, record.seconds)
        validity = record.verdict.validity
        if validity is Validity.INVALID:
            broken = ", ".join(a.promise.id for a in record.verdict.anomalies)
            ET.SubElement(case, "failure", message=f"broken: {broken}").text = record.summary()
        elif validity is Validity.UNKNOWN:
            ET.SubElement(case, "error", message="unknown").text = record.summary()
    for name in conclusion["skipped"]:
        ET.SubElement(_case(suite, name, 0.0), "skipped", message="the target cannot do it")
    for name in conclusion["unfinished"]:
        ET.SubElement(_case(suite, name, 0.0), "error", message="not finished within the budget")
    for name, error in conclusion["broken"].items():
        ET.SubElement(_case(suite, name, 0.0), "error", message="the harness broke").text = error
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(len(suite.findall("./testcase/failure"))))
    suite.set("errors", str(len(suite.findall("./testcase/error"))))
    ET.indent(suite)
    text = ET.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _case(suite: ET.Element, name: str, seconds: float) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname="scenarios", name=name, time=str(seconds))
