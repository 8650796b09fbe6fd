"""Attacks × model → Scores. In fp32, in evaluation mode, on all the images given."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from mmard.attacks.auto import MIN_CLASSES, AutoAttack, listening
from mmard.attacks.cw import cw
from mmard.attacks.pgd import Pgd, untargeted
from mmard.core.errors import MmardError, unknown
from mmard.core.method import Attack
from mmard.core.numbers import seed_of
from mmard.core.tf32 import full_precision
from mmard.core.threat import Threat, in_255ths
from mmard.core.views import held_still
from mmard.data.images import Images
from mmard.evaluation.scores import CLEAN, Scores

Tick = Callable[[str, int, int], None]
"""Progress of this process: (attack, samples done, samples in all)."""


class Crew(Protocol):
    """Processes that share an evaluation, each with the model and the images; the training's engine is one."""

    @property
    def rank(self) -> int: ...

    @property
    def world(self) -> int: ...

    def all_reduce_sum(self, value: Tensor) -> Tensor: ...


class Alone:
    """A crew of one."""

    rank, world = 0, 1

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        return value


@dataclass(frozen=True)
class Trial:
    """An attack with the line that describes it.

    Attributes:
        classes: how many it needs.
        usual: run where no attacks are named.
    """

    attack: Attack
    detail: Callable[[Threat], str]
    classes: int = 2
    usual: bool = True


NO_ATTACK = Trial(lambda _predict, x, _y, _threat: x, lambda _: "no attack")


def _trial(pgd: Pgd, attack: Attack, loss: str) -> Trial:
    def detail(threat: Threat) -> str:
        steps = f"{pgd.steps} step{'s' if pgd.steps > 1 else ''} of {in_255ths(pgd.step_for(threat))}"
        return f"{loss}, {steps}, start {pgd.start}"

    return Trial(attack, detail)


def suite(batch_size: int = 500, seed: int = 0) -> dict[str, Trial]:
    """The attacks of an evaluation, by name, weakest first."""
    fgsm, pgd, margin = Pgd(steps=1, start="none"), Pgd(steps=20, start="uniform"), Pgd(steps=30, start="uniform")
    auto = AutoAttack(batch_size=batch_size, seed=seed)
    quick = replace(auto, protocol="quick")
    return {
        "FGSM": _trial(fgsm, untargeted(fgsm), "cross-entropy"),
        "PGD-20": _trial(pgd, untargeted(pgd), "cross-entropy"),
        "C&W": _trial(margin, cw(margin), "margin loss"),
        "AutoAttack-quick": Trial(quick, lambda _: str(quick), classes=MIN_CLASSES, usual=False),
        "AutoAttack": Trial(auto, lambda _: str(auto), classes=MIN_CLASSES),
    }


def choose(names: str | None, trials: Mapping[str, Trial]) -> dict[str, Trial]:
    """The trials named in a list such as ``"fgsm,pgd-20"``; None: the usual ones. ``"none"``: clean accuracy only."""
    if names is None:
        return {name: trial for name, trial in trials.items() if trial.usual}
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
    crew: Crew = Alone(),
) -> Scores:
    """Clean accuracy and accuracy under each attack.

    Each batch has random numbers of its own, so that the verdicts do not depend on how many processes share the work.

    Args:
        model: pixels in [0, 1] → logits; its mode and gradients are given back as they were.
        images: what to judge on; pass the test set whole.
        trials: from `suite`; None: its usual ones.
        crew: who does every how-manieth batch; each gets all the verdicts.

    Raises:
        MmardError: when the model has another number of classes than the data, or its logits are not finite.
    """
    trials = choose(None, suite(batch_size, seed)) if trials is None else trials
    _must_have_classes(trials, len(images.classes))
    columns, seconds = [], []
    with held_still(model), full_precision():
        for name, trial in {CLEAN: NO_ATTACK, **trials}.items():
            begun = time.perf_counter()
            columns.append(_column(model, images, threat, trial, batch_size, seed, partial(tick, name), crew))
            seconds.append(time.perf_counter() - begun)
    details = tuple(trial.detail(threat) for trial in (NO_ATTACK, *trials.values()))
    facts, labels = {"threat": str(threat), "classes": list(images.classes)}, images.labels.cpu()
    return Scores(torch.stack(columns, 1), (CLEAN, *trials), details, tuple(seconds), images.index.cpu(), facts, labels)


def _must_have_classes(trials: Mapping[str, Trial], count: int) -> None:
    for name, trial in trials.items():
        if count < trial.classes:
            have = f"{trial.classes} classes, the data has {count}"
            raise MmardError(f"{name} needs at least {have}; leave it out: --attacks fgsm,pgd-20,cw")


def _column(
    model: nn.Module,
    images: Images,
    threat: Threat,
    trial: Trial,
    batch_size: int,
    seed: int,
    tick: Callable[[int, int], None],
    crew: Crew,
) -> Tensor:
    """Who is still right, (N,)."""
    n, right = len(images), torch.zeros(len(images), dtype=torch.long, device=images.labels.device)
    mine = range(crew.rank * batch_size, n, crew.world * batch_size)
    for turn, start in enumerate(mine):
        rows, share = slice(start, start + batch_size), n / len(mine)
        x, y, _ = images.batch(rows)
        torch.manual_seed(seed_of(seed, start))
        with listening(lambda part, turn=turn, share=share: tick(int((turn + part) * share), n)):  # type: ignore[misc]
            try:
                x_adv = trial.attack(model, x, y, threat)
            except torch.OutOfMemoryError as e:
                raise MmardError(f"{len(x)} images at once do not fit in memory; give a smaller --batch-size") from e
        right[rows] = _right(model, x_adv, y, len(images.classes)).long()
        tick(int((turn + 1) * share), n)
    return crew.all_reduce_sum(right).bool().cpu()


def _right(model: nn.Module, x: Tensor, y: Tensor, classes: int) -> Tensor:
    with torch.no_grad():
        logits = model(x)
    if logits.shape != (len(x), classes):
        raise MmardError(f"the model gives {tuple(logits.shape)} for {len(x)} images of {classes} classes: not a fit")
    if not logits.isfinite().all():
        raise MmardError("the model's logits are not finite (NaN or infinity); nothing can be said of its robustness")
    return torch.eq(logits.argmax(1), y)
