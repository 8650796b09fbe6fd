"""Checks before the attacks: that the robustness of this model on these images can be measured.

About 4,500 images go through the network in all. What must hold raises `CheckError`; the rest is reported.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from mmard.core.threat import Threat
from mmard.data.images import Images, some
from mmard.evaluation.checks.batch_independence import Sample, check_batches, randomised_by, tolerance_of
from mmard.evaluation.checks.gradients import check_slopes
from mmard.evaluation.checks.messages import Check, CheckError
from mmard.evaluation.class_order import reordered
from mmard.evaluation.eot import Averaged
from mmard.evaluation.predict import LogitsModel
from mmard.evaluation.scores import is_far_better
from mmard.evaluation.suite import AttackSpec

LOOKED_AT = 100  # images
ORDERED = 500, 20, 2000  # images by which the order of the outputs is known: least, for each class, most
HALF = 0.5  # of them are right in an order that counts
RUNS = 5
REPEATED = 1e-4  # and so much between runs
HALF_LEVEL = 0.5 / 255
FEW_LEVELS = 0.1  # different values, of all that there are
FAR_OUT = 0.5  # beyond a pixel's range: noise brings fewer than one in twenty there, a normalisation more


def preflight(
    model: nn.Module, images: Images, threat: Threat, specs: Mapping[str, AttackSpec], batch_size: int = 500
) -> list[Check]:
    """Run all the checks before the attacks on a borrowed model (`held_still`); gradients of a runtime are not checked.

    Random numbers are drawn.

    Args:
        batch_size: so many images the attacks will show the model at once.

    Raises:
        CheckError: for the first thing that must hold and does not.
    """
    picked = some(images, LOOKED_AT, seed=0)
    x, y, _ = picked.batch(slice(None))
    sample = Sample(model, x, y, len(images.classes))
    found = [*check_threat(threat, x[0].numel()), *check_pixels(images)]
    check_mode(sample)
    runs = torch.stack([sample.logits(x) for _ in range(RUNS)])
    noise = (runs - runs[0]).abs().max()
    if randomised := bool(noise > tolerance_of(runs[0], REPEATED)):
        found.append(randomised_by(runs))
        sample = replace(sample, model=Averaged(model))  # the classifier that is evaluated
    found += check_dynamic(sample)
    changing = check_batches(sample, images, threat, runs.mean(0), noise + tolerance_of(runs[0]), batch_size)
    if changing and not randomised:  # by the clock, for instance, which a few runs at once do not show
        found, randomised, sample = [*found, *changing], True, replace(sample, model=Averaged(model))
    check_eps_0(sample, threat, specs)
    if len(x) > 1 and not (runs[0] - runs[0, 0]).abs().max() > 1e-6 * runs[0].abs().max():
        return [*found, Check("constant", "warning", f"the same logits for all of {len(x)} images")]
    check_logits(runs[0])
    found += [*check_normalisation(sample, images), *check_class_order(sample, images)]
    if not getattr(model, "has_gradients", True):
        return found
    return found + check_slopes(LogitsModel(model, len(images.classes)), x, y, threat, specs, stops=not randomised)


def check_threat(threat: Threat, pixels: int) -> list[Check]:
    """Check that the radius is plausible for images of so many numbers."""
    if threat.norm == "l2" and threat.eps >= 0.25 * pixels**0.5:  # as far as a usual image is from a grey one
        said = f"eps {threat.eps:g} makes most images grey, so nothing above chance is possible; is it in 255ths?"
        return [Check("threat", "warning", said)]
    if threat.eps == 0:
        return [Check("threat", "warning", "eps 0: no attack may move a pixel, so each figure is the clean one")]
    if threat.norm == "linf" and threat.eps >= 0.5:
        said = f"eps {threat.eps:g} makes any image grey, so nothing above chance is possible; is it in 255ths?"
        return [Check("threat", "warning", said)]
    if threat.norm == "linf" and 0 < threat.eps < HALF_LEVEL:
        said = f"eps {threat.eps:.2g} is less than half a level of an 8-bit image; was it divided by 255 twice?"
        return [Check("threat", "warning", said)]
    return []


def check_pixels(images: Images) -> list[Check]:
    """Check that pixels fill the range [0, 1] in which eps is measured; they are uint8, so they cannot leave it."""
    low, high = images.pixels.min().item() / 255, images.pixels.max().item() / 255
    if high <= 2 / 255:
        raise CheckError("pixels", f"all of them lie in [{low:.4f}, {high:.4f}], expected [0, 1]")
    return [Check("pixels", "warning", f"all of them lie in [{low:.3f}, {high:.3f}]")] if high - low < 0.25 else []


def check_mode(sample: Sample) -> None:
    """Check that every module is in evaluation mode and that a forward pass changes no buffer."""
    if training := [name for name, module in sample.model.named_modules() if module.training]:
        raise CheckError("mode", f"{training[0] or 'the model'} stays in training mode after .eval()")
    before = {name: buffer.clone() for name, buffer in sample.model.named_buffers()}
    sample.logits(sample.x)
    for name, buffer in sample.model.named_buffers():
        if not torch.equal(buffer, before.get(name, buffer)):
            raise CheckError("mode", f"a forward pass in evaluation mode changes the buffer {name}")


def check_dynamic(sample: Sample) -> list[Check]:
    """Check that a forward pass takes no gradients, by the AutoAttack package's own test of the functions it calls."""
    from pyautoattack import checks

    heard: list[str] = []
    checks.funcs.update(dict.fromkeys(checks.funcs, 0))  # it counts calls, and does not forget them by itself
    tracing = sys.gettrace()
    try:
        checks.check_dynamic(sample.model, sample.x[:2], logger=SimpleNamespace(warning=heard.append))
    finally:
        sys.settrace(tracing)
    return [Check("dynamic", "warning", "a forward pass takes gradients")] if heard else []


