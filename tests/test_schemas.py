"""The published JSON Schemas are true of what commands print and of what files hold."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import jsonschema
import pytest
import torch
from safetensors import safe_open

from alds_cli.checkpoint.latencies import LayerTimes, PairTime, store_latencies
from alds_cli.checkpoint.training_state import read_state
from alds_cli.cli.verbs import declared_options
from alds_cli.errors import OutputError
from alds_cli.records import Choice
from alds_cli.schemas.published import PUBLISHED

OPTIONAL = {"schema", "arguments", "pruned", "inputs", "method", "solver", "bound", "seed"}


def validator(name):
    schema = PUBLISHED[name].json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def require_true(name, content):
    """The document keeps to its schema, and would not if a field were missing or unknown."""
    check = validator(name)
    check.validate(content)
    assert not check.is_valid({**content, "unheard_of": 1})
    assert not check.is_valid([content])
    for key in content:
        if key not in OPTIONAL:
            less = {other: value for other, value in content.items() if other != key}
            assert not check.is_valid(less), key
        wrong = copy.deepcopy(content)
        wrong[key] = [{"unheard_of": []}]
        assert not check.is_valid(wrong), key


@pytest.fixture
def printed(run):
    """What a command prints with `--json`."""

    def call(*arguments):
        code, out, err = run(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return call


def test_what_profile_inspect_and_compress_print(printed, digits, tmp_path):
    model = digits / "model.pt"
    require_true("profile", printed("profile", model))
    require_true("inspect", printed("inspect", model))
    small = tmp_path / "small.pt"
    require_true("compress", printed("compress", model, "-r", "0.5", "-o", small))
    require_true("inspect", printed("inspect", small))
    require_true("compare", printed("compare", model, small))
    require_true("export", printed("export", small, "-o", tmp_path / "small.pt2"))
    family = printed("compress", model, "-r", "0.3,0.5", "-o", tmp_path / "{ratio}.pt")
    require_true("compress", family)
    pruned = ("compress", model, "-r", "0.3", "--method", "ft", "-o", tmp_path / "f.pt")
    require_true("compress", printed(*pruned))
    require_true("inspect", printed("inspect", tmp_path / "f.pt"))
    dry = ("compress", model, "-r", "0.3", "--method", "messi", "--dry-run")
    require_true("compress", printed(*dry))


def test_what_evaluate_and_retrain_print(printed, digits, tmp_path):
    model, data = digits / "model.pt", f"tensors:{digits / 'data.safetensors'}"
    evaluated = printed("evaluate", model, "--data", data, "--baseline", model)
    require_true("evaluate", evaluated)
    require_true("evaluate", printed("evaluate", model, "--data", data, "--no-latency"))
    trained = tmp_path / "trained.pt"
    arguments = ("retrain", model, "--data", data, "--epochs", "1", "-o", trained)
    require_true("retrain", printed(*arguments))
    first = ("train", "--arch", "digits_cnn", "--data", data, "--epochs", "1", "-o", trained)
    require_true("train", printed(*first))
    require_true("inspect", printed("inspect", trained))


@pytest.mark.slow
def test_what_sweep_and_report_print_and_what_is_in_the_folder(printed, digits, tmp_path):
    data, folder = f"tensors:{digits / 'data.safetensors'}", tmp_path / "sweep"
    swept = printed(
        *("sweep", digits / "model.pt", "--data", data, "--methods", "svd,ft", "-o", folder),
        *("--ratios", "0.2,0.999", "--repeats", "1", "--latency"),
    )
    require_true("sweep", swept)
    require_true("report", printed("report", folder, "--no-plots", "--paper", "cifar10-resnet20"))
    for name, pattern in (("baseline", "sweep"), ("asked", "asked"), ("record", "records/*")):
        found = sorted(folder.glob(f"{pattern}.json"))
        assert found
        for path in found:
            require_true(name, json.loads(path.read_text()))


@pytest.mark.slow
def test_what_iterate_prints_and_what_is_in_the_folder(printed, digits, tmp_path):
    data, small = f"tensors:{digits / 'data.safetensors'}", tmp_path / "small.pt"
    few = ("--to", "0.5", "--steps", "2", "--epochs-per-step", "1", "-o", small)
    require_true("iterate", printed("iterate", digits / "model.pt", "--data", data, *few))
    folder = tmp_path / "small.pt.iterate"
    require_true("iteration", json.loads((folder / "iterate.json").read_text()))
    for step in ("1", "2"):
        require_true("stage", json.loads((folder / step / "stage.json").read_text()))


@pytest.mark.slow
def test_what_optimize_prints(printed, digits, tmp_path):
    model, fast = digits / "model.pt", tmp_path / "fast.pt"
    require_true("optimize", printed("optimize", model, "-o", fast, "--device", "cpu"))
    require_true("inspect", printed("inspect", fast))


def test_what_config_show_prints(printed, monkeypatch):
    monkeypatch.setenv("ALDS_SEED", "3")
    for more in ((), ("evaluate",)):
        require_true("config", printed("config", "show", *more))


def test_every_command_that_prints_json_has_a_schema():
    for command, options in declared_options().items():
        if any("--json" in each.flags for each in options):
            assert "--json" in PUBLISHED[command].what


@pytest.mark.slow
def test_what_the_demo_prints(printed, tmp_path):
    require_true("demo", printed("demo", "-o", tmp_path / "demo"))


def test_what_artefacts_plans_and_tables_hold(printed, digits, tmp_path):
    model, plan, table = digits / "model.pt", tmp_path / "plan.json", tmp_path / "table.safetensors"
    small, pruned = tmp_path / "small.safetensors", tmp_path / "pruned.pt"
    printed("profile", model, "-o", table)
    printed("compress", model, "-r", "0.5", "-o", small, "--plan-out", plan)
    require_true("plan", json.loads(plan.read_text()))
    with safe_open(small, framework="pt") as file:
        require_true("artefact", json.loads(file.metadata()["alds"]))
    with safe_open(table, framework="pt") as file:
        require_true("table", json.loads(file.metadata()["alds_table"]))
    printed("compress", model, "-r", "0.3", "--method", "ft", "-o", pruned, "--plan-out", plan)
    require_true("plan", json.loads(plan.read_text()))
    content = torch.load(pruned, weights_only=True)
    require_true("artefact", json.loads(content["alds"]))


def test_what_a_training_state_and_measured_times_hold(run, digits, tmp_path, monkeypatch):
    def stopped(*_):
        raise OutputError("the disk is full")

    output, data = tmp_path / "trained.pt", f"tensors:{digits / 'data.safetensors'}"
    monkeypatch.setattr("alds_cli.retraining.training_run.write_network", stopped)
    run("retrain", digits / "model.pt", "--data", data, "--epochs", "1", "-o", output)
    state = read_state(output.with_name("trained.pt.training"))["state"]
    tensors = {"model", "optimiser", "averages", "best", "random"}
    plain = {key: value for key, value in state.items() if key not in tensors}
    require_true("training", json.loads(json.dumps(plain)))
    times = LayerTimes(12.5, {Choice(0, 1, 8): PairTime(0.5, 0.625), Choice(3, 4, 2): None}, 1.0)
    path = store_latencies({"threads": 3}, {"x": times}, now=1.0)
    require_true("latencies", json.loads(path.read_text()))


def test_every_document_has_a_schema_of_its_own(run):
    for name in PUBLISHED:
        code, out, _ = run("schema", name)
        assert code == 0
        assert json.loads(out) == PUBLISHED[name].json_schema()
        validator(name)


def test_schemas_are_listed(run):
    code, out, _ = run("schema")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(PUBLISHED)
    code, out, err = run("schema", "compres")
    assert (code, out) == (2, "")
    assert "there is no document 'compres'" in err
    assert ", ".join(PUBLISHED) in err


def test_schemas_take_no_torch():
    code = (
        "import sys; sys.argv = ['alds', 'schema', 'record']\n"
        "from alds_cli.cli.app import main\n"
        "try:\n    main()\n"
        "finally:\n    assert 'torch' not in sys.modules and 'rich.console' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["title"] == "RecordForm"
