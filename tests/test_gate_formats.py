"""Gates as annotations of a workflow run, and as JUnit's XML."""

from __future__ import annotations

import errno
import json
import re
from xml.etree import ElementTree as ET

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from small_networks import digits_network

from alds_cli.cli.gate_formats import github_annotations, junit
from alds_cli.cli.gate_reports import sentence
from alds_cli.records import Gate
from alds_cli.text import visible

GATES = (
    Gate("drop", "top1", 1.2, 0.81, 0.5, False, 95.0, 1.4),
    Gate("bytes", None, 4_000_000, 4_000_000, 5_000_000, True),
    Gate("latency", None, 3.4, 3.2, 3.0, False, 95.0),
)

NAMES = st.text(st.characters(), max_size=30)
"""Names of files, with control characters and lone surrogates, as a file system may have them."""


# ---------------------------------------------------------------- GitHub

_COMMAND = re.compile(r"::(?P<kind>\w+) title=(?P<title>[^,:\r\n]*)::(?P<text>[^\r\n]*)\Z")
_ESCAPES = {"%3A": ":", "%2C": ",", "%0D": "\r", "%0A": "\n", "%25": "%"}


def read_annotation(line):
    """What the runner makes of a line: the kind, the title and the text."""
    found = _COMMAND.match(line)
    unescaped = (
        re.sub("|".join(_ESCAPES), lambda sign: _ESCAPES[sign[0]], found[name])
        for name in ("title", "text")
    )
    return found["kind"], *unescaped


@given(NAMES)
def test_annotations_say_what_was_measured_whatever_the_model_is_called(name):
    lines = github_annotations(GATES, name).split("\n")
    assert lines.pop() == ""
    assert [read_annotation(line) for line in lines] == [
        (
            "error",
            f"{visible(name)}: drop of top-1",
            sentence(GATES[0]),
        ),
        (
            "notice",
            f"{visible(name)}: bytes",
            "the file has 4,000,000 bytes, and 5,000,000 are allowed",
        ),
        (
            "error",
            f"{visible(name)}: latency",
            sentence(GATES[2]),
        ),
    ]


def test_sentences_tell_figure_and_bound_and_how_sure_that_is():
    assert sentence(GATES[0]) == (
        "the drop of top-1 is 1.20 points (at least 0.81 with 95 % confidence), and only 0.5 are "
        "allowed"
    )
    assert sentence(GATES[2]) == (
        "a forward pass takes 3.4 ms (at least 3.2 ms with 95 % confidence), and only 3 ms is "
        "allowed"
    )
    strict = Gate("drop", "miou", -0.5, 0.7, 1.0, True, 5.0, 1.0)
    assert sentence(strict) == (
        "the drop of mean IoU is −0.50 points (at most 0.70 with 95 % confidence), and 1 is allowed"
    )


def test_signs_that_end_a_property_are_escaped():
    (line,) = github_annotations(GATES[1:2], "50%,a:b\n").splitlines()
    assert line.startswith(r"::notice title=50%25%2Ca%3Ab\n%3A bytes::the file")


# ---------------------------------------------------------------- JUnit

COUNT, TIME, ANY = r"\d+", r"\d+(\.\d+)?", r"(?s).+"

SUITE = {
    "id": COUNT, "package": ANY, "name": ANY, "hostname": ANY, "tests": COUNT, "failures": COUNT,
    "errors": COUNT, "skipped": COUNT, "time": TIME,
    "timestamp": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d",
}  # fmt: skip

ELEMENTS = {
    "testsuites": ({}, r"(testsuite )*"),
    "testsuite": (SUITE, r"properties (testcase )*system-out system-err "),
    "properties": ({}, r"(property )*"),
    "property": ({"name": ANY, "value": r"(?s).*"}, ""),
    "testcase": ({"name": ANY, "classname": ANY, "time": TIME}, r"((skipped|error|failure) )?"),
    "failure": ({"message": ANY, "type": ANY}, ""),
    "system-out": ({}, ""),
    "system-err": ({}, ""),
}
"""The attributes and the sequence of children of every element, by the schema of Ant's task, which
is the strictest in use: each of its attributes must be there, and no other."""


def require_valid(element):
    attributes, children = ELEMENTS[element.tag]
    assert element.attrib.keys() == attributes.keys(), element.tag
    for name, form in attributes.items():
        assert re.fullmatch(form, element.attrib[name]), name
    assert re.fullmatch(children, "".join(f"{child.tag} " for child in element)), element.tag
    for child in element:
        require_valid(child)


