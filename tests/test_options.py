"""Options are defined once: the commands, Python and the page of reference say the same of them."""

import dataclasses
import inspect
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

import pytest
import typer
from typer.testing import CliRunner

import alds_cli
from alds_cli import text
from alds_cli.cli import manual, reference, verbs
from alds_cli.cli.verbs import verb
from alds_cli.errors import OptionError
from alds_cli.options import readers
from alds_cli.options.compress_options import CompressOptions
from alds_cli.options.declaring import (
    PANELS,
    PLANNING,
    Keyword,
    Option,
    arguments,
    asked,
    declared,
    parameters,
)
from alds_cli.options.keywords import takes_fields, takes_several
from alds_cli.options.model_source import Source
from alds_cli.options.reporting_options import Reporting
from alds_cli.options.sweep_options import SweepOptions
from alds_cli.text import Real, Whole

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "cli.md"

COMMANDS = {own.name: own.callback for own in verbs.program().registered_commands}

FUNCTIONS = [
    "compare",
    "compress",
    "evaluate",
    "export",
    "inspect",
    "iterate",
    "profile",
    "report",
    "retrain",
    "sweep",
    "train",
]

each_command = pytest.mark.parametrize("name", COMMANDS)
each_function = pytest.mark.parametrize("name", FUNCTIONS)


# ---------------------------------------------------------------- one more option, in one place


@dataclass(frozen=True, slots=True)
class MoreOptions(CompressOptions):
    """The options of `compress`, and one more."""

    least_rank: Annotated[
        int, Option(help="Choose no rank below this.", metavar="N", bounds=Whole(1, 9))
    ] = dataclasses.field(default=2, kw_only=True)


def test_a_field_is_an_option_of_the_command():
    found = []

    @verb(MoreOptions, Reporting)
    def command(options, reporting):
        """Do nothing."""
        found.append((options, reporting))

    app = typer.Typer()
    app.command()(command)
    run = CliRunner()
    assert run.invoke(app, ["m.pt", "--least-rank", "3", "-q"]).exit_code == 0
    assert run.invoke(app, ["m.pt"]).exit_code == 0
    assert [(own.least_rank, own.model, said.quiet) for own, said in found] == [
        (3, "m.pt", True),
        (2, "m.pt", False),
    ]
    refused = run.invoke(app, ["m.pt", "--least-rank", "10"])
    assert refused.exit_code == 2
    assert "a whole number from 1 to 9" in " ".join(refused.output.split())
    page = run.invoke(app, ["--help"], env={"COLUMNS": "120"}).output
    assert re.search(r"--least-rank +N +Choose no rank below this\. \[default: 2\]", page)


def test_a_field_is_an_argument_in_python():
    @takes_fields(MoreOptions)
    def chosen(options):
        """Say what was chosen.

        Raises:
            OptionError: never.
        """
        return options.least_rank

    assert (chosen("m.pt"), chosen("m.pt", least_rank=7)) == (2, 7)
    assert inspect.signature(chosen).parameters["least_rank"].default == 2
    text = inspect.getdoc(chosen)
    assert "    least_rank: Choose no rank below this.\n" in text
    assert text.index("Say what") < text.index("Args:") < text.index("Raises:")


# ---------------------------------------------------------------- what is said of options


@pytest.mark.parametrize(
    ("made", "command"),
    [
        (reference.reference, "python -m alds_cli.cli.reference > docs/cli.md"),
        (manual.manual, "python -m alds_cli.cli.manual > docs/alds.1"),
    ],
)
def test_a_page_of_reference_is_what_would_be_written_now(made, command):
    page = ROOT / command.split()[-1]
    assert made() == page.read_text(encoding="utf-8"), command


@each_command
def test_every_option_is_on_the_page_and_says_what_it_does(name):
    section = PAGE.read_text(encoding="utf-8").partition(f"## alds {name}\n")[2]
    section = section.partition("\n## ")[0]
    for own in COMMANDS[name].declared:
        assert own.mark.help, own.name
        assert own.mark.help[-1] in ".…", own.name
        assert own.mark.panel in PANELS
        for flag in () if own.mark.positional else own.flags:
            assert f"`{flag}`" in section, flag


@each_command
def test_flags_have_no_placeholder_on_the_page_of_help(name):
    flags = [own.flags[0].partition("/")[0] for own in COMMANDS[name].declared if own.given is bool]
    page = CliRunner().invoke(verbs.program(), [name, "--help"], env={"COLUMNS": "200"}).output
    rows = {found[1]: found[2] for found in re.finditer(r"(--[a-z5-]+)(.*)", page)}
    assert not [flag for flag in flags if "<" in rows[flag]]


@each_command
def test_no_two_options_of_a_command_have_one_name(name):
    flags = [
        flag for own in COMMANDS[name].declared if not own.mark.positional for flag in own.flags
    ]
    assert len(set(flags)) == len(flags)


@each_function
def test_python_takes_what_the_command_takes(name):
    """By the fields' names; those that only the command or only Python has are marked so."""
    signature = inspect.signature(getattr(alds_cli, name))
    options = COMMANDS[name].options
    fields = declared(options)
    assert list(signature.parameters) == [own.name for own in fields]
    for own in fields:
        found = signature.parameters[own.name]
        assert found.default in (own.default, inspect.Parameter.empty)
        assert (found.kind is found.KEYWORD_ONLY) == (not own.positional)
        assert f"    {own.name}: " in inspect.getdoc(getattr(alds_cli, name))
    only_python = {own.name for own in fields if isinstance(own.mark, Keyword)}
    assert only_python <= {"progress", "watcher", "baseline_source"}


