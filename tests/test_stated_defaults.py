"""Defaults of options that the environment and a project's file state."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import jsonschema
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from small_networks import digits_network

from alds_cli.cli import verbs
from alds_cli.cli.possible_values import require_possible
from alds_cli.cli.stated_defaults import is_settable, key_of, stated_defaults
from alds_cli.cli.verbs import declared_options
from alds_cli.errors import OptionError
from alds_cli.schemas.published import PUBLISHED
from alds_cli.text import Real

COMMANDS = declared_options()

EVERY = [(name, own) for name, options in COMMANDS.items() for own in options if is_settable(own)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stated(folder, text="", **environ):
    if text:
        (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return stated_defaults(COMMANDS, environ, folder).commands


# ---------------------------------------------------------------- names


def test_keys_are_the_options_flags_and_no_commands():
    for _, own in EVERY:
        assert f"--{key_of(own)}" in "/".join(own.flags).split("/")
        assert key_of(own) not in COMMANDS


def variable(command, own):
    return f"ALDS_{command}_{key_of(own)}".replace("-", "_").upper()


def possible(own):
    """A value that an option takes, as a variable states it."""
    if own.given is bool:
        return "1"
    if own.mark.bounds is not None:
        more = 0.25 if isinstance(own.mark.bounds, Real) else 0
        return str(own.mark.bounds.least + more)
    if isinstance(own.mark.values, tuple) and own.mark.values:
        return own.mark.values[0]
    return VALUES[own.parameter][0] if own.parameter in VALUES else "m.onnx"


def test_every_option_of_every_command_has_a_variable_and_a_key(tmp_path):
    """And no two have the same one."""
    assert len({variable(*each) for each in EVERY}) == len(EVERY)
    for command, own in EVERY:
        environ = {variable(command, own): possible(own)}
        found = stated_defaults(COMMANDS, environ, tmp_path)
        assert {name for name, others in found.commands.items() if others} == {command}
        assert found.commands[command].keys() == {own.parameter}
        assert found.commands[command][own.parameter].name == variable(command, own)
        require_possible(found, list(COMMANDS))


def test_a_variable_that_begins_with_a_command_is_that_commands(folder):
    found = stated(folder, ALDS_RETRAIN_EPOCHS="3", ALDS_SWEEP_RETRAIN_EPOCHS="0,1")
    assert found["retrain"]["epochs"].value == "3"
    assert found["sweep"].keys() == {"retrain_epochs"}


# ---------------------------------------------------------------- what counts more

PLACES = ("tool.alds", "tool.alds.evaluate", "ALDS_BATCH_SIZE", "ALDS_EVALUATE_BATCH_SIZE")


@given(st.sets(st.sampled_from(PLACES)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_the_strongest_place_counts(tmp_path_factory, places):
    folder = tmp_path_factory.mktemp("project")
    values = {place: str(11 + at) for at, place in enumerate(PLACES)}
    tables = [
        f"[{own}]\nbatch-size = {values[own]}\n" for own in PLACES if own in places and "." in own
    ]
    environ = {own: values[own] for own in PLACES if own in places and "." not in own}
    found = stated(folder, "".join(tables) + "\n", **environ)
    ranked = [own for own in PLACES if own in places]
    if ranked:
        setting = found["evaluate"]["batch_size"]
        assert (setting.value, setting.name.removesuffix(".batch-size")) == (
            values[ranked[-1]],
            ranked[-1],
        )
    else:
        assert "batch_size" not in found["evaluate"]
    general = [own for own in ranked if "evaluate" not in own.lower()]
    assert ("batch_size" in found["compress"]) == bool(general)


def write_inputs(folder):
    torch.save(digits_network().state_dict(), folder / "model.pt")
    images = torch.randint(0, 256, (8, 8, 8, 1), dtype=torch.uint8)
    save_file({"images": images, "labels": torch.arange(8)}, folder / "data.safetensors")


EVALUATE = """\
[tool.alds]
threads = 1
device = "cpu"

