"""How a student is judged while it trains, and when that ends the run."""

from dataclasses import dataclass

import torch

from mmard.attacks.pgd import Pgd, untargeted
from mmard.core.errors import MmardError
from mmard.core.numbers import seed_of
from mmard.core.tf32 import full_precision
from mmard.core.threat import Threat
from mmard.core.views import held_still
from mmard.data.images import Images
from mmard.models.students import Classifier
from mmard.training.engine import Engine

JUDGED = 250  # held-out images attacked at once, or as many as a batch has


@dataclass(frozen=True, kw_only=True)
class Validation:
    """How a checkpoint is judged on the held-out split: PGD with cross-entropy, uniform start.

    Args:
        every: epochs between two looks; the last epoch is always looked at.
        steps: of the attack, each a quarter of eps.
        patience: the run ends early after so many looks in a row that found no better robust accuracy than the best before;
            None: never. (Robust overfitting: Rice et al., 2020, arXiv 2002.11569.)
    """

    every: int = 1
    steps: int = 10
    patience: int | None = None

    def __post_init__(self) -> None:
        if self.patience is not None and self.patience < 1:
            raise MmardError(f"validation.patience is {self.patience}, expected a number of looks from 1, or none")

    def ends(self, looks_without_gain: int) -> bool:
        """Has the run waited long enough?"""
        return self.patience is not None and looks_without_gain >= self.patience

    def judge(
        self, model: Classifier, images: Images, threat: Threat, *, part: int, seed: int, engine: Engine
    ) -> dict[str, float]:
        """Clean and robust accuracy in percent, ``part`` images at a time; alike however many processes share the work."""
        attack = untargeted(Pgd(steps=self.steps, start="uniform"))
        right = torch.zeros(2, device=engine.device)
        with held_still(model), full_precision():
            for start in range(engine.rank * part, len(images), engine.world * part):
                x, y, _ = images.batch(slice(start, start + part))
                torch.manual_seed(seed_of(seed, "judge", start))
                for i, judged in enumerate((x, attack(model, x, y, threat))):
                    with torch.no_grad():
                        right[i] += (model(judged).argmax(1) == y).sum()
        clean, robust = (100 * count / len(images) for count in engine.all_reduce_sum(right).tolist())
        return {"clean": clean, "robust": robust}
