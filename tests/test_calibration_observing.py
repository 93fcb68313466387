"""What observers see of a network's layers, on one thread or many."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from small_networks import digits_network
from torch import nn

from alds_cli.calibration import calibration_batches, observe
from alds_cli.datasets import TensorImages
from alds_cli.errors import DataError, OptionError
from alds_cli.records import Preprocessing
from alds_cli.surgery import find_layers

GREY = Preprocessing((0.5,), (0.25,))


def images(count=64, channels=1, size=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, channels, size, size)
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return TensorImages("noise", [pixels], torch.arange(count) % 10)


def batches(count=64, batch_size=8, **options):
    return calibration_batches(
        images(count), GREY, samples=count, seed=0, batch_size=batch_size, **options
    )


class Recorder:
    """Keeps everything, in order, with who asked."""

    def look(self, call):
        return [(tuple(t.clone() for t in call.inputs), call.output.clone())]

    def merge(self, before, after):
        return before + after


class Sums:
    """Order matters: x ↦ x/2 + y."""

    def look(self, call):
        return call.output.double().sum(0)

    def merge(self, before, after):
        return before / 2 + after


def watched(network, names, inputs):
    """What each layer is given and gives."""
    found = {}

    def watch(name):
        return lambda _layer, given, made: found.update({name: (given[0].clone(), made.clone())})

    handles = [network.get_submodule(n).register_forward_hook(watch(n)) for n in names]
    network(inputs)
    for handle in handles:
        handle.remove()
    return found


def test_every_call_is_seen_in_the_order_of_the_batches(threads):
    threads(3)
    network = digits_network()
    names = list(find_layers(network))
    seen = observe(network, names, batches(), Recorder())
    assert list(seen) == names
    with torch.no_grad():
        for number, (inputs, _) in enumerate(batches()):
            expected = watched(network, names, inputs)
            for name in names:
                given, made = seen[name][number]
                torch.testing.assert_close(given[0], expected[name][0])
                torch.testing.assert_close(made, expected[name][1])
    assert all(len(calls) == 8 for calls in seen.values())


@pytest.mark.parametrize("count", [2, 5])
def test_the_same_bits_for_any_number_of_threads(threads, count):
    network = digits_network()
    names = list(find_layers(network))
    alone = observe(network, names, batches(300, 7), Sums())
    threads(count)
    together = observe(network, names, batches(300, 7), Sums())
    assert torch.get_num_threads() == count
    assert all(torch.equal(alone[name], together[name]) for name in names)


def test_the_network_is_left_as_it_was(threads):
    threads(2)
    network = digits_network()
    network.train()
    network.get_submodule(next(iter(find_layers(network)))).eval()
    modes = [part.training for part in network.modules()]
    before = copy.deepcopy(network.state_dict())
    observe(network, list(find_layers(network)), batches(), Sums())
    assert [part.training for part in network.modules()] == modes
    assert not any(part._forward_hooks for part in network.modules())
    after = network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.backends.mha.get_fastpath_enabled()


class Remembering(nn.Module):
    """Keeps its last activation, as some networks do: threads must not see each other's."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(64, 3)
        self.outer = nn.Linear(3, 2)
        self.barrier = threading.Barrier(2, timeout=20)

    def __deepcopy__(self, memo):
        made = Remembering()
        made.inner, made.outer = copy.deepcopy(self.inner, memo), copy.deepcopy(self.outer, memo)
        made.barrier = self.barrier
        return made

    def forward(self, image):
        self.kept = self.inner(image.flatten(1))
        self.barrier.wait()  # both threads are here
        return self.outer(self.kept)


def test_networks_that_remember_are_not_mixed_up(threads):
    torch.manual_seed(0)
    network = Remembering()
    threads(2)
    seen = observe(network, ["outer"], batches(32, 16), Recorder())["outer"]
    for (inputs, _), ((given,), _) in zip(batches(32, 16), seen, strict=True):
        torch.testing.assert_close(given, network.inner(inputs.flatten(1)).detach())


