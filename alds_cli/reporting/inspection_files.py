"""Looking into a model file and writing what was found as a page."""

from __future__ import annotations

from pathlib import Path

from alds_cli.checkpoint import replacing, require_apart, require_writable
from alds_cli.errors import ArchitectureError
from alds_cli.inspecting.inspection import Contents, Inspection, inspect
from alds_cli.options.inspect_options import InspectOptions
from alds_cli.reporting.html import compression_page
from alds_cli.runtime.environment import environment


def inspect_and_write(options: InspectOptions) -> Inspection:
    """Look into a model file, and write the files that were asked for.

    Raises:
        ArchitectureError: the network is not known.
        OutputError: a file cannot be written, or would replace the model.
        AldsError: the model cannot be read, or not be timed.
    """
    outputs = [Path(own) for own in (options.html,) if own is not None]
    for output in outputs:
        require_writable(output)
    model = options.model
    require_apart(outputs, [model] if isinstance(model, (str, Path)) and model != "-" else [])
    found = inspect(options)
    if isinstance(found, Contents):
        raise ArchitectureError(found.reason, tip=found.tip)
    if options.html is not None:
        with replacing(Path(options.html)) as temporary:
            temporary.write_bytes(compression_page(found, [], environment()))
    return found
