"""ADR: Wu et al., "Annealing Self-Distillation Rectification Improves Adversarial Training", ICLR 2024, arXiv 2305.12118.

No teacher: the label is P = λᵢ·T_ema(x)^τ + (1 − λᵢ)·y in attack and loss, λᵢ = clip₀¹(λ − (max P_ema − P_ema,y)), T_ema the
student's own average; τ 2.5 → 2.0 and λ .70 → .95 along a cosine over the run.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmard.attacks.pgd import Pgd
from mmard.core.method import Method
from mmard.core.objective import term
from mmard.core.views import Views
from mmard.models.architectures import Architecture, build


class Rectified(nn.Module):
    """The student's average, and the labels it makes."""

    step: Tensor

    def __init__(self, student: str, decay: float, tau: tuple[float, float], lam: tuple[float, float]) -> None:
        super().__init__()
        self.decay, self.tau, self.lam = decay, tau, lam
        self.net = build(Architecture(name=student, classes=10)).requires_grad_(False).eval()
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def at(self, ends: tuple[float, float], progress: float) -> float:
        """Cosine from the first to the second over the run."""
        return ends[1] + (ends[0] - ends[1]) * (1 + math.cos(math.pi * progress)) / 2

    def target(self, v: Views) -> Tensor:
        """Rectified labels (B, K), constant; the label itself before there is an average."""
        hard = F.one_hot(v.y, 10).to(v.nat.x.dtype)
        if int(self.step) == 0:
            return hard
        with torch.no_grad():
            self.net.eval()
            p = F.softmax(self.net(v.nat.x) / self.at(self.tau, v.progress), 1)
            gap = p.amax(1) - p.gather(1, v.y[:, None]).squeeze(1)
            share = (self.at(self.lam, v.progress) - gap).clamp(0, 1)[:, None]
            return share * p + (1 - share) * hard

    def rectified(self, v: Views) -> Tensor:
        """Cross-entropy of the student at x' with the rectified label."""
        target = v.nat.once("adr", lambda: self.target(v))
        return -(target * F.log_softmax(v.adv.student, 1)).sum(1)

    def rectified_then_follow(self, v: Views) -> Tensor:
        """The same; then the average takes in the weights that the step begins with."""
        loss = self.rectified(v)
        if isinstance(v.models["student"], nn.Module):  # the attack asks a function
            self.follow(v.models["student"])
        return loss

    @torch.no_grad()
    def follow(self, student: nn.Module) -> None:
        """Take in the student's weights and BatchNorm statistics, as they are before the step."""
        net = student.module if hasattr(student, "module") else student
        keep = 0.0 if int(self.step) == 0 else self.decay
        mine, theirs = self.net.state_dict(keep_vars=True), net.state_dict(keep_vars=True)
        for name, value in mine.items():
            if value.is_floating_point():
                value.data.lerp_(theirs[name].data, 1 - keep)
        self.step += 1


def adr(student: str = "cnn-16-5", decay: float = 0.995) -> Method:
    """ADR (Wu 2024): the student's own average rectifies the labels."""
    own, shown = Rectified(student, decay, (2.5, 2.0), (0.70, 0.95)), term("CE(S(x'), P)")
    return Method(
        name="adr", inner=shown(own.rectified), outer=shown(own.rectified_then_follow),
        maximizer=Pgd(steps=10, start="uniform"),
    )  # fmt: skip
