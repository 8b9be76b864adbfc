"""A comparison as JUnit XML, for CI servers."""

from __future__ import annotations

from xml.etree import ElementTree

from mvc.regress.compare import Comparison
from mvc.regress.outcome import CaseResult
from mvc.regress.results.markup import clean
from mvc.regress.results.words import headline, processes, remarks, sentence

TAGS = {"regression": "failure", "inconclusive": "skipped"}
COUNTS = {"tests": "testcase", "failures": "failure", "errors": "error", "skipped": "skipped"}


def junit(comparison: Comparison) -> str:
    """JUnit XML: a regression is a failure, an inconclusive case is skipped, what cannot be compared is an error."""
    suite = ElementTree.Element("testsuite", name="mvc.regress")
    properties = ElementTree.SubElement(suite, "properties")
    facts = {"base": comparison.base, "head": comparison.head, "headline": headline(comparison)}
    for name, value in facts.items():
        ElementTree.SubElement(properties, "property", name=name, value=clean(str(value)))
    for result in comparison.results:
        _add_case(suite, result, comparison)
    for obstacle in comparison.obstacles:
        name = f"comparable: {clean(obstacle).partition(':')[0]}"
        case = ElementTree.SubElement(suite, "testcase", classname="mvc.regress", name=name)
        ElementTree.SubElement(case, "error", message=clean(obstacle))
    for attribute, tag in COUNTS.items():
        suite.set(attribute, str(len(list(suite.iter(tag)))))
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _add_case(suite: ElementTree.Element, result: CaseResult, comparison: Comparison) -> None:
    times = [run.times["time"] for run in result.runs if run.times]
    seconds = sum(sum(each) for side in ("base", "head") for each in processes(times, side))
    attributes = {"classname": "mvc.regress", "name": clean(result.case.name), "time": f"{seconds:.3f}"}
    case = ElementTree.SubElement(suite, "testcase", attributes)
    tag, message = TAGS.get(result.verdict), clean(sentence(result))
    text = clean("\n".join([sentence(result), *remarks(result, comparison)]))
    ElementTree.SubElement(case, tag or "system-out", {"message": message} if tag else {}).text = text
