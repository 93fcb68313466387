"""Exported files compute what the network does, without this package, and say what they take."""

from __future__ import annotations

import functools
import json
import sys
import zipfile
from functools import partial
from pathlib import Path

import pytest
import tiny_transformers
import torch
from small_networks import digits_network
from tiny_transformers import TINY
from torch import nn

import alds_cli
from alds_cli.architectures import build
from alds_cli.errors import ExportError, OptionError, VerificationError
from alds_cli.exporting import onnx_files, programs
from alds_cli.exporting.export_session import TOLERANCE
from alds_cli.exporting.programs import exported_program
from alds_cli.exporting.sample_calls import Sample
from alds_cli.inputs import InputSpec, example_call, parse_inputs
from alds_cli.network.observed_outputs import tensors_in
from alds_cli.records import Architecture

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")

SHAPE = (1, 8, 8)
SIX = alds_cli.Source(input_shape=(6,))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An artefact with pairs of several slices, and some layers that are kept."""
    path = tmp_path_factory.mktemp("exporting") / "small.pt"
    source = alds_cli.Source(arch="digits_cnn")
    alds_cli.compress(digits_network(), source=source, ratio=0.5, output=path)
    return path


def images(batch, shape=SHAPE):
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))


def run_onnx(path, *tensors):
    """The outputs of a model, of inputs in its order."""
    import onnxruntime  # noqa: PLC0415 - slow to import

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [own.name for own in session.get_inputs()]
    assert len(names) == len(tensors)
    made = session.run(None, {n: own.numpy() for n, own in zip(names, tensors, strict=True)})
    return [torch.from_numpy(own) for own in made]


def run_program(path, call):
    return call(torch.export.load(path).module())


def require_close(found, expected):
    """Within what the files promise, relative to the largest number."""
    assert found.shape == expected.shape
    found, expected = found.detach(), expected.detach()
    assert float((found - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())


def groups_of_convolutions(network):
    return sorted(
        own.groups for own in network.modules() if isinstance(own, (nn.Conv1d, nn.Conv2d))
    )


with_onnx = pytest.mark.skipif(
    torch.__version__ < onnx_files.LEAST_TORCH, reason="ONNX files take a newer PyTorch"
)


@with_onnx
def test_a_network_with_pairs_as_onnx(small, run, tmp_path):
    import onnx  # noqa: PLC0415 - slow to import

    path = tmp_path / "small.onnx"
    code, out, err = run("export", small, "-o", path, "--json", "--opset", "19")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert (told["format"], told["opset"], told["batch"], told["checked"]) == (
        "onnx",
        19,
        "any",
        [1, 3],
    )
    assert told["inputs"][0]["shape"] == ["batch", *SHAPE]
    assert told["outputs"] == [{"name": "output", "dtype": "float32", "shape": ["batch", 10]}]
    assert told["bytes"] == path.stat().st_size
    network = alds_cli.load(small)
    for batch in (1, 2, 7):
        (found,) = run_onnx(path, images(batch))
        require_close(found, network(images(batch)))
    model = onnx.load(path)
    assert [own.version for own in model.opset_import if not own.domain] == [19]
    (given,) = model.graph.input
    assert given.name == told["inputs"][0]["name"]
    assert [own.dim_param or own.dim_value for own in given.type.tensor_type.shape.dim] == [
        "batch",
        *SHAPE,
    ]
    groups = sorted(
        next(each.i for each in node.attribute if each.name == "group")
        for node in model.graph.node
        if node.op_type == "Conv"
    )
    # A linear layer's slices are grouped convolutions, too.
    assert groups == groups_of_convolutions(network)
    assert max(groups) > 1
    assert not ({"Loop", "Split", "Slice"} & {node.op_type for node in model.graph.node})
    assert list(tmp_path.iterdir()) == [path]


class Encoder(nn.Module):
    """Text through attention, with a mask, a dictionary as input and one as output."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 12)
        self.layer = nn.TransformerEncoderLayer(12, 3, 16, batch_first=True)

    def forward(self, mask, words):
        states = self.layer(self.embedding(words["ids"]), src_key_padding_mask=mask)
        return {"states": states, "last": states[:, -1]}


