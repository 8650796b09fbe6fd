"""SAAD, sample-wise adaptive distillation: samples count by how well their examples transfer to the teacher.

Their weight is the teacher's entropy at x', w = H(T(x')), which is large where the example fools it too; the
loss has IGDM's gradient matching in it. x' maximises KL(t̂‖S(x')), with t̂ the teacher's logits at x and the label's one made
linear: one backward of the teacher a batch. BatchNorm sees x', x − δ, x, the last for β = 0 too. α is 1 on CIFAR-10
and 10 on CIFAR-100. The release weighs by w = 5·(H − its least in the batch) (``script_weights=True``; with several processes
or a batch in parts, of a part) and averages the weights from epoch 95 of 200: ``averaging: {kind: swa, start: 0.4725}``.
"""

from dataclasses import replace

from mmard.attacks.pgd import Pgd
from mmard.core.method import Method
from mmard.methods.papers import Citation
from mmard.terms.transfer import decided, linear_label, undecided

CITATION = Citation(
    authors="Lee and Chung",
    title="Sample-wise Adaptive Weighting for Transfer Consistency in Adversarial Distillation",
    venue="TMLR",
    year=2026,
    arxiv="2512.10275",
)


def saad(alpha: float = 1.0, beta: float = 0.0, script_weights: bool = False) -> Method:
    """SAAD (Lee 2026): samples weighed by whether their examples transfer to the teacher; slopes matched."""
    outer = undecided.given(alpha=alpha) + beta * decided
    return Method(
        name="saad",
        inner=linear_label,
        outer=outer.given(script_weights=script_weights),
        maximizer=Pgd(steps=10, start="gaussian"),
    )


def saad_c(alpha: float = 1.0, beta: float = 0.2, script_weights: bool = False) -> Method:
    """SAAD-C (Lee 2026): SAAD, and natural images where examples do not transfer; β = 0.2 or 0.5."""
    return replace(saad(alpha=alpha, beta=beta, script_weights=script_weights), name="saad_c")
