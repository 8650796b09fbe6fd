"""How a student is judged while it trains, and when that ends the run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmard import losses
from mmard.attacks.pgd import Pgd, untargeted
from mmard.core.errors import MmardError
from mmard.core.numbers import seed_of
from mmard.core.tf32 import full_precision
from mmard.core.threat import Threat
from mmard.core.views import held_still
from mmard.data.images import Images
from mmard.diagnostics.triangle import EDGES
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
        self,
        model: Classifier,
        images: Images,
        threat: Threat,
        *,
        part: int,
        seed: int,
        engine: Engine,
        teacher: nn.Module | None = None,
        look: Callable[[], object] = lambda: None,
    ) -> dict[str, Any]:
        """Clean and robust accuracy in percent, and with a teacher the triangle's mutual informations in nats.

        ``part`` images at a time; alike however many processes share the work. ``look`` is called after each part, equally
        often in each process.
        """
        attack, networks = untargeted(Pgd(steps=self.steps, start="uniform")), [model, *([teacher] if teacher else [])]
        said = torch.zeros(len(networks), 2, len(images), len(images.classes), device=engine.device)
        with held_still(*networks), full_precision():
            for start in range(engine.rank * part, len(images) + engine.rank * part, engine.world * part):
                if start < len(images):
                    rows = slice(start, start + part)
                    x, y, _ = images.batch(rows)
                    torch.manual_seed(seed_of(seed, "judge", start))
                    points = x, attack(model, x, y, threat)
                    with torch.no_grad():
                        said[:, :, rows] = torch.stack([torch.stack([net(at) for at in points]) for net in networks])
                look()
        said = engine.all_reduce_sum(said)
        clean, robust = (100 * torch.eq(logits.argmax(1), images.labels).float().mean().item() for logits in said[0])
        found = {"clean": clean, "robust": robust}
        return found if teacher is None else found | {"triangle": _informations(*said.flatten(0, 1).cpu())}


def _informations(s_nat: Tensor, s_adv: Tensor, t_nat: Tensor, t_adv: Tensor) -> dict[str, float]:
    pairs = ((s_nat, s_adv), (s_nat, t_nat), (s_adv, t_adv), (t_nat, t_adv))
    found = (losses.mutual_information(a.double(), b.double(), corrected=True).mean().item() for a, b in pairs)
    return dict(zip(EDGES, found, strict=True))
