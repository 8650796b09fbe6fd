"""A copy of the model from before the evaluation: if it predicts otherwise, the model's state has changed."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmard import losses
from mmard.core.threat import Threat
from mmard.core.views import held_still
from mmard.data.images import Images, some
from mmard.evaluation.checks.batch_independence import tolerance_of
from mmard.evaluation.checks.messages import Check
from mmard.evaluation.predict import logits_of

LOOKED_AT, AGAIN = 16, 16  # images at the beginning and the end; adversarial images of a batch


@dataclass(frozen=True, eq=False)
class ReferenceModel:
    """The model's logits before the attacks, and a copy of it that sees next to no images.

    Attributes:
        model: the copy; the model itself where it cannot be copied.
        x: natural images and random points in their balls, (2M, C, H, W).
        said: the model's logits there, (2M, K).
    """

    model: nn.Module
    x: Tensor
    said: Tensor

    @staticmethod
    def of(model: nn.Module, fresh: nn.Module, images: Images, threat: Threat) -> "ReferenceModel":
        """Predict a few images with the model; ``fresh`` is its copy. Random numbers are drawn."""
        natural, _, _ = some(images, LOOKED_AT, seed=1).batch(slice(None))
        torch.manual_seed(0)
        x = torch.cat([natural, threat.uniform(natural)])
        with torch.no_grad():
            return ReferenceModel(fresh, x, logits_of(model, x, len(images.classes)))

    @property
    def tolerance(self) -> Tensor:
        """Return by how much logits may differ between batches."""
        return tolerance_of(self.said)

    def _logits(self, model: nn.Module, x: Tensor) -> Tensor:
        return logits_of(model, x, self.said.shape[1])

    @torch.no_grad()
    def contradicts(self, x_adv: Tensor, y: Tensor, right: Tensor) -> Tensor:
        """Predict again, one by one from the end, up to `AGAIN` images (B, C, H, W) that count as right: which are wrong? (B,)."""
        rows = right.nonzero().squeeze(1)
        rows = rows[torch.linspace(0, len(rows) - 1, min(len(rows), AGAIN), device=rows.device).long()]
        wrong = torch.zeros_like(right)
        for row in rows.flip(0):
            margin = losses.margin(self._logits(self.model, x_adv[row][None]), y[row][None])
            wrong[row] = bool(margin < -self.tolerance)
        return wrong

    def findings(self, model: nn.Module) -> list[Check]:
        """Compare the model's logits of the first images, and the copy's, with those before the attacks."""
        with held_still(model), torch.no_grad():
            apart = torch.stack(
                [(self._logits(net, self.x) - self.said).abs().max() for net in (model, self.model)]
            ).max()
        if not apart > 2 * self.tolerance:
            return []
        return [
            Check("state", "error", f"logits of the same {len(self.x)} images differ by {apart:.3g} before and after")
        ]


def copied(model: nn.Module) -> nn.Module:
    """Copy a model, in evaluation mode and without gradients to its weights; return it itself where it cannot be copied."""
    try:
        return copy.deepcopy(model).eval().requires_grad_(False)
    except Exception:  # a session of a runtime, a lock, a tensor of a graph: all have an exception of their own
        return model
