"""The official AutoAttack package behind the same signature as every other attack, and its four attacks one by one."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mmard.attacks.spared import Pruned, Remembering
from mmard.core.errors import MmardError
from mmard.core.threat import Threat
from mmard.core.views import Predict

NORMS = {"linf": "Linf", "l2": "L2"}
Protocol = Literal["standard", "quick"]
STAGES = {"APGD-CE": "apgd-ce", "APGD-T": "apgd-t", "FAB-T": "fab-t", "Square": "square"}
QUICK = ("APGD-CE", "APGD-T")
MIN_CLASSES = 4  # the targeted DLR loss divides by a difference of the first and the fourth logit


@dataclass(frozen=True, kw_only=True)
class AutoAttack:
    """AutoAttack (Croce & Hein, 2020, arXiv 2003.01690).

    Args:
        protocol: ``standard``: APGD-CE, APGD-T, FAB-T, Square; ``quick``: the first two, which find nearly all that the four
            find on a model that hides no gradients, and cannot find out whether it does.
        batch_size: images attacked at once.
        seed: of the package's random starts.
        spare: leave out passes that cannot change a verdict, in `stage`; not for a network that answers by chance.

    With C < 10 classes the two targeted attacks aim at the C − 1 that there are. Pixels must have the range [0, 1].
    """

    protocol: Protocol = "standard"
    batch_size: int = 500
    seed: int = 0
    spare: bool = True

    @property
    def stages(self) -> tuple[str, ...]:
        """The attacks in their order: each is given the images that those before it have left right."""
        return tuple(STAGES) if self.protocol == "standard" else QUICK

    def __call__(self, predict: Predict, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        """The package's own call: the adversarial images where it found one, natural ones elsewhere. (B, C, H, W) → the same."""
        if threat.eps == 0:
            return x.clone()
        x_adv, _ = self.package(predict, x, threat).run_standard_evaluation(
            x.contiguous(), y, batch_size=self.batch_size
        )
        return x_adv  # type: ignore[no-any-return]

    def stage(self, name: str, predict: Predict, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        """What the package's attack of that name makes of one batch that is right yet; the same random numbers as in its own call.

        The network is asked only what can still change a verdict (`mmard.attacks.spared`). (B, C, H, W) → the same.
        """
        if threat.eps == 0:
            return x.clone()
        package = self.package(predict, x, threat)
        attack = {
            "APGD-CE": package.apgd,
            "APGD-T": package.apgd_targeted,
            "FAB-T": package.fab,
            "Square": package.square,
        }[name]
        attack.seed = self.seed
        if name in QUICK and self.spare:
            Pruned(attack, predict)
        elif name == "Square" and self.spare:
            attack.predict = Remembering(predict)
        with torch.no_grad():
            return attack.perturb(x.contiguous(), y)  # type: ignore[no-any-return]

    def package(self, predict: Predict, x: Tensor, threat: Threat) -> Any:
        """The package's own object, set up for this threat and for images such as ``x``.

        Raises:
            MmardError: for another range of pixels, or too few classes.
        """
        from pyautoattack import AutoAttack as Package

        if (threat.lower, threat.upper) != (0.0, 1.0):
            raise MmardError(f"AutoAttack works on pixels in [0, 1], got [{threat.lower:g}, {threat.upper:g}]")
        with torch.no_grad():
            classes = predict(x[:1]).shape[1]
        if classes < MIN_CLASSES:
            raise MmardError(f"AutoAttack's targeted loss needs at least {MIN_CLASSES} classes, got {classes}")
        attacks = [STAGES[stage] for stage in self.stages]
        version = {"version": "standard"} if self.protocol == "standard" else {"version": "custom", "attacks": attacks}
        package = Package(predict, norm=NORMS[threat.norm], eps=threat.eps, seed=self.seed, device=x.device, **version)
        package.apgd.n_restarts = package.fab.n_restarts = 1  # as in the standard version; a custom one has 5
        package.apgd.loss, package.fab.targeted = "ce", True
        package.apgd_targeted.n_target_classes = package.fab.n_target_classes = min(9, classes - 1)
        return package

    def check(self, predict: Predict, x: Tensor, y: Tensor, threat: Threat) -> None:
        """Let the package look for randomness, probabilities in place of logits, and gradients inside the model; it warns."""
        from pyautoattack import checks

        package = self.package(predict, x, threat)
        with torch.no_grad():
            checks.check_randomized(predict, x, y, bs=len(x), logger=package.logger)
            checks.check_range_output(predict, x, logger=package.logger)
            checks.check_dynamic(predict, x, logger=package.logger)

    @staticmethod
    def check_square(accuracy: Mapping[str, float]) -> None:
        """Let the package say whether Square found more than it should; ``accuracy`` in [0, 1] after each stage."""
        from pyautoattack import checks

        by_name = {STAGES.get(stage, stage): share for stage, share in accuracy.items()}
        checks.check_square_sr(by_name, logger=logging.getLogger("auto-attack"))

    def __str__(self) -> str:
        parts = "" if self.protocol == "standard" else ": APGD-CE and APGD-T only"
        return f"AutoAttack {self.protocol} (pyautoattack){parts}"


@contextmanager
def listening() -> Iterator[None]:
    """Show the package's warnings, which it writes to a log, as Python's; the rest of its log is quiet."""
    logger, level = logging.getLogger("auto-attack"), logging.getLogger("auto-attack").level

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            warnings.warn(f"AutoAttack: {record.getMessage()}", stacklevel=2)

    ear, propagates = Ear(logging.WARNING), logger.propagate
    logger.addHandler(ear)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(ear)
        logger.setLevel(level)
        logger.propagate = propagates
