"""The hyperparameters of a training."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from alds_cli.forms import MOST_EPOCHS, Finite, Positive, Term
from alds_cli.options.declaring import TRAINING, Option
from alds_cli.options.readers import LEAST_ALPHA, MOST_ALPHA, is_mixing, parse_mixing
from alds_cli.options.step_options import AugmentationName, StepSettings, named
from alds_cli.text import Real, Whole

__all__ = ["AugmentationName", "DecayName", "PrecisionName", "RetrainSettings"]

PrecisionName = Literal["float32", "bfloat16", "float16"]
"""The types that most of a network may compute in, while its weights stay in float32."""

DecayName = Literal["halves", "product"]
"""What weight decay shrinks of a pair."""

_MOST_TEMPERATURE = 1000


@dataclass(frozen=True, slots=True)
class RetrainSettings(StepSettings):
    """The hyperparameters of one training run.

    Attributes:
        mixup: α of the Beta(α, α) from which the share of a batch's images is drawn that is mixed
            with their neighbours' (Zhang et al. 2018); 0 mixes none.
        cutmix: the same for boxes pasted from the neighbours (Yun et al. 2019). With both, every
            batch has one of the two, with equal chances.
        temperature: divides the logits of network and teacher (Hinton et al. 2015).
        label_weight: share of the loss on labels, where there is a teacher, in [0, 1].
        ema: share of the old moving average of the weights in the new one after every step, in
            [0, 1). The average is what the training results in; None takes the last weights.
        precision: a `PrecisionName`; float16 needs CUDA.
        held_back: share of the images on which the network is judged after every epoch, drawn by
            the seed and not trained on, in [0, 1). What judged best is what the training results
            in.
        patience: epochs without a smaller loss on the images that judge after which the training
            ends; None makes all epochs.
        pair_decay: a `DecayName`: what of a pair is decayed.
        compile: whether PyTorch's compiler makes the steps faster, after minutes of its work.
    """

    mixup: Annotated[
        Finite,
        Option(
            help="Mix each image with another of the batch, by shares from Beta(X, X).",
            metavar="X",
            bounds=Real(0, MOST_ALPHA),
            read=parse_mixing,
            panel=TRAINING,
        ),
    ] = 0.0
    cutmix: Annotated[
        Finite,
        Option(
            help="Paste a box of another image of the batch into each, by shares from Beta(X, X); "
            "with --mixup, every batch has one of the two.",
            metavar="X",
            bounds=Real(0, MOST_ALPHA),
            read=parse_mixing,
            panel=TRAINING,
        ),
    ] = 0.0
    temperature: Annotated[
        Finite,
        Option(
            help="Divides the logits of the network and of its teacher.",
            metavar="T",
            bounds=Real(0, _MOST_TEMPERATURE, above=True),
            panel=TRAINING,
        ),
    ] = 2.0
    label_weight: Annotated[
        Finite,
        Option(
            help="Share of the loss on labels where there is a teacher; with 0 none are needed.",
            metavar="X",
            bounds=Real(0, 1),
            panel=TRAINING,
        ),
    ] = 0.0
    ema: Annotated[
        Finite | None,
        Option(
            help="Write the moving average of the weights, of which every step keeps this share, "
            "e.g. 0.999.",
            metavar="X",
            bounds=Real(0, 1, below=True),
            panel=TRAINING,
            given=float,
        ),
    ] = None
    precision: Annotated[
        Term,
        Option(
            help="float32, or bfloat16 or float16 for most operations on a GPU.",
            values=get_args(PrecisionName),
            metavar="NAME",
            panel=TRAINING,
        ),
    ] = "float32"

    held_back: Annotated[
        Finite,
        Option(
            help="Share of the images that judge after every epoch instead of being trained on, "
            "e.g. 0.05; what judged best is written.",
            metavar="X",
            bounds=Real(0, 1, below=True),
            panel=TRAINING,
        ),
    ] = 0.0
    patience: Annotated[
        Positive | None,
        Option(
            help="End after so many epochs without a smaller loss on the images that judge.",
            metavar="N",
            bounds=Whole(1, MOST_EPOCHS),
            panel=TRAINING,
            given=int,
        ),
    ] = None

    pair_decay: Annotated[
        Term,
        Option(
            help="What --weight-decay shrinks of a pair: halves, each by itself, or their product.",
            values=get_args(DecayName),
            metavar="NAME",
            panel=TRAINING,
        ),
    ] = "halves"

    compile: Annotated[
        bool,
        Option(
            help="Let PyTorch's compiler make steps faster, which takes minutes at first; for long "
            "trainings on a GPU.",
            panel=TRAINING,
        ),
    ] = False

    def _loop(self) -> Iterator[tuple[bool, str]]:
        """Yield the rules of these fields, each with what is wrong where it is broken."""
        for name, alpha in (("mixup", self.mixup), ("cutmix", self.cutmix)):
            yield (
                is_mixing(alpha),
                f"{name} {alpha} is neither 0 nor in [{LEAST_ALPHA}, {MOST_ALPHA}]",
            )
        yield (
            0 < self.temperature <= _MOST_TEMPERATURE,
            f"temperature {self.temperature} is not in (0, {_MOST_TEMPERATURE}]",
        )
        yield 0 <= self.label_weight <= 1, f"label weight {self.label_weight} is not in [0, 1]"
        kept = 0 if self.ema is None else self.ema
        yield 0 <= kept < 1, f"ema {kept} is not in [0, 1)"
        yield named("precision", self.precision, PrecisionName)
        yield named("pair decay", self.pair_decay, DecayName)
        yield 0 <= self.held_back < 1, f"held back {self.held_back} is not in [0, 1)"
        yield (
            self.patience is None or 1 <= self.patience <= MOST_EPOCHS,
            f"patience {self.patience} is not in [1, {MOST_EPOCHS}]",
        )
