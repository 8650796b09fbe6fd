"""Tests of paired differences over seeds, by SciPy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmard.utils.numbers import mean_sd

MOST_EXACT = 16
"""Pairs up to which all signs are tried."""


@dataclass(frozen=True)
class PairedTest:
    """The mean of n paired differences, with its interval and its tests.

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


def paired_test(differences: Sequence[float]) -> PairedTest:
    """Test whether the mean of paired differences is 0."""
    n, (mean, sd) = len(differences), mean_sd(differences)
    exact = sign_flip(differences) if n <= MOST_EXACT else None
    if sd is None or sd <= 1e-9 * max(1.0, abs(mean)):  # equal but for rounding
        return PairedTest(n, mean, sd, None, None, None, exact)
    from scipy.stats import t as student  # a second to import

    error = sd / math.sqrt(
        n
    )  # of exact sums; ttest_1samp adds up as the processor likes, and results.json would change
    half = float(student.ppf(0.975, n - 1)) * error
    return PairedTest(n, mean, sd, mean - half, mean + half, 2 * float(student.sf(abs(mean) / error, n - 1)), exact)


def sign_flip(differences: Sequence[float]) -> float:
    """Compute the two-sided p of the exact sign-flip permutation test.

    >>> sign_flip([1.0, 2.0, 3.0])
    0.25
    """
    if len(differences) == 1:
        return 1.0
    import numpy as np
    from scipy.stats import permutation_test  # a second to import

    def total(signed: Any, axis: int) -> Any:
        return np.round(np.sum(signed, axis=axis), 9)  # rounding is no difference

    found = permutation_test((differences,), total, permutation_type="samples", n_resamples=np.inf, vectorized=True)
    return float(found.pvalue)
