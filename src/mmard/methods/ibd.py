"""IBD, information bottleneck distillation: RSLAD, and the teacher's features at x for the student's at x', paired by attention.

A feature is a block's output. Its pattern v is the mean of its squares over the channels, pooled to the size of the teacher's
and brought to length 1; its summary is the mean over the pixels. Of a teacher's block t and a student's s the loss is
Σ_t Σ_s a_ts·MSE(v_s(x'), v_t(x)), with a_t the softmax over s of (kᵀ_ts q_t + p_tᵀp_s)/√128: k and q are learnt from the summaries,
p are learnt places (the attention is that of AFD, Ji et al., AAAI 2021). What is learnt descends with the student, by its
optimiser and schedule, as in the release.

Differences from the release: it asks the teacher about x with the attack's first noise on it (σ .001); here that is x itself.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmard.attacks.pgd import Pgd
from mmard.core.companion import Learned
from mmard.core.method import Method
from mmard.core.objective import term
from mmard.core.views import Views
from mmard.methods.papers import Citation
from mmard.terms import soft_adv, soft_nat
from mmard.utils.calls import checked
from mmard.utils.errors import MmardError
from mmard.utils.validation import NotNegative, ZeroToOne

CITATION = Citation(
    authors="Kuang et al.",
    title="Improving Adversarial Robustness via Information Bottleneck Distillation",
    venue="NeurIPS",
    year=2023,
)
WIDTH = 128  # of keys, queries and places


def summary(feature: Tensor) -> Tensor:
    """Average a feature (B, C, H, W) over its pixels, (B, C)."""
    return feature.float().mean((2, 3))


def pattern(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """Make the pattern (B, H·W) of a feature, pooled to ``size``, of length 1."""
    energy = feature.float().square().mean(1, keepdim=True)
    return F.normalize(F.adaptive_avg_pool2d(energy, size).flatten(1), dim=1)


def normalised(before: int, after: int) -> nn.Sequential:
    """Make a linear layer and a BatchNorm."""
    return nn.Sequential(nn.Linear(before, after), nn.BatchNorm1d(after))


class AttendedFeatures(Learned):
    """The distance of the student's features at x' from the teacher's at x, each pair by its learnt weight."""

    def meet(self, v: Views) -> None:
        """Make the layers for the networks' blocks, from features of any images."""
        student, teacher = (self._features(v, who) for who in ("student", "teacher"))
        self.keys = nn.ModuleList(normalised(each.shape[1], WIDTH) for each in student)
        self.queries = nn.ModuleList(normalised(each.shape[1], WIDTH) for each in teacher)
        self.by_pair = normalised(WIDTH, WIDTH * len(teacher))
        self.student_places, self.teacher_places = (
            nn.Parameter(nn.init.xavier_normal_(torch.empty(len(features), WIDTH))) for features in (student, teacher)
        )

    def weights(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Compute a_ts (B, T, S), which for each of the teacher's T features add up to 1 over the student's S."""
        keys = torch.stack([F.relu(layer(summary(f))) for layer, f in zip(self.keys, student, strict=True)], 1)
        pairs = self.by_pair(keys.flatten(0, 1)).unflatten(0, keys.shape[:2]).unflatten(2, (len(teacher), WIDTH))
        queries = torch.stack([layer(summary(f)) for layer, f in zip(self.queries, teacher, strict=True)], 1)
        alike = torch.einsum("bstw,btw->bts", pairs, queries) + self.teacher_places @ self.student_places.T
        return (alike / math.sqrt(WIDTH)).softmax(2)

    def attended(self, v: Views) -> Tensor:
        """Compare the features: for each image the sum over the teacher's blocks, (B,)."""
        if self.training and len(v.y) < 2:
            raise MmardError("ibd's attention normalises over a batch, expected 2 images or more in training, got 1")
        student, teacher = (self._features(v, who) for who in ("student", "teacher"))
        for who, found, layers in (("student", student, self.keys), ("teacher", teacher, self.queries)):
            if len(found) != len(layers):
                raise MmardError(
                    f"{len(found)} blocks of the {who} are called in this pass, and {len(layers)} were at first, in evaluation "
                    "mode; give a network that calls the same blocks in both modes"
                )
        weights, loss = self.weights(student, teacher), v.nat.x.new_zeros(len(v.y))
        for t, aim in enumerate(teacher):
            size = (aim.shape[2], aim.shape[3])
            seen = torch.stack([pattern(each, size) for each in student], 1)
            loss = loss + (weights[:, t] * (seen - pattern(aim, size)[:, None]).square().mean(2)).sum(1)
        return loss

    def _features(self, v: Views, who: str) -> list[Tensor]:
        found = (v.nat if who == "teacher" else v.adv).features(who)
        if wrong := [tuple(each.shape[1:]) for each in found if each.dim() != 4]:
            raise MmardError(f"a block of the {who} gives {wrong[0]} for an image, expected a feature map (C, H, W)")
        return list(found)


@checked
def ibd(alpha: ZeroToOne = 0.8, beta: NotNegative = 0.8) -> Method:
    """IBD (Kuang 2023): robust soft labels, and features of the teacher for the student, paired by learned attention."""
    attended = term("Σ a_ts·MSE(v_s(x'), v_t(x))", features=True, scale_free=True)(AttendedFeatures().attended)
    soft = soft_adv if alpha == 1 else (1 - alpha) * soft_nat + alpha * soft_adv
    return Method(
        name="ibd",
        inner=soft_adv,
        outer=soft + beta * attended,
        maximizer=Pgd(steps=10, start="gaussian"),
    )
