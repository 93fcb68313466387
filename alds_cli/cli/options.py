"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from alds_cli.cli import numbers

if TYPE_CHECKING:
    from alds_cli.api import Preparation, Source
    from alds_cli.records import ArgumentValue

_READING = "Reading the model"
IMAGES = "Preparing images"
_OUTPUT = "Reporting"
_MOST_PIXELS = 8192

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A PyTorch checkpoint, a safetensors file or an artefact; - reads standard input.",
        show_default=False,
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The network: a torchvision name, cifar_resnet20 and its like, timm:NAME, or "
        "package.module:factory. Without it, it is recognised.",
        rich_help_panel=_READING,
        show_default=False,
    ),
]
ArchArg = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="An argument for the network's constructor, e.g. num_classes=37. Repeatable.",
        rich_help_panel=_READING,
        show_default=False,
    ),
]
InputShape = Annotated[
    str | None,
    typer.Option(
        metavar="C,H,W",
        help="Shape of one input, where it is not the network's usual one.",
        rich_help_panel=_READING,
        show_default=False,
    ),
]
InputSpec = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        help="What the network takes, where that is not one image: "
        "'ids:int64\\[1,128]<30522,mask:int64\\[1,128]' (arguments of forward by name, or without; "
        "types and shapes, <n for whole numbers below n; {…} a dictionary, \\[…] a list).",
        rich_help_panel=_READING,
        show_default=False,
    ),
]
StateKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="The entry of a training checkpoint that holds the weights, e.g. model_ema.",
        rich_help_panel=_READING,
        show_default=False,
    ),
]
StripPrefix = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PREFIX",
        help="What stands before the names in the checkpoint, e.g. generator. Wrappers that are "
        "known come off by themselves. Repeatable.",
        rich_help_panel=_READING,
        show_default=False,
    ),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        help="Entries of the checkpoint to leave out, e.g. 'ema.*'. Repeatable.",
        rich_help_panel=_READING,
        show_default=False,
    ),
]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle",
        help="Load pickled Python code too. It can do whatever you can: only for files you trust.",
        rich_help_panel=_READING,
    ),
]
Data = Annotated[
    str,
    typer.Option(
        metavar="SPEC",
        help="tensors:FILE[,GLOB] (safetensors with images and labels), imagefolder:DIR or "
        "cifar10:DIR.",
        show_default=False,
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Names of the class folders, one a line, in the order of the network's outputs. "
        "Without it, those of ImageNet and CIFAR are recognised.",
        show_default=False,
    ),
]
Download = Annotated[bool, typer.Option("--download", help="Fetch cifar10 if it is not there yet.")]
Preprocess = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="imagenet, imagenet-stats, cifar10, cifar100, mnist, half or unit; "
        "without it, what the model says.",
        rich_help_panel=IMAGES,
        show_default=False,
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        metavar="M,M,M",
        help="Mean of every channel, pixels counted from 0 to 1.",
        rich_help_panel=IMAGES,
        show_default=False,
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        metavar="S,S,S",
        help="Standard deviation of every channel.",
        rich_help_panel=IMAGES,
        show_default=False,
    ),
]
Resize = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS",
        help="Resize the shorter side to this; 0 leaves the size as it is.",
        parser=numbers.whole(0, _MOST_PIXELS),
        rich_help_panel=IMAGES,
        show_default=False,
    ),
]
Crop = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS",
        help="Crop a central square of this size; 0 does not crop.",
        parser=numbers.whole(0, _MOST_PIXELS),
        rich_help_panel=IMAGES,
        show_default=False,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="cpu, cuda or cuda:N; CUDA where present.", show_default=False
    ),
]
Workers = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Threads that decode image files.",
        parser=numbers.whole(0, numbers.MOST_THREADS),
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Threads to compute with; all cores without it.",
        parser=numbers.whole(1, numbers.MOST_THREADS),
        show_default=False,
        rich_help_panel=_OUTPUT,
    ),
]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Neither use nor keep error tables in the cache.")
]
Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print one JSON object instead of tables.", rich_help_panel=_OUTPUT
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="No progress and no notes, only errors.", rich_help_panel=_OUTPUT
    ),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Tell more on the way.", rich_help_panel=_OUTPUT),
]


def source_of(
    arch: str | None,
    arch_arg: list[str] | None,
    input_shape: str | None,
    input_spec: str | None,
    state_key: str | None,
    strip_prefix: list[str] | None,
    ignore: list[str] | None,
    allow_pickle: bool,
) -> Source:
    """The reading options as the library takes them.

    Raises:
        OptionError: the input shape is not a list of whole numbers.
    """
    from alds_cli.api import Source  # noqa: PLC0415 - it imports torch
    from alds_cli.errors import OptionError  # noqa: PLC0415

    shape: tuple[int, ...] | None = None
    if input_shape is not None:
        try:
            shape = tuple(int(extent) for extent in input_shape.split(","))
        except ValueError:
            shape = ()
        if not shape or any(extent < 1 for extent in shape):
            raise OptionError(
                f"an input shape is a list of whole numbers, not '{input_shape}'",
                tip="--input-shape 3,224,224",
            )
    return Source(
        arch,
        tuple(arch_arg or ()),
        shape,
        input_spec,
        state_key,
        tuple(strip_prefix or ()),
        tuple(ignore or ()),
        allow_pickle,
    )


def preprocessing_of(
    preset: str | None,
    mean: str | None,
    std: str | None,
    resize: int | None,
    crop: int | None,
) -> Preparation:
    """What the options make of the model's own preprocessing; None if none is given.

    The function raises OptionError where the options make no sense.
    """
    from alds_cli.datasets import parse_preprocessing  # noqa: PLC0415 - it imports torch

    if all(value is None for value in (preset, mean, std, resize, crop)):
        return None
    return lambda known: parse_preprocessing(preset, mean, std, resize, crop, fallback=known)


def method_arguments(listed: list[str] | None, **named: ArgumentValue) -> dict[str, ArgumentValue]:
    """A method's own arguments: those with options of their own, and the rest.

    Raises:
        OptionError: one is not of the form key=value, or is given twice.
    """
    from alds_cli.architectures.naming import parse_argument  # noqa: PLC0415 - it imports torch
    from alds_cli.errors import OptionError  # noqa: PLC0415

    found: dict[str, ArgumentValue] = {}
    found.update({key: value for key, value in named.items() if value is not None})
    for argument in listed or ():
        key, value = parse_argument(argument, "--method-arg")
        if key in found:
            raise OptionError(f"the method's argument {key} is given twice")
        found[key] = value
    return found
