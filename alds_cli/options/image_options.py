"""Images to look at, to train on or to judge by, and how they become a network's input."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from alds_cli.options.bounds import MOST_THREADS, Whole
from alds_cli.options.declaring import IMAGES, Expanded, Option
from alds_cli.scalars import MOST_PIXELS

if TYPE_CHECKING:
    from alds_cli import LabelledImages, Preparation

DataField = Annotated[
    "str | LabelledImages",
    Option(
        help="tensors:FILE[,GLOB] (safetensors with images and labels), imagefolder:DIR or "
        "cifar10:DIR.",
        metavar="SPEC",
        given=str,
        python="Labelled images, or where they are: tensors:FILE[,GLOB] (safetensors with images "
        "and labels), imagefolder:DIR or cifar10:DIR.",
    ),
]
ClassesField = Annotated[
    Sequence[str] | str | Path | None,
    Option(
        help="Names of the class folders, one a line, in the order of the network's outputs. "
        "Without it, those of ImageNet and CIFAR are recognised.",
        metavar="FILE",
        given=str,
        python="The network's classes in order, by the names of the image folders; or a file with "
        "one of them a line. None recognises those of published data sets.",
    ),
]
DownloadField = Annotated[bool, Option(help="Fetch cifar10 if it is not there yet.")]
DeviceField = Annotated[
    str | None, Option(help="cpu, cuda or cuda:N; CUDA where present.", metavar="NAME")
]
WorkersField = Annotated[
    int,
    Option(help="Threads that decode image files.", metavar="N", bounds=Whole(0, MOST_THREADS)),
]


@dataclass(frozen=True, slots=True)
class PreprocessingFlags:
    """What the command line says of the way from an image to the input, value by value."""

    preprocess: Annotated[
        str | None,
        Option(
            help="imagenet, imagenet-stats, cifar10, cifar100, mnist, half or unit; "
            "without it, what the model says.",
            metavar="NAME",
            panel=IMAGES,
        ),
    ] = None
    mean: Annotated[
        str | None,
        Option(
            help="Mean of every channel, pixels counted from 0 to 1.",
            metavar="M,M,M",
            panel=IMAGES,
        ),
    ] = None
    std: Annotated[
        str | None,
        Option(help="Standard deviation of every channel.", metavar="S,S,S", panel=IMAGES),
    ] = None
    resize: Annotated[
        int | None,
        Option(
            help="Resize the shorter side to this; 0 leaves the size as it is.",
            metavar="PIXELS",
            bounds=Whole(0, MOST_PIXELS),
            panel=IMAGES,
        ),
    ] = None
    crop: Annotated[
        int | None,
        Option(
            help="Crop a central square of this size; 0 does not crop.",
            metavar="PIXELS",
            bounds=Whole(0, MOST_PIXELS),
            panel=IMAGES,
        ),
    ] = None


PreprocessingField = Annotated[
    "Preparation",
    Expanded(
        options=PreprocessingFlags,
        help="From an image to the input, or a function that changes what the model's file says; "
        "None is what that says.",
    ),
]
