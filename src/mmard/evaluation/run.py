"""Evaluation of a model under attacks, in fp32 and evaluation mode, on all the images given."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmard.attacks.autoattack import AutoAttack
from mmard.core.threat import Threat
from mmard.core.views import held_still
from mmard.data.images import Images
from mmard.evaluation.loop import Batches, Execution, OnProgress
from mmard.evaluation.predict import classes_answered
from mmard.evaluation.prepare import prepare_model
from mmard.evaluation.scores import CLEAN, Scores, Stage
from mmard.evaluation.suite import NO_ATTACK, AttackSpec, choose_attacks, for_classes, suite
from mmard.utils.errors import MmardError
from mmard.utils.numbers import must_be_whole_number
from mmard.utils.precision import full_precision


def run_attacks(
    model: nn.Module,
    images: Images,
    threat: Threat,
    specs: Mapping[str, AttackSpec] | None = None,
    execution: Execution = Execution(),
) -> Scores:
    """Measure clean accuracy and accuracy under each attack.

    Each batch has random numbers of its own: verdicts do not depend on the number of processes, nor on interruptions.

    Args:
        model: pixels in [0, 1] → logits; its mode and gradients are given back as they were.
        images: the evaluation set; pass the test set whole.
        specs: from `suite`; None: its usual ones.
        execution: batch size, processes, seed.

    Raises:
        MmardError: when the model gives no finite logits of the data's classes, or changes the images it is given.
    """
    specs = choose_attacks(None, suite(execution.batch_size, execution.seed)) if specs is None else specs
    must_be_judgeable(model, images, execution)
    specs = for_classes(specs, len(images.classes))
    with held_still(model := prepare_model(model, images)), full_precision():
        wrapped, quick = classes_answered(model, execution.predict, images)
        batches = Batches(wrapped, quick, images, threat, execution)
        columns, seconds, stages, amiss = _judged(batches, {CLEAN: NO_ATTACK, **specs}, execution.on_progress)
    details = tuple(spec.detail(threat) for spec in (NO_ATTACK, *specs.values()))
    metadata = {"threat": str(threat) if specs or threat.eps > 0 else "", "classes": list(images.classes), **amiss}
    rows = torch.stack(columns, 1).cpu(), (CLEAN, *specs), details, tuple(seconds)
    return Scores(*rows, images.index.cpu(), metadata, tuple(stages), images.labels.cpu())


FAR, AGAIN = "outside_the_threat", "wrong_when_asked_again"
Verdicts = tuple[list[Tensor], list[float], list[Stage], dict[str, dict[str, int]]]


def _judged(batches: Batches, specs: Mapping[str, AttackSpec], on_progress: OnProgress) -> Verdicts:
    """Run clean prediction and each attack: verdicts (N,), seconds, AutoAttack's stages, and counts of doubtful images.

    Counted by name: x' outside of the threat, and images right at first and wrong in a second prediction. The first
    column is no attack.
    """
    columns: list[Tensor] = []
    seconds: list[float] = []
    stages: list[Stage] = []
    amiss: dict[str, dict[str, int]] = {FAR: {}, AGAIN: {}}
    n = len(batches.images)
    for name, spec in specs.items():

        def advance(share: float, name: str = name) -> None:
            on_progress(name, int(share * n), n)

        other = spec.asks(batches.model) if spec.asks else None
        if isinstance(spec.attack, AutoAttack):
            after, (far, again) = batches.stages(name, spec.attack, columns[0], advance, other)
            stages += after
            column, took = after[-1].right.to(columns[0].device), sum(s.seconds for s in after)
        else:
            (column, far, again), took = batches.column(name, spec.attack, advance, other)
        columns.append(column)
        seconds.append(took)
        amiss[FAR][name], amiss[AGAIN][name] = int(far.sum()), int(again.sum())
    return columns, seconds, stages, amiss


def must_be_judgeable(model: nn.Module, images: Images, execution: Execution) -> None:
    """Raise MmardError unless the model, the images and ``execution`` allow an evaluation."""
    must_be_whole_number(batch_size=execution.batch_size)
    must_be_whole_number(0, seed=execution.seed)
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
