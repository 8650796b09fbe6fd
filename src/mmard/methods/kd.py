"""KD, knowledge distillation on natural images; there is no adversary.

The soft part is multiplied by τ², so that its gradient keeps its size beside the labels'.
"""

from mmard.core.method import Method
from mmard.methods.papers import Citation
from mmard.terms import hard_nat, soft_nat_hot
from mmard.utils.calls import checked
from mmard.utils.validation import Positive, ZeroToOne

CITATION = Citation(
    authors="Hinton et al.",
    title="Distilling the Knowledge in a Neural Network",
    year=2015,
    arxiv="1503.02531",
)


@checked
def kd(tau: Positive = 4.0, label_share: ZeroToOne = 0.1) -> Method:
    """KD (Hinton 2015): the teacher's soft labels and the hard ones on natural images, no attack."""
    outer = (1 - label_share) * soft_nat_hot.given(tau=tau) + label_share * hard_nat
    return Method(name="kd", outer=outer)
