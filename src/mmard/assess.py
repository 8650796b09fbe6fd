"""From a model to its verdicts: what `mmard eval` does, for Python."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmard.config import Settings, read_settings
from mmard.core.errors import MmardError
from mmard.core.files import write_json
from mmard.core.threat import Threat
from mmard.data.images import Images, some
from mmard.evaluation.curve import curve as curve_of
from mmard.evaluation.curve import radii_of
from mmard.evaluation.evaluate import Tick, choose, suite
from mmard.evaluation.evaluate import evaluate as run_attacks
from mmard.evaluation.examples import examples as examples_of
from mmard.evaluation.scores import Scores
from mmard.models.students import Classifier
from mmard.models.teachers import find_model, load_model, must_fit
from mmard.models.weights import load_weights
from mmard.objects import data_of, engine_of, method_of
from mmard.report.card import write_card
from mmard.runs import RunFolder
from mmard.training.engine import Engine

CURVE_IMAGES = 500


def evaluate(
    source: str | Path | RunFolder,
    attacks: str | None = None,
    *,
    limit: int | None = None,
    batch_size: int = 500,
    seed: int = 0,
    curve: bool = False,
    examples: int = 12,
    tick: Tick = lambda *_: None,
    **overrides: Any,
) -> Scores:
    """Judge a model on the test images of its data set; tables and verdicts go to ``eval/`` beside its weights.

    Args:
        source: run folder (its best checkpoint), weights file, or card.
        attacks: such as ``"fgsm,pgd-20"``; None: FGSM, PGD-20, C&W, AutoAttack; ``"none"``: clean only.
        limit: judge on about so many test images, every class in proportion; None: all.
        curve, examples: what to keep besides, for a report; see `Extras`.
        **overrides: settings, dots as double underscores: ``threat__eps="4/255"``, ``data__name=...``;
            ``engine__devices=2`` shares the work between processes, with the same verdicts.
    """
    _must_be_positive(batch_size, limit)
    trials, path = choose(attacks, suite(batch_size, seed)), _path_of(source)
    settings, changes = _settings(path, overrides)
    engine, how = engine_of(settings), {"batch_size": batch_size, "seed": seed}
    asked = {"attacks": attacks, "limit": limit, **how, "overrides": changes}
    with engine.together("start the evaluation again"):
        model, images = _subject(path, settings, limit, engine.device)
        results = _results_folder(path, asked, [*trials], len(images))
        # first the settings, so that a folder that cannot be written is known before the attacks
        engine.on_global_zero(lambda: write_json(results / "settings.json", settings.resolved()))
        extra = Extras(model, images, Threat(**settings.threat.model_dump()), results, curve, examples)
        scores = run_attacks(model, images, extra.threat, trials, **how, tick=tick, crew=engine)
        scores.facts.update(
            model=str(path), data=settings.data.name, seed=seed, asked=asked, settings=settings.resolved()
        )
        extra.keep(scores, engine, tick, **how)
    engine.on_global_zero(lambda: keep_card(path.parent))
    return scores


def _must_be_positive(batch_size: int, limit: int | None) -> None:
    if batch_size < 1 or (limit is not None and limit < 1):
        raise MmardError(f"batch_size {batch_size} and limit {limit} are at least 1")


@dataclass(frozen=True, eq=False)
class Extras:
    """What a report shows beside scores.

    Args:
        curve: accuracy under PGD-20 at eight radii from 0 to 4 eps, on about `CURVE_IMAGES` of the images: curve.json.
        examples: so many images with what PGD-20 makes of them: examples.safetensors; 0: none.

    Raises:
        MmardError: where there can be no curve; before the attacks.
    """

    model: Classifier
    images: Images
    threat: Threat
    results: Path
    curve: bool
    examples: int

    def __post_init__(self) -> None:
        if self.examples < 0:
            raise MmardError(f"examples {self.examples} is no number of images; expected 0 for none, or more")
        if self.curve:
            radii_of(self.threat)

    def keep(self, scores: Scores, engine: Engine, tick: Tick, batch_size: int, seed: int) -> None:
        """Write the scores; then examples.safetensors and curve.json where they are asked for."""
        engine.on_global_zero(lambda: scores.save(self.results))
        if self.examples:
            shown = examples_of(self.model, self.images, self.threat, count=self.examples, seed=seed)
            engine.on_global_zero(lambda: shown.save(self.results / "examples.safetensors"))
        if self.curve:
            some_of_them, how = some(self.images, CURVE_IMAGES, seed=0), {"batch_size": batch_size, "seed": seed}
            found = curve_of(self.model, some_of_them, self.threat, **how, tick=tick, crew=engine)
            engine.on_global_zero(lambda: write_json(self.results / "curve.json", found))


def keep_card(folder: Path) -> None:
    """Write the model card of a run folder; a folder of another kind gets none."""
    if (folder / "settings.yaml").is_file():
        write_card(folder, known_of(folder)[1])


def known_of(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Resolved settings and formula of a run; none where they cannot be had here, for instance when the method's file is gone."""
    try:
        settings = read_settings(folder)
    except MmardError:
        return None, ""
    try:
        return settings.resolved(), str(method_of(settings))
    except MmardError:
        return settings.resolved(), ""


def _settings(path: Path, overrides: dict[str, Any]) -> tuple[Settings, dict[str, Any]]:
    """Those that the weights were trained with, and what is asked for now; another machine may be judging.

    Beside them, of what is asked for, that which can change a verdict.
    """
    words = {key.replace("__", "."): value for key, value in overrides.items()}
    facts = load_weights(path)[1] if path.suffix != ".json" else {}
    settings = read_settings(read_settings(None, {**facts.get("settings", {}), "engine": {}}), words)
    return settings, {key: value for key, value in words.items() if not key.startswith("engine.")}


def _subject(path: Path, settings: Settings, limit: int | None, device: torch.device) -> tuple[Classifier, Images]:
    """The model and the test images that it is judged on, on the device."""
    streamed = read_settings(settings, {"data.stream": True})  # nobody looks at the training images
    model, test = load_model(path), data_of(streamed).test
    must_fit(model, str(path), len(test.classes), test.channels)
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, some(test, limit, seed=0).to(device)


def _path_of(source: str | Path | RunFolder) -> Path:
    if not isinstance(source, str | Path | RunFolder):
        raise MmardError(f"got a {type(source).__name__}, expected a run folder, a weights file or a card")
    return find_model(source.path if isinstance(source, RunFolder) else source)


def _results_folder(path: Path, asked: dict[str, Any], attacks: list[str], count: int) -> Path:
    """A folder of its own for each kind of evaluation, so that a quick look never replaces a full one."""
    named = [] if asked["attacks"] is None else attacks or ["clean"]
    parts = [path.stem, *named, *([f"{count}-images"] if asked["limit"] else [])]
    parts += [f"seed-{asked['seed']}"] if asked["seed"] else []
    parts += [f"{key}-{value}" for key, value in asked["overrides"].items()]
    name = re.sub(r"[^\w.+-]", "-", "_".join(parts))
    short = name if len(name) <= 100 else f"{name[:90]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return path.parent / "eval" / short
