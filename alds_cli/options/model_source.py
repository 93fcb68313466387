"""The model of a verb, and how to read its file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from alds_cli.options.declaring import READING, Option
from alds_cli.options.parsing import shape

if TYPE_CHECKING:
    from alds_cli import InputSpec, Model

ModelField = Annotated[
    "Model",
    Option(
        help="A PyTorch checkpoint, a safetensors file or an artefact; - reads standard input.",
        metavar="MODEL",
        given=str,
        positional=True,
        python="The network: a path, `-` for standard input, a module, or the network of an "
        "earlier result.",
    ),
]


@dataclass(frozen=True, slots=True)
class Source:
    """How to read a model file, where that is not plain.

    `arch` is a name as `--arch` takes it, with `arch_args` for its constructor;
    `input_shape` that of one sample, `input_spec` all that it takes (see
    `alds_cli.inputs`), where it is more than that; `state_key` the entry of a training
    checkpoint; `strip_prefix` what stands before the names in it that a network's own have
    not, one or several; `ignore` shell patterns of entries that are not used;
    `allow_pickle` permits code in the file to run.
    """

    arch: Annotated[
        str | None,
        Option(
            help="The network: a torchvision name, cifar_resnet20 and its like, timm:NAME, or "
            "package.module:factory. Without it, it is recognised.",
            metavar="NAME",
            panel=READING,
        ),
    ] = None
    arch_args: Annotated[
        Mapping[str, str | int | float | bool | None] | Sequence[str],
        Option(
            help="An argument for the network's constructor, e.g. num_classes=37. Repeatable.",
            metavar="KEY=VALUE",
            flags=("--arch-arg",),
            panel=READING,
            given=list[str],
            read=tuple,
        ),
    ] = ()
    input_shape: Annotated[
        tuple[int, ...] | None,
        Option(
            help="Shape of one input, where it is not the network's usual one.",
            metavar="C,H,W",
            panel=READING,
            given=str,
            read=shape,
        ),
    ] = None
    input_spec: Annotated[
        "str | InputSpec | None",
        Option(
            help="What the network takes, where that is not one image: "
            "'ids:int64\\[1,128]<30522,mask:int64\\[1,128]' (arguments of forward by name, or "
            "without; types and shapes, <n for whole numbers below n; {…} a dictionary, \\[…] a "
            "list).",
            metavar="SPEC",
            panel=READING,
            given=str,
        ),
    ] = None
    state_key: Annotated[
        str | None,
        Option(
            help="The entry of a training checkpoint that holds the weights, e.g. model_ema.",
            metavar="KEY",
            panel=READING,
        ),
    ] = None
    strip_prefix: Annotated[
        str | Sequence[str],
        Option(
            help="What stands before the names in the checkpoint, e.g. generator. Wrappers that "
            "are known come off by themselves. Repeatable.",
            metavar="PREFIX",
            panel=READING,
            given=list[str],
            read=tuple,
        ),
    ] = ()
    ignore: Annotated[
        str | Sequence[str],
        Option(
            help="Entries of the checkpoint to leave out, e.g. 'ema.*'. Repeatable.",
            metavar="PATTERN",
            panel=READING,
            given=list[str],
            read=tuple,
        ),
    ] = ()
    allow_pickle: Annotated[
        bool,
        Option(
            help="Load pickled Python code too. It can do whatever you can: only for files you "
            "trust.",
            panel=READING,
        ),
    ] = False


AS_IT_IS = Source()
