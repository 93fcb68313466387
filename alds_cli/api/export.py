"""Write networks in forms that run elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alds_cli.options.export_options import ExportOptions
from alds_cli.options.keywords import takes_fields

if TYPE_CHECKING:
    from alds_cli.exporting.export_session import ExportResult


@takes_fields(ExportOptions)
def export(options: ExportOptions) -> ExportResult:
    """Write a network as ONNX, as a program of `torch.export` or as TorchScript.

    The file takes its name only after it has been run beside the network on random inputs, and
    agrees to 1e-4, relative to the largest number of each output.

    Raises:
        OptionError: options make no sense, or what the network takes is not known.
        ExportError: the network cannot be written in this form, or not for any batch size.
        VerificationError: what was exported computes something else.
        MissingExtraError: a package that ONNX files take is not installed.
        AldsError: the model cannot be read, or the file not be written.
    """
    from alds_cli.exporting import export_session  # noqa: PLC0415 - it imports torch

    return export_session.export(options)
