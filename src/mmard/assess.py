"""From a model to its verdicts: what `mmard eval` does, for Python."""

import hashlib
import re
import shutil
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from mmard.attacks.spared import in_parts
from mmard.config import Settings, read_settings
from mmard.core.errors import MmardError
from mmard.core.files import write_json
from mmard.core.threat import Threat
from mmard.data.images import Images, some
from mmard.evaluation.checked import checked, how_to_check
from mmard.evaluation.checks import CheckError
from mmard.evaluation.evaluate import Tick, choose, suite
from mmard.evaluation.kept import KeptIn, fingerprint
from mmard.evaluation.scores import Scores
from mmard.models.students import Classifier
from mmard.models.teachers import find_model, load_model, load_teacher, must_fit
from mmard.models.weights import load_weights
from mmard.objects import data_of, engine_of
from mmard.runs import RunFolder
from mmard.training.folding import folded


def evaluate(
    source: str | Path | RunFolder,
    attacks: str | None = None,
    *,
    protocol: str = "standard",
    limit: int | None = None,
    batch_size: int = 500,
    seed: int = 0,
    checks: str | None = None,
    tick: Tick = lambda *_: None,
    **overrides: Any,
) -> Scores:
    """Judge a model on the test images of its data set; tables and verdicts go to ``eval/`` beside its weights.

    What is found is kept there at once, so that the same call after a kill goes on, and ends with the same verdicts.

    Args:
        source: run folder (its best checkpoint), weights file, or card.
        attacks: such as ``"fgsm,pgd-20"``; None: FGSM, PGD-20, C&W, AutoAttack; ``"none"``: clean only.
        protocol: ``"quick"`` puts AutoAttack-quick, two of its four attacks, in AutoAttack's place.
        limit: judge on about so many test images, every class in proportion; None: all.
        checks: whether the figures can be believed: ``"quick"``, ``"full"`` or ``"none"``; None: full where AutoAttack runs,
            none where nothing does, else quick. Findings are in ``facts["checks"]``.
        **overrides: settings, dots as double underscores: ``threat__eps="4/255"``; ``engine__devices=2`` shares the work.
    """
    _must_be_positive(batch_size, limit)
    trials, path = choose(attacks, suite(batch_size, seed), protocol), _path_of(source)
    how = how_to_check(checks, trials)
    words = {key.replace("__", "."): value for key, value in overrides.items()}
    engine = engine_of(settings := _settings(path, words))
    with engine.together("start the evaluation again"):
        model, images, whole = _subject(path, settings, limit, engine.device)
        changes = {key: value for key, value in words.items() if not key.startswith("engine.")}  # change no verdict
        named = [] if attacks is None and protocol == "standard" else [*trials] or ["clean"]
        results = _results_folder(path, named, len(images) if limit else 0, changes, seed)
        engine.on_global_zero(lambda: write_json(results / "settings.json", settings.resolved()))  # can it be written?
        threat, drawn = (
            _threat(settings, how == "none" or _declared(path, words)),
            {"batch_size": batch_size, "seed": seed},
        )
        scores = checked(
            model, images, threat, trials, checks=how, of=whole, tick=tick, crew=engine, asked=in_parts(folded(model)),
            others=_others(settings, model, engine.device) if how == "full" else {},
            kept=_kept(results, model, images, settings, **drawn), **drawn,
        )  # fmt: skip
        scores.facts.update(model=str(path), data=settings.data.name, seed=seed, settings=settings.resolved())
        scores.facts["asked"] = _asked(attacks, protocol) | {"limit": limit, **drawn, "overrides": changes}
        engine.on_global_zero(lambda: _finish(scores, results))
    return scores


def _asked(attacks: str | None, protocol: str) -> dict[str, Any]:
    """What was asked for, as a study looks it up: the usual protocol is not named, as before there was a choice."""
    return {"attacks": attacks, **({"protocol": protocol} if protocol != "standard" else {})}


def _must_be_positive(batch_size: int, limit: int | None) -> None:
    if batch_size < 1 or (limit is not None and limit < 1):
        raise MmardError(f"batch_size {batch_size} and limit {limit} are at least 1")


def _finish(scores: Scores, results: Path) -> None:
    """Write the whole, then drop its parts; a kill in between finds them all again."""
    scores.save(results)
    shutil.rmtree(results / "parts", ignore_errors=True)


def _kept(results: Path, model: Classifier, images: Images, settings: Settings, batch_size: int, seed: int) -> KeptIn:
    """Where the verdicts of batches go: a folder for all that they depend on, so that none is taken for another's."""
    versions = [f"{name} {metadata.version(name)}" for name in ("mmard", "torch", "pyautoattack")]
    facts = (settings.data.model_dump(), settings.threat, batch_size, seed, images.labels.device.type, *versions)
    return KeptIn(results / "parts" / fingerprint(model, images.index.tolist(), images.labels.tolist(), *facts))


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


def _others(settings: Settings, model: Classifier, device: torch.device) -> dict[str, Classifier]:
    """The networks that the model learnt from, where they are still there and fit."""
    sources, found = settings.teachers | ({"teacher": settings.teacher} if settings.teacher else {}), {}
    for name, source in sources.items():
        with suppress(MmardError):  # they are a bonus: a student is often judged far from its teacher
            found[f"the {name}"] = load_teacher(source, model.architecture.classes, model.architecture.channels).to(
                device
            )
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
