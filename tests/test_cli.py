"""The `alds` command: as a program of its own, and its answers to what users get wrong."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import alds_cli
from alds_cli import architectures

ALDS = Path(sys.executable).with_name("alds")


def alds(*arguments, stdin=None, **options):
    """The installed command, as a program of its own."""
    return subprocess.run(
        [ALDS, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        check=False,
        timeout=300,
        **options,
    )


# ---------------------------------------------------------------- start-up and help


def test_help_and_version_import_no_torch():
    """Nor anything else that is slow, one after another in a new process."""
    lines = ["--help", "--version", *(f"{name} --help" for name in ("compress", "demo", "report"))]
    code = (
        "import sys\n"
        "from alds_cli.cli.app import main\n"
        f"for line in {lines}:\n"
        "    sys.argv = ['alds', *line.split()]\n"
        "    try:\n        main()\n"
        "    except SystemExit as stop:\n        assert not stop.code\n"
        "    heavy = {'torch', 'torchvision', 'numpy', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "    assert not heavy, (line, heavy)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert f"alds {alds_cli.__version__}" in done.stdout
    for option in ("--show-completion", "--never-slower", "--seed", "--paper"):
        assert option in done.stdout


@pytest.mark.parametrize(
    ("arguments", "policy"),
    [
        ("compress model.pt --ratio 0.5", "PASSIVE"),
        ("profile model.pt", "PASSIVE"),
        ("compress model.pt --target latency --ratio 0.5", None),
        ("compress model.pt --target=latency --ratio 0.5", None),
        ("compress model.pt --max-latency 3ms", None),
        ("compress model.pt --ratio 0.5 --never-slower", None),
        ("evaluate model.pt --data x", None),
        ("retrain model.pt --data x", None),
    ],
)
def test_threads_wait_as_everywhere_where_time_counts(arguments, policy, monkeypatch, run):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    code, _, _ = run(*arguments.split())  # there is no such file
    assert code == 2
    assert os.environ.pop("OMP_WAIT_POLICY", None) == policy


def test_version():
    shown = alds("--version")
    assert shown.stdout.decode() == f"alds {alds_cli.__version__}\n"


def test_importing_the_package_is_cheap():
    code = "import sys, alds_cli; assert 'torch' not in sys.modules; dir(alds_cli)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_are_there():
    assert {name for name in alds_cli.__all__ if not hasattr(alds_cli, name)} == set()
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = alds_cli.nothing_like_it


def test_module_runs_as_the_command():
    shown = subprocess.run(
        [sys.executable, "-m", "alds_cli", "--version"], check=True, capture_output=True
    )
    assert shown.stdout.startswith(b"alds ")


# ---------------------------------------------------------------- the chain, as a program


@pytest.mark.slow
def test_chain_of_commands(digits, tmp_path):
    small, better = tmp_path / "small.pt", tmp_path / "better.safetensors"
    made = alds("compress", digits / "model.pt", "--ratio", "0.5", "-o", small, "--json")
    assert made.returncode == 0, made.stderr.decode()
    report = json.loads(made.stdout)
    assert {
        "schema", "method", "solver", "seed", "ratio_asked", "ratio", "params_before",
        "params_after", "macs_before", "macs_after", "bytes_after", "max_relative_error",
        "max_error_bound", "seconds", "layers",
    } <= set(report)  # fmt: skip
    assert (report["method"], report["solver"], report["ratio_asked"]) == ("alds", "exact", 0.5)
    assert report["ratio"] >= 0.5
    assert report["params_after"] * 2 <= report["params_before"]
    assert report["bytes_after"] == small.stat().st_size
    assert report["max_relative_error"] <= report["max_error_bound"]
    for layer in report["layers"]:
        if layer["kept"]:
            assert layer["reason"]
            assert layer["params_after"] == layer["params_before"]
        else:
            assert layer["params_after"] < layer["params_before"]
            assert layer["error"] <= layer["error_bound"] + 1e-6

    data = f"tensors:{digits / 'data.safetensors'}"
    trained = alds("retrain", small, "--data", data, "--epochs", 1, "-o", better, "--json")
    assert trained.returncode == 0, trained.stderr.decode()
    assert len(json.loads(trained.stdout)["history"]) == 1
    assert not list(tmp_path.glob("*.training"))

    measured = alds("evaluate", better, "--data", data, "--baseline", small, "--json")
    assert measured.returncode == 0, measured.stderr.decode()
    result = json.loads(measured.stdout)
    fields = {"top1", "top5", "loss", "images", "params", "macs", "bytes", "latency_ms"}
    assert fields <= set(result)
    assert fields <= set(result["baseline"])
    assert result["params"] == result["baseline"]["params"] == report["params_after"]
    assert result["images"] == 64


@pytest.mark.slow
def test_pipeline(digits):
    content = (digits / "model.pt").read_bytes()
    made = alds("compress", "-", "--ratio", "0.5", "-o", "-", stdin=content)
    assert made.returncode == 0, made.stderr.decode()
    seen = alds("inspect", "-", "--json", stdin=made.stdout)
    found = json.loads(seen.stdout)
    assert found["compressed"]
    assert found["ratio"] >= 0.5
    assert found["architecture"]["name"] == "digits_cnn"


@pytest.mark.slow
def test_progress_and_colour_stay_out_of_pipes(digits, tmp_path):
    made = alds("compress", digits / "model.pt", "--ratio", "0.5", "-o", tmp_path / "s.pt")
    assert b"\x1b" not in made.stdout + made.stderr
    assert made.stderr == b""
    assert b"parameters" in made.stdout


@pytest.mark.slow
def test_reader_that_leaves_early_is_no_error(digits):
    process = subprocess.Popen(
        [ALDS, "inspect", digits / "model.pt"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.wait()
    process.stderr.close()


# ---------------------------------------------------------------- in one process


def test_profile_then_compress_computes_no_spectrum_again(run, digits, monkeypatch):
    assert run("profile", digits / "model.pt")[0] == 0

    def never(*_, **__):
        raise AssertionError("a spectrum was computed")

    monkeypatch.setattr("alds_cli.numerics.spectra.SpectraJob.__call__", never)
    for ratio in ("0.3", "0.6"):
        code, out, err = run("compress", digits / "model.pt", "--ratio", ratio, "--dry-run")
        assert code == 0, err
        assert "digits_cnn" in out or "features.0" in out


def test_profile_table_can_be_kept_elsewhere(run, digits, tmp_path):
    table = tmp_path / "table.safetensors"
    assert run("profile", digits / "model.pt", "-o", table, "--no-cache")[0] == 0
    code, _, err = run(
        "compress", digits / "model.pt", "--ratio", "0.5", "--table", table, "--dry-run"
    )
    assert code == 0, err


def test_plan_is_written_edited_and_replayed(run, digits, tmp_path):
    plan, small = tmp_path / "plan.json", tmp_path / "small.pt"
    model = digits / "model.pt"
    assert run("compress", model, "--ratio", "0.5", "--plan-out", plan, "--dry-run")[0] == 0
    content = json.loads(plan.read_text())
    changed = next(name for name, choice in content["layers"].items() if choice != "keep")
    content["layers"][changed]["j"] = 1
    plan.write_text(json.dumps(content))
    code, out, err = run("compress", model, "--plan", plan, "-o", small, "--json")
    assert code == 0, err
    layers = {layer["name"]: layer for layer in json.loads(out)["layers"]}
    assert layers[changed]["j"] == 1
    content["layers"][changed] = "keep"
    plan.write_text(json.dumps(content))
    code, _, err = run("compress", model, "--plan", plan, "--ratio", "0.5", "-o", small)
    assert code == 1
    assert "less than the 0.5 asked for" in err


def test_notes_are_whole_lines_on_stderr(run, digits, tmp_path):
    state = torch.load(digits / "model.pt", weights_only=True)
    torch.save({"model": state, "ema": state, "epoch": 3}, tmp_path / "training.pt")
    code, out, err = run("inspect", tmp_path / "training.pt", "--json")
    assert code == 0
    assert json.loads(out)["architecture"]["name"] == "digits_cnn"
    assert "warning: " in err
    assert "used 'model'; it also holds 'ema' (--state-key chooses)" in err
    assert run("inspect", tmp_path / "training.pt", "-q")[2] == ""


def test_include_and_exclude(run, digits):
    code, out, _ = run(
        "compress", digits / "model.pt", "--ratio", "0.1", "--dry-run", "--json",
        "--include", "features.*", "--exclude", "features.0",
    )  # fmt: skip
    assert code == 0
    for layer in json.loads(out)["layers"]:
        if not layer["name"].startswith("features") or layer["name"] == "features.0":
            assert layer["kept"]
            assert "--include" in layer["reason"]


def test_dry_run_writes_nothing(run, digits, tmp_path):
    out = tmp_path / "small.pt"
    assert run("compress", digits / "model.pt", "--ratio", "0.5", "--dry-run", "-o", out)[0] == 0
    assert not list(tmp_path.iterdir())


def test_unreachable_ratio_names_the_largest_and_writes_nothing(run, digits, tmp_path):
    out = tmp_path / "small.pt"
    code, _, err = run("compress", digits / "model.pt", "--ratio", "0.999", "-o", out)
    assert code == 1
    largest = err.split("the largest ratio is ")[1].split()[0]
    assert not list(tmp_path.iterdir())
    assert run("compress", digits / "model.pt", "--ratio", largest, "-o", out)[0] == 0


@pytest.mark.slow
def test_demo_leaves_its_files(run, tmp_path):
    pytest.importorskip("sklearn", reason="the demo's images come with scikit-learn")
    code, out, err = run("demo", "-o", tmp_path / "demo", "--json", "-q")
    assert code == 0, err
    rows = {row["name"]: row for row in json.loads(out)["networks"]}
    assert rows["original"]["top1"] > 95
    assert rows["ratio 0.8, retrained"]["top1"] > 90
    assert rows["ratio 0.8"]["params"] <= 0.2 * rows["original"]["params"]
    assert (tmp_path / "demo" / "small-0.8.pt").exists()


def test_demo_without_scikit_learn_names_the_extra(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    code, _, err = run("demo", "-o", tmp_path / "demo")
    assert code == 2
    assert "alds-cli[demo]" in err


# ---------------------------------------------------------------- what users get wrong


class RunsCode:
    """A pickle that would leave a file behind if anybody loaded it."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return (Path.touch, (self.witness,))


