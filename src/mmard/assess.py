"""From a model to its verdicts: what `mmard eval` does, for Python."""

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from mmard.config import Settings, read_settings
from mmard.core.errors import MmardError
from mmard.core.files import write_json
from mmard.core.threat import Threat
from mmard.data.images import Images, some
from mmard.evaluation.checked import checked, how_to_check
from mmard.evaluation.checks import CheckError
from mmard.evaluation.evaluate import Tick, Trial, choose, suite
from mmard.evaluation.scores import Scores
from mmard.models.students import Classifier
from mmard.models.teachers import find_model, load_model, load_teacher, must_fit
from mmard.models.weights import load_weights
from mmard.objects import data_of, engine_of
from mmard.runs import RunFolder


def evaluate(
    source: str | Path | RunFolder,
    attacks: str | None = None,
    *,
    limit: int | None = None,
    batch_size: int = 500,
    seed: int = 0,
    checks: str | None = None,
    tick: Tick = lambda *_: None,
    **overrides: Any,
) -> Scores:
    """Judge a model on the test images of its data set; tables and verdicts go to ``eval/`` beside its weights.

    Args:
        source: run folder (its best checkpoint), weights file, or card.
        attacks: such as ``"fgsm,pgd-20"``; None: FGSM, PGD-20, C&W, AutoAttack; ``"none"``: clean only.
        limit: judge on about so many test images, every class in proportion; None: all.
        checks: ``"quick"``, ``"full"`` or ``"none"``; None: by the attacks. What they find is in ``facts["checks"]``.
        **overrides: settings, dots as double underscores: ``threat__eps="4/255"``, ``data__name=...``;
            ``engine__devices=2`` shares the work between processes, with the same verdicts.
    """
    if batch_size < 1 or (limit is not None and limit < 1):
        raise MmardError(f"batch_size {batch_size} and limit {limit} are at least 1")
    trials, path = choose(attacks, suite(batch_size, seed)), _path_of(source)
    how, words = how_to_check(checks, trials), {key.replace("__", "."): value for key, value in overrides.items()}
    engine = engine_of(settings := _settings(path, words))
    with engine.together("start the evaluation again"):
        model, images, whole = _subject(path, settings, limit, engine.device)
        changes = {key: value for key, value in words.items() if not key.startswith("engine.")}  # change no verdict
        results = _results_folder(path, _named(attacks, trials), len(images) if limit else 0, changes, seed)
        threat = _threat(settings, how == "none" or _declared(path, words))
        # first: a folder that cannot be written is known before the attacks
        engine.on_global_zero(lambda: write_json(results / "settings.json", settings.resolved()))
        run: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "tick": tick, "crew": engine}
        others = _others(settings, model, how)
        scores = checked(model, images, threat, trials, checks=how, others=others, of=whole, **run)
        asked = {"attacks": attacks, "limit": limit, "batch_size": batch_size, "seed": seed, "overrides": changes}
        scores.facts.update(_facts(path, settings, asked))
        engine.on_global_zero(lambda: scores.save(results))
        return scores


def _settings(path: Path, words: dict[str, Any]) -> Settings:
    """Those that the weights were trained with, and what is asked for now; another machine may be judging."""
    facts = load_weights(path)[1] if path.suffix != ".json" else {}
    return read_settings(read_settings(None, {**facts.get("settings", {}), "engine": {}}), words)


def _subject(path: Path, settings: Settings, limit: int | None, device: torch.device) -> tuple[Classifier, Images, int]:
    """The model and the test images that it is judged on, on the device, and how many there are in all."""
    streamed = read_settings(settings, {"data.stream": True})  # nobody looks at the training images
    model, test = load_model(path), data_of(streamed).test
    must_fit(model, str(path), len(test.classes), test.channels)
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, some(test, limit, seed=0).to(device), len(test)


def _declared(path: Path, words: dict[str, Any]) -> bool:
    """Does the command or the file of weights say what the adversary may do?"""
    asked = any(key == "threat" or key.startswith("threat.") for key in words)
    return asked or (path.suffix != ".json" and "threat" in load_weights(path)[1].get("settings", {}))


def _threat(settings: Settings, declared: bool) -> Threat:
    if not declared:
        raise CheckError("threat", "neither the weights nor the command say which, expected one")
    try:
        return Threat(**settings.threat.model_dump())
    except MmardError as e:
        raise CheckError("threat", str(e)) from e


def _named(attacks: str | None, trials: Mapping[str, Trial]) -> list[str]:
    return [] if attacks is None else [*trials] or ["clean"]


def _facts(path: Path, settings: Settings, asked: dict[str, Any]) -> dict[str, Any]:
    named = {"model": str(path), "data": settings.data.name, "seed": asked["seed"], "asked": asked}
    return {**named, "settings": settings.resolved()}


def _others(settings: Settings, model: Classifier, how: str) -> dict[str, Classifier]:
    """The networks that the model learnt from, where they are still there and fit; full checks ask for them."""
    if how != "full":
        return {}
    shape = model.architecture.classes, model.architecture.channels
    sources, found = settings.teachers | ({"teacher": settings.teacher} if settings.teacher else {}), {}
    for name, source in sources.items():
        with suppress(MmardError):  # they are a bonus: a student is often judged far from its teacher
            found[f"the {name}"] = load_teacher(source, *shape).to(model.mean.device)
    return found


def _path_of(source: str | Path | RunFolder) -> Path:
    if not isinstance(source, str | Path | RunFolder):
        raise MmardError(f"got a {type(source).__name__}, expected a run folder, a weights file or a card")
    return find_model(source.path if isinstance(source, RunFolder) else source)


def _results_folder(path: Path, attacks: list[str], count: int, changes: dict[str, Any], seed: int) -> Path:
    """A folder of its own for each kind of evaluation, so that a quick look never replaces a full one."""
    parts = [path.stem, *attacks, *([f"{count}-images"] if count else []), *([f"seed-{seed}"] if seed else [])]
    parts += [f"{key}-{value}" for key, value in changes.items()]
    name = re.sub(r"[^\w.+-]", "-", "_".join(parts))
    short = name if len(name) <= 100 else f"{name[:90]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return path.parent / "eval" / short
