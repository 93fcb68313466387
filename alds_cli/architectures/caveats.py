"""What names and shapes cannot tell about a network."""

from __future__ import annotations

from alds_cli.architectures import from_torchvision
from alds_cli.records import Architecture

_TRANSFORM_INPUT = frozenset({"googlenet", "inception_v3"})


def caveat(architecture: Architecture) -> str | None:
    """Warn where two networks with the same entries compute different things.

    torchvision's published weights of GoogLeNet and Inception v3 belong to networks that
    rescale their input themselves (`transform_input`), networks built without weights do
    not. `recognise` answers with the builder's default, so this is worth telling.

    Four of torchvision's detectors were published normalising with an epsilon of 0
    (`norm_eps`), and are built without weights with the usual one.

    Returns:
        One sentence with the option to change, or None where nothing is in doubt.
    """
    if architecture.name in _TRANSFORM_INPUT and "transform_input" not in architecture.arguments:
        return (
            f"{architecture.name} is taken without input rescaling; if the checkpoint stems from "
            "torchvision's published weights, add --arch-arg transform_input=true"
        )
    if (
        architecture.name in from_torchvision.OLD_NORMALISATION
        and "norm_eps" not in architecture.arguments
    ):
        return (
            f"{architecture.name} is taken with an epsilon of 1e-5 in its normalisation; if the "
            "checkpoint stems from torchvision's published weights, add --arch-arg norm_eps=0"
        )
    return None