def bad_inputs(folder, witness):
    """(name, file, part of the message) for every sort of bad model file."""
    good = folder / "good.pt"
    torch.manual_seed(0)
    network = architectures.build(architectures.parse_architecture("digits_cnn"))
    state = network.state_dict()
    torch.save(state, good)

    def with_weight(name, value, dtype=None):
        changed = {key: tensor.clone() for key, tensor in state.items()}
        if dtype is not None:
            changed["features.3.weight"] = changed["features.3.weight"].to(dtype)
        else:
            changed["features.3.weight"].view(-1)[7] = value
        torch.save(changed, folder / name)
        return folder / name

    (folder / "empty.pt").touch()
    (folder / "text.pt").write_text("import torch\n")
    (folder / "truncated.pt").write_bytes(good.read_bytes()[:-2000])
    torch.save({"state_dict": RunsCode(witness)}, folder / "code.pt")
    with (folder / "bare.pkl").open("wb") as file:
        pickle.dump(RunsCode(witness), file)
    other = {key: tensor for key, tensor in state.items() if "classifier" not in key}
    torch.save(other, folder / "other.pt")
    return [
        (folder / "missing.pt", "no such file"),
        (folder, "is a folder"),
        (folder / "empty.pt", "is empty"),
        (folder / "text.pt", "not a model file"),
        (folder / "truncated.pt", "truncated or corrupt"),
        (folder / "code.pt", "pickled Python code"),
        (folder / "bare.pkl", ""),
        (folder / "other.pt", "digits_cnn"),
        (with_weight("nan.pt", float("nan")), "features.3.weight"),
        (with_weight("inf.pt", float("inf")), "features.3.weight"),
        (with_weight("int.pt", None, torch.int8), "features.3.weight"),
    ]


