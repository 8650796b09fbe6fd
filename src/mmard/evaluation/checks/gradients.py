"""Check of gradients: that those which attacks follow predict the change of the logits."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mmard import losses
from mmard.attacks.cw import cw_loss
from mmard.attacks.pgd import Pgd, untargeted
from mmard.core.threat import Threat
from mmard.evaluation.checks.confirmation import Attempt, losses_part, try_attacks
from mmard.evaluation.checks.messages import Check, CheckError
from mmard.evaluation.suite import AttackSpec
from mmard.utils.errors import failing_in_one_line

# Of logits. An honest net's multiplied: at a gap of 26 PGD-20 leaves 3 points too many, at 52 six.
LARGE, SMALL = 30.0, 0.02
SHARES = (1 / 64, 1 / 8)  # of eps: steps over which the change is measured
# Measured over predicted change: further than so from 1, and the gradient is another's; honest networks: 0.01.
APART = 0.25
FLAT = 1e-4  # of the spread of the logits: less than that over the whole ball, and the gradient is as good as zero
USUAL = 1 / 255  # where eps is 0
FEW, CLIMBED = 40, 3  # images at whose random starts and x' gradients are checked; steps to x'
WORTH_A_WORD, MOST = 0.1, 0.5  # of the images


def check_slopes(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, specs: Mapping[str, AttackSpec], stops: bool = True
) -> list[Check]:
    """Check the scale of the logits, and that gradients exist and are true. x (N, C, H, W) in [0, 1].

    Gradients are checked where attacks follow them: near the images, at random starts in the ball, and at x'. Networks with
    ties, such as max-pooling over a flat background, have no one gradient right at the images; that is no fault where attacks
    follow the gradient further than a blind search gets.

    Args:
        stops: raise where most images are concerned and attacks agree (`try_attacks`); else all findings are warnings.

    Raises:
        CheckError: where gradients are cut, or where ``stops`` says so.
    """
    ball = replace(threat, eps=threat.eps or USUAL)
    near = _look(model, x, y, ball)
    torch.manual_seed(0)
    start = ball.uniform(x[:FEW])
    looks = {"images": near, "random starts": _look(model, start, y[:FEW], ball)}
    climbed = untargeted(Pgd(steps=CLIMBED, start="uniform"), cw_loss)(model, x[:FEW], y[:FEW], ball)
    looks["x'"] = _look(model, climbed, y[:FEW], ball)
    suspicions = [s for s in (_suspicion("zero-gradients", looks), _suspicion("masked-gradients", looks)) if s]
    tried = try_attacks(model, x, y, ball) if suspicions and stops else None
    found = [check for suspicion in suspicions if (check := _judged(suspicion, tried)) is not None]
    return [*found, *_check_scale(model, x, y, ball, near.logits, specs)]


@dataclass(frozen=True, eq=False)
class _Look:
    """Gradients at some points: logits (N, K), whether the gradient is as good as zero (N,), error of the others (M,)."""

    logits: Tensor
    flat: Tensor
    apart: Tensor


@dataclass(frozen=True)
class _Suspicion:
    """A suspicion against gradients: share of the images at the worst of the points, and whether at the images alone."""

    name: str
    said: str
    share: float
    at_images_alone: bool


def _look(model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> _Look:
    eps = threat.eps
    reach = SHARES[-1] * eps
    x = x.clamp(reach, 1 - reach) if threat.norm == "linf" and eps < 0.5 else x
    logits, grad = _gradient(model, x, y)
    direction = threat.steepest(grad)
    flat = ~(eps * (grad * direction).flatten(1).sum(1) > FLAT * (logits.amax(1) - logits.amin(1)))
    # a model need not be defined beyond the range of pixels: both ends of a step stay inside
    way = torch.where((x + reach * direction.abs() <= 1) & (x - reach * direction.abs() >= 0), direction, 0.0)
    slope = (grad * way).flatten(1).sum(1)
    measured = torch.stack([_change(model, x, y, way, share * eps) for share in SHARES])
    known = ~flat & (eps * slope > FLAT * (logits.amax(1) - logits.amin(1))) & measured.isfinite().all(0)
    apart = (measured / slope.clamp_min(torch.finfo(slope.dtype).tiny) - 1).abs().amin(0)[known]
    return _Look(logits, flat, apart)


def _suspicion(name: str, looks: Mapping[str, _Look]) -> _Suspicion | None:
    shares = {where: _share(look, name) for where, look in looks.items()}
    where = max(shares, key=lambda where: shares[where])
    if shares[where] <= WORTH_A_WORD:
        return None
    count = len(looks[where].flat if name == "zero-gradients" else looks[where].apart)
    told = f"{shares[where]:.0%} of {count} {where}"
    said = (
        f"{told} have no gradient to speak of"
        if name == "zero-gradients"
        else f"for {told} a step along the gradient changes the margin by another amount"
    )
    alone = all(share <= WORTH_A_WORD for at, share in shares.items() if at != "images")
    return _Suspicion(name, said, shares[where], alone)


def _share(look: _Look, name: str) -> float:
    amiss = look.flat if name == "zero-gradients" else look.apart > APART
    return amiss.float().mean().item() if len(amiss) else 0.0


def _judged(suspicion: _Suspicion, tried: Attempt | None) -> Check | None:
    """Turn a suspicion into a finding: None where attacks acquit the gradient, an error only where they agree."""
    if tried is not None and tried.agrees and suspicion.share > MOST:
        raise CheckError(suspicion.name, f"{suspicion.said}, and {tried}")
    if tried is not None and tried.clears and suspicion.at_images_alone:
        return None
    return Check(suspicion.name, "warning", suspicion.said)


def _gradient(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Compute logits (N, K) and the gradient of the margin (N, C, H, W), which does not depend on the logits' scale."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        torch.manual_seed(0)  # a randomised model draws the same noise each time
        logits = model(x)
        if not logits.requires_grad:
            raise CheckError("detached", "the logits do not depend on the image for autograd")
        with failing_in_one_line("the model's gradient"):
            (grad,) = torch.autograd.grad(losses.margin(logits, y).sum(), x, allow_unused=True)
    if grad is None:
        raise CheckError("detached", "the logits do not depend on the image for autograd")
    return logits.detach(), grad.nan_to_num(0.0, 0.0, 0.0)


@torch.no_grad()
def _change(model: nn.Module, x: Tensor, y: Tensor, direction: Tensor, step: float) -> Tensor:
    """Measure the change of the margin (N,) per unit of length, over a step to either side."""
    ends = []
    for way in (step, -step):
        torch.manual_seed(0)
        ends.append(losses.margin(model(x + way * direction), y))
    return (ends[0] - ends[1]) / (2 * step)


def _check_scale(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, logits: Tensor, specs: Mapping[str, AttackSpec]
) -> list[Check]:
    """Check that cross-entropy works at the logits' size; an error where none of the attacks would show it."""
    best, second = logits.topk(2, 1).values.unbind(1)
    gap, spread = (best - second).median().item(), (logits.amax(1) - logits.amin(1)).median().item()
    if gap <= LARGE and spread >= SMALL:
        return []
    said = f"the first logit is {gap:.2g} above the second (median), expected about 1 to 30"
    if specs and not any(spec.scale_free for spec in specs.values()) and losses_part(model, x, y, threat):
        raise CheckError("scale", said)
    return [Check("scale", "warning", said)]
