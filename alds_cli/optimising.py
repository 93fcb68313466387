"""Making an artefact of a network that gives the same answers faster."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

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


@dataclass(frozen=True, slots=True)
class OptimizeResult:
    """An optimised network, and what was measured.

    Attributes:
        network: its module is in its plain form, and `inference` lists what was changed.
        found: the form, and the times with and without it.
        difference: the largest difference of the outputs, relative to the largest of them; in
            float64 where the network's code takes it.
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

    Code that makes numbers of one type runs in no other, and is run in its own.

    Raises:
        VerificationError: they differ by more.
    """
    plain = copy.deepcopy(network.module).double()
    call = example_call(
        inputs, dtype=floating_type(plain), batch_size=2, widen=torch.float64, seed=0
    )
    own = example_call(inputs, dtype=floating_type(network.module), batch_size=2, seed=0)
    try:
        expected = observe(plain, call, ()).outputs
    except Exception:  # noqa: BLE001 - a foreign network may raise anything
        return _compared(
            observe(network.module, own, ()).outputs, in_form(network.module, form), own
        )
    differing = _compared(expected, in_form(plain, form), call)
    if form.packed:  # which nothing is in float64
        ordinary = in_form(network.module, replace(form, packed=False))
        answers = observe(ordinary, own, ()).outputs
        _compared(answers, in_form(network.module, form), own)
    return differing


def _compared(expected: list[Tensor], other: nn.Module, call: Call) -> float:
    """Return the relative difference between given outputs and those of a network.

    Raises:
        VerificationError: it is larger than rounding explains: half of the digits are lost.
    """
    differing = difference(expected, observe(other, call, ()).outputs)
    if differing > math.sqrt(torch.finfo(floating_type(other)).eps):
        raise VerificationError(
            "nothing is written: in its faster form the network computes something else, with a "
            f"relative difference of {differing:.1e}"
        )
    return differing
