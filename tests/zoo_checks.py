"""Independent checks that networks of other libraries survive a compression.

Nothing here multiplies pairs back or runs networks by the package's own means: the dense
network that an artefact stands for is made by plain tensor products, and both are run.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from decomposing import any_plan
from tiny_transformers import TINY
from torch import nn
from torch.nn.utils import parametrize

import alds_cli
from alds_cli import api, architectures
from alds_cli.architectures import from_torchvision
from alds_cli.errors import (
    AldsError,
    ContractError,
    OptionError,
    VerificationError,
)
from alds_cli.inputs import (
    InputSpec,
    as_inputs,
    example_call,
    parse_inputs,
)
from alds_cli.network.networks import Network
from alds_cli.network.opening import write_network
from alds_cli.network.verification import verify
from alds_cli.records import Architecture, Plan
from alds_cli.surgery import find_layers, reshape_network
from alds_cli.tracing.trace import Trace, count_parameters, trace

RATIO = 0.3

SIZES = (64, 96, 112, 128, 160, 192, 224, 256, 288, 336, 384, 448, 512)
"""Heights and widths of images to try, smallest first."""

CLIPS = ((3, 8, 64, 64), (3, 16, 64, 64), (3, 16, 112, 112))


class NotBuiltError(Exception):
    """The library itself cannot build or run the network."""


@dataclass(frozen=True)
class Case:
    """A network, its inputs, and one forward pass."""

    arch: Architecture
    inputs: InputSpec
    seen: Trace

    def source(self):
        """The source for reading a checkpoint of the network."""
        return api.Source(self.arch.name, self.arch.arguments, input_spec=self.inputs)


@dataclass
class Outcome:
    """The result of a check.

    Attributes:
        status: `verified`, `kept` (whole), `refused`, `wrong` or `not built`.
        reason: the reason why it is not verified.
        params: the numbers of parameters before and after.
        pairs: how many layers became pairs.
        kept: the numbers of kept layers, by reason.
        difference: the relative difference of the outputs from the dense network's.
    """

    status: str
    reason: str = ""
    params: tuple[int, int] = (0, 0)
    pairs: int = 0
    kept: dict[str, int] | None = None
    difference: float | None = None


def fitted_case(name):
    """Build a network by its `--arch` name, for the smallest input that it takes.

    Raises:
        NotBuiltError: its library cannot build it, or it takes none of the inputs tried.
        AldsError: the package refuses the name.
    """
    failure = "nothing was tried"
    for arguments, inputs in _candidates(name):
        arch = replace(architectures.parse_architecture(name), arguments=arguments)
        try:
            network = architectures.build(arch, device="meta").eval()
        except AldsError as error:
            failure = error.message
            continue
        seen = trace(network, inputs)
        if seen.failure is not None:
            network = architectures.build(arch, initialise=False).eval()
            seen = trace(network, inputs)
        if seen.failure is None:
            return Case(arch, as_inputs(inputs), seen)
        failure = seen.failure
    raise NotBuiltError(failure)


def _candidates(name):
    """Yield arguments and inputs to try, the network's usual ones last."""
    usual = architectures.input_shape(architectures.parse_architecture(name))
    if name in TINY:
        yield {}, parse_inputs(TINY[name])
        return
    if name.startswith("timm:"):
        classes = {"num_classes": 10}
        channels = usual[0]
        sized = _builds(name, {**classes, "img_size": usual[-1]})
        for size in [each for each in SIZES if each < min(usual[1:])]:
            yield {**classes, "img_size": size} if sized else classes, (channels, size, size)
        yield classes, usual
        return
    kind = from_torchvision.kind(name)
    if kind == "detection":
        small = {} if name.startswith("ssd") else {"min_size": 64, "max_size": 64}
        yield small, architectures.default_inputs(Architecture(name, small))
    elif kind == "optical_flow":
        yield {}, parse_inputs("float[1,3,128,128],float[1,3,128,128]")
    elif kind == "video":
        yield from (({}, clip) for clip in CLIPS)
        yield {}, usual
    else:
        sized = _builds(name, {"image_size": usual[-1]})
        for size in [each for each in SIZES if each < usual[-1]]:
            yield {"image_size": size} if sized else {}, (3, size, size)
        yield {}, usual


def _builds(name, arguments):
    arch = replace(architectures.parse_architecture(name), arguments=arguments)
    try:
        architectures.build(arch, device="meta")
    except AldsError:
        return False
    return True


