"""Labels of a data set as the numbers of a network's classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from alds_cli.datasets import (
    Batches,
    LabelledImages,
    assign_classes,
    check_labels,
    read_classes,
    tell,
)
from alds_cli.evaluation import count_classes
from alds_cli.records import ClassAssignment, Preprocessing


def assigned(
    images: LabelledImages,
    preprocessing: Preprocessing,
    module: nn.Module,
    classes: Sequence[str] | str | Path | None,
    *,
    device: torch.device | None = None,
) -> tuple[LabelledImages, ClassAssignment]:
    """Number the images' classes as the network does, before any work is done with them.

    Args:
        images: the set.
        preprocessing: how its images become the network's input.
        module: the network.
        classes: names of its classes in order, a file with one a line, or None.
        device: where to ask the network for their number.

    Returns:
        The images, and how their labels were found; a warning about them has been given.

    Raises:
        DataError: the classes and the network do not go together; see `assign_classes`.
        OptionError: names are given for a set that has no class folders.
    """
    listed = read_classes(classes) if isinstance(classes, str | Path) else classes
    shape = Batches(images, preprocessing, batch_size=1).input_shape
    outputs = count_classes(module, shape, device=device)
    images, assignment = assign_classes(images, outputs, listed)
    check_labels(images.labels, outputs)
    tell(assignment)
    return images, assignment