@given(NAMES, st.lists(st.sampled_from(GATES), max_size=5))
def test_the_report_keeps_to_the_schema_whatever_the_model_is_called(name, gates):
    made = ET.fromstring(junit(gates, name, {"images": "5000", "device": name}, 1.5))
    require_valid(made)
    (suite,) = made
    cases = suite.findall("testcase")
    assert [case.find("failure") is None for case in cases] == [gate.passed for gate in gates]
    assert int(suite.attrib["tests"]) == len(cases)
    assert int(suite.attrib["failures"]) == sum(not gate.passed for gate in gates)
    assert suite.attrib["name"] == f"alds evaluate {visible(name)}"


def test_a_failure_says_what_was_measured():
    (suite,) = ET.fromstring(junit(GATES, "a/small.pt", {}, 0.0))
    failures = [case.find("failure") for case in suite.findall("testcase")]
    assert failures[1] is None
    assert failures[0].text == failures[0].attrib["message"]
    assert "is 1.20 points" in failures[0].text
    assert {case.attrib["classname"] for case in suite.findall("testcase")} == {
        "alds.evaluate.small.pt"
    }
    assert "the file has 4,000,000 bytes" in suite.find("system-out").text


def test_a_damaged_report_would_be_noticed():
    made = ET.fromstring(junit(GATES, "small.pt", {}, 0.0))
    del made[0].attrib["hostname"]
    with pytest.raises(AssertionError):
        require_valid(made)


# ---------------------------------------------------------------- as a command


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a network and images."""
    monkeypatch.chdir(tmp_path)
    torch.save(digits_network().state_dict(), "model.pt")
    images = torch.randint(0, 256, (8, 8, 8, 1), dtype=torch.uint8)
    save_file({"images": images, "labels": torch.arange(8)}, "data.safetensors")
    return tmp_path


EVALUATE = ("evaluate", "model.pt", "--data", "tensors:data.safetensors", "--no-latency")


def test_both_forms_beside_the_table(run, folder):
    given_bounds = ("--max-size", "1kB", "--max-params", "1M")
    forms = ("--format", "github", "--junit", "report.xml")
    code, out, err = run(*EVALUATE, *given_bounds, *forms)
    assert code == 1
    assert "error: 1 of 2 gates failed: the file has" in err
    lines = [read_annotation(line) for line in out.splitlines() if line.startswith("::")]
    assert [line[:2] for line in lines] == [
        ("notice", "model.pt: parameters"),
        ("error", "model.pt: bytes"),
    ]
    assert lines[1][2] in err
    assert "1,000   failed" in out
    made = ET.parse(folder / "report.xml").getroot()
    require_valid(made)
    assert made[0].find("properties/property[@name='images']").attrib["value"] == "8"
    assert sorted(own.name for own in folder.iterdir()) == [
        "data.safetensors",
        "model.pt",
        "report.xml",
    ]


def test_json_and_a_report_go_together(run, folder):
    code, out, err = run(*EVALUATE, "--max-params", "1M", "--json", "--junit", "report.xml")
    assert (code, err) == (0, "")
    assert json.loads(out)["gates"][0]["passed"]
    assert (folder / "report.xml").stat().st_size > 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-params", "1M", "--format", "gitlab"), "unknown format 'gitlab'"),
        (("--max-params", "1M", "--format", "github", "--json"), "contradict each other"),
        (("--max-params", "1M", "--junit", "-"), "cannot both go to standard output"),
        (("--max-params", "1M", "--junit", "/dev/stdout"), "cannot both go to standard output"),
        (("--format", "github"), "there is no gate to report"),
        (("--junit", "report.xml"), "there is no gate to report"),
        (("--max-params", "1M", "--junit", "no/report.xml"), "the folder no does not exist"),
        (("--max-params", "1M", "--junit", "model.pt"), "the work begins with that file"),
        (("--max-params", "1M", "--junit", "data.safetensors"), "the work begins with that file"),
        (("--max-drop", "1", "--junit", "report.xml"), "none is named"),
    ],
)
def test_reports_that_cannot_be_had_leave_no_trace(run, folder, options, message):
    before = {own.name: own.read_bytes() for own in folder.iterdir()}
    code, out, err = run(*EVALUATE, *options)
    for_programs = not {"--json", "github"}.isdisjoint(options)
    assert code == 2
    assert message in err
    assert (message in out) if for_programs else (out == "")
    assert {own.name: own.read_bytes() for own in folder.iterdir()} == before


def test_a_full_disk_leaves_the_report_that_was_there(run, folder, monkeypatch):
    (folder / "report.xml").write_text("earlier")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("alds_cli.checkpoint.files.os.fsync", full)
    code, _, err = run(*EVALUATE, "--max-params", "1M", "--junit", "report.xml")
    assert code == 2
    assert "cannot write report.xml: No space left" in err
    assert (folder / "report.xml").read_text() == "earlier"
    assert len(list(folder.iterdir())) == 3