def draw(network, seed=0):
    """Draw all parameters and running statistics so that signals keep their size.

    A fresh network often scales its branches by zero, which would hide what they compute.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.normal_(generator=generator)
            leaf = name.rpartition(".")[2]
            if parameter.dim() > 1 and leaf.endswith("weight"):
                parameter.mul_(math.sqrt(parameter.shape[0] / max(1, parameter.numel())))
            else:
                parameter.mul_(0.1)
                if leaf in {"weight", "gamma"}:
                    parameter.add_(1)
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1, generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5, generator=generator)


def structure(case, folder, seed=0):
    """Put a random pair in every layer that may have one, write, read and compare.

    Args:
        case: the network.
        folder: the folder for the artefact.
        seed: the seed of plan and weights.
    """
    module = architectures.build(case.arch, initialise=False).eval()
    before = count_parameters(module)
    draw(module, seed)
    specs = find_layers(module, case.seen)
    plan = any_plan(specs, seed)
    kept = reasons(specs)
    if not plan:
        return Outcome("kept", "; ".join(kept) or "it has no layers", (before, before), 0, kept)
    reshape_network(module, plan)
    for name in plan:
        pair = module.get_submodule(name)
        pair.to_empty(device="cpu")
        draw(pair, seed + len(name))
    network = Network(module, case.arch, Plan(plan), inputs=case.inputs)
    after = count_parameters(module)
    path = Path(folder) / "small.pt"
    try:
        write_network(network, path, verify(network))
    except (VerificationError, OptionError) as error:
        return Outcome("refused", error.message, (before, after), len(plan), kept)
    return compared(case, path, plan, Outcome("verified", "", (before, after), len(plan), kept))


def compressed(case, folder, seed=0, ratio=RATIO):
    """Compress a random state of a network as a user would, read the artefact and compare."""
    module = architectures.build(case.arch).eval()
    before = count_parameters(module)
    draw(module, seed)
    kept = reasons(find_layers(module, case.seen))
    path, small = Path(folder) / "model.pt", Path(folder) / "small.pt"
    torch.save(module.state_dict(), path)
    del module
    try:
        result = api.compress(path, case.source(), ratio=ratio, output=small, cache=False)
    except (ContractError, VerificationError, OptionError) as error:
        return Outcome("refused", error.message, (before, before), 0, kept)
    plan = result.plan.decomposed
    after = result.report.params_after
    outcome = Outcome("verified", "", (before, after), len(plan), kept)
    if not result.report.verified:
        return replace_outcome(outcome, "wrong", "written without being verified")
    return compared(case, small, plan, outcome, ratio=ratio)


def reasons(specs):
    """Count the kept layers by reason."""
    return dict(Counter(spec.reason for spec in specs.values() if spec.reason is not None))


def replace_outcome(outcome, status, reason):
    """Return the outcome with another status and reason."""
    return replace(outcome, status=status, reason=reason)


SEEDS = (5, 6, 7)
"""Of inputs. Where every pair agrees with its layer and only the outputs differ, other inputs are
tried: a detector that finds two boxes with one score takes either, by the last bit."""


def compared(case, path, plan, outcome, ratio=0.0):
    """Load an artefact and run it beside the dense network that it stands for."""
    factory = architectures.is_factory(case.arch.name)
    source = {"arch": case.arch.name, "arch_args": case.arch.arguments} if factory else {}
    loaded = alds_cli.load(path, **source)
    before, counted = outcome.params[0], count_parameters(loaded)
    if counted != outcome.params[1] or counted > (1 - ratio) * before:
        return replace_outcome(
            outcome, "wrong", f"{before} parameters became {counted}, not {outcome.params[1]}"
        )
    dense = architectures.build(case.arch).eval()
    unfold_norms(dense, loaded)
    difference = 0.0
    for seed in SEEDS:
        for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-7)):
            call = example_call(case.inputs, dtype=dtype, widen=dtype, seed=seed)
            dense.to(dtype).load_state_dict(dense_tensors(dense, loaded, plan), strict=True)
            expected, inside = outputs(dense, call, plan)
            found, pairs = outputs(loaded.to(dtype), call, plan)
            # An attention calls its pairs alone.
            layers = [distance(pairs[name], inside[name]) for name in inside.keys() & pairs.keys()]
            difference = max(distance(found, expected), *layers, 0.0)
            if not all(bool(tensor.isfinite().any()) for tensor in expected if tensor.numel()):
                return replace_outcome(outcome, "wrong", "nothing finite came out")
            if difference <= tolerance:
                return replace(outcome, difference=difference)
        if not layers or max(layers) > tolerance:
            break
    return replace(
        outcome, status="wrong", reason=f"outputs differ by {difference:.2g}", difference=difference
    )


def outputs(network, call, names=()):
    """Return all floating-point outputs of a network, and samples of some layers' outputs.

    A detector may find nothing, and return nothing to compare.
    """
    inner = {}
    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda _module, _given, made, name=name: inner.setdefault(name, []).extend(
                tensor.flatten()[:: max(1, tensor.numel() // 999)] for tensor in _floats(made)
            )
        )
        for name in names
        if name in dict(network.named_modules())
    ]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        made = list(_floats(call(network)))
    for handle in handles:
        handle.remove()
    return made, inner


def _floats(made):
    if isinstance(made, torch.Tensor):
        if made.is_floating_point():
            yield made
    elif isinstance(made, dict):
        for value in made.values():
            yield from _floats(value)
    elif isinstance(made, (list, tuple)):
        for value in made:
            yield from _floats(value)


def distance(found, expected):
    """Return the largest difference of tensors, relative to each one's largest number."""
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        return math.inf
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        if other.numel():
            same = torch.isclose(one, other, rtol=0, atol=0, equal_nan=True)
            gap = torch.where(same, 0, (one - other).abs()).max()
            worst = max(worst, float(gap / other[other.isfinite()].abs().max().clamp(min=1e-30)))
    return worst


