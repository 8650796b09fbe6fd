"""The batches of an evaluation: shared among processes, their verdicts cached at once."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from mmard.attacks.autoattack import AutoAttack
from mmard.attacks.counted_passes import Advance
from mmard.core.method import Attack
from mmard.core.threat import Threat
from mmard.core.views import Predict
from mmard.data.images import Images
from mmard.evaluation.cache import Cache, NoCache
from mmard.evaluation.checks.statefulness import ReferenceModel
from mmard.evaluation.scores import Stage
from mmard.utils.errors import MmardError, is_out_of_memory
from mmard.utils.numbers import seed_of

ROUNDING = 1e-5  # of a pixel's range: what float32 may do to the radius of a projected perturbation

OnProgress = Callable[[str, int, int], None]
"""Progress of this process: (attack, samples done, samples in all)."""


class Ranks(Protocol):
    """The processes that share an evaluation, each with model and images; the training's engine is one implementation."""

    @property
    def rank(self) -> int: ...

    @property
    def world(self) -> int: ...

    def all_reduce_sum(self, value: Tensor) -> Tensor: ...


class OneRank:
    """A single process."""

    rank, world = 0, 1

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        return value


@dataclass(frozen=True, eq=False, kw_only=True)
class Execution:
    """The execution of an evaluation; nothing of it but seed and batch size can change a verdict.

    Attributes:
        batch_size: images attacked at once.
        seed: each batch of the plain attacks draws its own random numbers from it.
        on_progress: called with the progress of this process.
        ranks: processes that share the work, each every `world`-th batch; all of them get all the verdicts.
        predict: a faster network of the same logits up to rounding, which AutoAttack asks; the verdicts stay the model's.
        cache: stores the verdicts of batches, and has those of a stopped evaluation.
        reference: predicts again some images that count as right; None: nothing does.
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
    """A model in evaluation mode, and the images it is evaluated on.

    Attributes:
        predict: the network that AutoAttack attacks in the model's place; the same logits up to rounding, or the model
            itself. What it calls broken counts when the model is wrong too.
    """

    model: nn.Module
    predict: Predict
    images: Images
    threat: Threat
    execution: Execution

    def column(self, name: str, attack: Attack, advance: Advance, other: Predict | None = None) -> tuple[Tensor, float]:
        """Run one attack: three rows of verdicts (3, N) bool, and the seconds it took.

        The rows: right under the attack; x' outside of the threat; right, but wrong in a second prediction.

        Args:
            other: the network that is attacked; None: the model.
        """

        def find(rows: Tensor, _advance: Advance) -> Tensor:
            x, y, _ = self.images.batch(rows)
            torch.manual_seed(seed_of(self.execution.seed, int(rows[0])))
            x_adv = attack(other or self.model, x, y, self.threat)
            return self._found(x_adv, x, y)

        everyone = torch.arange(len(self.images), device=self.images.labels.device)
        return self._shared(name, everyone, self.execution.batch_size, find, advance)

    def stages(
        self, name: str, auto: AutoAttack, right: Tensor, advance: Advance, other: Predict | None = None
    ) -> tuple[list[Stage], Tensor]:
        """Run AutoAttack's attacks in order, each on the images that are still right, in full batches as the package does.

        Also returns, over all of them: x' outside of the threat; right, but wrong in a second prediction, (2, N).
        AutoAttack-quick is AutoAttack's beginning: where there is a cache and both are asked for, the second one goes on
        from the first.

        Args:
            right: (N,) bool, right without an attack.
            other: the network that is attacked; None: `predict`.
        """
        cached, stages = name.removesuffix("-quick"), list[Stage]()
        amiss = torch.stack([torch.zeros_like(right)] * 2)
        for i, stage in enumerate(auto.stages):
            rows = right.nonzero().squeeze(1)
            found, seconds = self._shared(
                f"{cached}-{stage}", rows, auto.batch_size,
                lambda part, within, stage=stage: self._after(auto, stage, part, other, within),  # type: ignore[misc]
                lambda share, i=i: advance((i + share) / len(auto.stages)),  # type: ignore[misc]
            )  # fmt: skip
            right = right.clone()
            right[rows] = found[0]
            amiss[:, rows] |= found[1:]
            stages.append(Stage(name, stage, right.cpu(), len(rows), seconds))
        return stages, amiss

    def _after(self, auto: AutoAttack, stage: str, rows: Tensor, other: Predict | None, advance: Advance) -> Tensor:
        """Run one of AutoAttack's attacks on these rows: verdicts as in `column`, (3, M)."""
        x, y, _ = self.images.batch(rows)
        x_adv = auto.stage(stage, other or self.predict, x, y, self.threat, advance)
        found = self._found(x_adv, x, y)
        if other is None and self.predict is not self.model:
            with torch.no_grad():
                doubtful = found[0] & torch.ne(self.predict(x_adv).argmax(1), y)
            if doubtful.any():  # broken but for a rounding: the model itself decides
                x_adv = auto.stage(stage, self.model, x[doubtful], y[doubtful], self.threat)
                again = self._found(x_adv, x[doubtful], y[doubtful])
                found[:, doubtful] = torch.stack([again[0], found[1, doubtful] | again[1], again[2]])
        return found

    def _found(self, x_adv: Tensor, x: Tensor, y: Tensor) -> Tensor:
        right = self._right(x_adv, y)
        wrong = (
            torch.zeros_like(right)
            if self.execution.reference is None
            else self.execution.reference.contradicts(x_adv, y, right)
        )
        return torch.stack([right, outside(x_adv, x, self.threat), wrong])

    def _shared(
        self, key: str, rows: Tensor, size: int, find: Callable[[Tensor, Advance], Tensor], advance: Advance
    ) -> tuple[Tensor, float]:
        """Compute verdicts of the rows (M,), this process every `world`-th batch; all get all of them, (3, M) bool.

        Args:
            find: verdicts of a batch's rows; it may tell what share of the batch is done.
        """
        found, seconds = torch.zeros(3, len(rows), dtype=torch.long, device=rows.device), 0.0
        mine = range(self.execution.ranks.rank * size, len(rows), self.execution.ranks.world * size)
        for turn, start in enumerate(mine):
            part = rows[start : start + size]
            # by the rows too: who is left depends on the attacks before
            rows_in_it = hashlib.sha256(repr(part.tolist()).encode()).hexdigest()[:8]
            file = re.sub(r"[^\w.+-]", "-", f"{key}-{start}-{rows_in_it}")

            def within(share: float, turn: int = turn) -> None:
                advance((turn + share) / len(mine))

            try:
                value, took = self.execution.cache.once(file, lambda part=part, told=within: find(part, told))  # type: ignore[misc]
            except Exception as e:
                if not is_out_of_memory(e):
                    raise
                words = f"{len(part)} images at once do not fit in memory"
                raise MmardError(f"{words}; give a smaller batch_size (--batch-size)") from e
            found[:, start : start + size] = value.to(found)
            seconds += took
            within(1.0)
        return self.execution.ranks.all_reduce_sum(found).bool(), seconds

    def _right(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self.model(x)
        if not logits.isfinite().all():
            raise MmardError(
                "the model's logits are not finite (NaN or infinity); nothing can be said of its robustness"
            )
        return torch.eq(logits.argmax(1), y)


def outside(x_adv: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """Tell which x' (B, C, H, W) are farther from x than eps, out of the pixel range, or NaN, (B,)."""
    near = threat.distance(x_adv, x) <= threat.eps * (1 + ROUNDING) + ROUNDING
    low, high = x_adv.flatten(1).aminmax(dim=1)
    return ~(near & (low >= threat.lower - ROUNDING) & (high <= threat.upper + ROUNDING))
