"""Folders of `transformers` as models: read by the configuration in them, without its code."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.utils import parametrize
from transformers_folders import answers, by_library, described, renamed, saved, with_products

import alds_cli
from alds_cli import api
from alds_cli.architectures import default_inputs
from alds_cli.errors import ArchitectureError, CheckpointError, MissingExtraError
from alds_cli.inputs import parse_inputs
from alds_cli.records import Architecture

transformers = pytest.importorskip(
    "transformers", reason="the extra 'transformers' is not installed"
)

pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own

INPUTS = {
    "gpt2": "int64[1,20]<99",
    "bert": "int64[1,20]<99,attention_mask:int64[1,20]<2",
    "bert_masked": "int64[1,20]<99,attention_mask:int64[1,20]<2",
    "roberta": "int64[1,20]<99,attention_mask:int64[1,20]<2",
    "llama": "int64[1,20]<99",
    "llama_tied": "int64[1,20]<99",
    "vit": "float[1,3,32,32]",
    "swin": "float[1,3,32,32]",
    "convnext": "float[1,3,224,224]",
    "whisper": "float[1,16,40],decoder_input_ids:int64[1,20]<99",
}

MATRICES = {
    "gpt2": 9,
    "bert": 16,
    "bert_masked": 15,
    "roberta": 15,
    "llama": 16,
    "llama_tied": 14,
    "vit": 13,
    "swin": 26,
    "convnext": 11,
    "whisper": 32,
}
"""The number of linear layers and embeddings in each that may become pairs."""

SHARED = "its weight is shared with another layer"

PLACES = (
    "the network's code reads its num_embeddings (WhisperEncoder.forward)",
    "WhisperPositionalEmbedding may do more than a plain embedding layer",
)
"""Why Whisper's embeddings of positions are kept."""


@pytest.mark.mostly_slow(10)
@pytest.mark.parametrize("name", INPUTS)
def test_every_layer_with_a_matrix_becomes_a_pair_of_what_the_library_loads(name, tmp_path):
    folder = saved(name, tmp_path / "model")
    result = api.compress(folder, ratio=0.3, output=tmp_path / "small.pt")
    assert 10 * result.report.params_after <= 7 * result.report.params_before
    assert str(result.network.inputs) == INPUTS[name]
    matrices = [layer.reason for layer in result.report.layers if len(layer.shape) == 2]
    free = [reason for reason in matrices if reason not in {SHARED, *PLACES}]
    assert {*free} <= {None, "the allocation keeps it"}
    assert len(free) == MATRICES[name]
    assert (name == "whisper") == any(reason in PLACES for reason in matrices)
    dense, small = by_library(folder), alds_cli.load(tmp_path / "small.pt")
    inputs = result.network.inputs
    torch.testing.assert_close(
        answers(alds_cli.load(folder), inputs), answers(dense, inputs), rtol=0, atol=0
    )
    torch.testing.assert_close(
        answers(small, inputs), answers(with_products(dense, small), inputs), rtol=1e-4, atol=1e-5
    )


def test_a_network_of_sound_with_a_normalised_weight_comes_back(tmp_path):
    """Its positions pass a convolution that the library gives weight norm."""
    folder = saved("wav2vec2", tmp_path / "model")
    result = api.compress(folder, ratio=0.3, output=tmp_path / "small")
    assert str(result.network.inputs) == "float[1,16000]"
    positions = "wav2vec2.encoder.pos_conv_embed.conv"
    assert positions in result.plan.decomposed
    small = alds_cli.load(tmp_path / "small")
    assert sum(own.numel() for own in small.parameters()) == result.report.params_after
    inputs = parse_inputs("float[1,400]")
    dense = by_library(folder)
    parametrize.remove_parametrizations(dense.get_submodule(positions), "weight")
    expected = answers(with_products(dense, small), inputs)
    torch.testing.assert_close(answers(small, inputs), expected, rtol=1e-4, atol=1e-5)


def test_what_the_library_computes_and_never_saves_is_computed(tmp_path):
    folder = saved("marian", tmp_path / "model")
    positions = "model.encoder.embed_positions.weight"
    assert positions not in load_file(folder / "model.safetensors")
    result = api.compress(folder, ratio=0.3, output=tmp_path / "small")
    dense, inputs = by_library(folder), result.network.inputs
    expected = dense.state_dict()[positions]
    for found in (alds_cli.load(folder), alds_cli.load(tmp_path / "small")):
        assert torch.equal(found.state_dict()[positions], expected)
    assert torch.equal(answers(alds_cli.load(folder), inputs), answers(dense, inputs))


def test_a_tied_weight_that_is_never_saved_is_the_one_in_the_file(tmp_path, monkeypatch):
    """Older versions of the library name tied weights among what they leave out."""
    kind = transformers.GPT2LMHeadModel
    monkeypatch.setattr(kind, "_keys_to_ignore_on_save", ["lm_head.weight"], raising=False)
    folder = saved("gpt2", tmp_path / "model")
    found, dense = alds_cli.load(folder), by_library(folder)
    assert torch.equal(found.lm_head.weight, dense.transformer.wte.weight)
    assert found.lm_head.weight is found.transformer.wte.weight


