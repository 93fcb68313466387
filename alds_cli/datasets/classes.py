"""Matching the names of class folders with the outputs of a network."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from alds_cli.checkpoint.files import require_regular
from alds_cli.datasets.images import ImageFiles, LabelledImages, TensorImages
from alds_cli.datasets.known_classes import ClassNames, known_classes
from alds_cli.errors import DataError, OptionError
from alds_cli.records import ClassAssignment

_log = logging.getLogger(__name__)

_MOST_BYTES = 2**24

_BY_FILE = "name the network's classes in order, one on each line: --classes FILE"


def read_classes(path: str | Path) -> tuple[str, ...]:
    """Read class names from a file with one on each line.

    Raises:
        DataError: there is no such file, it is not text in UTF-8, or a line is empty or
            occurs twice.
    """
    path = Path(path).expanduser()
    require_regular(path, DataError, most=_MOST_BYTES)
    tip = "write the names of the class folders line by line, in the order of the network's outputs"
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a text file of class names", tip=tip) from error
    names = [line.strip() for line in lines]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise DataError(f"{path} names no classes", tip=tip)
    seen: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if not name:
            raise DataError(f"{path}: line {number} is empty", tip=tip)
        if name in seen:
            raise DataError(f"{path}: lines {seen[name]} and {number} are both '{name}'", tip=tip)
        seen[name] = number
    return tuple(names)


def assign_classes(
    images: LabelledImages, outputs: int, listed: Sequence[str] | None = None
) -> tuple[LabelledImages, ClassAssignment]:
    """Label the images of class folders with the network's class numbers.

    The folders' names are looked up in `listed`. Without a list they are looked up in the
    published data sets with `outputs` classes: by the WordNet numbers or the categories of
    ImageNet, or the names of CIFAR-10 or CIFAR-100. Names that are whole numbers stand for
    themselves. If names are unknown, the folders are numbered in alphabetical order, which is
    right only if there is one for every class; if there is not, the assignment has a warning.

    Args:
        images: the set. If its labels are numbers in the source, they are kept.
        outputs: number of the network's classes.
        listed: names of the network's classes in order.

    Returns:
        The images with the network's labels and without class names, and a record of how the
        labels were found.

    Raises:
        DataError: there are no labels, there are more folders than classes, the list has another
            number of classes, or it lacks a folder.
        OptionError: there is a list, but the images have no class folders.
    """
    if not images.labelled:
        raise DataError(
            f"{images.name} has no labels",
            tip="store integer 'labels' beside 'images', or lay images out as DIR/CLASS/IMAGE.jpg",
        )
    if not isinstance(images, ImageFiles) or images.classes is None:
        if listed is not None:
            raise OptionError(
                f"{images.name} has no class folders, but names for them are given",
                tip="leave out --classes; the labels of such a set are the classes' numbers",
            )
        warning = _stranger(images, outputs)
        images = images.unnamed() if isinstance(images, TensorImages) else images
        return images, ClassAssignment(None, warning)
    folders = images.classes
    if listed is not None:
        return images.relabelled(_looked_up(folders, listed, outputs)), ClassAssignment("file")
    known = _known(folders, outputs)
    if known is not None:
        return images.relabelled(known), ClassAssignment(
            "named", _ambiguity(folders, known=True), _explained(folders, known)
        )
    if len(folders) > outputs:
        raise DataError(
            f"{images.name} has {len(folders):,} class folders, but the network has "
            f"{_classes(outputs)}",
            tip="check that the data and the checkpoint belong to the same task",
        )
    numbered = images.relabelled(range(len(folders)))
    return numbered, ClassAssignment("numbered", _doubt(folders, outputs))


def tell(assignment: ClassAssignment) -> None:
    """Log how names were matched with classes, and that labels may not be the network's."""
    for line in (assignment.note, assignment.warning):
        if line is not None:
            _log.warning("%s", line)


def _looked_up(folders: Sequence[str], listed: Sequence[str], outputs: int) -> list[int]:
    """Return the number of every folder's name in the list of classes."""
    if len(listed) != outputs:
        raise DataError(
            f"the list names {_classes(len(listed))}, but the network has {outputs:,}",
            tip="name every class of the network, including those without images",
        )
    numbers = {name: number for number, name in enumerate(listed)}
    strangers = [name for name in folders if name not in numbers]
    if strangers:
        raise DataError(
            f"the list of classes does not name the folder '{strangers[0]}'"
            + f" and {len(strangers) - 1:,} more" * (len(strangers) > 1),
            tip="name the folders exactly as they are called, or remove those folders",
        )
    return [numbers[name] for name in folders]


def _known(folders: Sequence[str], outputs: int) -> list[int] | None:
    """Return the class numbers of all folders if all of their names are known, else None."""
    numbers = {name: int(name) for name in folders if _is_number(name) and int(name) < outputs}
    for names in (*known_classes(outputs), ClassNames(numbers, {})):
        found = [number for name in folders if (number := names.number(name)) is not None]
        if len(found) == len(set(found)) == len(folders):
            return found
    return None


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) < 10


def _ambiguity(folders: Sequence[str], *, known: bool) -> str | None:
    """Return a warning if all folders are named by numbers whose order is ambiguous."""
    numbers = [int(name) for name in folders if _is_number(name)]
    if len(numbers) < len(folders) or numbers == sorted(numbers):
        return None
    if known:
        return (
            "the class folders have numbers as names, which are taken as class numbers; a network "
            "trained on folders in alphabetical order, 10 before 2, needs --classes FILE"
        )
    return (
        "the class folders have numbers as names that are not class numbers, so they are numbered "
        f"in alphabetical order, 10 before 2; {_BY_FILE}"
    )


def _explained(folders: Sequence[str], numbers: Sequence[int]) -> str | None:
    """Return a note on folders that are not simply numbered in alphabetical order."""
    if list(numbers) == list(range(len(folders))) or all(map(_is_number, folders)):
        return None
    pairs = [f"{name} is {number}" for name, number in zip(folders, numbers, strict=True)]
    return (
        f"{len(folders):,} class folder{'s are' if len(folders) > 1 else ' is'} matched with the "
        f"network's classes by name ({', '.join(pairs[:3])}{', …' * (len(pairs) > 3)}), not "
        f"numbered 0 to {len(folders) - 1:,}"
    )


def _doubt(folders: Sequence[str], outputs: int) -> str | None:
    """Return a warning if numbering the folders in alphabetical order may be wrong."""
    count = len(folders)
    if count == outputs:
        return _ambiguity(folders, known=False)
    are = (
        "1 class folder is numbered 0"
        if count == 1
        else (f"{count:,} class folders are numbered 0 to {count - 1:,}")
    )
    return f"{are} while the network has {_classes(outputs)}; {_BY_FILE}"


def _stranger(images: LabelledImages, outputs: int) -> str | None:
    """Return a warning if a published set has another number of classes than the network."""
    if images.classes is None or len(images.classes) == outputs:
        return None
    return (
        f"{images.name} has {_classes(len(images.classes))} while the network has {outputs:,}: "
        "its labels may not be the network's"
    )


def _classes(count: int) -> str:
    return f"{count:,} class{'es' * (count != 1)}"


def check_labels(labels: torch.Tensor, classes: int) -> None:
    """Raise if a label is not one of the network's `classes`.

    Args:
        labels: integer tensor of shape (n,).
        classes: number of the network's outputs.

    Raises:
        DataError: a label is negative or not below `classes`.
    """
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise DataError(
            f"label {int(wrong[0])} is outside the network's {classes} classes "
            f"(0 to {classes - 1})",
            tip="check that the data and the checkpoint belong to the same task",
        )
