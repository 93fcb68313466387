"""Evaluation: the numbers of plain PyTorch, whatever the network's output."""

from __future__ import annotations

import copy
import logging
import math
import os
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from alds_cli.datasets import (
    PRESETS,
    Batches,
    TensorImages,
    open_dataset,
)
from alds_cli.errors import DataError, OptionError
from alds_cli.evaluation import (
    count_classes,
    measure_latency,
    measure_quality,
)
from alds_cli.runtime.devices import pick_device

CPU = torch.device("cpu")


def pixels(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def shared(name):
    """A file of the real data that lies beside the repository, or a skip that says so."""
    root = Path(__file__).resolve().parents[1]
    places = [root.parent / "shared", root / "shared"]
    if "ALDS_SHARED" in os.environ:
        places.insert(0, Path(os.environ["ALDS_SHARED"]))
    for place in places:
        if (place / name).exists():
            return place / name
    pytest.skip(f"{name} is neither in ../shared nor where ALDS_SHARED points")


class Fixed(nn.Module):
    """Gives prepared logits, image by image, and keeps count of its calls."""

    def __init__(self, logits):
        super().__init__()
        self.register_buffer("logits", logits)
        self.scale = nn.Parameter(torch.ones(()))
        self.at = 0

    def forward(self, x):
        assert not self.training
        assert torch.is_inference_mode_enabled()
        rows = self.logits[self.at : self.at + len(x)]
        self.at += len(x)
        return rows * self.scale


def run(logits, labels, **options):
    labels = torch.as_tensor(labels)
    dataset = TensorImages("x", [pixels(len(labels), 3, 2, 2)], labels)
    batches = Batches(dataset, PRESETS["half"], batch_size=3)
    return measure_quality(Fixed(logits), batches, device=CPU, **options)


def test_figures_are_those_of_plain_pytorch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 10, generator=generator)
    labels = torch.randint(0, 10, (50,), generator=generator)
    result = run(logits, labels)
    assert result.images == 50
    assert result.top1 == 100 * int((logits.argmax(1) == labels).sum()) / 50
    top5 = (logits.topk(5).indices == labels[:, None]).any(1)
    assert result.top5 == 100 * int(top5.sum()) / 50
    expected = F.cross_entropy(logits.double(), labels).item()
    assert result.loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("classes", "has_top5"), [(1, False), (5, False), (6, True)])
def test_top5_needs_six_classes(classes, has_top5):
    result = run(torch.zeros(4, classes), torch.zeros(4, dtype=torch.int64))
    assert (result.top5 is not None) is has_top5
    assert 0 <= result.top1 <= 100
    assert result.loss == pytest.approx(math.log(classes), abs=1e-12)


@pytest.mark.parametrize("column", [0, 1])
def test_nan_is_never_correct_and_is_reported(column, caplog):
    logits = torch.eye(2).repeat(2, 1)
    logits[1, column] = torch.nan
    with caplog.at_level(logging.WARNING):
        result = run(logits, [0, 1, 0, 1])
    assert result.top1 == 75
    assert math.isnan(result.loss)
    assert "1 of 4 images" in caplog.text


def test_infinite_logits_are_ordinary_ones():
    logits = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])
    result = run(logits, [0, 1])
    assert (result.top1, result.loss) == (100, 0)


@pytest.mark.parametrize("label", [-1, 2, 255])
def test_a_label_outside_the_classes_is_named(label):
    with pytest.raises(DataError, match=f"label {label} is outside the network's 2 classes"):
        run(torch.zeros(2, 2), [0, label])


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv2d(3, 2, 1), r"shape \(2, 2, 2, 2\) for 2 images"),
        (nn.Flatten(0), r"shape \(24,\) for 2 images"),
        (nn.Flatten(0, 1), r"shape \(6, 2, 2\)"),
        (nn.Conv2d(4, 2, 1), "does not take inputs of shape"),
        (nn.Unflatten(1, (2, 2)), "does not take inputs of shape"),
        (nn.LSTM(2, 2), "does not take|gives a tuple"),
    ],
)
def test_networks_that_do_not_classify_are_refused(layer, message):
    dataset = TensorImages("x", [pixels(2, 3, 2, 2)], torch.arange(2))
    with pytest.raises(DataError, match=message):
        measure_quality(layer, Batches(dataset, PRESETS["half"], batch_size=2), device=CPU)