def test_a_transformer_with_pairs_as_a_program(tmp_path):
    """Arguments by name, in another order than the network's."""
    torch.manual_seed(0)
    spec = "words:{ids:int64[1,5]<11},mask:float[1,5]"
    source = alds_cli.Source(input_spec=spec)
    small = alds_cli.compress(
        Encoder().eval(), source=source, ratio=0.2, method="alds-simple", method_args={"k": 2}
    ).network
    slices = {name: choice.k for name, choice in small.plan.decomposed.items()}
    assert slices["layer.self_attn.in_proj"] == slices["layer.linear1"] == 2
    path = tmp_path / "small.pt2"
    told = alds_cli.export(small, output=path)
    assert [(own.name, own.shape) for own in told.inputs] == [
        ("mask", ["batch", 5]),
        ("words.ids", ["batch", 5]),
    ]
    assert [(own.name, own.shape) for own in told.outputs] == [
        ("states", ["batch", 5, 12]),
        ("last", ["batch", 12]),
    ]
    for batch in (1, 4):
        call = example_call(parse_inputs(spec), batch_size=batch, seed=batch)
        expected, found = call(small.module), run_program(path, call)
        assert list(found) == ["states", "last"]
        for name, own in expected.items():
            require_close(found[name], own)
    with zipfile.ZipFile(path) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    root = Path(__file__).resolve().parents[1]
    assert str(root).encode() not in content
    assert b"site-packages" not in content
    assert path.stat().st_size < 200_000


def test_a_transformer_with_pairs_as_torchscript(tmp_path):
    """It is traced, as it does not say that it takes a dictionary; a dictionary comes out."""
    torch.manual_seed(0)
    spec = "words:{ids:int64[1,5]<11},mask:float[1,5]"
    source = alds_cli.Source(input_spec=spec)
    small = alds_cli.compress(Encoder().eval(), source=source, ratio=0.2, method="messi").network
    path = tmp_path / "small.ts"
    assert alds_cli.export(small, output=path).traced
    for batch in (1, 4):
        call = example_call(parse_inputs(spec), batch_size=batch, seed=batch)
        expected, found = call(small.module), call(torch.jit.load(path))
        assert list(found) == ["states", "last"]
        for name, own in expected.items():
            require_close(found[name], own)


