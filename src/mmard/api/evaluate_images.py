"""Evaluation of any network on the images that a Python program gives; and `mmard.evaluate`, which takes runs, too."""

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, overload

import torch
from pydantic import InstanceOf
from torch import Tensor, nn

from mmard.api.build import known_of
from mmard.api.evaluate import evaluate_run
from mmard.api.evaluation_target import EvalTarget, versions
from mmard.attacks.autoattack_pruning import in_parts
from mmard.core.logits import must_have_values
from mmard.core.threat import Threat
from mmard.data.encoded import EncodedImages, Fit
from mmard.data.given import part_of
from mmard.data.images import Images
from mmard.data.labels import Known, renumbered
from mmard.data.parts import Arrays, Part, Table
from mmard.data.streaming import Streamed
from mmard.evaluation.checks.run import evaluate_with_checks
from mmard.evaluation.loop import Execution, OnProgress
from mmard.evaluation.scores import Scores
from mmard.evaluation.suite import choose_attacks, suite
from mmard.models.architectures import Classifier, adopt
from mmard.models.cards import load_model
from mmard.models.folding import folded_alike
from mmard.models.foreign import is_foreign, must_need
from mmard.runs.folder import RunFolder
from mmard.training.channels_last import lay_out
from mmard.training.own_loop import checked_logits
from mmard.utils.argument_types import Names, public
from mmard.utils.errors import MmardError
from mmard.utils.portable_paths import portable

TRIED = 2  # images
Model = InstanceOf[nn.Module] | str | Path | InstanceOf[RunFolder]


@overload
def evaluate(source: str | Path | RunFolder, attacks: Names = None, **options: Any) -> Scores: ...
@overload
def evaluate(
    source: nn.Module | str | Path | RunFolder, x: Any, y: Any = None, threat: Threat | None = None,
    attacks: Names = None, **options: Any,
) -> Scores: ...  # fmt: skip
def evaluate(source: Any, *given: Any, **options: Any) -> Scores:
    """Evaluate a model under attacks: a run on its own test images, or any network on images given here.

    ``evaluate(run)`` takes a run folder, weights, a card or an exported model, and keeps tables and verdicts beside the weights;
    its options are those of `mmard.api.evaluate.evaluate_run`. ``evaluate(model, x, y, threat)`` takes a `torch.nn.Module`, or what
    `mmard.load_model` takes, and writes no file; its options are those of `evaluate_images`.

    Returns:
        Verdicts by image and attack; ``print`` shows a table.

    Raises:
        MmardError: for arguments of another kind, and whatever makes a model or images unfit.
    """
    names = isinstance(given[0], str | list | tuple | set | frozenset | None) if given else "x" not in options
    if isinstance(source, nn.Module) or not names:
        return evaluate_images(source, *given, **options)
    return evaluate_run(source, *given, **options)


@partial(public, name="evaluate")
def evaluate_images(
    source: Model, x: Any = None, y: Any = None, threat: InstanceOf[Threat] | None = None, attacks: Names = None, *,
    batch_size: int = 500, seed: int = 0, checks: str | None = None, on_progress: OnProgress = lambda *_: None,
    trust: bool = False, module: InstanceOf[nn.Module] | None = None,
) -> Scores:  # fmt: skip
    """Evaluate any network on these images, in float32 and evaluation mode, on the network's device; no file is written.

    Args:
        source: images (B, C, H, W) in [0, 1] → logits (B, K), whose mode and gradients stay, or what `mmard.load_model` takes.
        x: arrays (N, C, H, W) or (N, H, W, C), uint8 or in [0, 1], of which floats are rounded to 256 levels; or, without y, a
            data set of pictures with labels: of `torch`, or of Hugging Face.
        y: class numbers (N,) from 0, or the words by which the model knows its classes.
        threat: such as ``mmard.Threat(eps=8/255)``; None only where no attack is run.
        attacks: such as ``"fgsm,pgd-20"``; None: FGSM, PGD-20, C&W, AutoAttack; ``"none"``: clean only.
        checks: ``"quick"``, ``"full"`` or ``"none"``; None: by the attacks.
        trust, module: as of `mmard.load_model`, for code beside the weights, and for a run whose network was given in Python.

    Raises:
        MmardError: for images or labels that are none, a network that does not fit them, and a missing threat.
    """
    if x is None:
        raise MmardError("evaluate got a network and no images; expected evaluate(model, x, y, threat)")
    if isinstance(y, Threat):
        raise MmardError("evaluate got a threat in the place of the labels y; give it as threat=")
    specs = choose_attacks(attacks, suite(batch_size, seed))
    if specs and threat is None:
        raise MmardError("evaluate got attacks and no threat; expected one such as threat=mmard.Threat(eps=8/255)")
    if threat is not None and (threat.lower, threat.upper) != (0.0, 1.0):
        raise MmardError(f"evaluate: the threat's pixels are in [{threat.lower:g}, {threat.upper:g}], expected [0, 1]")
    part = part_of(x if y is None else (x, y))
    if isinstance(source, nn.Module) or is_foreign(source):
        must_need(module, source)
    model, images = _together(source, part, partial(load_model, module=copy.deepcopy(module), trust=trust))
    faster = in_parts(folded_alike(model, images.batch(slice(2))[0])) if isinstance(model, Classifier) else None
    model = adopt(model, len(images.classes), images.channels)
    how = Execution(batch_size=batch_size, seed=seed, on_progress=on_progress, predict=faster)
    scores = evaluate_with_checks(model, images, threat or Threat(eps=0.0), specs, checks=checks, execution=how)
    named = type(source).__name__ if isinstance(source, nn.Module) else portable(str(_path(source)))
    scores.metadata.update(model=named, data="given in Python", seed=seed, versions=versions())
    return scores