def test_networks_of_spectra_take_as_many_frames_as_they_say():
    described_by = {"model_type": "audio-spectrogram-transformer", "max_length": 64}
    text = json.dumps({**described_by, "num_mel_bins": 32})
    architecture = Architecture("transformers:ASTForAudioClassification", {"config": text})
    assert str(default_inputs(architecture)) == "float[1,64,32]"


def test_a_network_of_images_and_texts_is_told_what_it_takes(run, tmp_path):
    folder = saved("clip", tmp_path / "model")
    code, _, err = run("compress", folder, "--ratio", "0.3", "-o", tmp_path / "small.pt")
    assert code == 2
    assert "--input-spec" in err
    given = "input_ids:int64[1,9]<99,attention_mask:int64[1,9]<2,pixel_values:float[1,3,32,32]"
    result = api.compress(
        folder,
        ratio=0.2,
        output=tmp_path / "small.pt",
        source=alds_cli.Source(input_spec=given),
    )
    assert result.plan.decomposed


def test_layers_are_free_where_the_library_looks_for_those_whose_outputs_it_gives(tmp_path):
    folder = saved("segformer", tmp_path / "model")
    result = api.compress(folder, ratio=0.3, output=tmp_path / "small.pt")
    reasons = {layer.reason for layer in result.report.layers}
    assert reasons <= {None, "the allocation keeps it", "no low-rank pair is smaller"}
    dense, small = by_library(folder), alds_cli.load(tmp_path / "small.pt")
    inputs = parse_inputs("float[1,3,64,64]")
    expected = answers(with_products(dense, small), inputs)
    torch.testing.assert_close(answers(small, inputs), expected, rtol=1e-4, atol=1e-5)


