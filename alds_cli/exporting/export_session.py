"""A network written in the form that a file's name asks for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor, nn

from alds_cli.checkpoint import require_apart
from alds_cli.checkpoint.files import replacing, require_writable
from alds_cli.errors import ExportError, OptionError, VerificationError, first_line
from alds_cli.exporting import onnx_files, programs, torchscript
from alds_cli.exporting.sample_calls import Sample, output_tensors, shapes_between
from alds_cli.inputs import inputs_tip
from alds_cli.network.networks import Network
from alds_cli.network.observed_outputs import difference, tensors_in
from alds_cli.network.opening import answering, open_network
from alds_cli.options.export_options import ExportOptions
from alds_cli.options.readers import export_form
from alds_cli.records import Architecture
from alds_cli.surgery import fold_norms
from alds_cli.tracing.trace import count_parameters

Form = Literal["onnx", "pt2", "ts"]

TOLERANCE = 1e-4
"""The largest difference between the outputs of a file and the network, relative to the largest
number of an output."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or an output of a file; an extent in words is that of the batch or depends on it."""

    name: str
    dtype: str
    shape: Sequence[int | str]


@dataclass(frozen=True, slots=True)
class ExportResult:
    """A file that was written.

    Attributes:
        architecture: what builds the network, as far as that is known.
        params: the number of its parameters.
        output: the file.
        format: what it is.
        opset: the version of ONNX's operators; None in other forms.
        traced: whether TorchScript traced the network, as it could not compile it; None in other
            forms.
        inputs: what it takes, in order.
        outputs: what it gives, in order.
        batch: the number of samples in a call; `any`, or None if no input has a batch axis.
        checked: the batch sizes that it was run with beside the network.
        difference: the largest difference between the two, relative to an output's largest number.
        nbytes: the size of the file.
        seconds: how long it took.
    """

    architecture: Architecture | None
    params: int
    output: Path
    format: Form
    opset: int | None
    traced: bool | None
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    batch: int | Literal["any"] | None
    checked: Sequence[int]
    difference: float
    nbytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Written:
    """The content of a file, and a function that runs what a path holds in every check."""

    content: bytes
    run: Callable[[Path], Sequence[Any]]
    opset: int | None = None
    traced: bool | None = None


def export(options: ExportOptions) -> ExportResult:
    """Write a network in the form that a file's name asks for.

    Raises:
        AldsError: see `alds_cli.export`.
    """
    start = time.perf_counter()
    output = _output(options)
    form = _form(output, options)
    if form == "onnx":
        onnx_files.require_onnx()
    network = open_network(options.model, options.source)
    params = count_parameters(network.module)
    network.module = answering(network, packed=False)
    if form == "onnx":
        onnx_files.require_fitting(network.module)
    sample = _sample(network, options.static_batch)
    expected = sample.expected()
    written = _written(sample, form, expected[0], options.opset)
    with replacing(output) as temporary:
        temporary.write_bytes(written.content)
        largest = _compared(written, temporary, expected, sample)
    inputs, outputs = _ports(sample, expected)
    return ExportResult(
        architecture=network.architecture,
        params=params,
        output=output,
        format=form,
        opset=written.opset,
        traced=written.traced,
        inputs=inputs,
        outputs=outputs,
        batch="any" if sample.free else sample.batch,
        checked=sample.sizes,
        difference=largest,
        nbytes=len(written.content),
        seconds=time.perf_counter() - start,
    )


def _output(options: ExportOptions) -> Path:
    if options.output is None:
        raise OptionError("no output is named", tip="-o FILE.onnx, FILE.pt2 or FILE.ts")
    export_form(options.output)
    output = Path(options.output)
    require_writable(output)
    if isinstance(options.model, (str, Path)):
        require_apart([output], [options.model])
    return output