def _path(source: str | Path | RunFolder) -> str | Path:
    return source.path if isinstance(source, RunFolder) else source


def _together(source: Model, part: Part, load: Callable[[str | Path], Classifier]) -> tuple[nn.Module, Images]:
    """Load the model where it is no module yet, and make images on its device with as many classes as it has.

    Raises:
        MmardError: for a model that fails on the images, and for labels that are not its classes.
    """
    if is_foreign(source):
        found = _in_memory(part, None)
        model: nn.Module = EvalTarget.of(str(source)).load_for(found)
    else:
        model = source if isinstance(source, nn.Module) else load(_path(source))
        found = _in_memory(part, model.architecture.channels if isinstance(model, Classifier) else None)
    must_have_values(model, "the model")
    device = next((weights.device for weights in model.parameters()), torch.device("cpu"))
    if not isinstance(source, nn.Module):
        lay_out(model, device, found.shape)
    few = found.pixels[:TRIED].to(device).float() / 255
    classes = checked_logits(model, few, "the model").shape[1]
    known = Known("the model") if isinstance(source, nn.Module) else known_of(_path(source), "the model")
    labels, names = _numbered_as(known, classes, part)
    return model, replace(found, labels=labels, classes=names).to(device)


def _numbered_as(known: Known, classes: int, part: Part) -> tuple[Tensor, tuple[str, ...]]:
    """Number a part's labels (N,) in the model's order; words may be some of the classes that it names.

    Returns:
        Labels (N,), and the names of all the ``classes``.

    Raises:
        MmardError: for labels that are not the model's classes.
    """
    some = not part.numbers and len(part.names) < classes and set(part.names) <= set(known.classes)
    highest = int(part.labels.max())
    if highest >= classes or (not part.numbers and len(part.names) != classes and not some):
        said = f"labels go up to {highest}" if part.numbers else f"labels are {len(part.names)} words"
        raise MmardError(f"{said}, and the model has {classes} classes, 0 to {classes - 1}")
    if some:
        return renumbered(part.labels, part.names, known.classes), known.classes
    names = part.names if len(part.names) == classes else _numbers(classes)
    if not part.numbers and not known.classes:
        warnings.warn(
            "labels are words, and the model names no classes: its outputs are taken in order of the names "
            f"({', '.join(names[:4])} ...), as mmard.distill numbers them; if it has another order, give class numbers",
            stacklevel=2,
        )
    order = known.order(names)
    return part.labels if set(names) != set(order) else renumbered(part.labels, names, order), order


def _in_memory(part: Part, channels: int | None) -> Images:
    """Decode a part whose pictures are encoded, with so many channels (None: their own); classes without names are numbers."""
    names = part.names or _numbers(int(part.labels.max()) + 1)
    if isinstance(part, Table):
        pictures = EncodedImages(part.rows, part.image, Fit())
        own = 1 if channels is None and pictures.all_grey(part.index.tolist()) else 3
        pictures = pictures.but(int(part.index[0]), channels or own)
        return Streamed(pictures, part.labels, names, part.index).in_memory()
    assert isinstance(part, Arrays)
    return Images(part.pixels, part.labels, names, part.index)


def _numbers(classes: int) -> tuple[str, ...]:
    return tuple(map(str, range(classes)))
