"""`alds config`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from alds_cli.cli.verbs import declared_options, stated_now, verb
from alds_cli.options.config_options import ConfigOptions, ConfigReporting

if TYPE_CHECKING:
    from alds_cli.cli.stated_defaults import StatedDefaults
    from alds_cli.options.declaring import Declared
    from alds_cli.schemas.results import ConfigForm, SettingForm


@verb(ConfigOptions, ConfigReporting)
def command(options: ConfigOptions, reporting: ConfigReporting) -> None:
    """Show which defaults of options are in force, and where each comes from.

    [bold]alds config show evaluate[/] shows all options of that command. A default is stated by a
    variable ALDS_EVALUATE_MAX_DROP or ALDS_MAX_DROP, or by a key max-drop in the table
    [bold]tool.alds.evaluate[/] or [bold]tool.alds[/] of pyproject.toml, in this order.
    """
    import sys  # noqa: PLC0415 - only here

    from alds_cli.cli.interface import console  # noqa: PLC0415 - it imports Rich
    from alds_cli.cli.json_text import json_text  # noqa: PLC0415
    from alds_cli.errors import OptionError  # noqa: PLC0415

    known = declared_options()
    if options.command is not None and options.command not in known:
        raise OptionError(
            f"there is no command '{options.command}'", tip=f"choose from {', '.join(known)}"
        )
    found = stated_now()
    if found is not None:
        from alds_cli.cli.possible_values import require_possible  # noqa: PLC0415 - as above

        require_possible(found, [options.command] if options.command is not None else list(known))
    document = _document(found, options.command)
    if reporting.json:
        sys.stdout.write(json_text(document))
        return
    for part in _tables(document):
        console(sys.stdout).print(part, crop=False)


def _document(found: StatedDefaults | None, command: str | None) -> ConfigForm:
    """Return the settings of a command, or those of all that are stated."""
    from alds_cli.schemas.results import ConfigForm  # noqa: PLC0415 - it imports pydantic

    file = None if found is None or found.file is None else str(found.file)
    settings = [
        setting
        for name, declared in declared_options().items()
        for each in declared
        for setting in _settings(found, name, each)
        if name == command or (command is None and setting.source != "built-in")
    ]
    return ConfigForm(file=file, settings=settings)


def _settings(
    found: StatedDefaults | None, command: str, declared: Declared
) -> Iterator[SettingForm]:
    """Yield the setting of an option; arguments have none."""
    from alds_cli.cli.stated_defaults import is_settable, key_of  # noqa: PLC0415
    from alds_cli.options.declaring import MISSING  # noqa: PLC0415
    from alds_cli.schemas.results import SettingForm  # noqa: PLC0415 - it imports pydantic

    if not is_settable(declared):
        return
    stated = None if found is None else found.commands[command].get(declared.parameter)
    default = declared.command_default
    yield SettingForm(
        command=command,
        option=key_of(declared),
        value=(None if default is MISSING else default) if stated is None else stated.value,
        source="built-in" if stated is None else stated.source,
        name=None if stated is None else stated.name,
    )


def _tables(document: ConfigForm) -> Iterator[object]:
    """Yield a table of the settings, and what there is to say of them."""
    from alds_cli.cli.interface import line, table  # noqa: PLC0415 - it imports Rich

    if not document.settings:
        yield line("all defaults are built in")
        return
    made = table(None, "command", "option", "value", "from", left=4)
    for own in document.settings:
        made.add_row(own.command, own.option, _written(own.value), own.name or own.source)
    yield made
    if document.file is not None:
        yield line(f"tool.alds is in {document.file}")


def _written(value: object) -> str:
    """Return a value as a variable states it."""
    import shlex  # noqa: PLC0415 - only here

    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    return shlex.join(value) if isinstance(value, (list, tuple)) else str(value)
