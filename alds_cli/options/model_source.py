"""The model of a verb, and how to read its file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from alds_cli.options.declaring import READING, Option
from alds_cli.options.readers import arch_arguments, shape

if TYPE_CHECKING:
    from alds_cli import InputSpec, Model

ModelField = Annotated[
    "Model",
    Option(
        help="A PyTorch checkpoint, a safetensors file, a folder of transformers, a program of "
        "torch.export or an artefact; - reads standard input.",
        metavar="MODEL",
        given=str,
        positional=True,
        python="The network: a path, `-` for standard input, a module, or the network of an "
        "earlier result.",
    ),
]


@dataclass(frozen=True, slots=True)
class Source:
    """The options of reading a model file, if the file alone does not suffice.

    Attributes:
        arch: a name as `--arch` takes it.
        arch_args: arguments for the network's constructor.
        input_shape: the shape of one sample.
        input_spec: everything that the network takes, if it is not one tensor (see
            `alds_cli.inputs`).
        state_key: the entry of a training checkpoint that holds the weights.
        strip_prefix: one or several prefixes of the names in the file that the network's own
            names do not have.
        ignore: shell patterns of entries that are not used.
        allow_pickle: whether code in the file may run.
    """

    arch: Annotated[
        str | None,
        Option(
            help="The network: a torchvision name, cifar_resnet20 and its like, timm:NAME, "
            "transformers:CLASS, or package.module:factory. Without it, it is recognised.",
            values="architectures",
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
            read=arch_arguments,
        ),
    ] = ()
    input_shape: Annotated[
        tuple[int, ...] | None,
        Option(
            help="Shape of one input, if it is not the network's usual one.",
            metavar="C,H,W",
            panel=READING,
            given=str,
            read=shape,
        ),
    ] = None
    input_spec: Annotated[
        "str | InputSpec | None",
        Option(
            help="The inputs of the network, if they are not one image: "
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
            help="A prefix to remove from the names in the checkpoint, e.g. generator. Those of "
            "known wrappers are removed automatically. Repeatable.",
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
            help="Also load pickled Python code, which can do anything that you can; only for "
            "files you trust.",
            panel=READING,
            trusted=False,
        ),
    ] = False


AS_IT_IS = Source()
