"""Inner attacks that adapt to the sample: early stopping at the decision boundary, and warm starts."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from mmard.attacks.pgd import IterativeAttack, Loss, Pgd, gradient
from mmard.core.ascent import Ascent
from mmard.core.threat import Threat, per_sample
from mmard.core.views import Views
from mmard.utils.errors import MmardError

StopAt = Literal["teacher", "student"]


def asked(loss: Loss, who: object) -> Ascent:
    """Return the loss as an `Ascent`, which attacks that adapt to the sample need; raise MmardError if it is none."""
    if not isinstance(loss, Ascent):
        raise MmardError(
            f"{who} asks more than a loss, and got a {type(loss).__name__}; expected an Ascent, as in training"
        )
    return loss


@dataclass(frozen=True, kw_only=True)
class EarlyStop(IterativeAttack):
    """PGD with early stopping: a sample rests from its first iterate beyond the boundary on, and costs no more passes.

    The idea of friendly adversarial training (Zhang et al., ICML 2020, arXiv 2002.11242), whose boundary is the student's.

    Args:
        pgd: its start, step and largest number of steps.
        at: ``"teacher"``: T's class at x' is not its class at x; ``"student"``: S's class at x' is not y.

    A crossing shows in the pass that would take the next step from the iterate. Where the terms do not use the teacher at
    x', ``"teacher"`` costs a forward pass of it in each step. Each sample ends where it would if attacked alone, if no term
    depends on the whole batch.
    """

    pgd: Pgd
    at: StopAt

    def init(self, loss: Loss, x: Tensor, threat: Threat) -> Tensor:
        """Return the PGD's starting point."""
        return self.pgd.init(loss, x, threat)

    def run(self, loss: Loss, x: Tensor, x_adv: Tensor, threat: Threat) -> Tensor:
        """Take up to ``pgd.steps`` steps for each sample, until it crosses the boundary."""
        ascent, step, found = asked(loss, self), self.pgd.step_for(threat), x_adv
        rows = torch.arange(len(x), device=x.device)
        for _ in range(self.pgd.steps):
            x_adv.requires_grad_()
            values, seen = ascent.seen_at(x_adv)
            grad, here = gradient(values, x_adv), x_adv.detach()
            going = (~self.crossed(seen)).nonzero()[:, 0]
            x_adv = threat.project(here + step * threat.steepest(grad), x)
            if len(going) < len(rows):
                ascent, x, x_adv, rows = ascent.of_rows(going), x[going], x_adv[going], rows[going]
            found = found.detach().index_copy(0, rows, x_adv)
            if len(rows) == 0:
                break
        return found

    @torch.no_grad()
    def crossed(self, views: Views) -> Tensor:
        """Tell which samples have crossed the boundary and need no further step, (B,) bool."""
        if self.at == "student":
            return views.adv.student.argmax(1) != views.y
        return views.adv.teacher.argmax(1) != views.nat.teacher.argmax(1)

    def __str__(self) -> str:
        crossed = "T's class at x' is not its class at x" if self.at == "teacher" else "S's class at x' is not y"
        return f"{self.pgd}, each sample until {crossed}"


class WarmStart(nn.Module):
    """Warm starts: each sample's attack starts where its last one ended (as in Zheng et al., CVPR 2020, arXiv 1912.11969).

    Perturbations are kept in the frame of the unaugmented images, by index, in half precision: 2·N·C·H·W bytes. A sample's
    first attack, and all where no room was made (outside of training), start as the process does.

    With several processes each writes down what it made, and `sync` gives all of it to all of them after each step: the
    store is the same in each, and the one that a single process would have.
    """

    kept: Tensor
    known: Tensor

    def __init__(self, process: IterativeAttack) -> None:
        super().__init__()
        self.process: Any = process
        self.made: list[tuple[Tensor, Tensor]] = []
        self.make_room(0, torch.Size([0, 0, 0]))

    def make_room(self, images: int, shape: torch.Size) -> None:
        """Allocate perturbations for training indices below ``images``, of this shape (C, H, W); old ones are dropped."""
        # the bits of float16 as integers: a mean over processes, as buffers of floats get, is not for this
        self.register_buffer("kept", torch.zeros(images, *shape, dtype=torch.int16))
        self.register_buffer("known", torch.zeros(images, dtype=torch.bool))

    def forward(self, loss: Loss, x: Tensor, threat: Threat) -> Tensor:
        """Return x' (B, C, H, W) in the ball around x, and remember its perturbation while training."""
        if threat.eps == 0:
            return x.clone()
        begun, views = self.process.init(loss, x, threat), asked(loss, self).views
        if len(self.known) == 0:
            return self.process.run(loss, x, begun, threat)  # type: ignore[no-any-return]
        delta, known = self.kept[views.index].view(torch.float16).to(x), self.known[views.index]
        last = threat.project(x + (delta if views.frame is None else views.frame(delta)), x)
        x_adv: Tensor = self.process.run(loss, x, torch.where(per_sample(known, x), last, begun), threat)
        delta = x_adv.detach() - x
        delta = delta if views.frame is None else views.frame.back(delta)
        self.made.append((views.index, delta.to(torch.float16, memory_format=torch.contiguous_format)))
        return x_adv

    def sync(self, gather: "Gather") -> None:
        """Store the perturbations made since the last call, of all processes; ``gather`` joins (n, ...) to (processes·n, ...)."""
        if self.made:
            index, delta = (gather(torch.cat(parts)) for parts in zip(*self.made, strict=True))
            self.kept[index], self.known[index] = delta.view(torch.int16), True
            self.made = []

    def __str__(self) -> str:
        return f"{self.process}, starting where the last epoch ended"


class Gather(Protocol):
    """A function that joins tensors (n, ...) of each process to (processes·n, ...)."""

    def __call__(self, value: Tensor) -> Tensor: ...