def unfold_norms(dense, loaded):
    """Replace normalised weights by plain ones where the artefact has plain ones."""
    names = {name.partition(".parametrizations.")[0] for name, _ in loaded.named_parameters()}
    for name, module in dense.named_modules():
        if parametrize.is_parametrized(module) and name not in names:
            parametrize.remove_parametrizations(module, "weight")


def dense_tensors(dense, loaded, plan):
    """Return the dense network's state dict, with every pair's halves multiplied."""
    state = dict(loaded.state_dict())
    for name in plan:
        pair = loaded.get_submodule(name)
        owner, _, leaf = name.rpartition(".")
        packed = leaf == "in_proj" and isinstance(dense.get_submodule(owner), nn.MultiheadAttention)
        for key in [key for key in state if key.startswith(f"{name}.")]:
            del state[key]
        joint = "_" if packed else "."
        weight = held_by(getattr(dense.get_submodule(owner), leaf, None), product(pair))
        state[f"{name}{joint}weight"] = weight
        if pair.second.bias is not None:
            state[f"{name}{joint}bias"] = pair.second.bias.detach()
    for owner, module in dense.named_modules():
        prefix = f"{owner}." if owner else ""
        if isinstance(module, nn.MultiheadAttention):
            for kind in ("weight", "bias"):  # those of a projection that stayed beside a pair
                if f"{prefix}in_proj.{kind}" in state:
                    state[f"{prefix}in_proj_{kind}"] = state.pop(f"{prefix}in_proj.{kind}")
    whole = dense.state_dict()
    for key, tensor in state.items():
        # `whole` keeps the versions of modules that look at them.
        whole[key] = tensor.reshape(whole[key].shape) if key in whole else tensor
    return whole


def held_by(layer, weight):
    """Return a weight (out, in, …) as a layer holds it: some have the inputs first."""
    turned = isinstance(layer, nn.Embedding) or type(layer).__name__ == "Conv1D"
    return weight.T if turned else weight


def product(pair):
    """Return the weight, in float64, of the single layer that two layers in sequence make.

    With g groups of the whole, k groups of the first half in each of these and j channels in
    each, W is a sum over j. Every axis of the kernel has an extent of 1 in one half at least.
    """
    groups = getattr(pair.second, "groups", 1)
    first, second = _blocks(pair.first), _blocks(pair.second)
    kernel = [1] * (max(first.dim(), second.dim()) - 3)
    slices = first.shape[0] // groups
    # (g, o, k, j, A…) and (g, k, j, i, B…) make (g, o, k, i, A…, B…)
    second = second.reshape(groups, second.shape[1], slices, -1, *(second.shape[3:] or kernel))
    first = first.reshape(groups, slices, *first.shape[1:3], *(first.shape[3:] or kernel))
    axes = len(kernel)
    sizes = [a * b for a, b in zip(second.shape[4:], first.shape[4:], strict=True)]
    left, right = (*second.shape[:4], -1), (*first.shape[:4], -1)
    joined = torch.einsum("gokja,gkjib->gokiab", second.reshape(left), first.reshape(right))
    shape = (*joined.shape[:4], *second.shape[4:], *first.shape[4:])
    order = [axis for each in range(axes) for axis in (4 + each, 4 + axes + each)]
    joined = joined.reshape(shape).permute(0, 1, 2, 3, *order)
    blocks = joined.reshape(groups, shape[1], shape[2] * shape[3], *sizes)
    if "Transpose" in type(pair.second).__name__:
        blocks = blocks.transpose(1, 2)
    return blocks.flatten(0, 1)


def _blocks(layer):
    """Return a layer's weight in float64 as groups × out × in × kernel."""
    weight = layer.weight.detach().double()
    if isinstance(layer, nn.Embedding):
        return weight.T[None]
    groups = getattr(layer, "slices", getattr(layer, "groups", 1))
    blocks = weight.reshape(groups, -1, *weight.shape[1:])
    return blocks.transpose(1, 2) if "Transpose" in type(layer).__name__ else blocks
