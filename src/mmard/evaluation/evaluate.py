"""Attacks × model → Scores. In fp32, in evaluation mode, on all the images given."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mmard.attacks.autoattack import WHOLE, AutoAttack
from mmard.attacks.cw import cw
from mmard.attacks.pgd import Pgd, untargeted
from mmard.attacks.square import Square
from mmard.core.method import Attack
from mmard.core.threat import Threat, in_255ths
from mmard.core.views import Predict, held_still
from mmard.data.images import Images
from mmard.evaluation.cache import Cache, NoCache
from mmard.evaluation.checks.memory import ReferenceModel
from mmard.evaluation.loop import Batches, OneRank, Ranks
from mmard.evaluation.predict import classes_answered
from mmard.evaluation.prepare import prepared
from mmard.evaluation.scores import CLEAN, Scores, Stage
from mmard.utils.errors import MmardError, unknown
from mmard.utils.numbers import must_be_whole_number
from mmard.utils.precision import full_precision

OnProgress = Callable[[str, int, int], None]
"""Progress of this process: (attack, samples done, samples in all)."""


@dataclass(frozen=True)
class AttackSpec:
    """An attack with the line that describes it.

    Attributes:
        usual: run where no attacks are named.
        scale_free: its loss does not depend on the scale of the logits.
        asks: from the model to who answers the attack in its place; the verdicts stay the model's. None: the model itself.
    """

    attack: Attack
    detail: Callable[[Threat], str]
    usual: bool = True
    scale_free: bool = False
    asks: Callable[[Predict], Predict] | None = None


NO_ATTACK = AttackSpec(lambda _predict, x, _y, _threat: x, lambda _: "no attack")


def _trial(pgd: Pgd, attack: Attack, loss: str, scale_free: bool = False) -> AttackSpec:
    def detail(threat: Threat) -> str:
        steps = f"{pgd.steps} step{'s' if pgd.steps > 1 else ''} of {in_255ths(pgd.step_for(threat))}"
        return f"{loss}, {steps}, start {pgd.start}"

    return AttackSpec(attack, detail, scale_free=scale_free)


def suite(batch_size: int = 500, seed: int = 0) -> dict[str, AttackSpec]:
    """The attacks of an evaluation, by name, weakest first."""
    fgsm, pgd, margin = Pgd(steps=1, start="none"), Pgd(steps=20, start="uniform"), Pgd(steps=30, start="uniform")
    auto = AutoAttack(batch_size=batch_size, seed=seed)
    quick, square = replace(auto, protocol="quick"), Square(seed=seed)
    return {
        "FGSM": _trial(fgsm, untargeted(fgsm), "cross-entropy"),
        "PGD-20": _trial(pgd, untargeted(pgd), "cross-entropy"),
        "C&W": _trial(margin, cw(margin), "margin loss", scale_free=True),
        "AutoAttack-quick": AttackSpec(quick, lambda _: str(quick), usual=False, scale_free=True),
        "AutoAttack": AttackSpec(auto, lambda _: str(auto), scale_free=True),
        "Square": AttackSpec(square, lambda _: str(square), usual=False, scale_free=True),
    }


PROTOCOLS = ("standard", "quick")


def choose(names: str | None, trials: Mapping[str, AttackSpec], protocol: str = "standard") -> dict[str, AttackSpec]:
    """The trials named in a list such as ``"fgsm,pgd-20"``; None: the usual ones. ``"none"``: clean accuracy only.

    Args:
        protocol: of AutoAttack: ``"quick"`` puts AutoAttack-quick, under this name, where AutoAttack would be.
    """
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS)
    by_name = {name.lower().replace("&", ""): name for name in trials}
    if names is None:
        named = [name for name, trial in trials.items() if trial.usual]
    else:
        if not names.strip(" ,"):
            raise MmardError(
                f"attacks {names!r} names none; expected such as fgsm,pgd-20, or none for clean accuracy only"
            )
        wanted = [n.strip().lower().replace("&", "") for n in names.split(",") if n.strip() not in ("", "none", CLEAN)]
        for n in wanted:
            if n not in by_name:
                raise unknown("attack", n, [*by_name, "none"])
        named = [by_name[n] for n in wanted]
    if protocol == "quick":
        named = [f"{name}-quick" if name.endswith("AutoAttack") else name for name in named]
    return {name: trials[name] for name in named}


def unpruned(trials: Mapping[str, AttackSpec]) -> dict[str, AttackSpec]:
    """The same, AutoAttack with every pass of the package's and its last wrong iterate, not the first."""
    return {
        name: replace(trial, attack=replace(trial.attack, prune=False))
        if isinstance(trial.attack, AutoAttack)
        else trial
        for name, trial in trials.items()
    }


