"""Defaults of options that a project or the environment states.

An option has the value that the command line gives, or else that of the variable
`ALDS_<COMMAND>_<OPTION>` or `ALDS_<OPTION>`, or else that of a key in the table
`[tool.alds.<command>]` or `[tool.alds]` of the nearest `pyproject.toml` that has such a table, or
else its own. Values are written as on the command line.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from alds_cli.cli.truth import FALSE, TRUE
from alds_cli.cli.verbs import FILE, OTHERS, PREFIX
from alds_cli.errors import OptionError
from alds_cli.options.declaring import Declared, Option

_MOST_BYTES = 1 << 22

_ALIKE = 0.85
"""How alike a variable of no command has to be to an option's to be taken for a slip. Others may
belong to anybody."""

Commands = Mapping[str, Sequence[Declared]]
"""The options of every command, by the commands' names."""


@dataclass(frozen=True, slots=True)
class Stated:
    """A default that is stated somewhere.

    Attributes:
        value: as Typer takes it: a text, a truth value, or a list of texts.
        source: `environment` or `file`.
        name: the variable, or the key with its tables.
        place: where that is, for messages.
    """

    value: str | bool | list[str]
    source: Literal["environment", "file"]
    name: str
    place: str


@dataclass(frozen=True, slots=True)
class StatedDefaults:
    """All defaults that are stated.

    Attributes:
        file: the file that states some, if there is one.
        commands: the defaults of every command by the options' parameters.
    """

    file: Path | None
    commands: Mapping[str, Mapping[str, Stated]]

    def is_quiet(self, arguments: Sequence[str]) -> bool:
        """Return whether the command that the arguments name is quiet by default."""
        command = next((own for own in arguments if own in self.commands), "")
        stated = self.commands.get(command, {}).get("quiet")
        return stated is not None and stated.value is True


def stated_defaults(commands: Commands, environ: Mapping[str, str], folder: Path) -> StatedDefaults:
    """Return the defaults that the environment and the nearest file above a folder state.

    Raises:
        OptionError: a key or a variable names no option, or a value is none that its option takes.
    """
    file, table = _nearest(folder)
    found: dict[str, dict[str, Stated]] = {name: {} for name in commands}
    # From the weakest to the strongest: each replaces those before it.
    for own in (_of_file(commands, file, table), _of_environment(commands, environ)):
        for command, parameter, stated in own:
            found[command][parameter] = stated
    return StatedDefaults(file, found)


def key_of(declared: Declared) -> str:
    """Return the name of an option in a file: that of its flag."""
    return declared.parameter.replace("_", "-")


# ---------------------------------------------------------------- files


def _nearest(folder: Path) -> tuple[Path | None, Mapping[str, Any]]:
    """Return the nearest file above a folder that has a table for this program, and the table."""
    for place in (folder, *folder.parents):
        file = place / FILE
        if file.is_file():
            table = _table_in(file)
            if table is not None:
                return file, table
    return None, {}


def _table_in(file: Path) -> Mapping[str, Any] | None:
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise OptionError(f"{file} has more than {_MOST_BYTES:,} bytes")
        content = file.read_bytes()
    except OSError as error:
        raise OptionError(f"{file} cannot be read: {error.strerror}") from error
    if b"alds" not in content:
        return None
    import tomllib  # noqa: PLC0415 - most folders state nothing

    try:
        tools = tomllib.loads(content.decode("utf-8")).get("tool", {})
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{file} is no TOML: {error}") from error
    table = tools.get("alds") if isinstance(tools, dict) else None
    if table is not None and not isinstance(table, dict):
        raise OptionError(f"{file}: tool.alds is no table")
    return table


def _of_file(
    commands: Commands, file: Path | None, table: Mapping[str, Any]
) -> Iterator[tuple[str, str, Stated]]:
    """Yield a command, a parameter and its default for all keys, those of [tool.alds] first."""
    general = {key: value for key, value in table.items() if key not in commands}
    for key, value in general.items():
        where = f"[tool.alds] of {file}"
        if isinstance(value, dict):
            raise OptionError(
                f"there is no command '{key}' for [tool.alds.{key}] of {file}",
                tip=_meant(key, commands),
            )
        having = _having(commands, key)
        if not having:
            raise _unknown(key, where, _keys(commands))
        yield from _taken(having, partial(_of_key, value, f"tool.alds.{key}", key, where))
    for command in commands:
        inside = table.get(command, {})
        where = f"[tool.alds.{command}] of {file}"
        if not isinstance(inside, dict):
            raise OptionError(f"{command} in [tool.alds] of {file} is a command, and no table")
        known = {key_of(own): own for own in _settable(commands[command])}
        for key, value in inside.items():
            if key not in known:
                raise _unknown(key, where, known)
            make = partial(_of_key, value, f"tool.alds.{command}.{key}", key, where)
            yield from _taken([(command, known[key])], make)


def _of_key(value: Any, name: str, key: str, where: str, declared: Declared) -> Stated:
    place = f"{key} in {where}"
    if not _option(declared).trusted:
        raise OptionError(
            f"{place} would let a file decide what code may run",
            tip=f"{declared.flags[0]} on the command line, or {_variable(key)}=1",
        )
    return Stated(_read(declared, value, place), "file", name, place)


# ---------------------------------------------------------------- the environment


