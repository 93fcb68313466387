"""`alds profile`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from alds_cli.cli.verbs import verb
from alds_cli.options.declaring import arguments
from alds_cli.options.profile_options import ProfileOptions
from alds_cli.options.reporting_options import ComputingReporting

if TYPE_CHECKING:
    from alds_cli.cli.interface import Rows
    from alds_cli.profiling import ProfileResult


@verb(ProfileOptions, ComputingReporting)
def command(options: ProfileOptions, reporting: ComputingReporting) -> None:
    """Build the error tables of a network, and keep them for later compressions.

    A table holds the error of every choice, that is of every number of slices k and every
    rank j, for every layer. Later runs of [bold]alds compress[/] on the same weights use it.
    """
    from alds_cli import api  # noqa: PLC0415 - it imports torch
    from alds_cli.checkpoint.mapped_files import weights_in_files  # noqa: PLC0415
    from alds_cli.cli import documents  # noqa: PLC0415
    from alds_cli.cli.interface import Interface  # noqa: PLC0415
    from alds_cli.cli.streams import folder_beside, output_path  # noqa: PLC0415

    output = output_path(options.output)
    interface = Interface(reporting, binary_stdout=output != options.output)
    with interface.progress() as progress, weights_in_files(folder_beside(output)):
        result = api.profile(**arguments(replace(options, output=output, progress=progress)))
    interface.show(_table(result))
    origin = "computed" if result.computed else "found"
    kept = "not kept" if result.path is None else f"kept in {result.path}"
    interface.remark(f"{origin} in {sum(result.seconds.values()):.2f} s; {kept}")
    interface.show_json(lambda: documents.profile(result))


def _table(result: ProfileResult) -> Rows:
    """Return a row per layer: the bound on its relative error at some fractions of its size."""
    from alds_cli.allocation import layer_options  # noqa: PLC0415
    from alds_cli.cli.interface import table  # noqa: PLC0415

    shares = (0.75, 0.5, 0.25, 0.1)
    made = table(
        f"{result.network.name}: least proven error bound of a layer at a share of its weights",
        "layer",
        "weight",
        "slicings",
        *(f"{share:.0%}" for share in shares),
        left=2,
    )
    for name, spec in result.specs.items():
        shape = "×".join(map(str, spec.weight_shape))
        if spec.reason is not None:
            made.add_row(name, f"{shape}  ({spec.reason})")
            continue
        layer = result.table.layers[name]
        found = layer_options(layer, bound="sum")
        cells = []
        for share in shares:
            fitting = found.errors[found.costs[:, 0] <= share * spec.weight_params]
            cells.append(f"{min(fitting.min(), 1.0):.4f}" if len(fitting) else "–")
        made.add_row(name, shape, str(len(result.slicings(name))), *cells)
    return made
