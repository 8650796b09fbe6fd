"""Validation of a student during training, and early stopping."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mmard import losses
from mmard.attacks.autoattack import AutoAttack
from mmard.attacks.pgd import Pgd, untargeted
from mmard.core.method import Attack
from mmard.core.threat import Threat
from mmard.core.views import held_still
from mmard.data.images import Images
from mmard.diagnostics.triangle import EDGES
from mmard.training.engine import Engine
from mmard.utils.errors import MmardError
from mmard.utils.numbers import seed_of
from mmard.utils.precision import full_precision
from mmard.utils.validation import AsWritten, Count, Section

NOISE = 3  # so many held-out images that are right under attack say nothing
VALIDATION_BATCH = 250  # held-out images attacked at once, at most


def validation_batch(batch_size: int) -> int:
    """Return how many held-out images are attacked at once: never more than training is known to have memory for."""
    return min(VALIDATION_BATCH, batch_size)


class Validation(Section):
    """The evaluation of checkpoints on the held-out split.

    Args:
        every: epochs between two validations; the last epoch is always validated.
        attack: ``pgd`` with cross-entropy and a uniform start, or ``autoattack-quick``: APGD-CE, then APGD-T.
        steps: of the PGD, each a quarter of eps.
        target: the run ends early once the robust accuracy is so many percent; None: it does not.
        patience: the run ends early after so many validations in a row without a better robust accuracy;
            None: never. (Robust overfitting: Rice et al., 2020, arXiv 2002.11569.)
    """

    every: Count = 1
    attack: Literal["pgd", "autoattack-quick"] = "pgd"
    steps: Count = 10
    target: Annotated[float, Field(gt=0, le=100), AsWritten] | None = None
    patience: Count | None = None

    def identity(self) -> dict[str, Any]:
        """Return the settings by which a checkpoint knows its run; later ones only where they are not the defaults."""
        later = {"attack", "target"}
        return self.model_dump(exclude=later) | self.model_dump(include=later, exclude_defaults=True)

    def is_reached(self, robust: float) -> bool:
        """Tell whether a robust accuracy in percent is the one at which the run ends."""
        return self.target is not None and robust >= self.target

    def must_go_on(self, reached: bool) -> None:
        """Raise MmardError where a run that is to be extended has reached its target."""
        if reached:
            raise MmardError(
                f"the run ended at its validation.target, {self.target:g} %, and goes on no further; expected another out="
            )

    def must_ask_for_more_than(self, labels: Tensor) -> None:
        """Raise MmardError for a target that a student reaches by one class for every image, which no attack changes."""
        share = 100 * torch.bincount(labels).max().item() / len(labels)
        if self.is_reached(share):
            raise MmardError(
                f"validation.target is {self.target:g}, and one class for every image has {share:.1f} % of the held-out "
                "images under any attack; expected more"
            )

    def ends(self, validations_without_improvement: int) -> bool:
        """Tell whether the run ends early after so many epochs without improvement."""
        return self.patience is not None and validations_without_improvement >= self.patience

    def judge(
        self,
        networks: Sequence[nn.Module],
        images: Images,
        threat: Threat,
        *,
        part: int,
        seed: int,
        engine: Engine,
        look: Callable[[], object] = lambda: None,
    ) -> dict[str, Any]:
        """Measure clean and robust accuracy in percent and, with a teacher, the triangle's mutual informations in nats.

        Args:
            networks: the student and, where there is one, its teacher.
            part: images at a time; the figures are the same however many processes share the work.
            look: called after each part, equally often in each process.
        """
        attack = self._attack(part, seed, len(images.classes))
        said = torch.zeros(len(networks), 2, len(images), len(images.classes), device=engine.device)
        with held_still(*networks), full_precision():
            for start in range(engine.rank * part, len(images) + engine.rank * part, engine.world * part):
                if start < len(images):
                    rows = slice(start, start + part)
                    x, y, _ = images.batch(rows)
                    torch.manual_seed(seed_of(seed, "judge", start))
                    points = x, attack(networks[0], x, y, threat)
                    with torch.no_grad():
                        said[:, :, rows] = torch.stack([torch.stack([net(at) for at in points]) for net in networks])
                look()
        said = engine.all_reduce_sum(said)
        clean, robust = (100 * torch.eq(logits.argmax(1), images.labels).float().mean().item() for logits in said[0])
        found = {"clean": clean, "robust": robust}
        return found if len(networks) == 1 else found | {"triangle": _informations(*said.flatten(0, 1).cpu())}

    def _attack(self, part: int, seed: int, classes: int) -> Attack:
        if self.attack == "pgd":
            return untargeted(Pgd(steps=self.steps, start="uniform"))
        return AutoAttack(protocol="quick", batch_size=part, seed=seed, classes=classes).in_turn


def chosen_by(found: Mapping[str, float], images: int, natural: bool) -> str:
    """Name the accuracy by which a checkpoint is chosen: ``"robust"``, or ``"clean"`` where the robust one says nothing.

    It says nothing of a student that trains on natural images, and while no more than three of the held-out images are right
    under attack: of a model that is never right, up to so many would surprise nobody (the rule of three, 95 %).

    Args:
        found: ``robust`` in percent.
        images: how many were held out.
        natural: whether the method has no inner process.
    """
    return "clean" if natural or found["robust"] * images / 100 < NOISE + 0.5 else "robust"


def is_better(found: Mapping[str, float], best: Mapping[str, float], images: int, natural: bool) -> bool:
    """Tell whether a checkpoint is better than the best one so far: by robust accuracy, then by clean; see `chosen_by`."""

    def rank(of: Mapping[str, float]) -> tuple[float, float]:
        return (of["robust"] if chosen_by(of, images, natural) == "robust" else 0.0, of["clean"])

    return rank(found) > rank(best)


def _informations(s_nat: Tensor, s_adv: Tensor, t_nat: Tensor, t_adv: Tensor) -> dict[str, float]:
    pairs = ((s_nat, s_adv), (s_nat, t_nat), (s_adv, t_adv), (t_nat, t_adv))
    found = (losses.mutual_information(a.double(), b.double(), corrected=True).mean().item() for a, b in pairs)
    return dict(zip(EDGES, found, strict=True))