def test_bad_models_are_a_line_and_exit_code_2(run, tmp_path):
    inputs, out = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    out.mkdir()
    witness = tmp_path / "witness"
    for file, message in bad_inputs(inputs, witness):
        code, stdout, err = run("compress", file, "--ratio", "0.5", "-o", out / "small.pt")
        assert code == 2, (file, err)
        assert message in err, (file, err)
        assert err.startswith("error: "), err
        assert "Traceback" not in err
        assert stdout == ""
    assert not witness.exists()
    assert not list(out.iterdir())


def test_checkpoint_of_another_network(run, digits, tmp_path):
    code, _, err = run(
        "compress", digits / "model.pt", "--arch", "resnet18", "--ratio", "0.5",
        "-o", tmp_path / "small.pt",
    )  # fmt: skip
    assert code == 2
    assert "does not belong to resnet18" in err
    assert "--arch digits_cnn" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ratio", ["0", "1", "-1", "nan", "inf", "1.5", "half", "1e400", ""])
def test_bad_ratios(run, digits, tmp_path, ratio):
    code, _, err = run(
        "compress", digits / "model.pt", f"--ratio={ratio}", "-o", tmp_path / "small.pt"
    )
    assert code == 2
    assert "between 0 and 1" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "how small"),
        (["--ratio", "0.5", "--method", "magic"], "unknown method 'magic'"),
        (["--ratio", "0.5", "--solver", "magic"], "unknown solver 'magic'"),
        (["--ratio", "0.5", "--bound", "magic"], "unknown bound 'magic'"),
        (["--ratio", "0.5", "--include", "nowhere*"], "matches no layer"),
        (["--ratio", "0.5", "--arch", "resnet1"], "resnet1"),
        (["--ratio", "0.5", "--arch-arg", "num_classes=3"], "--arch"),
        (["--ratio", "0.5", "--input-shape", "3,x"], "whole numbers"),
        (["--ratio", "0.5", "--plan", "nowhere.json"], "nowhere.json"),
        (["--ratio", "0.5", "--table", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--ratio", "0.5", "-q", "-v"], "contradict"),
        (["--ratio", "0.5", "--state-key", "model"], "no state dict"),
    ],
)
def test_bad_options(run, digits, tmp_path, arguments, message):
    code, _, err = run("compress", digits / "model.pt", "-o", tmp_path / "s.pt", *arguments)
    assert code == 2, err
    assert message in err
    assert not list(tmp_path.iterdir())


