"""Square (Andriushchenko et al., 2020, arXiv 1912.00049): random search by queries, without a gradient."""

from dataclasses import dataclass

from torch import Tensor

from mmard.attacks.autoattack import NORMS
from mmard.core.threat import Threat
from mmard.core.views import Predict
from mmard.utils.errors import MmardError
from mmard.utils.numbers import must_be_whole_number


@dataclass(frozen=True, kw_only=True)
class Square:
    """The AutoAttack package's Square with AutoAttack's settings: margin loss, one restart, first squares of 0.8 of the image.

    It needs logits alone, so it attacks whatever can be run. Pixels must have the range [0, 1].

    Args:
        queries: at most so many forward passes an image.
        seed: of the squares; each call begins with it.
    """

    queries: int = 5000
    seed: int = 0

    def __post_init__(self) -> None:
        must_be_whole_number(queries=self.queries)
        must_be_whole_number(0, seed=self.seed)

    def __call__(self, predict: Predict, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        """Return adversarial images where one was found, natural ones elsewhere. (B, C, H, W) → the same."""
        if (threat.lower, threat.upper) != (0.0, 1.0):
            raise MmardError(f"Square works on pixels in [0, 1], got [{threat.lower:g}, {threat.upper:g}]")
        if threat.norm == "l2" and x.shape[2] < 5:
            raise MmardError(f"Square's L2 form starts from five squares a side, got images {x.shape[2]} pixels high")
        if threat.eps == 0:
            return x.clone()
        from pyautoattack.square import SquareAttack

        attack = SquareAttack(
            predict,
            norm=NORMS[threat.norm],
            eps=threat.eps,
            n_queries=self.queries,
            seed=self.seed,
            resc_schedule=False,
            device=x.device,
        )
        return attack.perturb(x.contiguous(), y)  # type: ignore[no-any-return]

    def __str__(self) -> str:
        return f"{self.queries:,} queries, no gradients"