def _of_environment(
    commands: Commands, environ: Mapping[str, str]
) -> Iterator[tuple[str, str, Stated]]:
    """Yield a command, a parameter and its default for all variables, the general ones first."""
    own = sorted(name for name in environ if name.startswith(PREFIX) and name not in OTHERS)
    specific = {name: command for name in own if (command := _command_of(name, commands))}
    general = {_variable(key): key for key in _keys(commands) if _is_general(key, commands)}
    for name in own:
        if name in specific:
            continue
        if name not in general:
            near = difflib.get_close_matches(name, general, n=1, cutoff=_ALIKE)
            if near:
                raise OptionError(
                    f"the variable {name} stands for no option", tip=f"did you mean {near[0]}?"
                )
            continue
        having = _having(commands, general[name])
        yield from _taken(having, partial(_of_variable, environ[name], name))
    for name, command in specific.items():
        start = _variable(command) + "_"
        known = {_constant(key_of(each)): each for each in _settable(commands[command])}
        key = name.removeprefix(start)
        if key not in known:
            raise OptionError(
                f"the variable {name} stands for no option of {command}",
                tip=_meant(key, known, start) or f"alds {command} --help lists them",
            )
        yield from _taken([(command, known[key])], partial(_of_variable, environ[name], name))


def _of_variable(text: str, name: str, declared: Declared) -> Stated:
    place = f"the variable {name}"
    value: Any = text
    if declared.given is bool:
        value = _truth(text, place)
    elif declared.given == list[str]:
        value = _words(text, place)
    return Stated(_read(declared, value, place), "environment", name, place)


def _truth(text: str, place: str) -> bool:
    if text.lower() not in TRUE | FALSE:
        raise OptionError(f"{place} is 1 or 0, not '{text[:40]}'")
    return text.lower() in TRUE


def _words(text: str, place: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise OptionError(f"{place} is no list of words: {error}") from error


def _constant(key: str) -> str:
    return key.replace("-", "_").upper()


def _variable(key: str) -> str:
    return PREFIX + _constant(key)


def _command_of(name: str, commands: Iterable[str]) -> str | None:
    """Return the command with whose name a variable begins."""
    return next((own for own in commands if name.startswith(_variable(own) + "_")), None)


def _is_general(key: str, commands: Iterable[str]) -> bool:
    """Return whether a key's variable cannot be taken for another option of some command."""
    return _command_of(_variable(key), commands) is None


# ---------------------------------------------------------------- options and values


def _option(declared: Declared) -> Option:
    assert isinstance(declared.mark, Option)  # noqa: S101 - commands have no others
    return declared.mark


def is_settable(declared: Declared) -> bool:
    """Return whether a default can be stated: not of an argument of the command."""
    return not _option(declared).positional


def _settable(options: Sequence[Declared]) -> list[Declared]:
    return [own for own in options if is_settable(own)]


def _keys(commands: Commands) -> list[str]:
    return sorted({key_of(own) for options in commands.values() for own in _settable(options)})


def _having(commands: Commands, key: str) -> list[tuple[str, Declared]]:
    """Return the commands that have an option, and the option of each."""
    return [
        (command, own)
        for command, options in commands.items()
        for own in _settable(options)
        if key_of(own) == key
    ]


def _unknown(key: str, where: str, known: Iterable[str]) -> OptionError:
    return OptionError(f"there is no option '{key}' for {where}", tip=_meant(key, known))


def _meant(name: str, known: Iterable[str], start: str = "") -> str | None:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {start}{near[0]}?" if near else None


def _taken(
    having: Sequence[tuple[str, Declared]], make: Callable[[Declared], Stated]
) -> Iterator[tuple[str, str, Stated]]:
    """Yield a command, a parameter and its default for all commands that have an option.

    One at least takes the value. The others refuse it when they run: not all have the same names
    for values, or the same bounds.

    Args:
        having: the commands, each with its option.
        make: returns the default of an option.

    Raises:
        OptionError: none takes it.
    """
    refusals = []
    found = [(command, own, make(own)) for command, own in having]
    for _, own, stated in found:
        try:
            require_taken(own, stated)
        except OptionError as error:
            refusals.append(error)
    if len(refusals) == len(found):
        raise refusals[0]
    for command, own, stated in found:
        yield command, own.parameter, stated


def _read(declared: Declared, value: Any, place: str) -> str | bool | list[str]:
    """Return a value as Typer takes it.

    Raises:
        OptionError: it is of another type.
    """
    if declared.given is bool:
        if not isinstance(value, bool):
            raise OptionError(f"{place} is true or false, not {_shown(value)}")
        return value
    if declared.given == list[str]:
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise OptionError(f"{place} is a list of texts, not {_shown(value)}")
        return texts
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise OptionError(f"{place} is a text or a number, not {_shown(value)}")
    return str(value)


def require_taken(declared: Declared, stated: Stated) -> None:
    """Raise where an option does not take the default that is stated for it.

    Raises:
        OptionError: it does not.
    """
    given: Any = stated.value
    bounds = _option(declared).bounds
    try:
        if bounds is not None:
            given = bounds.read(given)
        if declared.given is not bool:
            declared.read(given)
    except ValueError as error:
        raise OptionError(f"{stated.place} is {error}") from None
    except OptionError as error:
        raise OptionError(f"{stated.place}: {error.message}", tip=error.tip) from None


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "a table" if isinstance(value, dict) else "a list"
    return f"'{value}'" if isinstance(value, str) else str(value).lower()[:40]