class TwiceAndNever(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(64, 64)
        self.never = nn.Linear(64, 64)
        self.attention = nn.MultiheadAttention(64, 2, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(64, 2, 16, batch_first=True)

    def forward(self, image):
        tokens = self.shared(self.shared(image.flatten(1)))[:, None]
        return self.encoder(self.attention(tokens, tokens, tokens)[0]).squeeze(1)


def test_repeated_and_hidden_calls_count():
    torch.manual_seed(0)
    network = TwiceAndNever().eval()
    layers = list(find_layers(network))
    assert {"never", "attention.in_proj", "attention.out_proj"} <= set(layers)
    seen = observe(network, layers, batches(16, 8), Recorder())
    # The fused encoder would use both linear layers without calling them.
    assert set(seen) == set(layers) - {"never"}
    assert [len(seen[name]) for name in ("shared", "encoder.linear1")] == [4, 2]
    assert [len(seen[f"attention.{part}_proj"]) for part in ("in", "out")] == [2, 2]
    assert type(network.attention) is nn.MultiheadAttention
    first, second = seen["shared"][:2]
    torch.testing.assert_close(second[0][0], first[1])


def test_a_network_in_half_precision_is_widened():
    network = digits_network().half()
    seen = observe(network, list(find_layers(network)), batches(8, 8), Recorder())
    assert {calls[0][1].dtype for calls in seen.values()} == {torch.float32}
    assert {tensor.dtype for tensor in network.parameters()} == {torch.float16}


def test_progress_counts_batches():
    events = []
    observe(digits_network(), [], batches(20, 8), Sums(), progress=events.append)
    assert [(event.task, event.done, event.total) for event in events] == [
        ("calibrate", 1, 3),
        ("calibrate", 2, 3),
        ("calibrate", 3, 3),
    ]


def test_a_sample_is_the_seeds_and_in_the_images_order():
    def drawn(samples, seed):
        sample = calibration_batches(images(50), GREY, samples=samples, seed=seed, batch_size=9)
        return torch.cat([inputs for inputs, _ in sample])

    every = drawn(80, 3)
    assert len(every) == 50
    assert torch.equal(every, drawn(50, 4))
    assert torch.equal(drawn(10, 3), drawn(10, 3))
    assert not torch.equal(drawn(10, 3), drawn(10, 4))
    positions = [
        [torch.equal(image, other) for other in every].index(True) for image in drawn(10, 3)
    ]
    assert positions == sorted(set(positions))
    wider = [[torch.equal(image, other) for other in every].index(True) for image in drawn(20, 3)]
    assert set(positions) < set(wider)


def test_a_sample_of_files_is_read_from_their_folder(tmp_path):
    from PIL import Image  # noqa: PLC0415

    from alds_cli.datasets import open_dataset  # noqa: PLC0415

    for number in range(12):
        folder = tmp_path / f"class{number // 6}"
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (20 * number, 0, 0)).save(folder / f"{number:02}.png")
    files = open_dataset(f"imagefolder:{tmp_path}")
    plain = Preprocessing((0.0,) * 3, (1.0,) * 3)
    sample = calibration_batches(files, plain, samples=5, seed=2, batch_size=2)
    reds = torch.cat([inputs[:, 0, 0, 0] for inputs, _ in sample]).mul(255).div(20).round().long()
    labels = torch.cat([own for _, own in sample])
    assert len(set(reds.tolist())) == 5
    assert torch.equal(labels, reds // 6)


def test_what_cannot_be_observed_is_an_error(threads):
    network = digits_network()
    with pytest.raises(OptionError, match="0 images"):
        calibration_batches(images(), GREY, samples=0, seed=0, batch_size=8)
    with pytest.raises(DataError, match="no images"):
        observe(network, [], [], Sums())
    threads(2)
    wrong = [(torch.zeros(2, 3, 8, 8), torch.zeros(2))] * 5
    with pytest.raises(DataError, match="does not take inputs of shape"):
        observe(network, [], wrong, Sums())


def test_a_failing_observer_is_not_blamed_on_the_network(threads):
    class Failing(Sums):
        def look(self, call):
            raise RuntimeError(f"mine, of {call.name}")

    network = digits_network()
    threads(2)
    with pytest.raises(RuntimeError, match=r"^mine, of"):
        observe(network, list(find_layers(network)), batches(), Failing())
    assert not any(part._forward_hooks for part in network.modules())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_sees_what_the_cpu_sees():
    class OnCpu(Sums):
        def look(self, call):
            return super().look(call).cpu()

    network = digits_network()
    names = list(find_layers(network))
    here = observe(network, names, batches(), OnCpu())
    there = observe(network, names, batches(), OnCpu(), device=torch.device("cuda"))
    for name in names:
        torch.testing.assert_close(here[name], there[name], rtol=1e-2, atol=1e-2)
