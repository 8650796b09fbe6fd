"""The images of an evaluation in batches, shared among processes, each batch's verdicts kept as soon as they are there."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from mmard.attacks.autoattack import AutoAttack
from mmard.core.method import Attack
from mmard.core.threat import Threat
from mmard.core.views import Predict
from mmard.data.images import Images
from mmard.evaluation.cache import Cache, NoCache
from mmard.evaluation.checks.memory import ReferenceModel
from mmard.evaluation.scores import Stage
from mmard.utils.errors import MmardError, is_out_of_memory
from mmard.utils.numbers import seed_of

ROUNDING = 1e-5  # of a pixel's range: what float32 may do to the radius of a projected perturbation

OnProgress = Callable[[str, int, int], None]
"""Progress of this process: (attack, samples done, samples in all)."""
Advance = Callable[[float], None]
"""Told the share of the work that is done, in [0, 1]."""


class Ranks(Protocol):
    """Processes that share an evaluation, each with the model and the images; the training's engine is one."""

    @property
    def rank(self) -> int: ...

    @property
    def world(self) -> int: ...

    def all_reduce_sum(self, value: Tensor) -> Tensor: ...


class OneRank:
    """One process alone."""

    rank, world = 0, 1

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        return value


@dataclass(frozen=True, eq=False, kw_only=True)
class Execution:
    """How an evaluation is carried out; none of it but seed and batch size can change a verdict.

    Attributes:
        batch_size: images attacked at once.
        seed: each batch of the plain attacks draws its own random numbers from it.
        on_progress: told of the progress of this process.
        ranks: processes that share the work, every so-manieth batch each; all of them get all the verdicts.
        predict: a faster network of the same logits up to rounding, which AutoAttack asks; the verdicts stay the model's.
        cache: where verdicts of batches go, and where those of a stopped evaluation are found.
        reference: asked again of some of what counts as right; None: nobody.
    """

    batch_size: int = 500
    seed: int = 0
    on_progress: OnProgress = lambda *_: None
    ranks: Ranks = field(default_factory=OneRank)
    predict: Predict | None = None
    cache: Cache = field(default_factory=NoCache)
    reference: ReferenceModel | None = None


@dataclass(frozen=True, eq=False)
class Batches:
    """A model, in evaluation mode, against its images.

    Attributes:
        predict: who answers AutoAttack in the model's place; the same logits up to rounding, or the model itself. What it calls
            broken counts when the model is wrong too.
    """

    model: nn.Module
    predict: Predict
    images: Images
    threat: Threat
    how: Execution

    def column(self, name: str, attack: Attack, advance: Advance, other: Predict | None = None) -> tuple[Tensor, float]:
        """Find three things of each image, (3, N) bool, and the seconds it took.

        Who is right under an attack; whose x' is no example of the threat; who is right, and wrong when asked again.

        Args:
            other: who answers the attack; None: the model.
        """

        def find(rows: Tensor) -> Tensor:
            x, y, _ = self.images.batch(rows)
            torch.manual_seed(seed_of(self.how.seed, int(rows[0])))
            x_adv = attack(other or self.model, x, y, self.threat)
            return self._found(x_adv, x, y)

        everyone = torch.arange(len(self.images), device=self.images.labels.device)
        return self._shared(name, everyone, self.how.batch_size, find, advance)

    def stages(
        self, name: str, auto: AutoAttack, right: Tensor, advance: Advance, other: Predict | None = None
    ) -> tuple[list[Stage], Tensor]:
        """AutoAttack's attacks one after the other, each on those that are right yet, in full batches as the package makes them.

        And, in any of them, whose x' was no example of the threat, and who was right but wrong when asked again, (2, N).

        Args:
            right: (N,) bool, who is right without an attack.
            other: who answers the attacks; None: `predict`.
        """
        stages: list[Stage] = []
        amiss = torch.stack([torch.zeros_like(right)] * 2)
        for i, stage in enumerate(auto.stages):
            rows = right.nonzero().squeeze(1)
            found, seconds = self._shared(
                f"{name}-{stage}", rows, auto.batch_size,
                lambda part, stage=stage: self._after(auto, stage, part, other),  # type: ignore[misc]
                lambda share, i=i: advance((i + share) / len(auto.stages)),  # type: ignore[misc]
            )  # fmt: skip
            right = right.clone()
            right[rows] = found[0]
            amiss[:, rows] |= found[1:]
            stages.append(Stage(name, stage, right.cpu(), len(rows), seconds))
        return stages, amiss

    def _after(self, auto: AutoAttack, stage: str, rows: Tensor, other: Predict | None) -> Tensor:
        """The three things of `column` after one of AutoAttack's attacks, of these images, (3, M)."""
        x, y, _ = self.images.batch(rows)
        x_adv = auto.stage(stage, other or self.predict, x, y, self.threat)
        found = self._found(x_adv, x, y)
        if other is None and self.predict is not self.model:
            with torch.no_grad():
                doubtful = found[0] & torch.ne(self.predict(x_adv).argmax(1), y)
            if doubtful.any():  # broken but for a rounding: the model itself is asked
                x_adv = auto.stage(stage, self.model, x[doubtful], y[doubtful], self.threat)
                again = self._found(x_adv, x[doubtful], y[doubtful])
                found[:, doubtful] = torch.stack([again[0], found[1, doubtful] | again[1], again[2]])
        return found

    def _found(self, x_adv: Tensor, x: Tensor, y: Tensor) -> Tensor:
        right = self._right(x_adv, y)
        wrong = (
            torch.zeros_like(right) if self.how.reference is None else self.how.reference.contradicts(x_adv, y, right)
        )
        return torch.stack([right, outside(x_adv, x, self.threat), wrong])

    def _shared(
        self, key: str, rows: Tensor, size: int, find: Callable[[Tensor], Tensor], advance: Advance
    ) -> tuple[Tensor, float]:
        """Find three things of each of the rows (M,), this process every how-manieth batch; all get all of it, (3, M) bool."""
        found, seconds = torch.zeros(3, len(rows), dtype=torch.long, device=rows.device), 0.0
        mine = range(self.how.ranks.rank * size, len(rows), self.how.ranks.world * size)
        for turn, start in enumerate(mine):
            part = rows[start : start + size]
            # by the rows too: who is left depends on the attacks before
            rows_in_it = hashlib.sha256(repr(part.tolist()).encode()).hexdigest()[:8]
            file = re.sub(r"[^\w.+-]", "-", f"{key}-{start}-{rows_in_it}")
            try:
                value, took = self.how.cache.once(file, lambda part=part: find(part))  # type: ignore[misc]
            except Exception as e:
                if not is_out_of_memory(e):
                    raise
                words = f"{len(part)} images at once do not fit in memory"
                raise MmardError(f"{words}; give a smaller batch_size (--batch-size)") from e
            found[:, start : start + size] = value.to(found)
            seconds += took
            advance((turn + 1) / len(mine))
        return self.how.ranks.all_reduce_sum(found).bool(), seconds

    def _right(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self.model(x)
        if not logits.isfinite().all():
            raise MmardError(
                "the model's logits are not finite (NaN or infinity); nothing can be said of its robustness"
            )
        return torch.eq(logits.argmax(1), y)


def outside(x_adv: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """Which x' (B, C, H, W) are further from x than eps, or have pixels outside of their range, or NaN, (B,)."""
    near = threat.distance(x_adv, x) <= threat.eps * (1 + ROUNDING) + ROUNDING
    low, high = x_adv.flatten(1).aminmax(dim=1)
    return ~(near & (low >= threat.lower - ROUNDING) & (high <= threat.upper + ROUNDING))