@pytest.mark.mostly_slow(3)
@pytest.mark.parametrize("method", ["messi", "alds", "ft"])
def test_a_network_with_pairs_as_torchscript(method, run, tmp_path):
    source = alds_cli.Source(arch="digits_cnn")
    small, path = tmp_path / "small.pt", tmp_path / "small.ts"
    alds_cli.compress(digits_network(), source=source, ratio=0.3, method=method, output=small)
    code, out, err = run("export", small, "-o", path, "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert (told["format"], told["traced"], told["batch"]) == ("ts", False, "any")
    network, module = alds_cli.load(small), torch.jit.load(path)
    for batch in (1, 5):
        require_close(module(images(batch)), network(images(batch)))
    groups = [
        own.original_name for own in module.modules() if own.original_name == "ClusteredConv2d"
    ]
    assert bool(groups) == (method == "messi")


def test_a_plain_checkpoint_of_a_known_network(model, run):
    path = model.with_name("plain.ts")
    code, out, err = run("export", model, "-o", path)
    assert (code, err) == (0, "")
    out = " ".join(out.split())
    assert "TorchScript, compiled" in out
    assert "batch×10" in out
    assert "at batch sizes 1 and 3" in out
    require_close(torch.jit.load(path)(images(4)), alds_cli.load(model)(images(4)))


def test_inputs_without_a_batch_axis(tmp_path):
    network, path = nn.Linear(6, 2).eval(), tmp_path / "x.pt2"
    source = alds_cli.Source(input_spec="float[5,6]")
    told = alds_cli.export(network, source, output=path)
    assert (told.batch, told.checked) == (None, ())
    assert (told.inputs[0].shape, told.outputs[0].shape) == ([5, 6], [5, 2])
    assert torch.export.load(path).module()(torch.ones(5, 6)).shape == (5, 2)
    with pytest.raises(OptionError, match="no batch axis"):
        alds_cli.export(network, source, output=tmp_path / "y.pt2", static_batch=2)
    assert list(tmp_path.iterdir()) == [path]


class Deciding(nn.Module):
    """A network that decides by a value, in code that only a compiler keeps."""

    def forward(self, x):
        if bool(x.sum() > 0):
            return x
        return -x


def test_decisions_stay_decisions(tmp_path):
    path = tmp_path / "x.ts"
    assert alds_cli.export(Deciding(), SIX, output=path).traced is False
    module = torch.jit.load(path)
    ones = torch.ones(2, 6)
    assert torch.equal(module(ones), ones)
    assert torch.equal(module(-ones), ones)


class DecidingByHelp(Deciding):
    """The same in code that no compiler knows."""

    def forward(self, x):
        return next(own for own in (x, -x) if own.sum() > 0)


def test_what_is_traced_must_decide_as_the_example_did(tmp_path):
    """The checks have a sum below 0 and one above."""
    sample = Sample(nn.Identity(), InputSpec.of_sample((6,)), None)
    sums = [float(call.args[0].sum()) for call in (sample.example(), *sample.checks())]
    assert min(sums) < 0 < max(sums)
    with pytest.raises(VerificationError, match="something else"):
        alds_cli.export(DecidingByHelp(), SIX, output=tmp_path / "x.ts")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- what is refused


class OfTheBatch(nn.Module):
    """A network that does something else for every batch size."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        for _ in range(x.shape[0]):
            x = self.layer(x)
        return x


def test_a_network_that_counts_its_batch_needs_a_fixed_one(tmp_path):
    path = tmp_path / "x.pt2"
    with pytest.raises(ExportError, match="batches of any size") as caught:
        alds_cli.export(OfTheBatch(), SIX, output=path)
    assert caught.value.exit_code == 1
    assert "--static-batch" in caught.value.tip
    assert not list(tmp_path.iterdir())
    network = OfTheBatch()
    told = alds_cli.export(network, SIX, output=path, static_batch=3)
    assert (told.batch, told.checked) == (3, (3, 3))
    assert told.inputs[0].shape == told.outputs[0].shape == [3, 6]
    torch.testing.assert_close(
        torch.export.load(path).module()(images(3, (6,))), network(images(3, (6,)))
    )


class Refusing(nn.Module):
    """A network that no exporter can follow."""

    def forward(self, x):
        return x * float(x.sum())


def test_what_cannot_be_exported_is_told(tmp_path):
    with pytest.raises(ExportError, match="cannot follow this network") as caught:
        alds_cli.export(Refusing(), SIX, output=tmp_path / "x.pt2")
    assert "-o FILE.ts" in caught.value.tip
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def program(small):
    """The artefact as a program."""
    return programs.exported_program(Sample(alds_cli.load(small), InputSpec.of_sample(SHAPE), None))


@pytest.mark.parametrize("wrong", ["values", "shapes", "types", "crash"])
def test_what_differs_takes_no_name(wrong, small, program, run, tmp_path, monkeypatch):
    changes = {
        "values": lambda own: own * (1 + 2 * TOLERANCE),
        "shapes": lambda own: own[:, :1],
        "types": lambda own: own.double(),
        "crash": lambda own: own @ own,
    }
    honest = programs.run_program

    def other(path, calls):
        return [changes[wrong](own) for own in honest(path, calls)]

    monkeypatch.setattr(programs, "exported_program", lambda _: program)
    monkeypatch.setattr(programs, "run_program", other)
    path = tmp_path / "small.pt2"
    path.write_bytes(b"before")
    code, out, err = run("export", small, "-o", path)
    assert (code, out) == (1, "")
    assert "nothing is written" in err
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"before"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["-o", "small.pt"], "end it with .onnx, .pt2, .ts"),
        (["-o", "-"], "cannot go to standard output"),
        (["-o", "absent/small.pt2"], "the folder absent does not exist"),
        (["-o", "small.pt2", "--opset", "20"], "for .onnx only"),
        (["-o", "small.pt2", "--static-batch", "0"], "a whole number from 1"),
        (["-o", "small.pt2", "--input-shape", "3,8,8"], "does not run on the input"),
        ([], "missing option '--output'"),
    ],
)
def test_bad_usage(arguments, complaint, small, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("export", small, *arguments)
    assert (code, out) == (2, "")
    assert complaint in err
    assert not list(tmp_path.iterdir())


def test_a_torch_too_old_for_onnx_is_told_of(small, run, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_files, "LEAST_TORCH", "99.1")
    code, _, err = run("export", small, "-o", tmp_path / "small.onnx")
    assert code == 2
    assert "ONNX files take PyTorch 99.1 or newer" in err
    assert not list(tmp_path.iterdir())


class Sorting(nn.Module):
    """A network with an operation that ONNX does not have."""

    def forward(self, x):
        return torch.linalg.svdvals(x.reshape(-1, 2, 3))


@with_onnx
def test_an_operation_that_onnx_does_not_have_is_named(tmp_path):
    with pytest.raises(ExportError, match=r"No ONNX function found.*svd"):
        alds_cli.export(Sorting(), SIX, output=tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@with_onnx
@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_before_the_work(package, small, run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    code, out, err = run("export", small, "-o", tmp_path / "small.onnx")
    assert (code, out) == (2, "")
    assert "pip install 'alds-cli[onnx]'" in err
    assert not list(tmp_path.iterdir())


@with_onnx
def test_weights_beyond_a_file_of_onnx_are_refused(small, run, tmp_path, monkeypatch):
    network = alds_cli.load(small)
    size = sum(own.numel() * own.element_size() for own in network.state_dict().values())
    monkeypatch.setattr(onnx_files, "_MOST_BYTES", size)
    onnx_files.require_fitting(network)
    monkeypatch.setattr(onnx_files, "_MOST_BYTES", size - 1)
    # Nothing is computed before.
    monkeypatch.setattr("alds_cli.exporting.export_session._sample", lambda *_: 1 / 0)
    code, _, err = run("export", small, "-o", tmp_path / "small.onnx")
    assert code == 1
    assert ".pt2 has no such limit" in err
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- whole networks


def zoo(name):
    return build(Architecture(name))


def vision_transformer():
    """Torchvision's, whose attention is PyTorch's own; its head starts as zeros."""
    from torchvision.models import VisionTransformer  # noqa: PLC0415 - slow to import

    made = VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=10)
    nn.init.normal_(made.heads.head.weight)
    return made


TEXT = TINY["tiny_transformers:bert"]
FREE, FIXED = None, 2

NETWORKS = {
    "resnet20": (partial(zoo, "cifar_resnet20"), "float[1,3,32,32]", "messi", {"k": 2}, FIXED),
    "resnet20-ft": (partial(zoo, "cifar_resnet20"), "float[1,3,32,32]", "ft", {}, FIXED),
    "resnet18": (partial(zoo, "resnet18"), "float[1,3,64,64]", "alds", {}, FREE),
    "mobilenet": (partial(zoo, "mobilenet_v2"), "float[1,3,64,64]", "alds", {}, FIXED),
    "vit": (vision_transformer, "float[1,3,32,32]", "messi", {"k": 2}, FREE),
    "bert": (tiny_transformers.bert, TEXT, "alds", {}, FREE),
}
"""How each is built, its inputs, the method, the method's arguments, and the batch; exporting for a
batch that is free takes four times as long."""


@with_onnx
@pytest.mark.slow
def test_a_transformer_with_pairs_can_be_quantised(tmp_path):
    """By ONNX Runtime without images, as the page on exporting says; it quantises both halves.

    The first half of an embedding's pair stays a lookup.
    """
    import onnx  # noqa: PLC0415 - slow to import
    from onnxruntime.quantization import quantize_dynamic  # noqa: PLC0415

    torch.manual_seed(0)
    source = alds_cli.Source(input_spec="words:{ids:int64[1,5]<11},mask:float[1,5]")
    small = alds_cli.compress(Encoder().eval(), source=source, ratio=0.2, method="svd").network
    path, quantised = tmp_path / "small.onnx", tmp_path / "int8.onnx"
    alds_cli.export(small, output=path)
    quantize_dynamic(path, quantised, per_channel=True)
    names = [own.op_type for own in onnx.load(quantised).graph.node]
    products = 2 * len(small.plan.decomposed) - ("embedding" in small.plan.decomposed)
    assert names.count("MatMulInteger") >= products
    mask, ids = torch.zeros(4, 5), torch.arange(20).reshape(4, 5) % 11
    for own, other in zip(run_onnx(quantised, mask, ids), run_onnx(path, mask, ids), strict=True):
        assert own.shape == other.shape
        assert float((own - other).norm()) < 0.1 * float(other.norm())


@with_onnx
@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks_in_every_form(name, tmp_path, monkeypatch):
    make, spec, method, arguments, batch = NETWORKS[name]
    exclude = ("layer[12]*",) if (name, method) == ("resnet20", "messi") else ()
    torch.manual_seed(0)
    network = make().eval()
    source = alds_cli.Source(input_spec=spec)
    settings = {"method": method, "method_args": arguments, "exclude": exclude}
    small = alds_cli.compress(network, source=source, ratio=0.3, **settings).network
    small.module.requires_grad_(requires_grad=False)
    assert small.plan.decomposed or small.plan.pruned
    call = example_call(parse_inputs(spec), batch_size=2, seed=7)
    with torch.no_grad():
        expected = list(tensors_in(call(small.module)))
    assert all(float(own.abs().max()) > 0 for own in expected)
    once = functools.cache(lambda: exported_program(Sample(small.module, small.inputs, batch)))
    monkeypatch.setattr(programs, "exported_program", lambda _: once())
    model, program = tmp_path / "small.onnx", tmp_path / "small.pt2"
    script = tmp_path / "small.ts"
    told = alds_cli.export(small, output=model, static_batch=batch)
    assert told.difference <= TOLERANCE
    alds_cli.export(small, output=program, static_batch=batch)
    alds_cli.export(small, output=script, static_batch=batch)
    for found in (
        list(tensors_in(call(torch.jit.load(script)))),
        run_onnx(model, *call.args, *call.kwargs.values()),
        list(tensors_in(run_program(program, call))),
    ):
        assert len(found) == len(expected)
        for own, other in zip(found, expected, strict=True):
            require_close(own, other)


@pytest.mark.mostly_slow(2)
@pytest.mark.filterwarnings("ignore")  # the library's own
@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_a_network_that_keeps_a_cache_is_exported_without_it(name, tmp_path):
    pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")
    arch = f"tiny_transformers:{name}"
    torch.manual_seed(0)
    network = getattr(tiny_transformers, name)().eval()
    source = alds_cli.Source(arch=arch, input_spec=TINY[arch])
    told = alds_cli.export(network, output=tmp_path / "model.pt2", source=source)
    assert "logits" in {own.name for own in told.outputs}
    assert not any("past_key_values" in own.name for own in told.outputs)
    call = example_call(parse_inputs(TINY[arch]), batch_size=3)
    found, expected = run_program(tmp_path / "model.pt2", call), call(network)
    require_close(found["logits"], expected["logits"])