def _form(output: Path, options: ExportOptions) -> Form:
    """Return the form that a file's name asks for.

    Raises:
        OptionError: it asks for none, or the options ask for what that form does not have.
    """
    form = cast("Form", export_form(output))
    if options.opset is not None and form != "onnx":
        raise OptionError("--opset makes sense for .onnx only", tip="leave out --opset")
    return form


def _sample(network: Network, batch: int | None) -> Sample:
    if network.inputs is None:
        raise OptionError("what the network takes is not known", tip=inputs_tip(None))
    network.module.eval().requires_grad_(requires_grad=False)  # or gradients are exported, too
    fold_norms(network.module)  # which not all forms can hold
    _give_answers_alone(network.module)
    sample = Sample(network.module, network.inputs, batch)
    if batch is not None and not sample.batched:
        raise OptionError(
            f"the input {network.inputs} has no batch axis", tip="leave out --static-batch"
        )
    return sample


def _give_answers_alone(network: nn.Module) -> None:
    """Let networks of transformers give no keys and values for later calls, which no form holds."""
    for part in network.modules():
        configuration: Any = getattr(part, "config", None)
        if getattr(configuration, "use_cache", None) is True:
            configuration.use_cache = False


def _written(sample: Sample, form: Form, example: object, opset: int | None) -> _Written:
    """Export a network in memory."""
    if form == "ts":
        content, traced = torchscript.torchscript(sample)
        return _Written(
            content, lambda path: torchscript.run_torchscript(path, sample.checks()), traced=traced
        )
    program = programs.exported_program(sample)
    if form == "pt2":
        content = programs.written_program(program)
        return _Written(content, lambda path: programs.run_program(path, sample.checks()))
    names = list(sample.input_tensors(sample.example()))
    model = onnx_files.onnx_model(program, names, _apart(output_tensors(example), names), opset)
    calls = [sample.input_tensors(call) for call in sample.checks()]
    return _Written(
        model.SerializeToString(),
        lambda path: onnx_files.run_onnx(path, calls),
        onnx_files.opset_of(model),
    )


def _apart(outputs: dict[str, Tensor], inputs: Sequence[str]) -> list[str]:
    """Return the names of outputs, none of which may be an input's."""
    return [f"output.{name}" if name in inputs else name for name in outputs]


def _compared(written: _Written, path: Path, expected: Sequence[object], sample: Sample) -> float:
    """Run what was written, and return the largest difference from what the network gave.

    Raises:
        VerificationError: it differs by more than `TOLERANCE`.
        ExportError: it does not run.
    """
    try:
        found = written.run(path)
    except Exception as error:  # runtimes raise what they like
        raise ExportError(
            f"nothing is written: what was exported does not run: {first_line(error)}",
            tip="export it for batches of one size: --static-batch 1" if sample.free else None,
        ) from error
    largest = max(
        difference(list(tensors_in(own)), list(tensors_in(other)))
        for own, other in zip(expected, found, strict=True)
    )
    if not largest <= TOLERANCE:
        raise VerificationError(
            "nothing is written: what was exported gives something else than the network "
            f"(relative difference {largest:.2g})",
            tip="export it for batches of one size: --static-batch 1" if sample.free else None,
        )
    return largest


def _ports(sample: Sample, expected: Sequence[object]) -> tuple[list[Port], list[Port]]:
    """Return what goes in and out, of which axes may depend on the batch."""
    given = [sample.input_tensors(call) for call in sample.checks()]
    made = [output_tensors(own) for own in expected]
    names = list(given[0])
    sizes = sample.sizes or (1, 1)
    return (
        [_port(name, given[0][name], given[1][name], sizes) for name in names],
        [
            _port(name, own, other, sizes)
            for name, own, other in zip(
                _apart(made[0], names), made[0].values(), made[1].values(), strict=True
            )
        ],
    )


def _port(name: str, first: Tensor, second: Tensor, sizes: Sequence[int]) -> Port:
    shape = list(shapes_between(first, second, sizes))
    return Port(name, str(first.dtype).removeprefix("torch."), shape)
