"""The official AutoAttack package behind the signature of every other attack, and its four attacks one by one."""

import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from mmard.attacks.autoattack_pruning import Pruned, Remembering
from mmard.attacks.counted_passes import Advance, CountedPasses
from mmard.core.threat import Threat
from mmard.core.views import Predict
from mmard.utils.errors import MmardError
from mmard.utils.numbers import must_be_whole_number

NORMS = {"linf": "Linf", "l2": "L2"}
Protocol = Literal["standard", "quick"]
STAGES = {"APGD-CE": "apgd-ce", "APGD-T": "apgd-t", "FAB-T": "fab-t", "Square": "square"}
QUICK = ("APGD-CE", "APGD-T")
SILENT = logging.Logger("auto-attack", logging.ERROR)  # its warnings are of what an evaluation's own checks test
WHOLE = 4  # classes from which on it is the package's own: its targeted loss divides by z₁ − (z₃ + z₄) / 2
NOTES = {
    2: "2 classes: without APGD-T, whose loss needs three",
    3: "3 classes: APGD-T's loss divides by z₁ − (z₂ + z₃) / 2",
}


@dataclass(frozen=True, kw_only=True)
class AutoAttack:
    """The standard ensemble AutoAttack (Croce & Hein, 2020, arXiv 2003.01690).

    Args:
        protocol: ``standard``: APGD-CE, APGD-T, FAB-T, Square; ``quick``: the first two, which find nearly all that the four
            find on a model that hides no gradients, and cannot find out whether it does.
        batch_size: images attacked at once.
        seed: of the package's random starts.
        classes: of the data; more than four are like four here.
        prune: leave out passes that cannot change a verdict, in `stage`; not for a network that answers by chance.

    With C < 10 classes the two targeted attacks aim at the C − 1 that there are; with three and two, `note` says what is
    another. Pixels must have the range [0, 1].
    """

    protocol: Protocol = "standard"
    batch_size: int = 500
    seed: int = 0
    prune: bool = True
    classes: int = WHOLE

    def __post_init__(self) -> None:
        must_be_whole_number(batch_size=self.batch_size)
        must_be_whole_number(0, seed=self.seed)
        must_be_whole_number(2, classes=self.classes)

    @property
    def stages(self) -> tuple[str, ...]:
        """Name the attacks in order: each is given the images that those before it left correctly classified."""
        names = tuple(STAGES) if self.protocol == "standard" else QUICK
        return tuple(name for name in names if name != "APGD-T" or self.classes > 2)

    @property
    def note(self) -> str:
        """Say how this differs from the package's protocol, where there are few classes; else return an empty text."""
        return NOTES.get(self.classes, "")

    def __call__(self, predict: Predict, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        """Run the package: adversarial images where it found one, natural ones elsewhere. (B, C, H, W) → the same."""
        if threat.eps == 0:
            return x.clone()
        x_adv, _ = self.package(predict, x, threat).run_standard_evaluation(
            x.contiguous(), y, batch_size=self.batch_size
        )
        return x_adv  # type: ignore[no-any-return]

    def stage(
        self, name: str, predict: Predict, x: Tensor, y: Tensor, threat: Threat, advance: Advance = lambda _: None
    ) -> Tensor:
        """Run one of the package's attacks on images that are still correctly classified, with its own random numbers.

        Only forward passes that can still change a verdict are made (`mmard.attacks.autoattack_pruning`). (B, C, H, W) → the same.
        """
        if threat.eps == 0:
            return x.clone()
        predict = CountedPasses(predict, advance)
        package = self.package(predict, x, threat)
        apgd, targeted, fab, square = package.apgd, package.apgd_targeted, package.fab, package.square
        attack, predict.usual = {
            "APGD-CE": (apgd, apgd.n_iter),
            "APGD-T": (targeted, targeted.n_target_classes * targeted.n_iter),
            "FAB-T": (fab, fab.n_target_classes * fab.n_iter * 2),  # one for the step, one for the verdict
            "Square": (square, square.n_queries),
        }[name]
        attack.seed = self.seed
        if name in QUICK and self.prune:
            Pruned(attack, predict)
        elif name == "Square" and self.prune:
            attack.predict = Remembering(predict)
        with torch.no_grad():
            return attack.perturb(x.contiguous(), y)  # type: ignore[no-any-return]

    def in_turn(self, predict: Predict, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        """Run each `stage` on the images that are still correctly classified after those before it. (B, C, H, W) → the same."""
        x_adv = x.clone()
        for name in self.stages:
            with torch.no_grad():
                rows = torch.eq(predict(x_adv).argmax(1), y).nonzero().squeeze(1)
            if len(rows):
                x_adv[rows] = self.stage(name, predict, x[rows], y[rows], threat)
        return x_adv

    def package(self, predict: Predict, x: Tensor, threat: Threat) -> Any:
        """Build the package's attack object for this threat and for images such as ``x``.

        Raises:
            MmardError: for another range of pixels, or fewer than two classes.
        """
        from pyautoattack import AutoAttack as Package

        if (threat.lower, threat.upper) != (0.0, 1.0):
            raise MmardError(f"AutoAttack works on pixels in [0, 1], got [{threat.lower:g}, {threat.upper:g}]")
        with torch.no_grad():
            classes = predict(x[:1]).shape[1]
        attacks = [STAGES[stage] for stage in replace(self, classes=min(classes, WHOLE)).stages]
        whole = len(attacks) == len(STAGES)
        version = {"version": "standard"} if whole else {"version": "custom", "attacks": attacks}
        package = Package(predict, norm=NORMS[threat.norm], eps=threat.eps, seed=self.seed, device=x.device, **version)
        package.logger = package.apgd.logger = package.apgd_targeted.logger = SILENT
        package.apgd.n_restarts = package.fab.n_restarts = 1  # as in the standard version; a custom one has 5
        package.apgd.loss, package.fab.targeted = "ce", True
        package.apgd_targeted.n_target_classes = package.fab.n_target_classes = min(9, classes - 1)
        if classes == 3:
            package.apgd_targeted.dlr_loss_targeted = partial(_dlr_of_three, package.apgd_targeted)
        return package

    def __str__(self) -> str:
        parts = "" if self.protocol == "standard" else ": APGD-CE and APGD-T only"
        return f"AutoAttack {self.protocol} (pyautoattack){parts}"


def _dlr_of_three(apgd: Any, logits: Tensor, y: Tensor) -> Tensor:
    """Compute the targeted DLR loss (B,) of three classes; like that of four it ignores scale and shift of the logits."""
    ordered, rows = logits.sort(1).values, torch.arange(len(y), device=y.device)
    gap = logits[rows, y] - logits[rows, apgd.y_target]
    return -gap / (ordered[:, 2] - 0.5 * (ordered[:, 1] + ordered[:, 0]) + 1e-12)
