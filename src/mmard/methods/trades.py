"""TRADES: natural cross-entropy, and smoothness between natural and adversarial images.

Equation 5, with the KL of its implementation. S(x) is constant while x' is made. The release computes S(x) a second time for the
KL, so BatchNorm sees x, x', x; so it is here.
"""

from mmard.attacks.pgd import Pgd
from mmard.core.method import Method
from mmard.methods.papers import Citation
from mmard.terms import hard_nat, smooth, smooth_again
from mmard.utils.calls import checked
from mmard.utils.validation import NotNegative

CITATION = Citation(
    authors="Zhang et al.",
    title="Theoretically Principled Trade-off between Robustness and Accuracy",
    venue="ICML",
    year=2019,
    arxiv="1901.08573",
)


@checked
def trades(beta: NotNegative = 6.0) -> Method:
    """TRADES (Zhang 2019): natural CE plus beta times the KL from natural to adversarial; needs no teacher."""
    return Method(
        name="trades", inner=smooth, outer=hard_nat + beta * smooth_again, maximizer=Pgd(steps=10, start="gaussian")
    )
