"""The logits in a network's output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeGuard

from torch import Tensor
from torch.nn import functional as F

from alds_cli.errors import NoLogitsError
from alds_cli.tracing.tokens import Inputs, Tokens


def logits_of(output: object, images: int, purpose: str) -> Tensor:
    """Return the logits (n, classes) in a network's output for n images.

    They are the output itself, its `logits` if it has such a part, as the outputs of Hugging
    Face's models have, or the first of several outputs.

    Args:
        output: what the network returned.
        images: the number of images n.
        purpose: the participle in "only networks that classify images can be …".

    Raises:
        NoLogitsError: there is not one row of real numbers for each image.
    """
    found = _part(output, "logits")
    if (
        isinstance(found, Tensor)
        and found.ndim == 2
        and len(found) == images
        and found.shape[1] > 0
        and not found.is_complex()
        and not found.is_sparse
    ):
        return found
    raise NoLogitsError(
        f"the network gives {_described(output)} for {images} image{'s' * (images != 1)}, "
        f"not logits of shape ({images}, classes)",
        tip=f"only networks that classify images can be {purpose}, and on images with masks those "
        "that segment",
    )


def mask_logits_of(output: object, size: Sequence[int], purpose: str) -> Tensor:
    """Return the logits (n, classes, H, W) in the output of a network that segments n images.

    They are the output itself, its part `out`, as the outputs of torchvision's networks have, or
    `logits`, as those of Hugging Face's have, or the first of several outputs. Logits of another
    height and width, such as a quarter, are resized bilinearly.

    Args:
        output: what the network returned.
        size: (n, H, W) of the masks.
        purpose: the participle in "only networks that segment images can be …".

    Raises:
        NoLogitsError: there is not one map of real numbers for each class and image.
    """
    images, height, width = size
    found = pixel_logits(output, images)
    if found is not None:
        if found.shape[2:] == (height, width):
            return found
        return F.interpolate(found, (height, width), mode="bilinear", align_corners=False)
    raise NoLogitsError(
        f"the network gives {_described(output)} for {images} image{'s' * (images != 1)}, "
        f"not logits of shape ({images}, classes, {height}, {width})",
        tip=f"only networks that segment images can be {purpose}",
    )


def pixel_logits(output: object, images: int) -> Tensor | None:
    """Return the logits (n, classes, h, w) in a network's output; None where there are none.

    Args:
        output: what the network returned; see `mask_logits_of` for what is looked for.
        images: the number of images n.
    """
    found = output
    if isinstance(found, Mapping):
        found = found.get("out", found.get("logits", found))
    elif not isinstance(found, Tensor):
        found = getattr(found, "logits", found)
    if isinstance(found, tuple | list) and found:
        found = found[0]
    if (
        isinstance(found, Tensor)
        and found.ndim == 4
        and len(found) == images
        and 0 not in found.shape
        and found.is_floating_point()
    ):
        return found
    return None


def position_logits_of(output: object, images: int, purpose: str, *, masked: bool) -> Tensor:
    """Return the logits (n, positions, classes) of all that a network answers for n images.

    An answer is for a whole image, the only position then, or for each of its pixels. Logits for
    fewer positions than pixels are taken as they are.

    Args:
        output: what the network returned.
        images: the number of images n.
        purpose: the participle in "only networks that classify images can be …".
        masked: whether the images have masks; only then may logits be of pixels, as other outputs
            of such a shape are no logits.

    Raises:
        NoLogitsError: there are no logits.
    """
    found = pixel_logits(output, images) if masked else None
    if found is None:
        return logits_of(output, images, purpose)[:, None]
    return found.movedim(1, -1).flatten(1, 2)


def token_logits(output: object, inputs: Tokens) -> Tensor | None:
    """Return the logits (n, length, classes) in a network's output; None where there are none.

    They are its part `logits`, or the output itself, or the first of several, if it has a number
    for each of the tokens that the network was given: others are states.

    Args:
        output: what the network returned.
        inputs: the texts that it was called with.
    """
    found = _part(output, "logits")
    if not _of_tokens(found, inputs):
        return None
    named = found is not output and not isinstance(output, tuple | list)
    return found if named or found.shape[2] > int(inputs.ids.max()) else None


def token_states(output: object, inputs: Tokens) -> Tensor | None:
    """Return what a network gives for every token, (n, length, features); None without that.

    That is its part `last_hidden_state`, or the output itself, or the first of several.
    """
    found = _part(output, "last_hidden_state")
    return found if _of_tokens(found, inputs) else None


def gives_states(output: object, inputs: Inputs) -> bool:
    """Return whether an output for texts holds states of tokens, and no logits."""
    return (
        isinstance(inputs, Tokens)
        and token_logits(output, inputs) is None
        and token_states(output, inputs) is not None
    )


def each_state(output: object, inputs: Tokens, purpose: str) -> list[Tensor]:
    """Return the states (tokens, features) of each text in an output, without padding.

    Raises:
        NoLogitsError: there are none.
    """
    found = token_states(output, inputs)
    if found is None:
        raise NoLogitsError(
            f"the network gives {_described(output)}, not states of every token",
            tip=f"only networks that give logits or states of tokens can be {purpose}",
        )
    return of_each_text(found, inputs)


def of_each_text(found: Tensor, inputs: Tokens) -> list[Tensor]:
    """Return what was found at the tokens of each text, (tokens, …)."""
    return [own[real] for own, real in zip(found, inputs.mask.to(found.device), strict=True)]


def _part(output: object, name: str) -> object:
    """Return the part of an output that has a name, else the output, or the first of several."""
    if isinstance(output, Mapping):
        found = output.get(name, output)
    else:
        found = output if isinstance(output, Tensor) else getattr(output, name, output)
    return found[0] if isinstance(found, tuple | list) and found else found


def _of_tokens(found: object, inputs: Tokens) -> TypeGuard[Tensor]:
    return (
        isinstance(found, Tensor)
        and found.ndim == 3
        and found.shape[:2] == inputs.shape
        and found.is_floating_point()
    )


def each_answer(
    output: object, inputs: Inputs, purpose: str, *, masked: bool = False
) -> list[Tensor]:
    """Return the logits (positions, classes) of all that a network answers for each sample.

    An answer is for a whole sample, or for each pixel of an image, or for each token of a text.

    Args:
        output: what the network returned.
        inputs: what it was called with.
        purpose: the participle in "only networks that classify images can be …".
        masked: whether the samples are images with masks; see `position_logits_of`.

    Raises:
        NoLogitsError: there are no logits.
    """
    if isinstance(inputs, Tensor):
        return list(position_logits_of(output, len(inputs), purpose, masked=masked))
    found = token_logits(output, inputs)
    if found is None:
        return _of_texts(output, len(inputs))
    return of_each_text(found, inputs)


def _of_texts(output: object, texts: int) -> list[Tensor]:
    """Return the logits (1, classes) that a network gives for each of n texts as a whole."""
    try:
        return list(logits_of(output, texts, "compared")[:, None])
    except NoLogitsError as error:
        raise NoLogitsError(
            f"the network gives {_described(output)} for {texts} text{'s' * (texts != 1)}, not "
            "logits for every token or text",
            tip="--method alds-data looks at layers alone, and needs none",
        ) from error


def _described(output: object) -> str:
    if isinstance(output, Tensor):
        kind = "complex numbers" if output.is_complex() else "a tensor"
        return f"{kind} of shape {tuple(output.shape)}"
    if isinstance(output, Mapping):
        listed = ", ".join(f"'{key}'" for key in list(output)[:5])
        return f"a {type(output).__name__} of {listed or 'nothing'}"
    if isinstance(output, tuple | list):
        listed = ", ".join(_described(part) for part in output[:3])
        return f"a {type(output).__name__} of {len(output)} ({listed})"
    return f"a {type(output).__name__}"
