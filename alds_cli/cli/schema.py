"""`alds schema`."""

from __future__ import annotations

from alds_cli.cli.verbs import verb
from alds_cli.options.reporting_options import NoReporting
from alds_cli.options.schema_options import SchemaOptions


@verb(SchemaOptions, NoReporting)
def command(options: SchemaOptions, _: NoReporting) -> None:
    """Print the JSON Schema of a document that `alds` reads, writes or prints.

    [bold]alds schema compress[/] describes what [bold]alds compress --json[/] prints.
    """
    import json  # noqa: PLC0415 - only here
    import sys  # noqa: PLC0415

    from alds_cli.errors import OptionError  # noqa: PLC0415
    from alds_cli.schemas.published import PUBLISHED  # noqa: PLC0415 - it imports pydantic

    name = options.name
    if name is None:
        width = max(map(len, PUBLISHED))
        lines = [f"{known:<{width}}  {document.what}\n" for known, document in PUBLISHED.items()]
        sys.stdout.write("".join(lines))
        return
    if name not in PUBLISHED:
        raise OptionError(
            f"there is no document '{name}'", tip=f"choose from {', '.join(PUBLISHED)}"
        )
    schema = PUBLISHED[name].json_schema()
    sys.stdout.write(json.dumps(schema, indent=2, ensure_ascii=False) + "\n")
