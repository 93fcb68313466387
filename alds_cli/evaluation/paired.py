"""What so many images can tell: intervals of accuracies, and two networks on the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

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


@dataclass(frozen=True, slots=True)
class Drop:
    """How much worse a network is than another on the same samples.

    Of images that is how much less often it is right, in points; of texts, how much larger its loss
    is, in nats per token.

    Attributes:
        points: what was measured; negative where the network is better.
        middle: the centre of its confidence intervals.
        error: its standard error.
        freedom: the degrees of freedom of Student's distribution that (points − truth) / error
            follows; infinite for the normal distribution.
        most: the largest that there can be.
    """

    points: float
    middle: float
    error: float
    freedom: float = math.inf
    most: float = 100.0

    @property
    def with_interval(self) -> tuple[float, float, float]:
        """The drop, and the ends of its interval of 95 % confidence."""
        return self.points, self.at_least(0.975), self.at_least(0.025)

    def at_least(self, confidence: float) -> float:
        """Return what the true drop exceeds with a confidence in (0, 1).

        That is the lower end of the one-sided interval. With a confidence below one half it lies
        above the drop, which then is less than it with what is left of the confidence. With one
        half it is the drop.
        """
        if confidence == 0.5:
            return self.points
        bound = self.middle - _quantile(confidence, self.freedom) * self.error
        # The half observations move the middle, which must not take the end beyond the drop.
        end = min(bound, self.points) if confidence >= 0.5 else max(bound, self.points)
        return max(-self.most, min(self.most, end))

    def found_from(self, allowed: float, confidence: float, power: float = 0.95) -> float:
        """Return the least true drop of which `at_least` exceeds a number so often.

        Args:
            allowed: the number.
            confidence: that of `at_least`.
            power: the share of samples of as many images or texts in which it is to exceed it.
        """
        quantiles = _quantile(confidence, self.freedom) + _quantile(power, self.freedom)
        return min(self.most, allowed + quantiles * self.error)


def _quantile(level: float, freedom: float) -> float:
    """Return the quantile of the normal, or of Student's, distribution."""
    far = max(level, 1 - level)  # so that both sides are alike to the bit
    quantile = NormalDist().inv_cdf(far)
    if not math.isinf(freedom):
        from scipy.special import stdtrit  # noqa: PLC0415 - without two networks it is not needed

        # Student's is the wider one, but for rounding where there are many degrees of freedom.
        quantile = max(quantile, float(stdtrit(freedom, far)))
    return math.copysign(quantile, level - 0.5)


def paired_drop(before: Tensor, after: Tensor) -> Drop:
    """Return how much less often a network is right than the original.

    Args:
        before: whether the original is right on each of n images, (n,).
        after: whether the other network is, on the same images, (n,).
    """
    lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
    return counted_drop(lost, gained, len(before))


def counted_drop(lost: int, gained: int, images: int) -> Drop:
    """Return how much less often a network is right than the original.

    Args:
        lost: on how many images only the original is right.
        gained: on how many only the other network is.
        images: the number of all images.

    Source: Agresti and Min, Statistics in Medicine 2005: the interval of a difference of paired
    proportions with half an observation added to each of the four cells. It is not empty where the
    two networks never differ.
    """
    count = images + 2
    more, fewer = lost + 0.5, gained + 0.5
    middle = (more - fewer) / count
    error = (((more + fewer) / count - middle**2) / count) ** 0.5
    return Drop(100 * (lost - gained) / images, 100 * middle, 100 * error)


def mean_rise(sums: Tensor, counts: Tensor) -> Drop:
    """Return the mean of paired differences of losses.

    The mean is a ratio of sums over n blocks, whose variance is that of the blocks' distances from
    it, Σ (d_i − r c_i)² n / (n − 1) / (Σ c_i)²; intervals are Student's with n − 1 degrees of
    freedom. Of one block the error is infinite.

    Args:
        sums: the sum d_i of the differences in every block, (n,).
        counts: how many c_i each block has, (n,).

    Source: Cochran, Sampling Techniques, 1977, Sec. 6.3.
    """
    sums, counts = sums.double(), counts.double()
    total, blocks = float(counts.sum()), len(sums)
    mean = float(sums.sum()) / total
    if blocks < 2:
        return Drop(mean, mean, math.inf, 1, math.inf)
    squares = float((sums - mean * counts).square().sum())
    error = (squares * blocks / (blocks - 1)) ** 0.5 / total
    return Drop(mean, mean, error, blocks - 1, math.inf)


def answers_drop(model: Tensor, baseline: Tensor, labels: Tensor | None) -> Drop:
    """Return the drop of top-1, or without labels that of the agreement with the baseline.

    Args:
        model: the class (n,) that the network gives each image, negative where it gives none.
        baseline: the other network's.
        labels: the right classes (n,); None where they are not known.
    """
    if labels is not None:
        return paired_drop(baseline == labels, model == labels)
    same = agreeing(model, baseline)
    return paired_drop(same.new_ones(len(same)), same)


def agreeing(model: Tensor, baseline: Tensor) -> Tensor:
    """Return for which images (n,) two networks give the same class."""
    return (model == baseline) & (model >= 0)


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
    agreement = 100 * float(agreeing(model, baseline).double().mean())
    if labels is None:
        return Comparison(images=len(model), agreement=agreement)
    right, before = model == labels, baseline == labels
    only_model, only_baseline = int((right & ~before).sum()), int((before & ~right).sum())
    drop, low, high = paired_drop(before, right).with_interval
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
