"""The numbers that a batch of inputs may have: one limit, judged before anything is allocated."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from alds_cli.datasets import require_moderate
from alds_cli.errors import AldsError, OptionError
from alds_cli.inputs import (
    MOST_ELEMENTS,
    InputSpec,
    example_call,
    parse_inputs,
)
from alds_cli.runtime import devices

SPECS = {
    "image": "float[1,3,64,64]",
    "tokens": "ids:int64[1,128]<30522,mask:int64[1,128]",
    "nested": "{a:float[1,8],b:[float[1,8],int64[1,8]]}",
    "with one that does not grow": "float[1,16],float[4096,4096]",
}


def numbers(spec, samples):
    call = example_call(spec, device="meta", batch_size=samples)
    return sum(tensor.numel() for tensor in tree_leaves((call.args, call.kwargs)))


@pytest.mark.parametrize("text", SPECS.values(), ids=SPECS)
def test_the_largest_batch_named_is_the_largest_that_is_taken(text):
    spec = parse_inputs(text)
    with pytest.raises(OptionError, match="has more than 268,435,456 numbers") as refusal:
        spec.require_batch(MOST_ELEMENTS)
    most = int(refusal.value.tip.split()[1].replace(",", ""))
    assert numbers(spec, most) <= MOST_ELEMENTS
    with pytest.raises(OptionError):
        numbers(spec, most + 1)


def test_one_sample_within_the_limit_of_inputs_is_never_refused():
    InputSpec.of_sample((MOST_ELEMENTS,)).require_batch(1)
    parse_inputs("float[2,8]").require_batch(10**9)  # nothing of it grows


def test_images_have_the_same_limit():
    require_moderate(4, (1, 8192, 8192))
    with pytest.raises(AldsError, match="has more than 268,435,456 numbers"):
        require_moderate(5, (1, 8192, 8192))


def test_timing_refuses_before_it_allocates(monkeypatch):
    monkeypatch.setattr(torch, "randn", None)
    with pytest.raises(OptionError, match="numbers"):
        devices.time_networks(
            {"a": nn.Flatten()}, (3, 224, 224), batch_size=1 << 16, device=torch.device("cpu")
        )


@pytest.mark.parametrize(
    "options",
    [
        ("evaluate", "--latency-batch-size"),
        ("compress", "-r", "0.3", "-o", "o.pt", "--never-slower", "--batch-size"),
        ("compress", "-o", "o.pt", "--max-latency", "1ms", "--batch-size"),
        ("compress", "-r", "0.3", "-o", "o.pt", "--target", "latency", "--batch-size"),
    ],
)
def test_the_command_refuses_in_a_line(run, digits, tmp_path, monkeypatch, options):
    monkeypatch.setattr("alds_cli.inputs.MOST_ELEMENTS", 10_000)
    monkeypatch.setattr("alds_cli.datasets.batching.MOST_ELEMENTS", 10_000)
    monkeypatch.chdir(tmp_path)
    data = f"tensors:{digits / 'data.safetensors'}"
    command, *more = options
    more += ["200", *(("--data", data) if command == "evaluate" else ())]
    code, _, err = run(command, digits / "model.pt", *more)
    assert code == 2
    assert "has more than 10,000 numbers" in err
    assert "take 156 at most in one batch" in err
    assert not list(tmp_path.iterdir())
