"""Networks written as folders: what goes along, what is replaced, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers_folders import answers, saved

import alds_cli
from alds_cli import api
from alds_cli.checkpoint import folder_writing
from alds_cli.checkpoint.folder_writing import names_folder
from alds_cli.errors import CheckpointError, OutputError
from alds_cli.inputs import parse_inputs

pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own

INPUTS = parse_inputs("int64[1,20]<99,attention_mask:int64[1,20]<2")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Save a small encoder of text with companions, a program and other weights beside it."""
    folder = saved("bert", tmp_path_factory.mktemp("tiny") / "model")
    for name in ("tokenizer.json", "vocab.txt", "LICENSE", "flax_model.msgpack", "modeling.py"):
        (folder / name).write_text(f"content of {name}")
    return folder


@pytest.fixture(scope="module")
def parted(tmp_path_factory):
    """Save the encoder in several files."""
    folder = tmp_path_factory.mktemp("parted") / "model"
    return saved("bert", folder, max_shard_size="30KB")


def content(folder):
    """The bytes of every file in a folder by its name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "described", "expected"),
    [
        ("small", True, True),
        ("small-0.3", True, True),
        ("small.pt", True, False),
        ("small.safetensors", True, False),
        ("small", False, False),
        ("small/", False, True),
        ("small.pt/", False, True),
        ("-", True, False),
    ],
)
def test_the_name_tells_whether_a_result_is_a_folder(name, described, expected):
    assert names_folder(name, described=described) is expected


def test_a_folder_holds_weights_and_unchanged_companions(tiny, tmp_path):
    result = api.compress(tiny, ratio=0.3, output=tmp_path / "small")
    small = tmp_path / "small"
    found = content(small)
    weights = found.pop("alds.safetensors")
    kept = ("config.json", "tokenizer.json", "vocab.txt", "LICENSE")
    assert found == {name: (tiny / name).read_bytes() for name in kept}
    assert result.network.nbytes == len(weights)
    expected = answers(result.network.module.eval(), INPUTS)
    assert torch.equal(answers(alds_cli.load(small), INPUTS), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_a_folder_has_the_size_that_was_asked_for(tiny, parted, tmp_path):
    for folder in (tiny, parted):
        output = tmp_path / folder.parent.name
        result = api.compress(folder, max_size=85_000, output=output)
        written = sum(path.stat().st_size for path in output.glob("*.safetensors"))
        assert written == result.network.nbytes <= 85_000


def test_weights_that_came_in_parts_are_written_in_parts(parted, tmp_path):
    result = api.compress(parted, ratio=0.3, output=tmp_path / "small")
    parts = sorted((tmp_path / "small").glob("alds-*-of-*.safetensors"))
    most = max(path.stat().st_size for path in parted.glob("*.safetensors"))
    assert len(parts) > 1
    tensors = {}
    for path in parts:
        held = load_file(path)
        assert tensors.keys().isdisjoint(held)
        assert len(held) == 1 or sum(tensor.nbytes for tensor in held.values()) <= most
        tensors |= held
    state = result.network.module.state_dict()
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[name], state[name]) for name in state)
    loaded = alds_cli.load(tmp_path / "small").state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    parts[0].unlink()
    with pytest.raises(CheckpointError, match="missing"):
        alds_cli.load(tmp_path / "small")


def test_the_library_does_not_take_pairs_for_missing_weights(tiny, tmp_path):
    import transformers  # noqa: PLC0415 - optional, and slow to import

    api.compress(tiny, ratio=0.3, output=tmp_path / "small")
    with pytest.raises(OSError, match="no file named"):
        transformers.BertModel.from_pretrained(tmp_path / "small")


def test_its_own_folder_is_replaced_and_what_else_is_in_it_stays(run, tiny, tmp_path):
    small = tmp_path / "small"
    assert run("compress", tiny, "--ratio", "0.3", "-o", small)[0] == 0
    before = content(small)
    (small / "notes.md").write_text("mine")
    (small / "runs").mkdir()
    assert run("compress", small, "--ratio", "0.5", "-o", small)[0] == 0
    after = content_of_files(small)
    assert after.pop("notes.md") == b"mine"
    assert (small / "runs").is_dir()
    assert after.keys() == before.keys()
    assert len(after["alds.safetensors"]) < len(before["alds.safetensors"])
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def content_of_files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_other_folders_are_never_replaced(run, tiny, tmp_path):
    before = content(tiny)
    code, _, err = run("compress", tiny, "--ratio", "0.3", "-o", tiny)
    assert code == 2
    assert "holds other things" in err
    assert content(tiny) == before
    code, _, err = run("compress", tiny, "--ratio", "0.3", "-o", tmp_path / "absent" / "small")
    assert code == 2
    assert "does not exist" in err


@pytest.mark.parametrize("command", ["compress", "optimize"])
def test_only_described_networks_become_folders(run, model, tmp_path, command):
    options = ["--ratio", "0.3"] if command == "compress" else []
    source = ["--arch", "small_networks:digits_network", "--input-shape", "1,8,8"]
    code, _, err = run(command, model, *options, *source, "-o", f"{tmp_path}/small/")
    assert code == 2
    assert "only networks of transformers are written as folders" in err
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("existing", [True, False])
def test_a_folder_appears_whole_or_not_at_all(tiny, tmp_path, monkeypatch, existing):
    small = tmp_path / "small"
    if existing:
        api.compress(tiny, ratio=0.3, output=small)
    before = content(small) if existing else None

    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_writing, "write_artefact", broken)
    with pytest.raises(OutputError, match="No space left"):
        api.compress(tiny, ratio=0.5, output=small)
    assert (content(small) if small.exists() else None) == before
    assert [path.name for path in tmp_path.iterdir()] == ["small"] * existing


@pytest.mark.slow
def test_an_artefact_becomes_a_folder_with_its_configuration(tiny, tmp_path):
    api.compress(tiny, ratio=0.3, output=tmp_path / "small.pt")
    network = api.compress(tmp_path / "small.pt", ratio=0.4, output=f"{tmp_path}/small/").network
    described = json.loads((tmp_path / "small" / "config.json").read_text())
    assert described == json.loads((tiny / "config.json").read_text())
    expected = answers(network.module.eval(), INPUTS)
    assert torch.equal(answers(alds_cli.load(tmp_path / "small"), INPUTS), expected)