def check_logits(logits: Tensor) -> None:
    """Refuse probabilities and votes: numbers from 0 up that add up to the same for each image."""
    total = logits.sum(1)
    if not (logits.min() >= 0 and total.mean() > 0 and (total - total.mean()).abs().max() <= 1e-4 * total.mean()):
        return
    alike = (
        logits - logits[:1]
    ).abs().max() <= 1e-4 * total.mean()  # one image, or a constant answer: any sum is the same
    if alike and (total.mean() - 1).abs() > 1e-4:
        return
    levels = len(torch.unique((logits / total.mean()).mul(1e4).round()))  # of votes there are few, of probabilities any
    if levels <= max(2, FEW_LEVELS * logits.numel()):
        said = f"rows have {levels} different values and add up to {total.mean():.4g}: votes, or one-hot answers"
        raise CheckError("votes", said)
    raise CheckError("logits", f"rows are not negative and add up to {total.mean():.4g}: probabilities")


def check_eps_0(sample: Sample, threat: Threat, specs: Mapping[str, AttackSpec]) -> None:
    """Check that every attack returns the images themselves in a ball of radius 0."""
    nowhere = Threat(eps=0, norm=threat.norm, lower=threat.lower, upper=threat.upper)
    x, y = sample.x[:2], sample.y[:2]
    for name, spec in specs.items():
        if not torch.equal(spec.attack(sample.model, x, y, nowhere), x):
            raise CheckError("eps-0", f"{name} with eps 0 does not give the natural images back")


def check_normalisation(sample: Sample, images: Images) -> list[Check]:
    """Check that no other range of pixels suits the model far better; it need not be defined there."""
    ranges = [("in [0, 255]", sample.x * 255), ("in [0, 1/255]", sample.x / 255)]
    for whose, mean, std in _statistics(sample, images):
        ranges.append((f"normalised by {whose}", (sample.x - mean) / std))
        ranges.append((f"with a normalisation by {whose} undone", sample.x * std + mean))
    right = sample.logits(sample.x).argmax(1) == sample.y
    for how, x in ranges:
        try:
            then = sample.logits(x).argmax(1) == sample.y
        except CheckError:  # outside of [0, 1] a model need not be defined
            continue
        if then.float().mean() >= 0.5 and is_far_better(then, right):
            better = f"{right.float().mean():.0%} right as pixels in [0, 1], {then.float().mean():.0%} {how}"
            raise CheckError("normalisation", f"of {len(x)} images {better}")
    if _normalises_again(sample):
        said = "the model normalises what it has normalised already, expected once at most"
        return [Check("normalisation", "warning", said)]
    return []


def check_class_order(sample: Sample, images: Images) -> list[Check]:
    """Check that the outputs fit the classes far better in no other order."""
    least, each, most = ORDERED
    few = some(images, min(max(least, each * sample.classes), most), seed=0)
    parts = [few.batch(slice(start, start + LOOKED_AT))[0] for start in range(0, len(few), LOOKED_AT)]
    answers = torch.cat([sample.logits(x).argmax(1) for x in parts])
    then = reordered(answers, few.labels)
    if then is None or then < HALF:
        return []
    now = torch.eq(answers, few.labels).double().mean()
    said = f"of {len(few)} images {now:.0%} are right, and {then:.0%} with the outputs in another order"
    return [Check("class-order", "warning", said)]


def _normalises_again(sample: Sample) -> bool:
    """Tell whether a normalising module sees images outside of [0, 1]; several side by side, as in an ensemble, do not."""
    ranges: list[Tensor] = []

    def look(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        for flat in (x.flatten() for x in given[:1] if isinstance(x, Tensor) and x.shape == sample.x.shape):
            some_pixels = flat[:: 1 + len(flat) // 10_000 * 2].float()
            ranges.append(some_pixels.quantile(torch.tensor([0.05, 0.95], device=flat.device)))

    hooks = [module.register_forward_pre_hook(look) for module in sample.model.modules() if _normalises(module)]
    try:
        sample.logits(sample.x)
    finally:
        for hook in hooks:
            hook.remove()
    return any(bool(low < -FAR_OUT or high > 1 + FAR_OUT) for low, high in ranges)


def _normalises(module: nn.Module) -> bool:
    """Tell whether a module normalises: ours says so, another's has a mean and a std that change its input."""
    if hasattr(module, "normalizes"):
        return bool(module.normalizes)
    mean, std = getattr(module, "mean", None), getattr(module, "std", None)
    return isinstance(mean, Tensor) and isinstance(std, Tensor) and bool((mean != 0).any() or (std != 1).any())


def _statistics(sample: Sample, images: Images) -> list[tuple[str, Tensor, Tensor]]:
    """List means and standard deviations by which a model may expect its pixels normalised, each (1, C, 1, 1)."""
    known = [("the data's mean and std", *images.mean_std())]
    own = getattr(sample.model, "architecture", None)
    if own is not None and own.mean:
        known.append(("the model's own mean and std", own.mean, own.std))
    known.append(("0.5 and 0.5", (0.5,) * images.channels, (0.5,) * images.channels))
    shaped = [torch.tensor([mean, std], device=sample.x.device)[..., None, None] for _, mean, std in known]
    return [(whose, mean, std) for (whose, _, _), (mean, std) in zip(known, shaped, strict=True)]
