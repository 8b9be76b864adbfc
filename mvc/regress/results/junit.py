"""A comparison as JUnit XML, for CI servers."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from mvc.regress.compare import Comparison
from mvc.regress.results.words import headline, processes, remarks, sentence
from mvc.regress.run import CaseResult

FORBIDDEN = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in XML; compilers colour messages
TAGS = {"regression": "failure", "inconclusive": "skipped"}
COUNTS = {"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"}


def junit(comparison: Comparison) -> str:
    """JUnit XML: a regression is a failure, an inconclusive case is skipped, what cannot be compared is an error."""
    suite = ElementTree.Element("testsuite", name="mvc.regress")
    properties = ElementTree.SubElement(suite, "properties")
    facts = {"base": comparison.base, "head": comparison.head, "headline": headline(comparison)}
    for name, value in facts.items():
        ElementTree.SubElement(properties, "property", name=name, value=_clean(str(value)))
    for result in comparison.results:
        _add_case(suite, result, comparison)
    for obstacle in comparison.obstacles:
        name = f"comparable: {_clean(obstacle).partition(':')[0]}"
        case = ElementTree.SubElement(suite, "testcase", classname="mvc.regress", name=name)
        ElementTree.SubElement(case, "error", message=_clean(obstacle))
    for attribute, tag in COUNTS.items():
        suite.set(attribute, str(len(list(suite.iter(tag)))))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _add_case(suite: ElementTree.Element, result: CaseResult, comparison: Comparison) -> None:
    times = [run.times["time"] for run in result.runs if run.times]
    seconds = sum(sum(each) for side in ("base", "head") for each in processes(times, side))
    attributes = {"classname": "mvc.regress", "name": _clean(result.case.name), "time": f"{seconds:.3f}"}
    case = ElementTree.SubElement(suite, "testcase", attributes)
    tag, message = TAGS.get(result.verdict), _clean(sentence(result))
    text = _clean("\n".join([sentence(result), *remarks(result, comparison)]))
    ElementTree.SubElement(case, tag or "system-out", {"message": message} if tag else {}).text = text


def _clean(text: str) -> str:
    return FORBIDDEN.sub("?", text)
