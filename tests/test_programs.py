"""Programs of `torch.export` as input: what is read, what it computes, and what is refused."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import UnsupportedOperatorException

import alds_cli
from alds_cli.errors import AldsError, ArchitectureError, CheckpointError
from alds_cli.network.opening import open_network, trace_network
from alds_cli.surgery import find_layers

BATCH = torch.export.Dim("batch")


class Reversed(nn.Module):
    """A layer that holds its matrix as (in, out), as GPT-2's do."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 30))
        self.bias = nn.Parameter(torch.randn(30))

    def forward(self, x):
        return torch.addmm(self.bias, x.flatten(0, 1), self.weight).view(*x.shape[:2], 30)


class Everything(nn.Module):
    """Layers of all kinds, and tensors that are in none."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.same = nn.Conv2d(16, 16, 3, padding="same", groups=2)
        self.up = nn.ConvTranspose2d(16, 12, 4, stride=2, padding=1)
        self.drop = nn.Dropout(0.25)
        self.scale = nn.Parameter(torch.rand(12, 1, 1))
        self.register_buffer("shift", torch.rand(12, 1, 1))
        self.register_buffer("places", torch.arange(12.0), persistent=False)
        self.attention = nn.MultiheadAttention(12, 2, batch_first=True)
        self.turned = Reversed()
        self.head = nn.Linear(30, 10, bias=False)

    def forward(self, x):
        x = torch.relu_(self.norm(self.stem(x)))
        x = self.up(self.same(x)) * self.scale + self.shift
        words = self.drop(x.flatten(2).transpose(1, 2)) + self.places
        words = self.attention(words, words, words)[0]
        return self.head(self.turned(words).mean(1))


LAYERS = ["stem", "same", "up", "attention.in_proj", "attention.out_proj", "turned", "head"]


def everything():
    torch.manual_seed(0)
    network = Everything().eval()
    with torch.no_grad():
        network.norm.running_mean.normal_()
        network.norm.running_var.uniform_(0.5, 2)
    return network


def exported(network, *, free=True, size=8):
    images = torch.randn(2 if free else 1, 3, size, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(
            network, (images,), dynamic_shapes=({0: BATCH},) if free else None, strict=False
        )


def saved(program, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The network of all kinds of layers, its program, and the program's file."""
    folder = tmp_path_factory.mktemp("programs")
    network = everything()
    program = exported(network)
    return network, program, saved(program, folder / "model.pt2")


# ---------------------------------------------------------------- what is read


def require_same(found, network, *, batches=(1, 3)):
    with torch.no_grad():
        for batch in batches:
            images = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch))
            torch.testing.assert_close(found(images), network(images), rtol=1e-4, atol=1e-5)


def test_a_program_is_its_network(whole):
    network, _, path = whole
    opened = open_network(path)
    require_same(opened.module, network)
    assert str(opened.inputs) == "float[1,3,8,8]"
    specs = find_layers(opened.module, trace_network(opened))
    assert sorted(specs) == sorted(LAYERS)
    assert all(spec.reason is None for spec in specs.values())
    own = trace_network(open_network(network, alds_cli.Source(input_shape=(3, 8, 8))))
    assert trace_network(opened).macs == own.macs
    named = dict(opened.module.named_parameters())
    assert named["turned.weight"].shape == (30, 12)  # a matrix lies as layers of PyTorch have it
    assert {"scale", "stem.weight", "attention.in_proj.bias"} <= named.keys()


@pytest.mark.slow
def test_what_was_decomposed_is_the_same_network(whole, tmp_path):
    network, program, _ = whole
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = saved(program.run_decompositions(), tmp_path / "core.pt2")
    opened = open_network(path)
    require_same(opened.module, network)
    assert {"stem", "same", "up", "turned", "head"} <= find_layers(opened.module).keys()
    assert type(opened.module.norm) is nn.BatchNorm2d