@each_function
def test_arguments_that_there_are_none_of(name):
    function = getattr(alds_cli, name)
    needed = [
        "x"
        for own in inspect.signature(function).parameters.values()
        if own.default is own.empty and own.kind is not own.KEYWORD_ONLY
    ]
    with pytest.raises(TypeError, match=rf"{name}\(\) has no argument 'nothing_like_it'"):
        function(*needed, nothing_like_it=1)
    with pytest.raises(TypeError, match=rf"{name}\(\): missing a required argument"):
        function()


def test_slips_are_told_with_what_was_meant():
    with pytest.raises(TypeError, match="did you mean 'ratio'"):
        alds_cli.compress("m.pt", ratoi=0.5)
    with pytest.raises(TypeError, match="did you mean 'ratios'"):
        alds_cli.compress_family("m.pt", ratio=0.5)
    with pytest.raises(OptionError, match="several ratios") as caught:
        alds_cli.compress("m.pt", ratio=[0.2, 0.4])
    assert "compress_family" in caught.value.tip


def test_a_field_in_the_plural():
    @takes_several(CompressOptions, "ratio")
    def ratios(options):
        """Say which."""
        return options.ratio

    assert ratios("m.pt", ratios=[0.2, 0.4]) == [0.2, 0.4]
    assert "ratio" not in inspect.signature(ratios).parameters
    with pytest.raises(TypeError, match="missing a required argument: 'ratios'"):
        ratios("m.pt")


def test_options_import_nothing_that_takes_long():
    names = [f"alds_cli.options.{path.stem}" for path in _modules() if path.stem != "__init__"]
    code = (
        f"import sys, {', '.join(names)}, alds_cli.api\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'scipy', 'typer', 'rich', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _modules():
    return sorted((Path(alds_cli.__file__).parent / "options").glob("*.py"))


# ---------------------------------------------------------------- from the command line to values


def usual(options, **given):
    """What a command hands over where nothing but this is given."""
    defaults = {own.parameter: own.command_default for own in parameters(options)}
    return {**defaults, **given}


def test_defaults_of_the_command_are_those_of_python():
    options = asked(CompressOptions, usual(CompressOptions, model="m.pt"))
    expected = CompressOptions("m.pt")
    for own in declared(CompressOptions):
        if own.name not in {"preprocessing", "method_args"}:  # made by the command of several
            assert getattr(options, own.name) == getattr(expected, own.name), own.name


def test_several_options_make_a_value():
    given = usual(
        SweepOptions, model="m.pt", data="d", methods="alds, svd,", output=Path("o"),
        retrain_epochs="0,3", warmup_epochs=2.0, milestones="0.4", arch="resnet18",
        arch_arg=["a=1"], input_shape="3,8,8", ratios="0.2,1/3",
    )  # fmt: skip
    options = asked(SweepOptions, given)
    assert (options.methods, options.retrain_epochs) == (["alds", "svd"], [0, 3])
    assert options.ratios == ["0.2", "1/3"]
    assert options.source == Source("resnet18", ("a=1",), (3, 8, 8))
    settings = options.retraining
    assert (settings.epochs, settings.warmup_epochs, settings.milestones) == (3, 2.0, (0.4,))
    with pytest.raises(OptionError, match="warm-up"):
        asked(SweepOptions, {**given, "retrain_epochs": "1"})


def test_flags_that_turn_off():
    assert asked(CompressOptions, usual(CompressOptions, model="m", no_cache=True)).cache is False


def test_an_options_object_can_be_called_with_again():
    options = CompressOptions("m.pt", Source("resnet18"), ratio=0.5, exclude=("fc",))
    assert CompressOptions(**arguments(options)) == options


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Whole(1, 9), " 9 ", 9),
        (Whole(0, text.MOST_SEED), str(text.MOST_SEED), text.MOST_SEED),
        (Real(0, 1), "1", 1.0),
        (Real(0, 1, above=True), "1e-3", 0.001),
        (Real(0, 1, below=True), "0", 0.0),
    ],
)
def test_numbers_within_their_bounds(kind, text, value):
    assert kind.read(text) == value


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (Whole(1, 1000), "0", "a whole number from 1 to 1,000, not '0'"),
        (Whole(1, 9), "1.0", "a whole number from 1 to 9, not '1.0'"),
        (Real(0, 1, above=True), "0", "a number above 0, at most 1, not '0'"),
        (Real(0, 1, below=True), "1", "a number from 0 to below 1, not '1'"),
        (Real(0, 5), "nan", "a number from 0 to 5, not 'nan'"),
    ],
)
def test_numbers_out_of_their_bounds(kind, text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kind.read(text)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (readers.shape, "3,x"),
        (readers.shape, "3,0"),
        (readers.parse_milestones, "half"),
        (readers.listed(Whole(0, 9).read, "--epochs 0,1"), "1,10"),
    ],
)
def test_texts_that_are_no_lists(read, text):
    with pytest.raises(OptionError) as caught:
        read(text)
    assert caught.value.tip


def test_fields_that_do_not_say_what_they_are():
    @dataclass
    class Silent:
        plain: int = 0

    with pytest.raises(TypeError, match="does not say what it is"):
        parameters(Silent)


def test_panels_are_in_one_order():
    for callback in COMMANDS.values():
        order = [PANELS.index(own.mark.panel) for own in callback.declared]
        assert order == sorted(order)
    assert PLANNING in PANELS


def test_types_of_the_public_names_are_public():
    """What annotations name as text can be had from the package."""
    for name in FUNCTIONS:
        for own in declared(COMMANDS[name].options):
            if isinstance(own.kind, str):
                named = set(re.findall(r"\b[A-Z]\w+", own.kind)) - {"None", "Path"}
                assert named <= set(alds_cli.__all__), own.kind
            else:
                assert own.kind in {bool, int, float, str} or get_args(own.kind) or own.name
