"""Mean and spread over seeds, and tests of paired differences."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from mmard.utils.numbers import mean_sd

MOST_EXACT = 16
"""Pairs up to which all signs are tried."""


@dataclass(frozen=True)
class Paired:
    """What n paired differences say of their mean.

    Attributes:
        n: number of pairs.
        mean, sd: of the differences; sd is None for a single pair.
        low, high: 95 % interval of the mean by Student's t; None for a single pair, or if all differences are equal.
        p_t: two-sided p of the paired t-test; None as before.
        p_exact: two-sided p of the sign-flip permutation test: the share of all 2ⁿ choices of signs whose mean is as
            far from 0; at best 2/2ⁿ. None above `MOST_EXACT` pairs.
    """

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    p_t: float | None
    p_exact: float | None


def paired(differences: Sequence[float]) -> Paired:
    """Test whether the mean of paired differences is 0."""
    n, (mean, sd) = len(differences), mean_sd(differences)
    exact = sign_flip(differences) if n <= MOST_EXACT else None
    if sd is None or sd <= 1e-9 * max(1.0, abs(mean)):  # equal but for rounding
        return Paired(n, mean, sd, None, None, None, exact)
    from scipy.stats import t as student  # a second to import

    error = sd / math.sqrt(n)
    half = float(student.ppf(0.975, n - 1)) * error
    p = 2 * float(student.sf(abs(mean) / error, n - 1))
    return Paired(n, mean, sd, mean - half, mean + half, p, exact)


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p of the exact sign-flip test.

    >>> sign_flip([1.0, 2.0, 3.0])
    0.25
    """
    seen = abs(math.fsum(differences)) - 1e-9 * max(1.0, *map(abs, differences))  # rounding is no difference
    sums = [math.fsum(s * d for s, d in zip(signs, differences, strict=True)) for signs in _signs(len(differences))]
    return sum(abs(value) >= seen for value in sums) / len(sums)


def _signs(n: int) -> list[tuple[int, ...]]:
    return list(itertools.product((1, -1), repeat=n))
