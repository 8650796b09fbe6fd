"""The official AutoAttack package behind the same signature as every other attack."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmard.core.errors import MmardError
from mmard.core.threat import Threat
from mmard.core.views import Predict

NORMS = {"linf": "Linf", "l2": "L2"}
Protocol = Literal["standard", "quick"]
QUICK = ["apgd-ce", "apgd-t"]
MIN_CLASSES = 4  # the targeted DLR loss divides by a difference of the first and the fourth logit


@dataclass(frozen=True, kw_only=True)
class AutoAttack:
    """AutoAttack (Croce & Hein, 2020, arXiv 2003.01690).

    Args:
        protocol: ``standard``: APGD-CE, APGD-T, FAB-T, Square; ``quick``: the first two, which find nearly all that the four
            find on a model that hides no gradients, and cannot find out whether it does.
        batch_size: images attacked at once.
        seed: of the package's random starts.

    With C < 10 classes the two targeted attacks aim at the C − 1 that there are. Pixels must have the range [0, 1].
    """

    protocol: Protocol = "standard"
    batch_size: int = 500
    seed: int = 0

    def __call__(self, predict: Predict, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        """The adversarial images where the package found one, the natural ones elsewhere. (B, C, H, W) → the same."""
        if (threat.lower, threat.upper) != (0.0, 1.0):
            raise MmardError(f"AutoAttack works on pixels in [0, 1], got [{threat.lower:g}, {threat.upper:g}]")
        if threat.eps == 0:
            return x.clone()
        with torch.no_grad():
            classes = predict(x[:1]).shape[1]
        if classes < MIN_CLASSES:
            raise MmardError(f"AutoAttack's targeted loss needs at least {MIN_CLASSES} classes, got {classes}")
        runner = self.package(predict, classes, x.device, threat)
        x_adv, _ = runner.run_standard_evaluation(x.contiguous(), y, batch_size=self.batch_size)
        return x_adv  # type: ignore[no-any-return]

    def package(self, predict: Predict, classes: int, device: torch.device, threat: Threat):  # type: ignore[no-untyped-def]
        """The package's own object, set up for this threat."""
        from pyautoattack import AutoAttack as Package

        version = {"version": "standard"} if self.protocol == "standard" else {"version": "custom", "attacks": QUICK}
        runner = Package(predict, norm=NORMS[threat.norm], eps=threat.eps, seed=self.seed, device=device, **version)
        runner.apgd.n_restarts = 1  # as in the standard version; the package's own choice for a custom one is 5
        targets = min(9, classes - 1)
        runner.apgd_targeted.n_target_classes = runner.fab.n_target_classes = targets
        return runner

    def __str__(self) -> str:
        parts = "" if self.protocol == "standard" else ": APGD-CE and APGD-T only"
        return f"AutoAttack {self.protocol} (pyautoattack){parts}"


@contextmanager
def listening(tick: Callable[[float], None]) -> Iterator[None]:
    """Call ``tick`` with the share of a batch's attacks done, which the package says in its log; its warnings show."""
    logger, level = logging.getLogger("auto-attack"), logging.getLogger("auto-attack").level

    class Ear(logging.Handler):
        attacks, done = 1, 0

        def emit(self, record: logging.LogRecord) -> None:
            said = record.getMessage()
            if " version including " in said:
                self.attacks, self.done = said.count(",") + 1, 0
            elif "successfully perturbed" in said:
                self.done += 1
                tick(min(1.0, self.done / self.attacks))
            elif record.levelno >= logging.WARNING:
                warnings.warn(f"AutoAttack: {said}", stacklevel=2)

    ear, propagates = Ear(), logger.propagate
    logger.addHandler(ear)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(ear)
        logger.setLevel(level)
        logger.propagate = propagates
