"""Programs of `torch.export` made of networks of `transformers`, and products that are layers."""

from __future__ import annotations

import warnings

import pytest
import tiny_transformers
import torch
from torch import nn

import alds_cli
from alds_cli.network.opening import open_network, trace_network
from alds_cli.surgery import find_layers

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers and torch.export

BATCH = torch.export.Dim("batch")


def saved(path, network, *arguments, **named):
    """Write a network's program for batches of any size."""
    free = [{0: BATCH} for _ in arguments] + [{0: BATCH} for _ in named]
    shapes = dict(zip(named, free, strict=True)) if named else tuple(free)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            network, arguments, named, dynamic_shapes=shapes, strict=False
        )
        torch.export.save(program, path)
    return path


def words(batch):
    generator = torch.Generator().manual_seed(batch)
    ids = torch.randint(99, (batch, 9), generator=generator)
    mask = torch.ones(batch, 9, dtype=torch.int64)
    mask[0, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def images(batch):
    generator = torch.Generator().manual_seed(batch)
    return {"pixel_values": torch.rand(batch, 3, 32, 32, generator=generator)}


NETWORKS = {
    "bert": (words, "input_ids:int64[1,9]<99,attention_mask:int64[1,9]<2"),
    "vit": (images, "pixel_values:float[1,3,32,32]"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_the_plan_of_a_program_is_that_of_its_network(name, tmp_path):
    pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")
    draw, specification = NETWORKS[name]
    torch.manual_seed(0)
    network = getattr(tiny_transformers, name)().eval()
    program = saved(tmp_path / "model.pt2", network, **draw(2))
    # The source's code reads this one's weight, which no longer shows in a program.
    exclude = ["*patch_embeddings.projection"] if name == "vit" else []
    found = alds_cli.compress(program, ratio=0.3, exclude=exclude, output=tmp_path / "small.pt")
    program.unlink()
    source = alds_cli.Source(input_spec=specification)
    own = alds_cli.compress(network, ratio=0.3, source=source)
    assert len(own.plan.decomposed) > 5
    assert found.plan.decomposed == own.plan.decomposed
    small = alds_cli.load(tmp_path / "small.pt").eval()
    for batch in (1, 3):
        with torch.no_grad():
            made, expected = small(**draw(batch)), own.network.module.eval()(**draw(batch))
            dense = network(**draw(batch))
        for key, tensor in expected.items():
            torch.testing.assert_close(made[key], tensor, rtol=1e-4, atol=1e-5)
            assert not torch.allclose(made[key], dense[key], atol=1e-5)


class Products(nn.Module):
    """Products by parameters, written in the ways in which people write linear layers."""

    def __init__(self):
        super().__init__()
        sizes = {"turned": (30, 24), "plain": (30, 18), "einsum": (20, 18), "dots": (20, 16)}
        for name, size in sizes.items():
            setattr(self, name, nn.Parameter(torch.randn(size)))
        self.behind = nn.Parameter(torch.randn(16, 14))
        self.heads = nn.Parameter(torch.randn(14, 3, 4))
        self.twice = nn.Parameter(torch.randn(12, 12))

    def forward(self, x):
        x = torch.matmul(x, self.turned.t())
        x = x @ self.plain
        x = torch.einsum("bti,oi->bto", x, self.einsum)
        x = torch.einsum("...i, ij -> ...j", x, self.dots)
        x = torch.einsum("io,bti->bto", self.behind, x)
        x = torch.einsum("bti,ihd->bthd", x, self.heads).flatten(2)
        return torch.einsum("bti,ii->bti", x, self.twice)  # its diagonal


def test_products_that_are_linear_layers_are_found(tmp_path):
    torch.manual_seed(0)
    network = Products().eval()
    program = saved(tmp_path / "model.pt2", network, torch.randn(2, 5, 24))
    opened = open_network(program)
    specs = find_layers(opened.module, trace_network(opened))
    assert set(specs) == {"turned", "plain", "einsum", "dots", "behind"}
    assert {spec.reason for spec in specs.values()} == {None}
    shapes = {name: tuple(spec.weight_shape) for name, spec in specs.items()}
    assert shapes == {
        "turned": (30, 24),
        "plain": (18, 30),
        "einsum": (20, 18),
        "dots": (16, 20),
        "behind": (14, 16),
    }
    small = alds_cli.compress(program, ratio=0.2, output=tmp_path / "small.pt")
    assert set(small.plan.decomposed) <= set(specs)
    assert small.plan.decomposed
    x = torch.randn(3, 5, 24)
    with torch.no_grad():
        torch.testing.assert_close(opened.module(x), network(x), rtol=1e-5, atol=1e-3)
        for name in small.plan.decomposed:
            pair = small.network.module.get_submodule(name)
            product = pair(torch.eye(specs[name].in_channels))
            own = getattr(network, name)
            own.copy_(product if own.shape == product.shape else product.T)
        expected = network(x)
        made = alds_cli.load(tmp_path / "small.pt")(x)
        torch.testing.assert_close(
            made, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
        )
