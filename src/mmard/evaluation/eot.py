"""Expectation over transformation: a randomised model as one classifier, the mean of its logits over draws."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from mmard.evaluation.scores import Scores

DRAWS = 20  # as AutoAttack's protocol for randomised defences


class Averaged(nn.Module):
    """A randomised model averaged over draws: expectation over transformation (Athalye et al., 2018, arXiv 1707.07397).

    ``forward``: images (B, C, H, W) → the mean of the logits (B, K) over ``draws`` calls with fresh noise, so a gradient is
    averaged over the draws too.
    """

    def __init__(self, model: nn.Module, draws: int = DRAWS) -> None:
        super().__init__()
        self.model, self.draws = model, draws

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.model(x) for _ in range(self.draws)]).mean(0)


def over_draws(scores: Scores, draws: int = DRAWS) -> Scores:
    """Name the averaging protocol in the line of each attack; verdicts stay the same."""
    protocol = f"; randomised: EOT over {draws} draws, gradient and verdict of the mean logits"
    return replace(scores, details=tuple(detail + protocol for detail in scores.details))
