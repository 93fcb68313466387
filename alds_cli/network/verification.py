"""The check that an artefact computes what it stands for, made before it is written.

The network is built as it will be when the artefact is loaded, and run on random inputs beside
its reference. That is the dense network whose weights are the pairs multiplied back or, if
filters were removed, the network in memory, which was compared with the original when they were
(`surgery.equivalence`). The check reveals whatever a network's code does with a layer beyond
calling it: hooks, patched methods, further parameters, code that reads a layer's attributes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from alds_cli.checkpoint.mapped_files import aside
from alds_cli.errors import (
    AldsError,
    OptionError,
    VerificationError,
    first_line,
)
from alds_cli.inputs import InputSpec, example_call, inputs_tip
from alds_cli.network.loading import densified, reopened
from alds_cli.network.networks import Network, require_sound
from alds_cli.network.observed_outputs import difference, layer_differences, observe, same_draws
from alds_cli.surgery import dense_copy
from alds_cli.tracing.trace import count_parameters, floating_type

_HALVES = (torch.float16, torch.bfloat16)


_MAGNIFIED = 64
"""Differences up to this many times the effect of changing the reference's weights in their last
places count as rounding. Each of thirty products may double such a change; a fault in a network's
structure starts some ten orders of magnitude above it, and is magnified in the same way."""

_LAST_PLACES = 8
"""The size of that change, in units of float64's last place."""

_MOST_TOLERATED = 1e-2
"""The largest difference that ever counts as rounding, however it is magnified."""


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of running a network beside its reference.

    Attributes:
        difference: the largest difference between outputs, or between those of a pair and its
            layer, as a fraction of the largest number there; None if nothing was run.
        reason: why nothing was run.
    """

    difference: float | None
    reason: str | None = None


def verify(
    network: Network, *, original: nn.Module | None = None, unverified: bool = False
) -> Verification:
    """Run a network, built as its artefact will be, beside its reference.

    It is run in its own precision first, with half precision widened. If the difference exceeds
    what rounding explains, float64 decides. If it also exceeds half the digits of float64, it is
    compared with how much the reference itself magnifies a change of its weights by rounding.

    Args:
        network: the network with pairs, or without some filters; its module is not changed.
        original: the dense network that it was made from, if its architecture is unknown.
        unverified: whether it is acceptable that no forward pass can be made.

    Returns:
        The difference, or the reason why nothing was run.

    Raises:
        VerificationError: they differ by more than rounding does, or only one of them runs.
        OptionError: no forward pass can be made, and `unverified` is False.
    """
    if not network.plan.decomposed and not network.plan.pruned and not network.foreign:
        return Verification(0.0)
    if network.inputs is None:
        return _not_run("what it takes as input is not known", network, unverified)
    failure = ""
    found: _Differences | None = None
    for dtype in _precisions(network.module):
        try:
            with same_draws():
                found = _compared(network, original, dtype)
        except _ReferenceError as error:
            failure = failure or str(error)
            continue
        if found.accepted:
            return Verification(found.largest)
    if found is None:
        return _not_run(failure, network, unverified)
    raise _refusal(found, network)


def _not_run(reason: str, network: Network, unverified: bool) -> Verification:
    if unverified or not (network.plan.decomposed or network.plan.pruned):
        return Verification(None, reason)
    raise unverifiable(reason, network.inputs)


def unverifiable(reason: str, inputs: InputSpec | None) -> OptionError:
    """Return the error for a network that no forward pass could be made of.

    Args:
        reason: why none could be made.
        inputs: the network's inputs, as far as they are known.
    """
    return OptionError(
        f"the result cannot be verified, so nothing is written: {reason}",
        tip=f"{inputs_tip(inputs)}; or accept a network that was never run: --unverified",
    )


class _ReferenceError(Exception):
    """The reference itself does not run, so there is nothing to compare with."""


@dataclass(frozen=True, slots=True)
class _Differences:
    """The differences between a network and its reference.

    Attributes:
        outputs: the relative difference of their outputs.
        layers: that of the outputs of each pair and its layer, in the network's order.
        handed_in: that of the outputs of the network in memory and of the artefact's network; 0
            if the former was built from its architecture.
        tolerance: the largest difference that rounding explains.
    """

    outputs: float
    layers: Mapping[str, float]
    handed_in: float
    tolerance: float

    @property
    def largest(self) -> float:
        """The largest of all differences."""
        return max(self.outputs, self.handed_in, *self.layers.values())

    @property
    def accepted(self) -> bool:
        """Whether rounding explains them."""
        return self.largest <= self.tolerance

    @property
    def culprit(self) -> str | None:
        """The first layer whose outputs differ, if there is one."""
        beyond = (name for name, value in self.layers.items() if value > self.tolerance)
        return next(beyond, None)


def _refusal(found: _Differences, network: Network) -> VerificationError:
    if found.handed_in > found.tolerance:
        return VerificationError(
            f"nothing is written: the network handed in computes something other than "
            f"{network.architecture} does with its weights (relative difference "
            f"{found.handed_in:.2g})",
            tip="name what builds it: arch='package.module:factory'",
        )
    culprit = found.culprit
    where = f"layer {culprit}" if culprit else "the network"
    return VerificationError(
        f"nothing is written: {where} with pairs gives something else than with the weights that "
        f"they stand for (relative difference {found.largest:.2g}); the network's code does more "
        "with its layers than call them",
        tip=f"keep what its code reaches into: --exclude {culprit or 'PATTERN'}",
    )


def _precisions(module: nn.Module) -> list[torch.dtype | None]:
    """Return the precisions to run in, one after the other; None is the network's own type.

    Half precision is tried unwidened at the end, because some code knows no other type.
    """
    if any(tensor.dtype in _HALVES for tensor in module.parameters()):
        return [torch.float32, torch.float64, None]
    return [None, torch.float64]


def _tolerance(dtype: torch.dtype) -> float:
    """Return the tolerance of a type: half of its digits."""
    return max(math.sqrt(torch.finfo(dtype).eps), 1e-7)


def _compared(
    network: Network, original: nn.Module | None, dtype: torch.dtype | None
) -> _Differences:
    """Run the network and its reference in a precision, and return their differences."""
    assert network.inputs is not None  # noqa: S101 - checked by the caller
    widened = network
    if dtype is not None:
        widened = replace(network, module=_cast_copy(network.module, dtype))
    # Buffers that are not in a state dict are made anew, in the network's own precision.
    reference = _cast(_reference(widened, original), dtype)
    precision = dtype or floating_type(reference)
    call = example_call(network.inputs, dtype=precision, widen=dtype)
    names = list(network.plan.decomposed)
    try:
        expected = observe(reference, call, names)
    except Exception as error:  # a foreign network may raise anything
        raise _ReferenceError(
            f"the network does not run on the input {network.inputs}: {first_line(error)}"
        ) from error
    del reference  # memory: a network may be large
    candidate = _rebuilt(widened)
    _require_same_size(candidate, network.module)
    _cast(candidate, dtype)
    try:
        found = observe(candidate, call, names)
        handed_in = 0.0
        if network.foreign and network.architecture is not None:
            memory = observe(widened.module, call, ())
            handed_in = difference(found.outputs, memory.outputs)
    except Exception as error:
        raise VerificationError(
            "nothing is written: the compressed network does not run, though the original "
            f"does: {first_line(error)}",
            tip="its code reaches into a layer that was replaced: find it with -v, and keep "
            "it: --exclude NAME",
        ) from error
    differences = _Differences(
        difference(expected.outputs, found.outputs),
        layer_differences(expected, found),
        handed_in,
        _tolerance(precision),
    )
    if precision != torch.float64 or differences.accepted or not math.isfinite(differences.largest):
        return differences
    del candidate, found
    moved = observe(_perturbed(_cast(_reference(widened, original), dtype)), call, names)
    rounding = max(
        difference(expected.outputs, moved.outputs),
        0.0,
        *layer_differences(expected, moved).values(),
    )
    magnified = min(_MAGNIFIED * rounding, _MOST_TOLERATED)
    return replace(differences, tolerance=max(differences.tolerance, magnified))


def _perturbed(module: nn.Module) -> nn.Module:
    """Copy a module, and change every real weight by some units of its last place."""
    generator = torch.Generator().manual_seed(0)
    unit = _LAST_PLACES * torch.finfo(torch.float64).eps

    def moved(weight: Tensor) -> Tensor:
        drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        return weight * (1 + unit * drawn.to(weight.device))

    return _copied(module, moved)


def _cast(module: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """Convert all real and complex numbers of a module to a precision; None leaves them."""

    def cast(tensor: Tensor) -> Tensor:
        if dtype is not None and tensor.is_complex():  # `Module.to` would drop the imaginary parts
            return tensor.to(dtype.to_complex())
        if dtype is None or not tensor.is_floating_point() or tensor.dtype == dtype:
            return tensor
        return aside(tensor.to(dtype))

    changed: Any = module
    return module if dtype is None else changed._apply(cast)  # noqa: SLF001


def _cast_copy(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Copy a module in another precision."""
    return _cast(_copied(module, lambda weight: weight.to(dtype, copy=True)), dtype)