def test_a_linear_layer_that_holds_its_weight_transposed_is_decomposed_as_it_computes(tmp_path):
    folder = saved("gpt2", tmp_path / "model")
    plan = {
        "schema": 1,
        "layers": {"transformer.h.0.mlp.c_fc": {"scheme": 0, "k": 1, "j": 5}},
        "method": "alds",
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    result = api.compress(folder, plan=tmp_path / "plan.json", output=tmp_path / "small.pt")
    pair = result.network.module.transformer.h[0].mlp.c_fc
    weight = by_library(folder).transformer.h[0].mlp.c_fc.weight.detach().T  # (out, in)
    left, values, right = torch.linalg.svd(weight)
    best = (left[:, :5] * values[:5]) @ right[:5]
    torch.testing.assert_close(pair.second.weight @ pair.first.weight, best, rtol=1e-4, atol=1e-6)
    (layer,) = [each for each in result.report.layers if each.choice]
    assert layer.error == pytest.approx(float(values[5] / values[0]), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("parts", ["safetensors", "bin"])
def test_weights_come_in_parts_and_as_pickles(parts, tmp_path):
    folder = saved("bert", tmp_path / "model", max_shard_size="30KB")
    expected = by_library(folder)
    if parts == "bin":
        for path in folder.glob("*.safetensors*"):
            path.unlink()
        torch.save(expected.state_dict(), folder / "pytorch_model.bin")
    inputs = parse_inputs(INPUTS["bert"])
    assert torch.equal(answers(alds_cli.load(folder), inputs), answers(expected, inputs))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rename"),
    [
        ("gpt2", lambda name: name.removeprefix("transformer.")),
        ("bert", lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma")),
        ("bert", lambda name: f"bert.{name}"),
    ],
)
def test_names_of_older_versions_and_of_networks_without_a_head(name, rename, tmp_path):
    folder = saved(name, tmp_path / "model")
    expected = by_library(folder)
    renamed(folder, rename)
    inputs = parse_inputs(INPUTS[name])
    assert torch.equal(answers(alds_cli.load(folder), inputs), answers(expected, inputs))


@pytest.mark.slow
def test_a_class_that_is_named_decides(tmp_path):
    folder = saved("bert_classes", tmp_path / "model")
    network = alds_cli.load(folder, arch="transformers:BertModel", ignore="classifier.*")
    assert type(network).__name__ == "BertModel"
    described(folder, architectures=None)
    assert type(alds_cli.load(folder, ignore="classifier.*")).__name__ == "BertModel"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Save a small encoder of text once, for tests that change its description."""
    return saved("bert", tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def folder(tiny, tmp_path):
    """Return a copy of the folder, to be changed."""
    copied = tmp_path / "model"
    copied.mkdir()
    for path in tiny.iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    return copied


def refused(run, folder, *options):
    code, out, err = run("compress", folder, "--ratio", "0.3", "-o", folder / "small.pt", *options)
    assert (code, out) == (2, "")
    assert not (folder / "small.pt").exists()
    return err


def test_code_in_the_folder_is_never_run(run, folder):
    (folder / "modeling.py").write_text("raise SystemExit('code of the folder was run')")
    described(folder, auto_map={"AutoModel": "modeling.Model"})
    err = refused(run, folder)
    assert "built by Python code in that folder, which is never run" in err
    assert "--arch transformers:CLASS" in err
    named = alds_cli.load(folder, arch="transformers:BertModel")
    assert type(named).__module__.startswith("transformers.models.bert")


def test_a_missing_library_names_the_extra(run, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    err = refused(run, folder)
    assert "pip install 'alds-cli[transformers]'" in err
    with pytest.raises(MissingExtraError, match="transformers:BertModel"):
        alds_cli.load(folder)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"architectures": ["BertForEverything"]}, "no network 'BertForEverything'"),
        ({"architectures": ["BertConfig"]}, "no network 'BertConfig'"),
        ({"architectures": ["os:system"]}, "no network 'os:system'"),
        ({"model_type": "berd"}, "no networks of the type 'berd'"),
        ({"model_type": "berd", "architectures": None}, "no networks of the type 'berd'"),
        ({"hidden_size": 48}, "does not belong to transformers:BertModel"),
        ({"hidden_size": "wide"}, "cannot be built"),
        ({"num_hidden_layers": 3}, "missing"),
    ],
)
def test_descriptions_that_fit_nothing(run, folder, changes, complaint):
    described(folder, **changes)
    assert complaint in refused(run, folder)


@pytest.mark.parametrize("content", ["[]", "{", '{"a": NaN', "[" * 100_000])
def test_damaged_descriptions(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        alds_cli.load(folder)


def test_nothing_is_fetched_for_a_description(folder, monkeypatch):
    import socket  # noqa: PLC0415 - as the next
    from pathlib import Path  # noqa: PLC0415

    def refuse(*arguments):
        pytest.fail(f"something is fetched: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    described(
        folder,
        attn_implementation="kernels-community/flash-attn",
        backbone="microsoft/resnet-50",
        use_pretrained_backbone=True,
    )
    assert isinstance(alds_cli.load(Path(folder)), torch.nn.Module)


def test_a_class_without_a_folder_has_no_configuration(tmp_path, folder):
    with pytest.raises(ArchitectureError, match="built by a configuration") as caught:
        alds_cli.load(folder / "model.safetensors", arch="transformers:BertModel")
    assert caught.value.tip is not None
    assert "config.json" in caught.value.tip
    with pytest.raises(ArchitectureError, match="class of transformers"):
        alds_cli.load(folder, arch="transformers:no/class")
    del tmp_path


def in_parts(folder, divide):
    """Write the weights of a folder into two files and an index, which `divide` makes."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts, listed = divide(tensors)
    for part, names in parts.items():
        save_file({name: tensors[name] for name in names}, folder / part)
    index = {"metadata": {"total_size": 1}, "weight_map": listed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_part_of_one_tensor_and_a_wrong_total_do_no_harm(folder, tiny):
    def divide(tensors):
        first, *others = tensors
        parts = {"a.safetensors": [first], "b.safetensors": others}
        return parts, {name: part for part, names in parts.items() for name in names}

    in_parts(folder, divide)
    inputs = parse_inputs(INPUTS["bert"])
    expected = answers(alds_cli.load(tiny), inputs)
    assert torch.equal(answers(alds_cli.load(folder), inputs), expected)


def test_what_the_index_does_not_list_is_told(run, folder):
    def divide(tensors):
        *others, last = sorted(tensors)
        parts = {"a.safetensors": others[:5], "b.safetensors": [*others[5:], last]}
        listed = {name: part for part, names in parts.items() for name in names}
        return parts, {name: part for name, part in listed.items() if name != last}

    in_parts(folder, divide)
    err = refused(run, folder)
    assert f"left out what {folder} does not list in it: pooler.dense.weight" in err
    assert "1 missing from the checkpoint: pooler.dense.weight" in err


def test_what_is_compressed_again_is_planned_from_the_dense_network(run, folder, tmp_path):
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert run("compress", folder, "--ratio", "0.3", "-o", once)[0] == 0
    assert run("compress", once, "--ratio", "0.5", "-o", twice)[0] == 0
    dense = sum(own.numel() for own in alds_cli.load(folder).parameters())
    counts = [sum(own.numel() for own in alds_cli.load(own).parameters()) for own in (once, twice)]
    assert 0.65 * dense < counts[0] <= 0.7 * dense
    assert 0.45 * dense < counts[1] <= 0.5 * dense
    assert run("compress", once, "--ratio", "0.5", "-o", once)[0] == 0  # in its own place
    assert (once / "alds.safetensors").read_bytes() == (twice / "alds.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("tf_model.h5", b"\x89HDF\r\n\x1a\n", "from_tf=True"),
        ("flax_model.msgpack", b"\x82", "from_flax=True"),
        ("weights.safetensors", b"", "if the model is in weights.safetensors"),
        ("model.fp16.bin", b"", "or call it pytorch_model.bin"),
        ("readme.md", b"", "name the model's file"),
    ],
)
def test_weights_under_other_names_are_told_of(run, folder, name, content, told):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    assert told in refused(run, folder)


def test_what_a_constructor_complains_of_is_one_line(run, folder):
    described(folder, hidden_size="wide")
    assert r"\n" not in refused(run, folder)
