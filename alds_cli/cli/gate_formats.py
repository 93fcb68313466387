"""Gates in the formats of continuous integration: GitHub's annotations, and JUnit's XML.

Sources: https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands, and the
schema of Jenkins, https://github.com/jenkinsci/xunit-plugin (junit-10.xsd), which is met together
with the stricter one of Ant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from xml.etree import ElementTree as ET

from alds_cli.cli.gate_reports import sentence, title
from alds_cli.text import visible

if TYPE_CHECKING:
    from alds_cli.records import Gate


def github_annotations(gates: Sequence[Gate], model: str) -> str:
    """Return a line for every gate that GitHub shows with the job: an error, or a notice.

    Args:
        gates: the gates.
        model: the name of the file that was evaluated.
    """
    return "".join(
        github_annotation(
            "notice" if gate.passed else "error", f"{model}: {title(gate)}", sentence(gate)
        )
        for gate in gates
    )


def github_annotation(kind: Literal["notice", "error"], title: str, text: str) -> str:
    """Return a line that GitHub shows with the job."""
    return f"::{kind} title={_property(title)}::{_data(text)}\n"


def _data(text: str) -> str:
    """Escape the text of a workflow command."""
    return visible(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escape a property of a workflow command, which colons and commas would end."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def junit(gates: Sequence[Gate], model: str, facts: Mapping[str, str], seconds: float) -> bytes:
    """Return a report with a test case for every gate, in JUnit's XML.

    Args:
        gates: the gates.
        model: the name of the file that was evaluated.
        facts: properties of the evaluation, by name.
        seconds: how long it took.
    """
    suites = ET.Element("testsuites")
    failed = sum(not gate.passed for gate in gates)
    suite = ET.SubElement(
        suites,
        "testsuite",
        id="0",
        package="alds",
        name=visible(f"alds evaluate {model}"),
        timestamp=datetime.now(tz=UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        hostname="localhost",  # the machine's own name is nobody's business
        tests=str(len(gates)),
        failures=str(failed),
        errors="0",
        skipped="0",
        time=f"{seconds:.3f}",
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in facts.items():
        ET.SubElement(properties, "property", name=name, value=visible(value))
    for gate in gates:
        _add_case(suite, gate, model)
    ET.SubElement(suite, "system-out").text = "\n".join(map(sentence, gates))
    ET.SubElement(suite, "system-err")
    ET.indent(suites)
    made: bytes = ET.tostring(suites, encoding="utf-8", xml_declaration=True)
    return made + b"\n"


def _add_case(suite: ET.Element, gate: Gate, model: str) -> None:
    name = visible(Path(model).name)
    case = ET.SubElement(
        suite, "testcase", classname=f"alds.evaluate.{name}", name=title(gate), time="0"
    )
    if not gate.passed:
        told = sentence(gate)
        ET.SubElement(case, "failure", message=told, type="GateError").text = told