class Giving(nn.Module):
    """Gives whatever a function makes of ten logits."""

    def __init__(self, change):
        super().__init__()
        self.layer, self.change = nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), change

    def forward(self, x):
        return self.change(self.layer(x))


class Output(dict):
    """As Hugging Face's models give: a dictionary whose entries are attributes too."""

    def __getattr__(self, name):
        return self[name]


Pair = namedtuple("Pair", ["logits", "aux"])
Named = namedtuple("Named", ["last", "logits"])


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y,
        lambda y: (y, y + 1),
        lambda y: [y],
        lambda y: {"logits": y, "hidden": y[:, :3]},
        lambda y: Output(loss=None, logits=y),
        lambda y: Pair(y, None),
        lambda y: Named(-y, y),
        lambda y: y.double(),
        lambda y: y.half(),
    ],
)
@pytest.mark.parametrize("images", [1, 3])
def test_logits_are_found_in_every_usual_output(change, images):
    torch.manual_seed(0)
    inputs = torch.rand(images, 3, 4, 4)
    module = Giving(change)
    labels = module.layer(inputs).argmax(dim=1)
    assert measure_quality(module, [(inputs, labels)], device=CPU).top1 == 100
    assert count_classes(module, (3, 4, 4), device=CPU) == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: {"out": y, "aux": y}, "gives a dict of 'out', 'aux' for 2 images"),
        (lambda y: [{"boxes": y}], "gives a list of 1"),
        (lambda y: y[:, :, None, None], r"gives a tensor of shape \(2, 10, 1, 1\)"),
        (lambda y: y[:1], r"a tensor of shape \(1, 10\) for 2 images"),
        (lambda y: y[:, 0], r"a tensor of shape \(2,\)"),
        (lambda y: y[:, :0], r"a tensor of shape \(2, 0\)"),
        (lambda y: y.to(torch.complex64), "complex numbers"),
        (lambda y: y.to_sparse(), "a tensor"),
        (lambda _: None, "a NoneType"),
        (lambda _: (), "a tuple of 0"),
        (lambda _: {}, "a dict of nothing"),
    ],
)
def test_outputs_that_are_no_logits_are_described(change, message):
    module = Giving(change)
    module.layer(torch.rand(2, 3, 4, 4))
    with pytest.raises(DataError, match=message) as caught:
        measure_quality(module, [(torch.rand(2, 3, 4, 4), torch.tensor([0, 1]))], device=CPU)
    assert "classify" in caught.value.tip


def test_no_images_at_all_is_an_error():
    with pytest.raises(DataError, match="no images"):
        measure_quality(nn.Flatten(), [], device=CPU)


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10)
    ).eval()


@pytest.fixture
def batches():
    dataset = TensorImages("x", [pixels(40, 3, 6, 6)], torch.arange(40) % 10)
    return Batches(dataset, PRESETS["half"], batch_size=16)


def test_a_network_is_left_as_it_was_found(batches):
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Dropout())
    module[1].eval()
    state = copy.deepcopy(module.state_dict())
    measure_quality(module, batches, device=CPU)
    assert [part.training for part in module] == [True, False, True, True]
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert not module[0].weight.is_inference()
    module[0].weight.sum().backward()