def test_training_is_that_of_modules(whole):
    _, _, path = whole
    module = open_network(path).module.train()
    before = module.norm.running_mean.clone()
    one, other = (module(torch.ones(2, 3, 8, 8)) for _ in range(2))
    assert not torch.equal(one, other)
    assert not torch.equal(module.norm.running_mean, before)
    assert all(own.grad_fn is not None for own in (one, other))


def test_the_plan_is_that_of_the_source_and_the_artefact_needs_no_program(whole, tmp_path):
    network, _, path = whole
    model, small = tmp_path / "model.pt2", tmp_path / "small.pt"
    model.write_bytes(path.read_bytes())
    # GPT-2's layer is none of PyTorch's, so the source does not have it.
    found = alds_cli.compress(model, ratio=0.3, exclude=["turned"], output=small)
    model.unlink()
    own = alds_cli.compress(network, ratio=0.3, source=alds_cli.Source(input_shape=(3, 8, 8)))
    assert found.plan.decomposed
    assert found.plan.decomposed == own.plan.decomposed
    require_same(alds_cli.load(small), own.network.module)
    opened = open_network(small)
    assert opened.params_before == sum(own.numel() for own in network.parameters())
    alds_cli.save(opened, tmp_path / "small.safetensors")
    require_same(alds_cli.load(tmp_path / "small.safetensors"), own.network.module)


@pytest.mark.slow
def test_commands_take_programs(whole, run, tmp_path):
    """Compressed, exported, read again, optimised: each result computes what the one before did."""
    _, _, path = whole
    small, again, fast = (tmp_path / name for name in ("small.pt", "again.pt2", "fast.pt"))
    for command in (
        ("compress", path, "--ratio", "0.4", "-o", small),
        ("export", small, "-o", again),
        ("export", small, "-o", tmp_path / "small.ts"),
        ("optimize", small, "-o", fast),
    ):
        code, _, err = run(*command)
        assert code == 0, err
    for other in (again, fast):
        require_same(alds_cli.load(other), alds_cli.load(small))
    code, out, _ = run("inspect", again, "--json")
    assert code == 0
    assert json.loads(out)["architecture"] == {"arguments": {}, "name": "program"}


class Biased(nn.Module):
    """A product with a matrix (in, out), and a bias of any form, as other libraries have them."""

    def __init__(self, *bias):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 12))
        self.bias = nn.Parameter(torch.randn(*bias))

    def forward(self, x):
        return x @ self.weight + self.bias


class Products(nn.Module):
    """Layers whose results get a bias afterwards, on as many axes as decompositions tell apart."""

    def __init__(self):
        super().__init__()
        self.images, self.row, self.scalar = Biased(12), Biased(1, 12), Biased(1)
        self.channels, self.words = nn.Linear(3, 12), nn.Linear(12, 12, bias=False)
        self.twice = nn.Linear(12, 12)

    def forward(self, x):
        x = self.channels(x.permute(0, 2, 3, 1))
        x = self.images(x).flatten(1, 2).transpose(1, 2).contiguous().transpose(1, 2)
        x = self.twice(self.twice(self.words(x)).transpose(0, 1)).transpose(0, 1)
        return self.scalar(self.row(x)).mean(1)


PRODUCTS = ["channels", "images", "words", "twice", "row.weight", "scalar.weight"]


@pytest.mark.mostly_slow(2)
@pytest.mark.parametrize("decomposed", [True, False])
def test_a_bias_is_added_once_and_repeated_matrices_are_layers(decomposed, tmp_path):
    torch.manual_seed(0)
    network = Products().eval()
    program = exported(network)
    path = saved(program.run_decompositions() if decomposed else program, tmp_path / "model.pt2")
    opened = open_network(path)
    require_same(opened.module, network)
    specs = find_layers(opened.module, trace_network(opened))
    assert sorted(specs) == sorted(PRODUCTS)
    assert all(spec.reason is None for spec in specs.values())
    found = alds_cli.compress(path, ratio=0.3, output=tmp_path / "small.pt")
    own = alds_cli.compress(network, ratio=0.3, source=alds_cli.Source(input_shape=(3, 8, 8)))
    assert found.report.params_before == own.report.params_before
    require_same(alds_cli.load(tmp_path / "small.pt"), found.network.module)


