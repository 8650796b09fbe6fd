"""Inner attacks that change during training: at a share of the run, or once robustness has collapsed."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mmard.attacks.inner.adaptive import asked
from mmard.attacks.pgd import IterativeAttack, Loss
from mmard.core.threat import Threat, in_255ths
from mmard.utils.errors import MmardError

COLLAPSED = 0.5  # of its best: the robust accuracy is below, the clean accuracy is not


@dataclass(frozen=True, kw_only=True)
class StepSwitch(IterativeAttack):
    """One attack up to a share of the run, another from there on.

    Args:
        first, then: the attacks.
        after: share of the training steps, in (0, 1).
        eps: radius of the ball from then on; None: as before.
    """

    first: IterativeAttack
    then: IterativeAttack
    after: float
    eps: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.after < 1:
            raise MmardError(f"attack.late.after is {self.after:g}, expected a share of the run between 0 and 1")

    def init(self, loss: Loss, x: Tensor, threat: Threat) -> Tensor:
        """Return the current attack's starting point."""
        now, ball = self._now(loss, threat)
        return now.init(loss, x, ball)

    def run(self, loss: Loss, x: Tensor, x_adv: Tensor, threat: Threat) -> Tensor:
        """Run the current attack from ``x_adv`` on."""
        now, ball = self._now(loss, threat)
        return now.run(loss, x, x_adv, ball)

    def _now(self, loss: Loss, threat: Threat) -> tuple[IterativeAttack, Threat]:
        """Return the attack of this step and its ball."""
        if asked(loss, self).views.progress < self.after:
            return self.first, threat
        return self.then, threat if self.eps is None else replace(threat, eps=self.eps)

    def __str__(self) -> str:
        within = "" if self.eps is None else f" within {in_255ths(self.eps)}"
        return f"{self.first}; from {100 * self.after:g} % of the run on {self.then}{within}"


class CollapseGuard(nn.Module):
    """One attack until catastrophic overfitting is noticed (Wong et al., ICLR 2020, arXiv 2001.03994), then another.

    Noticed when, on the held-out split, robust accuracy is below half of its best so far while clean accuracy is not below half
    of its own. A best that is not above twice chance says nothing: a student that always gives one answer has chance's, and
    loses it as it begins to learn. The guard's state is in the checkpoint.
    """

    def __init__(self, first: IterativeAttack, then: IterativeAttack) -> None:
        super().__init__()
        self.first: Any = first
        self.then: Any = then
        self.collapsed, self.best_clean, self.best_robust = False, 0.0, 0.0

    def validated(self, clean: float, robust: float, chance: float) -> bool:
        """Take in an epoch's held-out accuracies, and chance's, in percent; return whether robustness has just collapsed."""
        before = self.collapsed
        fell = robust < COLLAPSED * self.best_robust and clean >= COLLAPSED * self.best_clean
        self.collapsed |= fell and self.best_robust > 2 * chance
        self.best_clean, self.best_robust = max(clean, self.best_clean), max(robust, self.best_robust)
        return self.collapsed and not before

    def forward(self, loss: Loss, x: Tensor, threat: Threat) -> Tensor:
        """Return x' (B, C, H, W) in the ball around x."""
        return x.clone() if threat.eps == 0 else self.run(loss, x, self.init(loss, x, threat), threat)

    def init(self, loss: Loss, x: Tensor, threat: Threat) -> Tensor:
        """Return the current attack's starting point."""
        begun: Tensor = self._now.init(loss, x, threat)
        return begun

    def run(self, loss: Loss, x: Tensor, x_adv: Tensor, threat: Threat) -> Tensor:
        """Run the current attack from ``x_adv`` on."""
        made: Tensor = self._now.run(loss, x, x_adv, threat)
        return made

    @property
    def _now(self) -> Any:
        return self.then if self.collapsed else self.first

    def get_extra_state(self) -> Tensor:
        """Return the state for a checkpoint. It is no buffer: the choice would wait for the device in each step."""
        return torch.tensor([self.collapsed, self.best_clean, self.best_robust], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the state from a checkpoint."""
        collapsed, self.best_clean, self.best_robust = state.tolist()
        self.collapsed = bool(collapsed)

    def __str__(self) -> str:
        return f"{self.first}; after a collapse {self.then}"
