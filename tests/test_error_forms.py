"""What programs read on standard output where an error ends a command."""

from __future__ import annotations

import json

import pytest
import torch
from test_schemas import require_true

from alds_cli import api

ABSENT = ("inspect", "absent.pt")
RATIO = ("compress", "model.pt", "-o", "small.pt", "--ratio")


@pytest.fixture(autouse=True)
def beside_the_model(model, monkeypatch):
    monkeypatch.chdir(model.parent)


@pytest.mark.parametrize(
    ("arguments", "kind", "code"),
    [
        (ABSENT, "CheckpointError", 2),
        ((*RATIO, "0.99999"), "RatioUnreachableError", 1),
        ((*RATIO, "half"), "OptionError", 2),
        (("compress",), "OptionError", 2),
        (("inspect", "model.pt", "--nothing"), "OptionError", 2),
        (("nothing",), "OptionError", 2),
        (("config", "show", "nothing"), "OptionError", 2),
    ],
)
def test_an_error_is_the_json_object(arguments, kind, code, run, model):
    found, out, err = run(*arguments, "--json")
    assert found == code
    document = json.loads(out)
    require_true("error", document)
    assert (document["error"], document["exit_code"]) == (kind, code)
    assert err.startswith(f"error: {document['message']}")
    if document["tip"] is not None:
        assert err.endswith(f"tip: {document['tip']}")
    assert [path.name for path in model.parent.iterdir()] == ["model.pt"]


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (ValueError("\x7f\x1b[2J"), "InternalError", 70),
        (OSError(28, "No space left on device", "small.pt"), "OSError", 2),
        (MemoryError(), "MemoryError", 2),
    ],
)
def test_an_error_of_python_is_the_json_object_too(error, kind, code, run, monkeypatch):
    def fail(**_):
        raise error

    monkeypatch.setattr(api, "inspect", fail)
    found, out, _ = run("inspect", "model.pt", "--json")
    document = json.loads(out)
    assert (found, document["exit_code"], document["error"]) == (code, code, kind)
    assert out.isascii()
    assert out.replace("\n", "").isprintable()


def test_the_environment_asks_for_it_as_well(run, monkeypatch):
    monkeypatch.setenv("ALDS_INSPECT_JSON", "1")
    code, out, _ = run(*ABSENT)
    assert (code, json.loads(out)["error"]) == (2, "CheckpointError")


@pytest.mark.parametrize("arguments", [ABSENT, (*ABSENT, "-q"), (*RATIO, "half")])
def test_nobody_else_gets_one(arguments, run):
    code, out, _ = run(*arguments)
    assert (code, out) == (2, "")


def test_a_result_that_was_printed_stays_the_only_object(run, digits):
    data = f"tensors:{digits / 'data.safetensors'}"
    evaluated = ("evaluate", "model.pt", "--data", data, "--no-latency", "--json")
    code, out, _ = run(*evaluated, "--max-params", "1")
    assert code == 1
    assert [gate["passed"] for gate in json.loads(out)["gates"]] == [False]


GATED = ("--max-params", "1", "--format")


@pytest.mark.parametrize("form", [("github",), ("github", "--quiet")])
def test_an_error_is_an_annotation_for_github(form, run):
    code, out, err = run("evaluate", "absent,pt", "--data", "tensors:absent", *GATED, *form)
    assert code == 2
    assert out == "::error title=alds::absent,pt: no such file\n"
    assert err == "error: absent,pt: no such file"


@pytest.mark.parametrize("form", ["--format=github", "--format github"])
def test_an_annotation_has_the_tip_and_stays_one_line(form, run):
    code, out, _ = run("evaluate", "model.pt", *form.split(), "--max-macs", "50%\n::warning::x")
    assert code == 2
    assert out == (
        "::error title=alds::missing option '--data' "
        "(tip: alds evaluate --help lists the options)\n"
    )
    arguments = ("--data", "tensors:absent", "--max-macs", "50%\n::warning::x")
    code, out, _ = run("evaluate", "model.pt", *form.split(), *arguments)
    assert code == 2
    assert out.startswith("::error title=alds::")
    assert out.count("\n") == 1
    assert "50%25" in out


def test_gates_that_fail_have_annotations_of_their_own(run, digits):
    data = f"tensors:{digits / 'data.safetensors'}"
    code, out, _ = run("evaluate", "model.pt", "--data", data, "--no-latency", *GATED, "github")
    assert code == 1
    assert out.count("::error ") == 1


def test_an_artefact_is_not_replaced_by_an_error(run):
    torch.save({}, "empty.pt")
    code, out, err = run("compress", "empty.pt", "--ratio", "0.5", "-o", "-", "--json")
    assert (code, out) == (2, "")
    assert "error: " in err