[tool.alds.evaluate]
data = "tensors:data.safetensors"
no-latency = true
max-params = 10
confidence = 90.5
"""


def test_what_is_stated_is_what_a_command_does(run, folder, monkeypatch):
    write_inputs(folder)
    (folder / "pyproject.toml").write_text(EVALUATE)
    code, out, err = run("evaluate", "model.pt", "--json")  # --data is required otherwise
    assert code == 1
    assert json.loads(out)["gates"][0]["bound"] == 10
    assert "1 of 1" not in err
    monkeypatch.setenv("ALDS_MAX_PARAMS", "2M")
    code, out, _ = run("evaluate", "model.pt", "--json")
    assert (code, json.loads(out)["gates"][0]["bound"]) == (0, 2_000_000)
    code, out, _ = run("evaluate", "model.pt", "--json", "--max-params", "20")
    assert (code, json.loads(out)["gates"][0]["bound"]) == (1, 20)
    assert json.loads(out)["latency"] is None
    monkeypatch.setenv("ALDS_EVALUATE_NO_LATENCY", "0")
    code, out, _ = run("evaluate", "model.pt", "--json")
    assert json.loads(out)["latency"]["runs"] >= 10


def test_words_of_a_variable_and_texts_of_a_list(folder):
    text = '[tool.alds.compress]\nexclude = ["fc", "a b"]\nratio = 0.5\ninclude = "conv*"\n'
    found = stated(folder, text, ALDS_IGNORE="ema.* 'a b'")
    assert found["compress"]["exclude"].value == ["fc", "a b"]
    assert found["compress"]["include"].value == ["conv*"]
    assert found["compress"]["ratio"].value == "0.5"
    assert found["inspect"]["ignore"].value == ["ema.*", "a b"]


def test_repeatable_options_are_replaced_as_a_whole(run, folder):
    write_inputs(folder)
    (folder / "pyproject.toml").write_text('[tool.alds.compress]\nexclude = ["*"]\n')
    assert run("compress", "model.pt", "-r", "0.3", "--dry-run")[0] == 1  # nothing is left
    code, _, err = run("compress", "model.pt", "-r", "0.3", "--dry-run", "--exclude", "features.0")
    assert code == 0, err


@pytest.mark.slow
def test_a_recipe_counts_as_much_as_what_names_it(run, folder, monkeypatch):
    """Settings that are stated where less counts give way to it; those of the same place win."""
    write_inputs(folder)
    (folder / "short.toml").write_text(
        'network = "digits_cnn"\n[training]\nepochs = 1\nlr = 0.25\n'
    )
    project = folder / "pyproject.toml"
    project.write_text("[tool.alds.train]\nlr = 0.5\naugment = 'none'\n")

    def rate(*more):
        common = ("train", "--data", "tensors:data.safetensors", "-o", "out.pt", "--json")
        code, out, err = run(*common, *more)
        assert code == 0, err
        return json.loads(out)["history"][0]["lr"]

    by_project = rate("--arch", "digits_cnn", "--epochs", "1", "--schedule", "step")
    by_line = rate("--recipe", "short.toml", "--schedule", "step")
    assert by_project == 2 * by_line
    project.write_text("[tool.alds.train]\nlr = 0.5\nrecipe = 'short.toml'\n")
    assert rate("--schedule", "step") == by_project
    monkeypatch.setenv("ALDS_RECIPE", "short.toml")
    assert rate("--schedule", "step") == by_line


# ---------------------------------------------------------------- which file


def test_the_nearest_file_with_a_table_is_read(folder):
    inner = folder / "a" / "b"
    inner.mkdir(parents=True)
    (folder / "pyproject.toml").write_text("[tool.alds]\nthreads = 2\n")
    (folder / "a" / "pyproject.toml").write_text("[project]\nname = 'alds'\n")
    (inner / "pyproject.toml").write_text("this is no TOML, and not ours")
    found = stated_defaults(COMMANDS, {}, inner)
    assert found.file == folder / "pyproject.toml"
    assert found.commands["demo"]["threads"].value == "2"
    (folder / "a" / "pyproject.toml").write_text("[tool.alds]\n")
    assert stated_defaults(COMMANDS, {}, inner).commands["demo"] == {}


def test_nothing_is_read_where_nothing_is_stated(folder):
    code = (
        "import sys\nfrom alds_cli.cli.app import main\nsys.argv = ['alds', 'schema']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert not {'tomllib', 'alds_cli.cli.stated_defaults', 'torch'} & set(sys.modules)\n"
    )
    environ = {**os.environ, "ALDS_CACHE_DIR": str(folder / "cache")}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder, env=environ)


def test_a_folder_that_is_gone_has_no_file(folder, monkeypatch):
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert verbs.stated_now() is None


# ---------------------------------------------------------------- slips


@pytest.mark.parametrize(
    ("text", "message", "tip"),
    [
        ("[tool.alds]\nthreds = 1\n", "no option 'threds' for [tool.alds] of", "mean threads?"),
        ("[tool.alds]\nno_cache = true\n", "no option 'no_cache'", "mean no-cache?"),
        (
            "[tool.alds.evaluate]\nmax-dorp = 1\n",
            "no option 'max-dorp' for [tool.alds.evaluate] of",
            "mean max-drop?",
        ),
        ("[tool.alds.evaluate]\nrefit = true\n", "no option 'refit' for", None),
        ("[tool.alds.evaluate]\nmodel = 'm.pt'\n", "no option 'model' for", None),
        ("[tool.alds.evalute]\n", "no command 'evalute'", "mean evaluate?"),
        ("[tool.alds]\nevaluate = 3\n", "evaluate in [tool.alds] of", None),
        ("tool.alds = 3\n", "tool.alds is no table", None),
        ("[tool.alds\n", "is no TOML: ", None),
        ("[tool.alds]\nallow-pickle = true\n", "what code may run", "ALDS_ALLOW_PICKLE=1"),
        (
            "[tool.alds.evaluate]\nmax-drop = 500\n",
            "max-drop in [tool.alds.evaluate] of FILE is a number from 0 to 100, not '500'",
            None,
        ),
        ("[tool.alds]\nthreads = 2.0\n", "threads in [tool.alds] of FILE is a whole", None),
        ("[tool.alds]\nthreads = true\n", "is a text or a number, not true", None),
        ("[tool.alds]\nthreads = []\n", "is a text or a number, not a list", None),
        ("[tool.alds]\nthreads = 2020-01-01\n", "is a text or a number, not 2020-01-01", None),
        ("[tool.alds]\njson = 'yes'\n", "is true or false, not 'yes'", None),
        ("[tool.alds]\nignore = [1]\n", "is a list of texts, not a list", None),
        (
            "[tool.alds.inspect]\ninput-shape = '3,x'\n",
            "input-shape in [tool.alds.inspect] of FILE: an input shape is a list",
            "--input-shape 3,224,224",
        ),
    ],
)
def test_slips_in_a_file_name_it_and_the_key(folder, text, message, tip):
    with pytest.raises(OptionError) as caught:
        stated(folder, text)
    file = str(folder / "pyproject.toml")
    assert file in caught.value.message
    assert message.replace("FILE", file) in caught.value.message
    assert (tip or "") in (caught.value.tip or "")


@pytest.mark.parametrize(
    ("name", "value", "message", "tip"),
    [
        ("ALDS_THREDS", "1", "ALDS_THREDS stands for no option", "mean ALDS_THREADS?"),
        (
            "ALDS_EVALUATE_MAXDROP",
            "1",
            "ALDS_EVALUATE_MAXDROP stands for no option of evaluate",
            "mean ALDS_EVALUATE_MAX_DROP?",
        ),
        ("ALDS_EVALUATE_REFIT", "1", "no option of evaluate", "alds evaluate --help"),
        ("ALDS_EVALUATE_MODEL", "m.pt", "no option of evaluate", ""),
        ("ALDS_THREADS", "", "the variable ALDS_THREADS is a whole number", ""),
        ("ALDS_JSON", "maybe", "the variable ALDS_JSON is 1 or 0, not 'maybe'", ""),
        ("ALDS_IGNORE", "'a", "the variable ALDS_IGNORE is no list of words", ""),
    ],
)
def test_slips_in_a_variable_name_it(folder, name, value, message, tip):
    with pytest.raises(OptionError) as caught:
        stated(folder, **{name: value})
    assert message in caught.value.message
    assert tip in (caught.value.tip or "")


def test_variables_of_others_are_left_alone(folder):
    others = {"ALDS_SHARED": "/x", "ALDS_TOKEN": "x", "ALDS_CACHE_DIR": "c", "ALDS_TRACEBACK": "1"}
    assert not any(stated(folder, **others).values())


def test_a_variable_may_allow_pickle(folder):
    assert stated(folder, ALDS_ALLOW_PICKLE="1")["inspect"]["allow_pickle"].value is True


@pytest.mark.parametrize("command", [["evaluate", "model.pt"], ["schema"], ["config", "show"]])
def test_every_command_refuses_a_file_with_a_slip_and_help_does_not(run, folder, command):
    (folder / "pyproject.toml").write_text("[tool.alds.sweep]\nepoch = 3\n")
    code, out, err = run(*command)
    assert (code, out) == (2, "")
    assert f"no option 'epoch' for [tool.alds.sweep] of {folder}" in err
    assert run(command[0], "--help")[0] == 0


def test_errors_of_a_command_tell_where_its_values_are_stated(run, folder, monkeypatch):
    write_inputs(folder)
    (folder / "pyproject.toml").write_text(EVALUATE + "classes = 'gone.txt'\n")
    code, _, err = run("evaluate", "model.pt")
    assert code == 2
    told = f"--classes is stated by classes in [tool.alds.evaluate] of {folder}"
    assert f"gone.txt: no such file; {told}" in err
    assert "--threads is stated" not in err
    (folder / "pyproject.toml").write_text(EVALUATE)
    monkeypatch.setenv("ALDS_BASELINE", "gone.pt")
    code, _, err = run("evaluate", "model.pt", "--max-params", "1M")
    assert code == 2
    assert "gone.pt: no such file; --baseline is stated by the variable ALDS_BASELINE" in err
    assert (
        "gone.pt: no such file tip" not in run("evaluate", "model.pt", "--baseline", "gone.pt")[2]
    )


# ---------------------------------------------------------------- impossible values

VALUES = {
    "alpha": ("0.8", "1"),
    "arch": ("timm:vit", "resnet19"),
    "arch_arg": ("depth=3", "depth"),
    "cutmix": ("1", "0.0001"),
    "data": ("cifar10:d#calibration", "photos"),
    "delta": ("0,0.5", "half"),
    "device": ("cuda:7", "gpu"),
    "input_shape": ("3,8,8", "3,x"),
    "input_spec": ("ids:int64[1,8]<9", "ids:int64[1"),
    "max_latency": ("3ms", "3"),
    "max_macs": ("2M", "2MB"),
    "max_params": ("2M", "0"),
    "max_size": ("2MB", "5 parsec"),
    "mean": ("0.5,0.5,0.5", "0.5;0.5"),
    "method": ("own.module:plan", "aldz"),
    "method_arg": ("k=3", "3"),
    "methods": ("alds:solver=knapsack,own:plan", "alds,svd:q=3"),
    "milestones": ("0.5,0.75", "0.75,0.5"),
    "mixup": ("0.2", "0.0001"),
    "paper": ("cifar10-resnet20", "cifar10"),
    "plot": ("a.svg", "a.gif"),
    "ratio": ("0.2,1/3", "0.2,1.5"),
    "ratios": ("0.2,1/3", "0.2,x"),
    "recipe": ("own.toml", "cifar10"),
    "retrain_epochs": ("0,1", "1,x"),
    "std": ("1,1,1", "1,0,1"),
    "to": ("0.8", "80%"),
    "train_data": ("own:images", "cifar10:"),
    "validation": ("text:FILE", "cifar-10:d"),
}
"""By the parameters of options that take neither names nor numbers alone: a value, and one that
cannot be."""

ANY = {
    "baseline", "classes", "exclude", "html", "ignore", "include", "junit", "last", "log",
    "original", "output", "plan", "plan_out", "ray_address", "state_key", "strip_prefix", "table",
    "teacher", "tensorboard", "tokenizer",
}  # fmt: skip
"""Files and folders, which may come to be; names within a checkpoint, and patterns of them."""


def impossible(command, own):
    """A value that an option does not take; None where it takes any."""
    if own.given is bool:
        return "perhaps"
    if own.parameter in VALUES and not (command == "report" and own.parameter == "methods"):
        return VALUES[own.parameter][1]
    if own.mark.bounds is not None or (isinstance(own.mark.values, tuple) and own.mark.values):
        return None if own.mark.others else "no such value"
    if (command, own.parameter) == ("export", "output"):
        return "small.pt"
    assert own.parameter in ANY, (command, own.parameter)
    return None


@pytest.mark.usefixtures("folder")
def test_what_cannot_be_is_refused_before_it_is_used(tmp_path):
    """Of every option; the message names where it is stated."""
    refused = 0
    for command, own in EVERY:
        value = impossible(command, own)
        if value is None:
            continue
        with pytest.raises(OptionError) as caught:
            require_possible(
                stated_defaults(COMMANDS, {variable(command, own): value}, tmp_path), [command]
            )
        assert f"the variable {variable(command, own)}" in caught.value.message
        refused += 1
    assert refused > len(EVERY) / 2


USES = {
    "compress": ("model.pt", "--dry-run", "--ratio", "0.5"),
    "evaluate": ("model.pt", "--data", "own:images"),
    "export": ("model.pt", "-o", "x.onnx"),
    "inspect": ("model.pt",),
    "iterate": ("model.pt", "--data", "own:images", "-o", "x.pt", "--to", "0.5"),
    "report": ("folder",),
    "sweep": ("model.pt", "--data", "own:images", "-o", "runs", "--methods", "alds"),
    "train": ("--data", "own:images", "-o", "x.pt", "--arch", "digits_cnn"),
}


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize(
    "key",
    [
        *(f"compress.{key}" for key in ("ratio", "max-size", "method", "drop-of", "solver")),
        *(f"compress.{key}" for key in ("arch", "input-spec", "device", "mean", "method-arg")),
        *(f"evaluate.{key}" for key in ("max-params", "data", "preprocess", "format")),
        *(f"iterate.{key}" for key in ("to", "target", "recipe")),
        *(f"sweep.{key}" for key in ("methods", "alpha", "ratios", "engine", "teacher")),
        *(f"train.{key}" for key in ("milestones", "mixup", "optimiser", "arch")),
        "inspect.plot",
        "export.output",
        "report.delta",
    ],
)
def test_what_is_refused_early_is_what_its_use_refuses(run, folder, key):
    """In the same words, but for where the value is from."""
    command, _, name = key.partition(".")
    write_inputs(folder)
    (own,) = [each for each in COMMANDS[command] if key_of(each) == name]
    value = impossible(command, own)
    words = list(USES[command])
    if own.flags[0] in words:
        at = words.index(own.flags[0])
        del words[at : at + 2]
    code, out, used = run(command, *words, own.flags[0], value)
    assert (code, out) == (2, "")
    (folder / "pyproject.toml").write_text(f"[tool.alds.{command}]\n{name} = '{value}'\n")
    code, out, shown = run("config", "show")
    assert (code, out) == (2, "")
    place = f"{name} in [tool.alds.{command}] of {folder / 'pyproject.toml'}"
    assert shown.replace(f"{place}: ", "") == used


def test_a_value_for_all_commands_has_to_be_taken_by_one(run, folder, monkeypatch):
    """A command that does not take it refuses it where it runs, and says where it is from."""
    write_inputs(folder)
    project = folder / "pyproject.toml"
    project.write_text("[tool.alds]\ntarget = 'latency'\nbatch-size = 1\n")
    assert run("config", "show")[0] == 0
    for command, message in (
        ("iterate", "unknown target 'latency'"),
        ("retrain", "a whole number from 2"),
    ):
        code, _, err = run("config", "show", command)
        assert code == 2
        assert message in err
    data = ("--data", "tensors:data.safetensors")
    code, _, err = run("retrain", "model.pt", *data, "-o", "x.pt")
    assert code == 2
    told = f"--batch-size is stated by batch-size in [tool.alds] of {project}"
    assert f"a whole number from 2 to 65,536, not '1'; {told}" in err
    project.write_text("[tool.alds]\ntarget = 'latency'\n")
    code, _, err = run("iterate", "model.pt", *data, "--to", "0.5", "-o", "x.pt")
    assert code == 2
    assert "unknown target 'latency'; --target is stated by target in [tool.alds] of" in err
    monkeypatch.setenv("ALDS_TARGET", "speed")
    code, _, err = run("schema")
    assert (code, "the variable ALDS_TARGET: unknown target 'speed'" in err) == (2, True)


def test_code_of_ones_own_is_not_imported_to_show_that_it_is_named(run, folder):
    (folder / "own.py").write_text("raise SystemExit('imported')\n")
    (folder / "pyproject.toml").write_text(
        "[tool.alds]\nmethod = 'own:plan'\narch = 'own:net'\ndata = 'own:images'\n"
        "[tool.alds.sweep]\nmethods = 'alds,own:plan'\n"
    )
    code, out, err = run("config", "show")
    assert (code, err) == (0, "")
    assert "own:plan" in out


# ---------------------------------------------------------------- what is shown


def test_what_is_in_force_is_shown(run, folder, monkeypatch):
    code, out, err = run("config", "show")
    assert (code, out.strip(), err) == (0, "all defaults are built in", "")
    (folder / "pyproject.toml").write_text(EVALUATE)
    monkeypatch.setenv("ALDS_EVALUATE_DEVICE", "cuda:0")
    code, out, err = run("config", "show")
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert "evaluate device cuda:0 ALDS_EVALUATE_DEVICE" in rows
    assert "evaluate no-latency true tool.alds.evaluate.no-latency" in rows
    assert "compress device cpu tool.alds.device" in rows
    assert f"tool.alds is in {folder / 'pyproject.toml'}" in rows
    assert "built-in" not in out
    code, out, err = run("config", "show", "evaluate")
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert "evaluate batch-size 256 built-in" in rows
    assert "evaluate baseline – built-in" in rows
    assert not any(row.startswith("compress") for row in rows)


def test_a_list_is_shown_as_a_variable_states_it(run, folder, monkeypatch):
    (folder / "pyproject.toml").write_text('[tool.alds.compress]\nexclude = ["fc", "a b", "*"]\n')
    out = run("config", "show")[1]
    (row,) = [line for line in out.splitlines() if "exclude" in line]
    shown = row.removesuffix("tool.alds.compress.exclude ").partition("exclude")[2].strip()
    (folder / "pyproject.toml").unlink()
    monkeypatch.setenv("ALDS_COMPRESS_EXCLUDE", shown)
    (setting,) = json.loads(run("config", "show", "--json")[1])["settings"]
    assert setting["value"] == ["fc", "a b", "*"]


def test_the_json_holds_every_option_of_a_command(run, folder):
    (folder / "pyproject.toml").write_text(EVALUATE + 'ignore = ["a", "b"]\n')
    schema = PUBLISHED["config"].json_schema()
    for more in ((), ("evaluate",), ("config",)):
        code, out, err = run("config", "show", *more, "--json")
        assert code == 0, err
        document = json.loads(out)
        jsonschema.Draft202012Validator(schema).validate(document)
        assert document["file"] == str(folder / "pyproject.toml")
        options = [(own["command"], own["option"]) for own in document["settings"]]
        if more:
            assert options == [(name, key_of(own)) for name, own in EVERY if name == more[0]]
    assert ("evaluate", "ignore") in [
        (own["command"], own["option"])
        for own in json.loads(run("config", "show", "--json")[1])["settings"]
        if own["value"] == ["a", "b"]
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("config", "set"), "unknown action 'set'"),
        (("config", "show", "evalute"), "there is no command 'evalute'"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_cannot_be_shown(run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