def _copied(module: nn.Module, changed: Callable[[Tensor], Tensor]) -> nn.Module:
    """Copy a module with changed weights, one after another, without a copy of those it has.

    Args:
        module: it is not changed.
        changed: returns a new tensor for each real weight.
    """
    copies = {
        id(weight): nn.Parameter(aside(changed(weight.detach())), weight.requires_grad)
        for weight in module.parameters()
        if type(weight) is nn.Parameter and weight.is_floating_point()
    }
    copied = copy.deepcopy(module, copies)
    for weight in copied.parameters():  # of a class of its own, which a new one would lose
        if type(weight) is not nn.Parameter and weight.is_floating_point():
            weight.data = changed(weight.data)
    return copied


def _reference(network: Network, original: nn.Module | None) -> nn.Module:
    if network.plan.pruned:
        return network.module
    if network.architecture is not None:
        with _reading_back():
            return _whole(densified(network))
    if original is None:
        raise _ReferenceError("it is not known how to build the network")
    return dense_copy(original, network.module.state_dict(), network.plan.decomposed)


def _rebuilt(network: Network) -> nn.Module:
    if network.architecture is None:
        return network.module
    with _reading_back():
        return _whole(reopened(network))


def _require_same_size(candidate: nn.Module, module: nn.Module) -> None:
    """Make sure that weights shared in memory are also shared when the artefact is loaded."""
    found, expected = count_parameters(candidate), count_parameters(module)
    if found != expected:
        raise VerificationError(
            f"nothing is written: loaded again, the artefact has {found:,} parameters, not "
            f"{expected:,}",
            tip="build the network so that the weights it shares are shared from the start",
        )


def _whole(network: Network) -> nn.Module:
    """Return the network's module, after checking that every tensor has values."""
    require_sound(network.module, network.name)
    return network.module


@contextmanager
def _reading_back() -> Iterator[None]:
    """Turn errors into ones which say that the artefact could not be loaded again."""
    try:
        yield
    except AldsError as error:
        raise VerificationError(
            f"nothing is written: the artefact could not be loaded again: {error.message}",
            tip="keep the layer concerned: --exclude NAME",
        ) from error