@pytest.mark.slow
def test_resnet18_gets_the_plan_of_its_checkpoint(tmp_path):
    from torchvision.models import resnet18  # noqa: PLC0415 - slow to import

    torch.manual_seed(0)
    network = resnet18().eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    path = saved(exported(network, size=64), tmp_path / "model.pt2")
    source = alds_cli.Source(input_shape=(3, 64, 64))
    plans = [
        alds_cli.compress(each, ratio=0.5, source=own).plan
        for each, own in ((tmp_path / "model.pt", source), (path, alds_cli.Source()))
    ]
    assert plans[0].choices == plans[1].choices
    assert plans[0].decomposed


class Residual(nn.Module):
    """A convolutional network with a connection past a layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU6(inplace=True))
        self.inner = nn.Sequential(nn.Conv2d(16, 16, 1), nn.SiLU(inplace=True))
        self.outer = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        x += self.outer(self.inner(x))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.mark.slow
def test_filters_are_removed_as_from_the_source(tmp_path):
    torch.manual_seed(0)
    network = Residual().eval()
    path = saved(exported(network), tmp_path / "model.pt2")
    source = alds_cli.Source(input_shape=(3, 8, 8))
    own = alds_cli.compress(network, ratio=0.4, method="ft", source=source)
    found = alds_cli.compress(path, ratio=0.4, method="ft", output=tmp_path / "small.pt")
    assert found.plan.pruned
    assert found.plan.pruned == own.plan.pruned
    require_same(alds_cli.load(tmp_path / "small.pt"), own.network.module)


# ---------------------------------------------------------------- older files


NOW, OLD = "models/model.json", "serialized_exported_program.json"
"""Where the graph is, from PyTorch 2.8 on and before."""


def members_of(path):
    with zipfile.ZipFile(path) as archive:
        return {
            name.partition("/")[2] or name: archive.read(name)
            for name in archive.namelist()
            if not name.endswith("/")
        }


def packed(members, path):
    folder = "" if OLD in members else "model/"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{folder}{name}", content)
    return path


def torch_saved(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def graph_in(members):
    """Return the name of the member that holds the graph."""
    return next(name for name in (NOW, OLD) if name in members)


def of_2_8(program, path):
    """Pack a program as PyTorch 2.8 does, with one file of `torch.save` for all weights."""
    members = members_of(saved(program, path))
    if NOW not in members:
        pytest.skip("this version of PyTorch does not write the members of that layout")
    kept = {
        name: content
        for name, content in members.items()
        if not name.startswith(("data/weights/", "data/constants/"))
    }
    kept["data/weights/model.pt"] = torch_saved(dict(program.state_dict))
    kept["data/constants/model.pt"] = torch_saved(dict(program.constants))
    return packed(kept, path)


def of_2_6(program, path, *, constants=None):
    """Pack a program as PyTorch before 2.8 does."""
    members = members_of(saved(program, path))
    content = json.loads(members[graph_in(members)])
    for step in steps(content):
        for argument in step["inputs"]:
            argument.pop("kind", None)  # which came with 2.7
    found = {
        "version": b"8.3",
        OLD: json.dumps(content).encode(),
        "serialized_state_dict.pt": torch_saved(dict(program.state_dict)),
        "serialized_constants.pt": constants or torch_saved(dict(program.constants)),
        "serialized_example_inputs.pt": b"",
    }
    return packed(found, path)


@pytest.mark.parametrize("pack", [of_2_8, of_2_6])
def test_files_of_older_versions(pack, whole, tmp_path):
    network, program, _ = whole
    require_same(open_network(pack(program, tmp_path / "model.pt2")).module, network)


class Named(nn.Module):
    """Operators with arguments that only have names, some of which are left out."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 8)

    def forward(self, x):
        x = self.head(x.clone(memory_format=torch.channels_last)).div(0.5, rounding_mode="floor")
        places = torch.arange(8, device=x.device, dtype=x.dtype)
        return torch.full_like(x, 2.0, device=x.device) * x + torch.add(places, x, alpha=3)


