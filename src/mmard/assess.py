"""From a model to its verdicts: what `mmard eval` does, for Python."""

import hashlib
import re
from pathlib import Path
from typing import Any

import torch

from mmard.config import Settings, read_settings
from mmard.core.errors import MmardError
from mmard.core.files import write_json
from mmard.core.threat import Threat
from mmard.data.images import Images, some
from mmard.evaluation.evaluate import Tick, choose, suite
from mmard.evaluation.evaluate import evaluate as run_attacks
from mmard.evaluation.scores import Scores
from mmard.exported import Exported, opened
from mmard.models.runtime import RuntimeModel
from mmard.models.students import Classifier
from mmard.models.teachers import find_model, load_model, must_fit
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
    twin: str | None = None,
    tick: Tick = lambda *_: None,
    **overrides: Any,
) -> Scores:
    """Judge a model on the test images of its data set; tables and verdicts go to ``eval/`` beside its weights.

    Args:
        source: run folder (its best checkpoint), weights file, card, or an exported model (.onnx).
        attacks: such as ``"fgsm,pgd-20"``; None: FGSM, PGD-20, C&W, AutoAttack; ``"none"``: clean only.
        limit: judge on about so many test images, every class in proportion; None: all.
        twin: of an exported model, the run or weights that lend it gradients; None: those it was exported from.
        **overrides: settings, dots as double underscores: ``threat__eps="4/255"``; ``engine__devices=2`` shares the
            work between processes, with the same verdicts.
    """
    _must_be_positive(batch_size, limit)
    path, words = _path_of(source), {key.replace("__", "."): value for key, value in overrides.items()}
    exported = opened(path, twin)
    trials = exported.trials(attacks, batch_size, seed) if exported else choose(attacks, suite(batch_size, seed))
    settings = settings_of(path, words, exported)
    engine = engine_of(settings)
    with engine.together("start the evaluation again"):
        model, images = _subject(path, exported, settings, limit, engine.device)
        changes = _changes(words | ({"twin": twin} if twin else {}))
        named = ([*trials] or ["clean"]) if attacks is not None else []
        results = _results_folder(path, named, len(images) if limit else 0, changes, seed)
        # first the settings, so that a folder that cannot be written is known before the attacks
        engine.on_global_zero(lambda: write_json(results / "settings.json", settings.resolved()))
        threat = Threat(**settings.threat.model_dump())
        scores = run_attacks(model, images, threat, trials, batch_size=batch_size, seed=seed, tick=tick, crew=engine)
        asked = {"attacks": attacks, "limit": limit, "batch_size": batch_size, "seed": seed, "overrides": changes}
        scores.facts.update(_facts(path, exported, settings), seed=seed, asked=asked)
        engine.on_global_zero(lambda: scores.save(results))
    return scores


def _facts(path: Path, exported: Exported | None, settings: Settings) -> dict[str, Any]:
    described = exported.described() if exported else {}
    return {**described, "model": str(path), "data": settings.data.name, "settings": settings.resolved()}


def _changes(words: dict[str, Any]) -> dict[str, Any]:
    """Those that can change a verdict."""
    return {key: value for key, value in words.items() if not key.startswith("engine.")}


def _must_be_positive(batch_size: int, limit: int | None) -> None:
    if batch_size < 1 or (limit is not None and limit < 1):
        raise MmardError(f"batch_size {batch_size} and limit {limit} are at least 1")


def settings_of(path: Path, words: dict[str, Any], exported: Exported | None = None) -> Settings:
    """Those that the weights were trained with, and what is asked for now; another machine may be judging."""
    own = load_weights(path)[1] if path.suffix not in (".json", ".onnx") else {}
    facts = exported.model.facts if exported else own
    return read_settings(read_settings(None, {**facts.get("settings", {}), "engine": {}}), words)


def _subject(
    path: Path, exported: Exported | None, settings: Settings, limit: int | None, device: torch.device
) -> tuple[Classifier | RuntimeModel, Images]:
    """The model and the test images that it is judged on, on the device."""
    test = data_of(read_settings(settings, {"data.stream": True})).test  # nobody looks at the training images
    if exported is not None:
        return exported.on(device, test), some(test, limit, seed=0).to(device)
    model = load_model(path)
    must_fit(model, str(path), len(test.classes), test.channels)
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, some(test, limit, seed=0).to(device)


def _path_of(source: str | Path | RunFolder) -> Path:
    if not isinstance(source, str | Path | RunFolder):
        raise MmardError(f"got a {type(source).__name__}, expected a run folder, a weights file or a card")
    return find_model(source.path if isinstance(source, RunFolder) else source)


def _results_folder(path: Path, attacks: list[str], count: int, changes: dict[str, Any], seed: int) -> Path:
    """A folder of its own for each kind of evaluation, so that a quick look never replaces a full one."""
    parts = [
        path.name if path.suffix == ".onnx" else path.stem,
        *attacks,
        *([f"{count}-images"] if count else []),
        *([f"seed-{seed}"] if seed else []),
    ]
    parts += [f"{key}-{value}" for key, value in changes.items()]
    name = re.sub(r"[^\w.+-]", "-", "_".join(parts))
    short = name if len(name) <= 100 else f"{name[:90]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return path.parent / "eval" / short
