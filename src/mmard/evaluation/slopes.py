"""Do the gradients that attacks follow tell how the logits change?"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmard import losses
from mmard.core.threat import Threat
from mmard.evaluation.checks import Check, CheckError
from mmard.evaluation.evaluate import Trial

# Of logits. An honest net's multiplied: at a gap of 26 PGD-20 leaves 3 points too many, at 52 six.
LARGE, SMALL = 30.0, 0.02
SHARES = (1 / 64, 1 / 8)  # of eps: steps over which the change is measured
# Measured over predicted change: further than so from 1, and the gradient is another's; honest networks: 0.01.
APART = 0.25
FLAT = 1e-4  # of the spread of the logits: less than that over the whole ball, and the gradient is as good as zero
USUAL = 1 / 255  # where eps is 0


def check_slopes(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, trials: Mapping[str, Trial]) -> list[Check]:
    """Scale of the logits, and gradients that are there and true. x (N, C, H, W) in [0, 1].

    Raises:
        CheckError: where gradients are cut, zero for most images, or not those of the logits; where the scale leaves
            none of the attacks any.
    """
    eps = threat.eps or USUAL
    inside = x.clamp(SHARES[-1] * eps, 1 - SHARES[-1] * eps) if threat.norm == "linf" and eps < 0.5 else x
    logits, grad = _gradient(model, inside, y)
    direction = threat.steepest(grad)
    slope = (grad * direction).flatten(1).sum(1)
    flat = ~(eps * slope > FLAT * (logits.amax(1) - logits.amin(1)))
    found = _check_flat(flat)
    measured = torch.stack([_change(model, inside, y, direction, share * eps) for share in SHARES])
    apart = (measured / slope.clamp_min(torch.finfo(slope.dtype).tiny) - 1).abs().amin(0)[~flat]
    return [*found, *_check_true(apart), *_check_scale(logits, trials)]


def _gradient(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K), and the gradient of the margin (N, C, H, W): it knows no scale."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        torch.manual_seed(0)  # a randomised model draws the same noise each time
        logits = model(x)
        if not logits.requires_grad:
            raise CheckError("detached", "the logits do not depend on the image for autograd")
        (grad,) = torch.autograd.grad(losses.margin(logits, y).sum(), x, allow_unused=True)
    if grad is None:
        raise CheckError("detached", "the logits do not depend on the image for autograd")
    if not grad.isfinite().all():
        raise CheckError("masked-gradients", "the gradient is not finite (NaN or infinity)")
    return logits.detach(), grad


@torch.no_grad()
def _change(model: nn.Module, x: Tensor, y: Tensor, direction: Tensor, step: float) -> Tensor:
    """Change of the margin (N,) per unit of way, over a step to either side."""
    ends = []
    for way in (step, -step):
        torch.manual_seed(0)
        ends.append(losses.margin(model(x + way * direction), y))
    return (ends[0] - ends[1]) / (2 * step)


def _check_true(apart: Tensor) -> list[Check]:
    """How far the measured change is from the predicted one, as a share of it, (M,)."""
    share = (apart > APART).float().mean().item() if len(apart) else 0.0
    said = f"for {share:.0%} of {len(apart)} images a step along the gradient changes the margin by another amount"
    if share > 0.5:
        raise CheckError("masked-gradients", said)
    return [Check("masked-gradients", "warning", said)] if share > 0.1 else []


def _check_flat(flat: Tensor) -> list[Check]:
    share = flat.float().mean().item()
    said = f"{share:.0%} of {len(flat)} images have no gradient to speak of"
    if share > 0.5:
        raise CheckError("zero-gradients", said)
    return [Check("zero-gradients", "warning", said)] if share > 0.1 else []


def _check_scale(logits: Tensor, trials: Mapping[str, Trial]) -> list[Check]:
    """Logits of a size at which cross-entropy works; an error where no attack by a margin loss would show it."""
    best, second = logits.topk(2, 1).values.unbind(1)
    gap, spread = (best - second).median().item(), (logits.amax(1) - logits.amin(1)).median().item()
    if gap <= LARGE and spread >= SMALL:
        return []
    said = f"the first logit is {gap:.2g} above the second (median), expected about 1 to 30"
    if trials and not any(trial.scale_free for trial in trials.values()):
        raise CheckError("scale", said)
    return [Check("scale", "warning", said)]
