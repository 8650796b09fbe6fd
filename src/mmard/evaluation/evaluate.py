"""Attacks × model → Scores. In fp32, in evaluation mode, on all the images given."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from mmard.attacks.auto import AutoAttack
from mmard.attacks.cw import cw
from mmard.attacks.pgd import Pgd, untargeted
from mmard.core.errors import MmardError, unknown
from mmard.core.method import Attack
from mmard.core.threat import Threat, in_255ths
from mmard.core.views import held_still
from mmard.data.images import Images
from mmard.evaluation.scores import CLEAN, Scores

Tick = Callable[[str, int, int], None]
"""Progress: (attack, samples done, samples in all)."""


@dataclass(frozen=True)
class Trial:
    """An attack with the line that describes it."""

    attack: Attack
    detail: Callable[[Threat], str]


def _trial(pgd: Pgd, attack: Attack, loss: str) -> Trial:
    def detail(threat: Threat) -> str:
        steps = f"{pgd.steps} step{'s' if pgd.steps > 1 else ''} of {in_255ths(pgd.step_for(threat))}"
        return f"{loss}, {steps}, start {pgd.start}"

    return Trial(attack, detail)


def suite(batch_size: int = 500, seed: int = 0) -> dict[str, Trial]:
    """The attacks of an evaluation, by name, weakest first."""
    fgsm, pgd, margin = Pgd(steps=1, start="none"), Pgd(steps=20, start="uniform"), Pgd(steps=30, start="uniform")
    auto = AutoAttack(batch_size=batch_size, seed=seed)
    return {
        "FGSM": _trial(fgsm, untargeted(fgsm), "cross-entropy"),
        "PGD-20": _trial(pgd, untargeted(pgd), "cross-entropy"),
        "C&W": _trial(margin, cw(margin), "margin loss"),
        "AutoAttack": Trial(auto, lambda _: str(auto)),
    }


def choose(names: str | None, trials: Mapping[str, Trial]) -> dict[str, Trial]:
    """The trials named in a list such as ``"fgsm,pgd-20"``; None: all. ``"none"``: clean accuracy only."""
    if names is None:
        return dict(trials)
    by_name = {name.lower().replace("&", ""): name for name in trials}
    wanted = [n.strip().lower().replace("&", "") for n in names.split(",") if n.strip() not in ("", "none", CLEAN)]
    for n in wanted:
        if n not in by_name:
            raise unknown("attack", n, [*by_name, "none"])
    return {by_name[n]: trials[by_name[n]] for n in wanted}


def evaluate(
    model: nn.Module,
    images: Images,
    threat: Threat,
    trials: Mapping[str, Trial] | None = None,
    *,
    batch_size: int = 500,
    seed: int = 0,
    tick: Tick = lambda *_: None,
) -> Scores:
    """Clean accuracy and accuracy under each attack.

    Args:
        model: pixels in [0, 1] → logits; its mode and gradients are given back as they were.
        images: what to judge on; pass the test set whole.
        trials: from `suite`; None: all of it.

    Raises:
        MmardError: when the model has another number of classes than the data, or its logits are not finite.
    """
    trials = suite(batch_size, seed) if trials is None else trials
    columns, seconds = [], []
    with held_still(model):
        for name, trial in {CLEAN: None, **trials}.items():
            begun = time.perf_counter()
            torch.manual_seed(seed)
            columns.append(_column(model, images, threat, trial, batch_size, partial(tick, name)))
            seconds.append(time.perf_counter() - begun)
    details = ("no attack", *(t.detail(threat) for t in trials.values()))
    return Scores(
        torch.stack(columns, 1), (CLEAN, *trials), details, tuple(seconds), images.index.cpu(), {"threat": str(threat)}
    )


def _column(
    model: nn.Module,
    images: Images,
    threat: Threat,
    trial: Trial | None,
    batch_size: int,
    tick: Callable[[int, int], None],
) -> Tensor:
    verdicts = []
    for start in range(0, len(images), batch_size):
        x, y, _ = images.batch(slice(start, start + batch_size))
        x_adv = x if trial is None else trial.attack(model, x, y, threat)
        verdicts.append(_right(model, x_adv, y, len(images.classes)))
        tick(min(start + batch_size, len(images)), len(images))
    return torch.cat(verdicts).cpu()


def _right(model: nn.Module, x: Tensor, y: Tensor, classes: int) -> Tensor:
    with torch.no_grad():
        logits = model(x)
    if logits.shape != (len(x), classes):
        raise MmardError(f"the model gives {tuple(logits.shape)} for {len(x)} images of {classes} classes: not a fit")
    if not logits.isfinite().all():
        raise MmardError("the model's logits are not finite (NaN or infinity); nothing can be said of its robustness")
    return torch.eq(logits.argmax(1), y)
