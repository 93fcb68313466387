"""Images for calibration, training and evaluation, and how they become a network's input."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from alds_cli.forms import MOST_PIXELS
from alds_cli.options.choices import DEVICES, INTERPOLATIONS, PREPROCESSINGS
from alds_cli.options.declaring import IMAGES, Expanded, Option
from alds_cli.options.readers import checked, parse_channels
from alds_cli.text import MOST_SAMPLES, MOST_THREADS, Whole

if TYPE_CHECKING:
    from alds_cli import LabelledImages, Preparation, TokenBlocks

MOST_BLOCK = 1 << 20
"""The most tokens in a block of text."""

DataField = Annotated[
    "str | LabelledImages",
    Option(
        help="tensors:FILE[,GLOB] (safetensors with images and labels), imagefolder:DIR, "
        "cifar10:DIR, cifar100:DIR, imagenet:DIR, voc2012:DIR, webdataset:SHARDS, or "
        "package.module:factory (your own data set).",
        metavar="SPEC",
        given=str,
        python="Labelled images, or where they are: tensors:FILE[,GLOB] (safetensors with images "
        "and labels), imagefolder:DIR, cifar10:DIR, cifar100:DIR, imagenet:DIR, "
        "voc2012:DIR, webdataset:SHARDS, or package.module:factory.",
    ),
]
SampleField = Annotated[
    "str | LabelledImages | TokenBlocks",
    Option(
        help="Images: tensors:FILE[,GLOB] (safetensors with images and labels), imagefolder:DIR, "
        "cifar10:DIR, cifar100:DIR, imagenet:DIR, voc2012:DIR, webdataset:SHARDS, or "
        "package.module:factory (your own data set). Or text: text:FILE (in blocks), lines:FILE, "
        "tensors:FILE with input_ids.",
        metavar="SPEC",
        given=str,
        python="Labelled images or texts, or where they are, as on the command line.",
    ),
]
CalibrationField = Annotated[
    "str | LabelledImages | TokenBlocks | None",
    Option(
        help="Training images, with labels, masks or neither, for methods that look at what "
        "the network does with them (auto, alds-data, alds-fisher, balf, pca, pfp), for "
        "tuning, and for --max-drop: tensors:FILE[,GLOB], imagefolder:DIR, cifar10:DIR, "
        "cifar100:DIR, imagenet:DIR, voc2012:DIR, webdataset:SHARDS, or package.module:factory "
        "(your own data set). Or text: text:FILE (in blocks), lines:FILE, or tensors:FILE with "
        "input_ids.",
        metavar="SPEC",
        panel=IMAGES,
        given=str,
    ),
]
TokenizerField = Annotated[
    str | Path | None,
    Option(
        help="How text becomes tokens: a tokenizer.json, or a folder with one. Without it, the one "
        "beside the model.",
        metavar="FILE",
        given=str,
    ),
]
BlockLengthField = Annotated[
    int | None,
    Option(
        help="Tokens in a block of text. Without it, as many as the model's input has.",
        metavar="N",
        bounds=Whole(1, MOST_BLOCK),
    ),
]
ClassesField = Annotated[
    Sequence[str] | str | Path | None,
    Option(
        help="File with the names of the class folders, one a line, in the order of the network's "
        "outputs. Without it, those of ImageNet and CIFAR are recognised.",
        metavar="FILE",
        given=str,
        python="The names of the class folders in the order of the network's outputs, or a file "
        "with one name a line. None recognises the classes of published data sets.",
    ),
]
DownloadField = Annotated[bool, Option(help="Fetch cifar10 or cifar100 if it is not there yet.")]
DeviceField = Annotated[
    str | None,
    Option(
        help="cpu, cuda or cuda:N; CUDA where available.",
        values=DEVICES,
        others=True,
        metavar="NAME",
    ),
]
BatchSizeField = Annotated[
    int, Option(help="Images in a forward pass.", metavar="N", bounds=Whole(1, MOST_SAMPLES))
]
LatencyBatchSizeField = Annotated[
    int, Option(help="Images in a timed forward pass.", metavar="N", bounds=Whole(1, MOST_SAMPLES))
]
WorkersField = Annotated[
    int,
    Option(help="Threads that decode image files.", metavar="N", bounds=Whole(0, MOST_THREADS)),
]


@dataclass(frozen=True, slots=True)
class PreprocessingFlags:
    """The steps from an image to the network's input, as the command line gives them."""

    preprocess: Annotated[
        str | None,
        Option(
            help="imagenet, imagenet-stats, cifar10, cifar100, voc2012, mnist, half or unit; "
            "without it, what the model's file states.",
            values=PREPROCESSINGS,
            metavar="NAME",
            panel=IMAGES,
        ),
    ] = None
    mean: Annotated[
        str | None,
        Option(
            help="Mean of every channel, for pixels from 0 to 1.",
            metavar="M,M,M",
            panel=IMAGES,
            read=checked(partial(parse_channels, option="mean")),
        ),
    ] = None
    std: Annotated[
        str | None,
        Option(
            help="Standard deviation of every channel.",
            metavar="S,S,S",
            panel=IMAGES,
            read=checked(partial(parse_channels, option="std", positive=True)),
        ),
    ] = None
    resize: Annotated[
        int | None,
        Option(
            help="Resize the shorter side to this many pixels; 0 leaves the size as it is.",
            metavar="PIXELS",
            bounds=Whole(0, MOST_PIXELS),
            panel=IMAGES,
        ),
    ] = None
    crop: Annotated[
        int | None,
        Option(
            help="Crop a central square with sides of this many pixels; 0 does not crop.",
            metavar="PIXELS",
            bounds=Whole(0, MOST_PIXELS),
            panel=IMAGES,
        ),
    ] = None
    stretch: Annotated[
        bool,
        Option(help="Resize both sides to --resize pixels, not the shorter one.", panel=IMAGES),
    ] = False
    interpolation: Annotated[
        str | None,
        Option(
            help="Resize images by bilinear (the default, if the model's file states no other) or "
            "bicubic interpolation.",
            values=INTERPOLATIONS,
            metavar="NAME",
            panel=IMAGES,
        ),
    ] = None


PreprocessingField = Annotated[
    "Preparation",
    Expanded(
        options=PreprocessingFlags,
        help="How an image becomes the input, or a function that changes what the model's file "
        "states; None takes that as it is.",
    ),
]
