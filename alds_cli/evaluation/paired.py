"""What so many images can tell: intervals of accuracies, and two networks on the same images."""

from __future__ import annotations

from torch import Tensor

from alds_cli.records import Comparison

CONFIDENCE = 1.959963984540054
"""The quantile of the normal distribution that 95 % lie within."""


def wilson_interval(right: int, count: int) -> tuple[float, float]:
    """Return the ends of the 95 % confidence interval of a proportion, in per cent.

    Args:
        right: how many of the images are classified right.
        count: the number of images, at least 1.

    Source: Wilson, Journal of the American Statistical Association 1927. It stays within [0, 100]
    and is not empty where all or none are right.
    """
    share, squared = right / count, CONFIDENCE**2
    middle = (share + squared / (2 * count)) / (1 + squared / count)
    spread = (share * (1 - share) / count + squared / (4 * count**2)) ** 0.5
    half = CONFIDENCE * spread / (1 + squared / count)
    # The ends are exact in theory, and rounding must not take them beyond the proportion itself.
    return 100 * max(0.0, min(middle - half, share)), 100 * min(1.0, max(middle + half, share))


def paired_drop(before: Tensor, after: Tensor) -> tuple[float, float, float]:
    """Return a drop in points, and the ends of its interval of 95 % confidence.

    Args:
        before: whether the original is right on each of n images, (n,).
        after: whether the other network is, on the same images, (n,).

    Source: Agresti and Min, Statistics in Medicine 2005: the interval of a difference of paired
    proportions with half an observation added to each of the four cells. It is not empty where the
    two networks never differ.
    """
    lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
    count = len(before) + 2
    more, fewer = lost + 0.5, gained + 0.5
    middle = (more - fewer) / count
    spread = CONFIDENCE * ((more + fewer) / count - middle**2) ** 0.5 / count**0.5
    drop = (lost - gained) / len(before)
    return 100 * drop, 100 * min(middle - spread, drop), 100 * max(middle + spread, drop)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test.

    That is the probability of a division at least as uneven, if an image that only one of two
    networks gets right were as likely to be the one's as the other's.

    Args:
        only_first: the number of images that only the first network gets right.
        only_second: the number that only the second gets right.

    Source: McNemar, Psychometrika 1947, with the binomial distribution itself.
    """
    from scipy.special import bdtr  # noqa: PLC0415 - without a baseline it is not needed

    fewer, together = min(only_first, only_second), only_first + only_second
    return min(1.0, 2 * float(bdtr(fewer, together, 0.5)))


def compared(model: Tensor, baseline: Tensor, labels: Tensor | None) -> Comparison:
    """Compare the answers of a network with those of another on the same images.

    Args:
        model: the class (n,) that the network gives each image, negative where it gives none.
        baseline: the other network's.
        labels: the right classes (n,); None where they are not known.
    """
    same = (model == baseline) & (model >= 0)
    agreement = 100 * float(same.double().mean())
    if labels is None:
        return Comparison(images=len(model), agreement=agreement)
    right, before = model == labels, baseline == labels
    only_model, only_baseline = int((right & ~before).sum()), int((before & ~right).sum())
    drop, low, high = paired_drop(before, right)
    return Comparison(
        images=len(model),
        agreement=agreement,
        only_model=only_model,
        only_baseline=only_baseline,
        p_value=mcnemar(only_model, only_baseline),
        difference=0.0 - drop,
        difference_low=0.0 - high,
        difference_high=0.0 - low,
    )
