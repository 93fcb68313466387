"""`alds inspect`."""

from __future__ import annotations

import logging

from alds_cli.cli import options

logger = logging.getLogger(__name__)


def command(
    model: options.Model,
    arch: options.Arch = None,
    arch_arg: options.ArchArg = None,
    input_shape: options.InputShape = None,
    input_spec: options.InputSpec = None,
    state_key: options.StateKey = None,
    strip_prefix: options.StripPrefix = None,
    ignore: options.Ignore = None,
    allow_pickle: options.AllowPickle = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Show what is inside a model file, layer by layer, or name by name where it is not known."""
    from alds_cli import api  # noqa: PLC0415 - it imports torch
    from alds_cli.cli import documents, rendering  # noqa: PLC0415
    from alds_cli.cli.contents import contents_table  # noqa: PLC0415
    from alds_cli.cli.interface import Interface  # noqa: PLC0415

    interface = Interface(json_wanted=json, quiet=quiet, verbose=verbose)
    found = api.inspect(
        model,
        options.source_of(
            arch, arch_arg, input_shape, input_spec, state_key, strip_prefix, ignore, allow_pickle
        ),
    )
    if isinstance(found, api.Contents):
        logger.warning("%s", found.reason)
        if found.tip is not None:
            logger.warning("to see its layers, %s", found.tip)
        interface.show(contents_table(found))
        interface.show_json(documents.contents(found))
        return
    interface.show(rendering.inspection(found))
    interface.show_json(documents.inspection(found))
