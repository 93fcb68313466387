"""What networks take: specifications read, written and made tensors of."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from alds_cli.errors import OptionError
from alds_cli.inputs import DTYPES, InputGroup, InputSpec, InputTensor, example_call, parse_inputs
from alds_cli.tracing.trace import floating_type

NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(DTYPES))
    shape = tuple(draw(st.lists(st.integers(1, 5), max_size=4)))
    below = draw(st.none() | st.integers(1, 100)) if "int" in dtype else None
    return InputTensor(shape, dtype, below)


def groups(values):
    lists = st.lists(values, min_size=1, max_size=3).map(
        lambda items: InputGroup("list", tuple((None, item) for item in items))
    )
    mappings = st.dictionaries(NAMES, values, min_size=1, max_size=3).map(
        lambda items: InputGroup("dict", tuple(items.items()))
    )
    return lists | mappings


VALUES = tensors() | groups(tensors() | groups(tensors()))


@st.composite
def specifications(draw):
    positional = draw(st.lists(VALUES, max_size=2))
    named = draw(st.dictionaries(NAMES, VALUES, max_size=2))
    arguments = [(None, value) for value in positional] + list(named.items())
    return InputSpec(tuple(arguments or [(None, draw(VALUES))]))


@given(specifications())
def test_a_specification_is_read_as_it_is_written(spec):
    assert parse_inputs(str(spec)) == spec


def described(value):
    """A made input as the specification that it was made from, bounds aside."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype).removeprefix("torch."), tuple(value.shape)
    if isinstance(value, list):
        return [described(item) for item in value]
    return {name: described(item) for name, item in value.items()}


def expected(value):
    if isinstance(value, InputTensor):
        return value.dtype.replace("float", "float32") if value.dtype == "float" else (
            value.dtype
        ), value.shape
    if value.kind == "list":
        return [expected(item) for _, item in value.items]
    return {name: expected(item) for name, item in value.items}


@given(specifications())
def test_what_is_made_is_what_was_specified(spec):
    call = example_call(spec)
    made = [*((None, value) for value in call.args), *call.kwargs.items()]
    assert [(name, described(value)) for name, value in made] == [
        (name, expected(value)) for name, value in spec.arguments
    ]


@given(st.integers(1, 50), st.sampled_from(["uint8", "int16", "int64"]))
def test_whole_numbers_lie_within_their_range(below, dtype):
    (ids,) = example_call(parse_inputs(f"{dtype}[400]<{below}")).args
    assert ids.min() >= 0
    assert ids.max() < below
    if below < 8:
        assert set(ids.tolist()) == set(range(below))


def test_whole_numbers_without_a_range_are_those_of_a_mask():
    (mask,) = example_call(parse_inputs("int64[200]")).args
    assert set(mask.tolist()) == {0, 1}


def test_the_text_gives_the_arguments_of_forward():
    call = example_call(parse_inputs(" float[1,3],[float[2], float[4]] ,mask : bool[1,3]"))
    image, images = call.args
    assert image.shape == (1, 3)
    assert [tensor.shape for tensor in images] == [(2,), (4,)]
    assert call.kwargs["mask"].dtype == torch.bool


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_general_type_is_that_of_the_network(dtype):
    network = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 2)).to(dtype)
    spec = parse_inputs("float[1,2],float32[1,2],int64[1]")
    general, stated, whole = example_call(spec, dtype=floating_type(network)).args
    assert (general.dtype, stated.dtype, whole.dtype) == (dtype, torch.float32, torch.int64)
    widened = example_call(spec, dtype=dtype, widen=torch.float64).args
    assert [tensor.dtype for tensor in widened] == [torch.float64, torch.float64, torch.int64]


def test_batches_lengthen_first_axes_of_one():
    spec = parse_inputs("a:float[1,3],b:float[4,3],c:{d:int64[1,5]}")
    made = example_call(spec, batch_size=7).kwargs
    assert made["a"].shape == (7, 3)
    assert made["b"].shape == (4, 3)
    assert made["c"]["d"].shape == (7, 5)


def test_equal_seeds_give_equal_inputs():
    spec = parse_inputs("float[1,9],int64[1,9]<99")
    first, second = example_call(spec).args, example_call(spec).args
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert not torch.equal(first[0], example_call(spec, seed=1).args[0])


@pytest.mark.parametrize(
    ("text", "sample"),
    [
        ("float[1,3,8,8]", (3, 8, 8)),
        ("float32[1,5]", (5,)),
        ("float[2,3]", None),
        ("float[1]", None),
        ("float[]", None),
        ("int64[1,5]<9", None),
        ("x:float[1,5]", None),
        ("float[1,5],float[1,5]", None),
        ("[float[1,5]]", None),
    ],
)
def test_only_one_tensor_of_real_numbers_is_a_sample(text, sample):
    assert parse_inputs(text).sample_shape == sample


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "float",
        "float[",
        "float[1",
        "float[1,]",
        "float[,1]",
        "float[0]",
        "float[-1]",
        "float[1.5]",
        "float[1e9]",
        "float[" + "9" * 5000 + "]",
        "float[1]<3",
        "bool[1]<2",
        "int64[1]<0",
        "int8[1]<129",
        "uint8[1]<257",
        "int64[1]<99999999999999999999",
        "double[1]",
        "float[1] float[1]",
        "float[1],",
        "a:float[1],a:float[1]",
        "a:float[1],float[1]",
        "{float[1]}",
        "{a:float[1],a:float[1]}",
        "[a:float[1]]",
        "[]",
        "{}",
        "[[[[[[float[1]]]]]]]",
        "[" * 4000,
        "a" * 5000,
        "ä:float[1]",
        "a.b:float[1]",
        "float[1];import os",
        "float[" + ",".join(["1"] * 40) + "]",
        "float[100000,100000]",
        ",".join(["float[16384,8192]"] * 3),
        "float[\u0661]",
    ],
)
def test_what_is_no_specification_is_refused_in_one_line(text):
    with pytest.raises(OptionError) as caught:
        parse_inputs(text)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300