def for_classes(trials: Mapping[str, AttackSpec], count: int) -> dict[str, AttackSpec]:
    """Give the same attacks for data of so many classes: of AutoAttack what works there, which its line names."""
    return {name: _for_classes(trial, trial.attack, min(count, WHOLE)) for name, trial in trials.items()}


def _for_classes(trial: AttackSpec, attack: Attack, count: int) -> AttackSpec:
    if not isinstance(attack, AutoAttack) or attack.classes == count:
        return trial
    fewer = replace(attack, classes=count)
    return replace(trial, attack=fewer, detail=lambda threat: "; ".join([trial.detail(threat), fewer.note]))


def evaluate(
    model: nn.Module,
    images: Images,
    threat: Threat,
    trials: Mapping[str, AttackSpec] | None = None,
    *,
    batch_size: int = 500,
    seed: int = 0,
    on_progress: OnProgress = lambda *_: None,
    ranks: Ranks = OneRank(),
    predict: Predict | None = None,
    cache: Cache = NoCache(),
    witness: ReferenceModel | None = None,
) -> Scores:
    """Clean accuracy and accuracy under each attack.

    Each batch has random numbers of its own: verdicts do not depend on the number of processes, nor on interruptions.

    Args:
        model: pixels in [0, 1] → logits; its mode and gradients are given back as they were.
        images: what to judge on; pass the test set whole.
        trials: from `suite`; None: its usual ones.
        crew: who does every how-manieth batch; each gets all the verdicts.
        asked: a faster network of the same logits up to rounding, which AutoAttack asks; the verdicts stay the model's.
        kept: where verdicts of batches go, and where those of a stopped evaluation are found. ``witness``: is asked again of some.

    Raises:
        MmardError: when the model gives no finite logits of the data's classes, or changes the images it is given.
    """
    trials = choose(None, suite(batch_size, seed)) if trials is None else trials
    must_be_judgeable(model, images, batch_size, seed)
    trials = for_classes(trials, len(images.classes))
    with held_still(model := prepared(model, images)), full_precision():
        judged, quick = classes_answered(model, predict, images)
        batches = Batches(judged, quick, images, threat, batch_size, seed, ranks, cache, witness)
        columns, seconds, stages, amiss = _judged(batches, {CLEAN: NO_ATTACK, **trials}, on_progress)
    details = tuple(trial.detail(threat) for trial in (NO_ATTACK, *trials.values()))
    metadata = {"threat": str(threat), "classes": list(images.classes), **amiss}
    rows = torch.stack(columns, 1).cpu(), (CLEAN, *trials), details, tuple(seconds)
    return Scores(*rows, images.index.cpu(), metadata, tuple(stages), images.labels.cpu())


FAR, AGAIN = "outside_the_threat", "wrong_when_asked_again"
Verdicts = tuple[list[Tensor], list[float], list[Stage], dict[str, dict[str, int]]]


def _judged(batches: Batches, trials: Mapping[str, AttackSpec], on_progress: OnProgress) -> Verdicts:
    """Each trial's column (N,) and seconds, AutoAttack's stages, and by name how many x' are no example of the threat, or right
    and wrong when asked again.

    The first trial is no attack.
    """
    columns: list[Tensor] = []
    seconds: list[float] = []
    stages: list[Stage] = []
    amiss: dict[str, dict[str, int]] = {FAR: {}, AGAIN: {}}
    n = len(batches.images)
    for name, trial in trials.items():

        def advance(share: float, name: str = name) -> None:
            on_progress(name, int(share * n), n)

        other = trial.asks(batches.model) if trial.asks else None
        if isinstance(trial.attack, AutoAttack):
            after, (far, again) = batches.stages(name, trial.attack, columns[0], advance, other)
            stages += after
            column, took = after[-1].right.to(columns[0].device), sum(s.seconds for s in after)
        else:
            (column, far, again), took = batches.column(name, trial.attack, advance, other)
        columns.append(column)
        seconds.append(took)
        amiss[FAR][name], amiss[AGAIN][name] = int(far.sum()), int(again.sum())
    return columns, seconds, stages, amiss


def must_be_judgeable(model: nn.Module, images: Images, batch_size: int, seed: int) -> None:
    """Raise for what cannot be judged at all."""
    must_be_whole_number(batch_size=batch_size)
    must_be_whole_number(0, seed=seed)
    if torch.is_inference_mode_enabled():
        raise MmardError(
            "an evaluation takes gradients, and torch.inference_mode forbids them; call it outside of that"
        )
    if not isinstance(model, nn.Module):
        raise MmardError(f"got a {type(model).__name__}, expected a model, a torch.nn.Module")
    if len(images) == 0:
        raise MmardError("there are 0 images to judge on, expected at least 1")
    if len(images.classes) < 2:
        raise MmardError("the images are all of one class; a classifier is judged on two or more")
