"""CIARD, cyclic iterative distillation: two teachers, the robust one trained on, and a push away from the natural one.

The robust teacher (``teacher=``) is trained on: CE(Tr(x'), y) from epoch 51 of 300, with a learning rate of 1e-4 that falls
along a cosine; a second, natural one (``teachers.natural=``) is not. The student's loss is in `mmard.terms.push`. The release
differs: it weighs the first two parts as MTARD does (``balanced=True``); averages over classes (``scale: 1/num_classes``);
keeps the teacher's BatchNorm in training mode while its learning rate is still 0 (not offered); and its temperatures in effect
stop at the first drop (``temperatures_stop=True``).
"""

from mmard.attacks.pgd import Pgd
from mmard.core.companion import Companion
from mmard.core.method import Method
from mmard.methods.papers import Citation
from mmard.terms import hard_adv, label
from mmard.terms.push import Push

CITATION = Citation(
    authors="Lu et al.",
    title="CIARD: Cyclic Iterative Adversarial Robustness Distillation",
    venue="ICCV",
    year=2025,
    arxiv="2509.12633",
)

SLOW = {
    "optimizer": "sgd",
    "lr": 1e-4,
    "momentum": 0.1,
    "nesterov": False,
    "schedule": "cosine",
    "hold": 0.0,
    "warmup": 0.0,
}


def ciard(begin: float = 1 / 6, temperatures_stop: bool = False, balanced: bool = False) -> Method:
    """CIARD (Lu 2025): two teachers, the robust one trained on; a push away from the natural one where that errs."""
    return Method(
        name="ciard",
        inner=hard_adv,
        outer=Push(stops=temperatures_stop, balanced=balanced).objective(),
        maximizer=Pgd(steps=10, start="gaussian"),
        companions={"teacher": Companion(outer=label, fresh=None, begin=begin, plan=SLOW)},
    )
