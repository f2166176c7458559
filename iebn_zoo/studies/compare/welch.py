"""Welch's interval: how far the means of small samples with unequal variances may be apart.

B. L. Welch, "The generalization of 'Student's' problem when several different population variances are involved",
Biometrika 34, 1947.
"""
import math
import statistics
from typing import NamedTuple, Optional, Sequence, Tuple


class Interval(NamedTuple):
    """A difference of means with its confidence interval."""

    difference: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the means differ at the interval's confidence."""
        return self.low > 0 or self.high < 0


def welch_interval(sample: Sequence[float], baseline: Sequence[float], confidence: float = 0.95) -> Optional[Interval]:
    """Return the mean of ``sample`` minus that of ``baseline``, with its interval.

    Args:
        sample: Independent measurements, such as the accuracy of one arm with each seed.
        baseline: The same of another arm.
        confidence: Share of repetitions in which such an interval holds the true difference.

    Returns:
        None as in ``contrast_interval``.
    """
    return contrast_interval([(1, sample), (-1, baseline)], confidence)


def contrast_interval(terms: Sequence[Tuple[float, Sequence[float]]], confidence: float = 0.95) -> Optional[Interval]:
    """Return a weighted sum of the means of independent samples, with its interval.

    Args:
        terms: Weight and values of each sample. With the weights 1, -1, -1, 1 the sum is the difference of two
            differences.
        confidence: As in ``welch_interval``.

    Returns:
        None if a sample has fewer than two values or one that is not finite, or if none has any spread: the interval is
        then unknown.
    """
    if min(len(values) for _, values in terms) < 2 or not all(math.isfinite(v) for _, values in terms for v in values):
        return None
    parts = [weight ** 2 * statistics.variance(values) / len(values) for weight, values in terms]
    error = math.sqrt(sum(parts))
    if error == 0 or not math.isfinite(error):
        return None
    degrees = sum(parts) ** 2 / sum(part ** 2 / (len(values) - 1) for part, (_, values) in zip(
        parts, terms, strict=True))
    degrees = max(degrees, 1.0)  # it is at least that, but for rounding
    contrast = sum(weight * statistics.fmean(values) for weight, values in terms)
    margin = error * student_quantile((1 + confidence) / 2, degrees)
    return Interval(contrast, contrast - margin, contrast + margin)


def student_quantile(probability: float, degrees: float) -> float:
    """Return a quantile of Student's t distribution.

    Args:
        probability: In [0.5, 1).
        degrees: Of freedom, at least 1; need not be whole.

    Raises:
        ValueError: One of them is outside its range.
    """
    if not 0.5 <= probability < 1 or not degrees >= 1:
        raise ValueError(f'probability is {probability}, degrees {degrees}; expected [0.5, 1) and at least 1.')
    if degrees > 100:
        return _near_normal_quantile(probability, degrees)
    # t = sqrt(degrees)·tan(a) has the density cos(a)^(degrees - 1) / (2·whole), which is smooth and ends at pi/2
    whole = math.sqrt(math.pi) / 2 * math.exp(math.lgamma(degrees / 2) - math.lgamma((degrees + 1) / 2))
    target = (probability - 0.5) * 2 * whole
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _integral(degrees - 1, middle) < target else (low, middle)
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _integral(power: float, end: float, pieces: int = 400) -> float:
    # of cos(a)^power from 0 to end, by Simpson's rule
    step = end / pieces
    values = [math.cos(i * step) ** power for i in range(pieces + 1)]
    return step / 3 * (values[0] + values[-1] + 4 * sum(values[1::2]) + 2 * sum(values[2:-1:2]))


def _near_normal_quantile(probability: float, degrees: float) -> float:
    # Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5
    z = statistics.NormalDist().inv_cdf(probability)
    terms = (z, (z ** 3 + z) / 4, (5 * z ** 5 + 16 * z ** 3 + 3 * z) / 96,
             (3 * z ** 7 + 19 * z ** 5 + 17 * z ** 3 - 15 * z) / 384)
    return sum(term / degrees ** i for i, term in enumerate(terms))
