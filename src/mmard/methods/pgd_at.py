"""PGD-AT, adversarial training: cross-entropy on the examples that maximise it.

Equation 2.1: min_θ E max_δ CE(S(x + δ), y). Start uniform in the ball.
"""

from mmard.attacks.pgd import Pgd
from mmard.core.method import Method
from mmard.methods.papers import Citation
from mmard.terms import hard_adv
from mmard.utils.calls import checked

CITATION = Citation(
    authors="Madry et al.",
    title="Towards Deep Learning Models Resistant to Adversarial Attacks",
    venue="ICLR",
    year=2018,
    arxiv="1706.06083",
)


@checked
def pgd_at() -> Method:
    """PGD-AT (Madry 2018): CE on the examples that maximise it; needs no teacher."""
    return Method(name="pgd_at", inner=hard_adv, outer=hard_adv, maximizer=Pgd(steps=10, start="uniform"))
