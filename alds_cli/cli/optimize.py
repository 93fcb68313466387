"""`alds optimize`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from alds_cli.cli.verbs import verb
from alds_cli.options.declaring import arguments
from alds_cli.options.optimize_options import OptimizeOptions
from alds_cli.options.reporting_options import ComputingReporting

if TYPE_CHECKING:
    from alds_cli.cli.interface import Rows
    from alds_cli.optimising import OptimizeResult


@verb(OptimizeOptions, ComputingReporting)
def command(options: OptimizeOptions, reporting: ComputingReporting) -> None:
    """Write a network in the form in which it gives the same answers fastest.

    Normalisations are folded into convolutions, weights lie channels-last and as the
    processor takes them, and groups of pairs run together, where measuring shows that it
    helps on this device. The file still holds the plain network, with a list of the changes
    that loading it makes.
    """
    from alds_cli import api  # noqa: PLC0415 - it imports torch
    from alds_cli.cli import documents, rendering  # noqa: PLC0415
    from alds_cli.cli.interface import Interface  # noqa: PLC0415
    from alds_cli.cli.streams import output_name  # noqa: PLC0415

    output = str(output_name(options.output))
    interface = Interface(reporting, binary_stdout=output == "-")
    with interface.progress() as progress:
        result = api.optimize(**arguments(replace(options, output=output, progress=progress)))
    interface.show(_table(result))
    if multiplied := len(result.found.inference.multiplied):
        pairs = f"{multiplied} of {len(result.network.plan.decomposed)} pairs"
        interface.remark(
            f"{pairs} take longer here than the layers they stand for, and run as these"
        )
    source = rendering.place(str(options.model), "input")
    interface.remark(
        f"{source} → {rendering.place(output, 'output')} in {result.seconds:.1f} s; the same "
        f"answers but for {result.difference:.1e} in float64"
    )
    interface.show_json(lambda: documents.optimization(result))


def _table(result: OptimizeResult) -> Rows:
    from alds_cli.cli.interface import table  # noqa: PLC0415

    form, found = result.found.inference, result.found
    made = table(f"{result.network.name} on {result.device}", "what", "how much", left=1)
    made.add_row("normalisations folded", str(len(form.folded)))
    made.add_row("weights channels-last", "yes" if form.channels_last else "no")
    made.add_row("weights packed", "yes" if form.packed else "no")
    made.add_row("pairs with groups merged", str(len(form.merged)))
    made.add_row("pairs with ranks padded", str(len(form.padded)))
    made.add_row("pairs run as one layer", str(len(form.multiplied)))
    made.add_row("before", f"{found.before.median_ms:.2f} ms")
    made.add_row("after", f"{found.after.median_ms:.2f} ms")
    made.add_row("time saved", f"{100 * found.saved:.1f} %")
    return made