def test_no_output_named(run, digits):
    code, _, err = run("compress", digits / "model.pt", "--ratio", "0.5")
    assert code == 2
    assert "no output is named" in err


def test_artefact_and_json_cannot_share_standard_output(run, digits):
    code, out, err = run("compress", digits / "model.pt", "--ratio", "0.5", "-o", "-", "--json")
    assert code == 2
    assert "standard output" in err
    assert out == ""


@pytest.mark.parametrize("command", ["compress", "retrain"])
def test_output_folder_that_does_not_exist(run, digits, tmp_path, command):
    target = tmp_path / "nowhere" / "small.pt"
    more = (
        ["--ratio", "0.5"]
        if command == "compress"
        else ["--data", f"tensors:{digits / 'data.safetensors'}"]
    )
    code, _, err = run(command, digits / "model.pt", "-o", target, *more)
    assert code == 2
    assert "does not exist" in err
    assert not list(tmp_path.iterdir())


def test_output_that_is_a_folder(run, digits, tmp_path):
    code, _, err = run("compress", digits / "model.pt", "--ratio", "0.5", "-o", tmp_path)
    assert code == 2
    assert "only networks of transformers are written as folders" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_output_folder_that_cannot_be_written(run, digits, tmp_path):
    tmp_path.chmod(0o500)
    code, _, err = run("compress", digits / "model.pt", "--ratio", "0.5", "-o", tmp_path / "s.pt")
    assert code == 2
    assert "no permission" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_full_device(run, digits):
    code, _, err = run("compress", digits / "model.pt", "--ratio", "0.5", "-o", "/dev/full")
    assert code == 2
    assert "No space left" in err


