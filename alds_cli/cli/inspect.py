"""`alds inspect`."""

from __future__ import annotations

from alds_cli.cli import options


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
    """Show what is inside a model file, layer by layer."""
    from alds_cli import api  # noqa: PLC0415 - it imports torch
    from alds_cli.cli import documents, rendering  # noqa: PLC0415
    from alds_cli.cli.interface import Interface  # noqa: PLC0415

    interface = Interface(json_wanted=json, quiet=quiet, verbose=verbose)
    found = api.inspect(
        model,
        options.source_of(
            arch, arch_arg, input_shape, input_spec, state_key, strip_prefix, ignore, allow_pickle
        ),
    )
    interface.show(rendering.inspection(found))
    interface.show_json(documents.inspection(found))