def test_modes_come_back_after_an_error(batches):
    module = nn.Sequential(nn.Conv2d(5, 8, 3), nn.Dropout())
    with pytest.raises(DataError):
        measure_quality(module, batches, device=CPU)
    assert all(part.training for part in module.modules())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs_in_float32_on_the_cpu(batches, dtype):
    module = small_network()
    module(torch.zeros(1, 3, 6, 6))
    module = module.to(dtype)
    expected = measure_quality(copy.deepcopy(module).float(), batches, device=CPU)
    assert measure_quality(module, batches, device=CPU) == expected
    assert {p.dtype for p in module.parameters()} == {dtype}


def test_double_precision_gets_double_inputs(batches):
    module = small_network()
    module(torch.zeros(1, 3, 6, 6))
    single = measure_quality(module, batches, device=CPU)
    assert measure_quality(module.double(), batches, device=CPU).loss == pytest.approx(single.loss)


def test_progress_counts_batches(batches):
    module = small_network()
    module(torch.zeros(1, 3, 6, 6))
    events = []
    measure_quality(module, batches, device=CPU, progress=events.append)
    assert [(e.task, e.done, e.total) for e in events] == [("evaluate", i, 3) for i in (1, 2, 3)]
    assert {"top1", "loss"} <= set(events[-1].figures)


def test_devices():
    assert pick_device("cpu") == CPU
    assert pick_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "", "cuda:99", "meta", "cpu cpu"):
        with pytest.raises(OptionError) as caught:
            pick_device(name)
        assert caught.value.tip


def test_latencies_are_taken_in_turns():
    order = []

    class Noted(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x):
            order.append((self.name, tuple(x.shape), self.training))
            return x

    modules = {"a": Noted("a"), "b": Noted("b")}
    result = measure_latency(modules, (3, 4, 4), batch_size=2, device=CPU, runs=5, warmup=2)
    assert [name for name, _, _ in order[2:]] == ["a", "b"] * 7
    assert {(shape, training) for _, shape, training in order} == {((2, 3, 4, 4), False)}
    assert list(result) == ["a", "b"]
    for latency in result.values():
        assert (latency.runs, latency.batch_size, latency.device) == (5, 2, "cpu")
        assert 0 < latency.lower_quartile_ms <= latency.median_ms <= latency.upper_quartile_ms
    assert all(module.training for module in modules.values())


def test_latency_chooses_its_own_number_of_runs():
    result = measure_latency({"a": nn.Flatten()}, (2,), device=CPU)
    assert 10 <= result["a"].runs <= 1000


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"runs": 0}, {"warmup": -1}])
def test_latency_refuses_numbers_without_sense(options):
    with pytest.raises(OptionError):
        measure_latency({"a": nn.Flatten()}, (2,), device=CPU, **options)


def test_latency_refuses_a_wrong_shape():
    with pytest.raises(DataError, match="does not take inputs"):
        measure_latency({"a": nn.Linear(3, 3)}, (2,), device=CPU, runs=1)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu(batches):
    module = small_network()
    module(torch.zeros(1, 3, 6, 6))
    here = measure_quality(module, batches, device=CPU)
    there = measure_quality(module, batches, device=torch.device("cuda"))
    assert there.loss == pytest.approx(here.loss, rel=1e-3)
    assert next(module.parameters()).device == CPU


@pytest.mark.slow
def test_the_published_resnet20_has_its_published_accuracy():
    architectures = pytest.importorskip("alds_cli.architectures")
    if not hasattr(architectures, "build"):
        pytest.skip("this build has no architectures.build")
    from alds_cli.records import Architecture  # noqa: PLC0415

    module = architectures.build(Architecture("cifar_resnet20"))
    module.load_state_dict(load_file(shared("weights/cifar10_resnet20.safetensors")))
    dataset = open_dataset(f"tensors:{shared('data/cifar10/test-dev.safetensors')}")
    batches = Batches(dataset, PRESETS["imagenet-stats"], batch_size=250)
    result = measure_quality(module, batches, device=CPU)
    assert round(result.top1 * 50) == 4596
    assert result.images == 5000