@pytest.mark.slow
def test_full_disk_leaves_the_old_file(digits, tmp_path):
    resource = pytest.importorskip("resource", reason="file-size limits are a Unix thing")
    old = tmp_path / "small.pt"
    old.write_bytes(b"old")

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    for suffix in (".pt", ".safetensors"):
        target = old.with_suffix(suffix)
        target.write_bytes(b"old")
        made = alds(
            "compress", digits / "model.pt", "--ratio", "0.5", "-o", target, "--no-cache",
            preexec_fn=limit,
        )  # fmt: skip
        assert made.returncode == 2, made.stderr.decode()
        assert b"cannot write" in made.stderr
        assert b"Traceback" not in made.stderr
        assert target.read_bytes() == b"old"
        target.unlink()
        assert not list(tmp_path.glob(".*partial"))
        old.write_bytes(b"old")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nothing", "not a data set"),
        ("tensors:nowhere.safetensors", "nowhere.safetensors"),
        ("imagefolder:nowhere", "nowhere"),
        ("cifar10:nowhere", "nowhere"),
    ],
)
def test_bad_data(run, digits, spec, message):
    code, _, err = run("evaluate", digits / "model.pt", "--data", spec)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_usage_errors_are_exit_code_2(run):
    assert run("compress")[0] == 2
    assert run("nothing")[0] == 2


# ---------------------------------------------------------------- bytes


@pytest.mark.slow
def test_same_bytes_twice_with_any_threads_cached_or_not(digits, tmp_path):
    made = []
    for number, (threads, more) in enumerate([(1, []), (4, ["--no-cache"]), (4, [])]):
        target = tmp_path / f"small-{number}.pt"
        done = alds(
            "compress", digits / "model.pt", "--ratio", "0.6", "-o", target, *more,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        made.append(target.read_bytes())
    assert made[0] == made[1] == made[2]


def test_both_formats_hold_the_same(run, digits, tmp_path):
    for name in ("small.pt", "small.safetensors"):
        code = run("compress", digits / "model.pt", "--ratio", "0.5", "-o", tmp_path / name)[0]
        assert code == 0
    first = torch.load(tmp_path / "small.pt", weights_only=True)["state_dict"]
    second = load_file(tmp_path / "small.safetensors")
    assert set(first) == set(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["compress", "retrain"])
def test_killed_at_any_moment_leaves_old_or_new(digits, tmp_path, command):
    """SIGKILL at moments spread over the run; the output is the old file or a whole new one."""
    target = tmp_path / "small.pt"
    data = f"tensors:{digits / 'data.safetensors'}"
    more = ["--ratio", "0.5"] if command == "compress" else ["--data", data, "--epochs", "3"]
    arguments = [ALDS, command, digits / "model.pt", "-o", target, *more]
    start = time.monotonic()
    subprocess.run(arguments, check=True, capture_output=True)
    whole_run = time.monotonic() - start
    new = target.read_bytes()
    seen = set()
    for part in range(1, 13, 2):
        target.write_bytes(b"old")
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=whole_run * (0.7 + 0.03 * part))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        seen.add(target.read_bytes())
    assert seen <= {b"old", new}


@pytest.mark.slow
def test_resumed_run_gives_the_bytes_of_an_undisturbed_one(digits, tmp_path):
    data = f"tensors:{digits / 'data.safetensors'}"
    more = ["--data", data, "--epochs", "4", "--threads", "1", "--batch-size", "16"]
    whole, broken = tmp_path / "whole.pt", tmp_path / "broken.pt"
    assert alds("retrain", digits / "model.pt", "-o", whole, *more).returncode == 0
    state = tmp_path / "broken.pt.training"
    process = subprocess.Popen(
        [ALDS, "retrain", digits / "model.pt", "-o", broken, *more],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and not state.exists():
        time.sleep(0.005)
    process.kill()
    process.wait()
    if broken.exists():
        pytest.skip("the run ended before it could be interrupted")
    done = alds("retrain", digits / "model.pt", "-o", broken, *more, "--resume", "--json")
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["resumed_from"] >= 1
    assert broken.read_bytes() == whole.read_bytes()
    assert not state.exists()
