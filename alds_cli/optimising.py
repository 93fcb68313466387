"""Making an artefact of a network that gives the same answers faster."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace

import torch
from torch import nn

from alds_cli.errors import VerificationError
from alds_cli.inputs import Call, InputSpec, example_call
from alds_cli.latency.fastest_form import FastestForm, fastest_form, in_form
from alds_cli.network.networks import Network
from alds_cli.network.observed_outputs import difference, observe
from alds_cli.network.opening import (
    open_network,
    require_form,
    require_target,
    timed_inputs,
    write_network,
)
from alds_cli.network.verification import verify
from alds_cli.options.optimize_options import OptimizeOptions
from alds_cli.records import Inference
from alds_cli.runtime.devices import device_name, pick_device
from alds_cli.tracing.trace import floating_type

_TOLERATED = 1e-8
"""The largest relative difference in float64 that counts as rounding: half of its digits."""

_TOLERATED_AS_PACKED = 1e-4
"""The same of a network that computes in its own type, by weights in another order."""


@dataclass(frozen=True, slots=True)
class OptimizeResult:
    """An optimised network, and what was measured.

    Attributes:
        network: its module is in its plain form, and `inference` lists what was changed.
        found: the form, and the times with and without it.
        difference: the largest difference of the outputs in float64, relative to the largest.
        device: the name of what it was measured on.
        output: the file that was written.
        nbytes: the size of the file.
        seconds: what it took.
    """

    network: Network
    found: FastestForm
    difference: float
    device: str
    output: str | None
    nbytes: int | None
    seconds: float


def optimize(options: OptimizeOptions) -> OptimizeResult:
    """Find the form in which a network answers fastest, check it, and write an artefact.

    Raises:
        OptionError: what the network takes is not known, or the device is not there.
        VerificationError: the network in the new form computes something else.
        AldsError: the model cannot be read, or the result not be written.
    """
    start = time.perf_counter()
    output = options.output
    if output is not None:
        require_target(output)
    device = pick_device(options.device)
    network = open_network(options.model, options.source)
    if output is not None:
        require_form(network, output)
    inputs = timed_inputs(network)
    found = fastest_form(
        network.module,
        inputs,
        pairs=network.plan.decomposed,
        batch_size=options.batch_size,
        device=device,
        progress=options.progress,
    )
    differing = _difference(network, inputs, found.inference)
    optimised = replace(network, inference=found.inference, nbytes=None)
    if output is not None:
        optimised.nbytes = write_network(optimised, output, verify(optimised))
    return OptimizeResult(
        optimised,
        found,
        differing,
        device_name(device),
        None if output is None else str(output),
        optimised.nbytes,
        time.perf_counter() - start,
    )


def _difference(network: Network, inputs: InputSpec, form: Inference) -> float:
    """Run the network in both forms in float64, where they differ by rounding alone.

    Raises:
        VerificationError: they differ by more.
    """
    plain = copy.deepcopy(network.module).double()
    call = example_call(
        inputs, dtype=floating_type(plain), batch_size=2, widen=torch.float64, seed=0
    )
    differing = _compared(plain, in_form(plain, form), call, _TOLERATED)
    if form.packed:  # which nothing is in float64
        call = example_call(inputs, dtype=floating_type(network.module), batch_size=2, seed=0)
        ordinary = in_form(network.module, replace(form, packed=False))
        _compared(ordinary, in_form(network.module, form), call, _TOLERATED_AS_PACKED)
    return differing


def _compared(one: nn.Module, other: nn.Module, call: Call, tolerated: float) -> float:
    """Return the relative difference between the outputs of two networks.

    Raises:
        VerificationError: it is larger than what is tolerated.
    """
    differing = difference(observe(one, call, ()).outputs, observe(other, call, ()).outputs)
    if differing > tolerated:
        raise VerificationError(
            "nothing is written: in its faster form the network computes something else, with a "
            f"relative difference of {differing:.1e}"
        )
    return differing