@pytest.mark.parametrize("pack", [of_2_8, of_2_6])
def test_arguments_that_only_have_names(pack, tmp_path):
    torch.manual_seed(0)
    network = Named().eval()
    require_same(open_network(pack(exported(network), tmp_path / "model.pt2")).module, network)


# ---------------------------------------------------------------- files from strangers


def edited(path, target, change, member=None):
    """Copy a program's file, and change the JSON of a member, by default of the graph."""
    members = members_of(path)
    member = member or graph_in(members)
    if member not in members:
        pytest.skip("this version of PyTorch writes no such member")
    content = json.loads(members[member])
    change(content)
    members[member] = json.dumps(content).encode()
    return packed(members, target)


def steps(content):
    return content["graph_module"]["graph"]["nodes"]


def calling(target):
    def change(content):
        steps(content)[-1]["target"] = target

    return change


def reading_files(content):
    step = steps(content)[0]
    step["target"] = "torch.ops.aten.from_file.default"
    step["inputs"] = [{"name": "filename", "arg": {"as_string": "/etc/passwd"}, "kind": 1}]


def training(content):
    step = next(each for each in steps(content) if "batch_norm" in each["target"])
    next(each for each in step["inputs"] if each["name"] == "training")["arg"] = {"as_bool": True}


def changing_buffers(content):
    content["graph_module"]["signature"]["output_specs"].insert(
        0, {"buffer_mutation": {"arg": {"name": "x"}, "buffer_name": "shift"}}
    )


def holding_objects(content):
    content["graph_module"]["signature"]["input_specs"].insert(
        0, {"custom_obj": {"arg": {"name": "o", "class_fqn": "a.B"}, "custom_obj_name": "o"}}
    )


def of_another_version(content):
    content["schema_version"]["major"] = 99


def named_as_code(content):
    steps(content)[-1]["outputs"][0]["as_tensor"]["name"] = "x); print('run'"


def without_a_step(content):
    del steps(content)[0]


