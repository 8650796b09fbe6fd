"""IAD, introspective distillation: the student trusts its teacher as far as that is right at x'.

A = T(x')_y^0.1, and for the rest it trusts itself at x, from ``begin`` on (60 of 200 epochs; IAD-II: 40); S(x) is not
constant. IAD-I distils an adversarially trained teacher; IAD-II adds a second one, ``teachers.natural``, naturally trained and of
the student's architecture. The release attacks with the student in training mode (``attack_in_train_mode=True``), keeps the
checkpoint that is best on the test set, and its second drop of the learning rate does nothing. ``tau`` is the release's
temperature of both networks; ``teacher_tau``, not the paper's, divides the robust teacher's logits, in A too.
"""

from mmard.attacks.pgd import Pgd
from mmard.core.method import Method
from mmard.methods.papers import Citation
from mmard.terms import hard_adv, introspect, soft_adv_hot, soft_moved_natural, trusted
from mmard.terms.temperature import Tau, at_temperature
from mmard.utils.calls import checked
from mmard.utils.validation import NotNegative, Positive

CITATION = Citation(
    authors="Zhu et al.",
    title="Reliable Adversarial Distillation with Unreliable Teachers",
    venue="ICLR",
    year=2022,
    arxiv="2106.04928",
)


@checked
def iad(
    power: NotNegative = 0.1, begin: NotNegative = 0.3, tau: Positive = 1.0, attack_in_train_mode: bool = False,
    teacher_tau: Tau = 1.0,
) -> Method:  # fmt: skip
    """IAD-I (Zhu 2022): the teacher's soft labels, and the student's own where the teacher fails at x'."""
    outer = soft_adv_hot.given(tau=tau) + introspect.given(power=power, begin=begin)
    return Method(
        name="iad",
        inner=hard_adv,
        outer=at_temperature(outer, teacher_tau, "teacher_tau"),
        maximizer=Pgd(steps=10, start="uniform"),
        attack_in_train_mode=attack_in_train_mode,
    )


@checked
def iad_2(
    power: NotNegative = 0.1, begin: NotNegative = 0.2, attack_in_train_mode: bool = False, teacher_tau: Tau = 1.0
) -> Method:
    """IAD-II (Zhu 2022): labels, a robust and a natural teacher, and the student's own soft labels."""
    own = at_temperature(0.5 * (trusted + introspect).given(power=power, begin=begin), teacher_tau, "teacher_tau")
    return Method(
        name="iad_2",
        inner=hard_adv,
        outer=0.25 * hard_adv + own + 0.25 * soft_moved_natural,
        maximizer=Pgd(steps=10, start="uniform"),
        attack_in_train_mode=attack_in_train_mode,
    )
