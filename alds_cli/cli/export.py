"""`alds export`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alds_cli.cli.verbs import verb
from alds_cli.options.declaring import arguments
from alds_cli.options.export_options import ExportOptions
from alds_cli.options.reporting_options import ComputingReporting
from alds_cli.text import size

if TYPE_CHECKING:
    from alds_cli.api import ExportResult
    from alds_cli.cli.interface import Rows


@verb(ExportOptions, ComputingReporting)
def command(options: ExportOptions, reporting: ComputingReporting) -> None:
    """Write a network as a file that runs without alds, for ONNX Runtime or for PyTorch.

    [bold]alds export small.pt -o small.onnx[/]

    Pairs stay pairs. The file takes its name only after it has been run beside the network on
    random inputs of batch sizes 1 and 3, and agrees.
    """
    from alds_cli import api  # noqa: PLC0415 - it imports torch
    from alds_cli.cli import documents, rendering  # noqa: PLC0415
    from alds_cli.cli.interface import Interface  # noqa: PLC0415

    interface = Interface(reporting)
    result = api.export(**arguments(options))
    source = rendering.place(str(options.model), "input")
    interface.show(f"{source} → {result.output}: {_form(result)}, {size(result.nbytes)}")
    interface.show(_table(result))
    interface.remark(_agreement(result))
    interface.remark(f"time: {result.seconds:.2f} s")
    interface.show_json(lambda: documents.export(result))


def _form(result: ExportResult) -> str:
    if result.format == "onnx":
        return f"ONNX, opset {result.opset}"
    if result.format == "pt2":
        return "torch.export program"
    return f"TorchScript, {'traced' if result.traced else 'compiled'}"


def _table(result: ExportResult) -> Rows:
    from alds_cli.cli.interface import table  # noqa: PLC0415

    made = table(None, "", "name", "type", "shape", left=4)
    for heading, ports in (("input", result.inputs), ("output", result.outputs)):
        for port in ports:
            made.add_row(heading, port.name, port.dtype, "×".join(map(str, port.shape)))
    return made


def _agreement(result: ExportResult) -> str:
    sizes = list(dict.fromkeys(result.checked))
    where = f" at batch size{'s' * (len(sizes) > 1)} {' and '.join(map(str, sizes))}"
    return f"verified: it agrees with the network to {result.difference:.1e}{where * bool(sizes)}"