STRANGE = {
    "code": (calling("torch.hub.load"), "not an operator that programs may call"),
    "files": (reading_files, "not an operator that programs may call"),
    "dunder": (calling("torch.ops.aten.__class__"), "not an operator that programs may call"),
    "custom": (calling("torch.ops.mine.attention.default"), "not an operator"),
    "quantised": (
        calling("torch.ops.quantized_decomposed.quantize_per_tensor.default"),
        "before it is quantised",
    ),
    "training": (training, "exported in training mode"),
    "buffers": (changing_buffers, "export the network in evaluation mode"),
    "objects": (holding_objects, "objects of classes that only their code can make"),
    "version": (of_another_version, "schema 99"),
    "names": (named_as_code, "the program is damaged at steps"),
    "gap": (without_a_step, "the program is damaged"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_no_plain_program_is_refused(name, whole, run, tmp_path):
    change, complaint = STRANGE[name]
    path = edited(whole[2], tmp_path / "strange.pt2", change)
    code, out, err = run("compress", path, "--ratio", "0.5", "-o", tmp_path / "small.pt")
    assert (code, out) == (2, "")
    assert complaint in err
    assert list(tmp_path.iterdir()) == [path]


class Running:
    """An object whose pickle runs code."""

    def __reduce__(self):
        return print, ("it ran",)


def test_pickled_constants_are_refused(whole, run, tmp_path):
    def pickled(content):
        content["config"]["places"]["use_pickle"] = True

    new = edited(
        whole[2], tmp_path / "new.pt2", pickled, "data/constants/model_constants_config.json"
    )
    old = of_2_6(whole[1], tmp_path / "old.pt2", constants=torch_saved({"places": Running()}))
    for path in (new, old):
        code, out, err = run("inspect", path)
        assert (code, out) == (2, "")
        assert "loading it would run that code" in err


def test_tensors_stay_within_their_data(whole, run, tmp_path):
    def beyond(content):
        content["config"]["stem.weight"]["tensor_meta"]["storage_offset"] = {"as_int": 1}

    path = edited(whole[2], tmp_path / "m.pt2", beyond, "data/weights/model_weights_config.json")
    code, _, err = run("inspect", path)
    assert code == 2
    assert "stem.weight has less data than its shape says" in err


def test_a_changed_document_is_checked_too(whole, tmp_path):
    small = tmp_path / "small.pt"
    alds_cli.save(open_network(whole[2]), small)
    content = torch.load(small)
    document = json.loads(content["alds"])
    document["program"]["steps"][0]["operator"] = "aten.from_file.default"
    torch.save({**content, "alds": json.dumps(document)}, small)
    with pytest.raises(ArchitectureError, match="not an operator that programs may call"):
        alds_cli.load(small)


def places_in(value, trail=()):
    """Yield the way to every value within JSON."""
    yield trail
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places_in(item, (*trail, key))


def changed(content, trail, value):
    """Change one value within JSON."""
    *way, last = trail
    for key in way:
        content = content[key]
    content[last] = value


@pytest.mark.slow
@settings(max_examples=100)
@given(st.data())
def test_no_change_to_a_graph_ends_in_another_error(whole, tmp_path_factory, data):
    members = members_of(whole[2])
    content = json.loads(members["models/model.json"])
    trail = data.draw(st.sampled_from([trail for trail in places_in(content) if trail]))
    value = data.draw(st.sampled_from([None, -1, 3, 1 << 70, 0.5, "x", "", [], {}, True, ["x"]]))
    path = tmp_path_factory.mktemp("changed") / "model.pt2"
    edited(whole[2], path, lambda own: changed(own, trail, value))
    with suppress(AldsError):
        trace_network(open_network(path))


# ---------------------------------------------------------------- sizes and forms of arguments


def test_a_fixed_batch_says_so(run, tmp_path):
    path = saved(exported(everything(), free=False), tmp_path / "model.pt2")
    network = open_network(path).module
    require_same(network, everything(), batches=(1,))
    with pytest.raises(AldsError, match=r"takes x of shape \[1, 3, 8, 8\], not \[5,") as caught:
        network(torch.ones(5, 3, 8, 8))
    assert "dynamic_shapes" in caught.value.tip
    code, _, err = run("export", path, "-o", tmp_path / "again.pt2")
    assert code == 2
    assert "--static-batch 1" in err
    assert run("export", path, "--static-batch", "1", "-o", tmp_path / "again.pt2")[0] == 0


class Several(nn.Module):
    """A network of words and a mask, that gives a dictionary."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(50, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, ids, *, mask, scale=2):
        found = self.head(self.words(ids)) * mask[..., None] * scale
        return {"logits": found.sum(1), "parts": (found, [mask])}


def test_arguments_and_results_keep_their_form(tmp_path):
    torch.manual_seed(0)
    network = Several().eval()
    ids, mask = torch.arange(14).view(2, 7), torch.rand(2, 7)
    sizes = {"ids": {0: BATCH}, "mask": {0: BATCH}, "scale": None}
    program = torch.export.export(
        network, (ids,), {"mask": mask, "scale": 2}, dynamic_shapes=sizes, strict=False
    )
    opened = open_network(saved(program, tmp_path / "model.pt2"))
    assert str(opened.inputs) == "int64[1,7]<50,mask:float[1,7]"
    expected, found = network(ids, mask=mask), opened.module(ids, mask=mask)
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found["logits"], expected["logits"])
    torch.testing.assert_close(found["parts"], expected["parts"])
    with pytest.raises(AldsError, match=r"takes mask of shape .* not \[3, 7\]"):
        opened.module(ids, mask=torch.rand(3, 7))


class Counting(nn.Module):
    """A network that counts its calls in evaluation mode, too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x * 2


def test_a_buffer_that_changes_is_named(tmp_path):
    program = torch.export.export(Counting(), (torch.ones(2),), strict=False).run_decompositions()
    with pytest.raises(CheckpointError, match="changes calls whenever it runs"):
        open_network(saved(program, tmp_path / "model.pt2"))


class Frequencies(nn.Module):
    """Operators whose names or arguments are unusual, but that only know tensors."""

    def __init__(self):
        super().__init__()
        self.both = nn.Bilinear(8, 8, 16)
        self.head = nn.utils.parametrizations.weight_norm(nn.Linear(16, 16))

    def forward(self, x):
        lines = torch.fft.irfft2(torch.fft.rfft2(x, norm="ortho"), norm="ortho")
        x = nn.functional.interpolate(torch.fft.fft2(lines).real, size=(5, 8), mode="nearest-exact")
        return self.head(self.both(x, lines[:, :, :5])).sum((1, 2))


@pytest.mark.mostly_slow(2)
@pytest.mark.parametrize("decomposed", [True, False])
def test_operators_of_tensors_alone_are_known(decomposed, tmp_path):
    torch.manual_seed(0)
    network = Frequencies().eval()
    try:
        program = exported(network)
        program = program.run_decompositions() if decomposed else program
    except UnsupportedOperatorException as error:
        pytest.skip(f"this version of PyTorch cannot export {error}")
    path = saved(program, tmp_path / "model.pt2")
    require_same(open_network(path).module, network)


class Recurrent(nn.Module):
    """A network that makes its first state in one type of numbers, and gives lists."""

    def __init__(self):
        super().__init__()
        self.gates, self.head = nn.GRU(24, 24, batch_first=True), nn.Linear(24, 24)

    def forward(self, x):
        states = self.gates(x.flatten(2).transpose(1, 2).flatten(2)[:, :, :3].repeat(1, 1, 8))[0]
        return [self.head(states), {"states": [states]}]


@pytest.mark.slow
def test_a_program_of_one_type_is_optimised_and_its_export_is_read(run, tmp_path):
    torch.manual_seed(0)
    path = saved(exported(Recurrent().eval()), tmp_path / "model.pt2")
    code, _, err = run("optimize", path, "-o", tmp_path / "fast.pt")
    assert code == 0, err
    code, _, err = run("export", path, "-o", tmp_path / "again.pt2")
    assert code == 0, err
    images = torch.rand(2, 3, 8, 8)
    expected = alds_cli.load(path)(images)
    for other in ("fast.pt", "again.pt2"):
        torch.testing.assert_close(alds_cli.load(tmp_path / other)(images), expected)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_numbers_of_inputs_are_of_the_network_s_type(dtype, run, tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32)).to(dtype).eval()
    program = torch.export.export(
        network, (torch.rand(2, 16, dtype=dtype),), dynamic_shapes=({0: BATCH},)
    )
    path, small = saved(program, tmp_path / "model.pt2"), tmp_path / "small.pt"
    assert str(open_network(path).inputs) == "float[1,16]"
    for command in (
        ("compress", path, "--ratio", "0.3", "-o", small),
        ("optimize", small, "-o", tmp_path / "fast.pt"),
    ):
        code, _, err = run(*command)
        assert code == 0, err


class Nested(nn.Module):
    """A network that takes a dictionary."""

    def forward(self, given):
        return given["x"] + 1


def test_nested_arguments_are_refused(tmp_path):
    program = torch.export.export(Nested(), ({"x": torch.ones(2)},))
    with pytest.raises(CheckpointError, match="an argument for each"):
        open_network(saved(program, tmp_path / "model.pt2"))


def test_onnx_is_named(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x0a\x12\x07pytorch" + bytes(64))
    with pytest.raises(CheckpointError, match="an ONNX model"):
        open_network(path)
