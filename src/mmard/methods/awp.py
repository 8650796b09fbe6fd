"""AWP, adversarial weight perturbation: the loss is descended at weights that were first moved up it.

On any base: the gradient of the outer loss is taken where each layer's weights were moved by γ·‖w‖ up that loss. Published:
γ 5e-3 from the tenth epoch on with TRADES, 1e-2 from the start with PGD-AT. The release gives the weights back after the
optimiser's step, so that weight decay sees the moved ones, here before it; with TRADES its BatchNorm sees x', x, x, here x, x', x.
"""

from dataclasses import replace

from mmard.core.companion import WeightPerturbation
from mmard.core.method import Method, as_method
from mmard.methods.papers import Citation
from mmard.methods.trades import trades
from mmard.utils.calls import checked
from mmard.utils.errors import MmardError
from mmard.utils.validation import NotNegative

CITATION = Citation(
    authors="Wu et al.",
    title="Adversarial Weight Perturbation Helps Robust Generalization",
    venue="NeurIPS",
    year=2020,
    arxiv="2004.05884",
)


@checked
def awp(base: Method | None = None, *, gamma: NotNegative = 5e-3, begin: NotNegative = 0.0) -> Method:
    """AWP (Wu 2020): any base (TRADES), the loss descended at weights that were first moved up it."""
    base = as_method(base, trades)
    if base.perturbation is not None:
        raise MmardError("awp stands twice in this method; once is enough")
    return replace(base, perturbation=WeightPerturbation(gamma=gamma, begin=begin))
