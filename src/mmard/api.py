"""From settings to a trained and judged student: what the command line does, for Python."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mmard.attacks.pgd import Pgd
from mmard.config import Settings, read_settings
from mmard.core.errors import MmardError
from mmard.core.method import Method
from mmard.core.threat import Threat
from mmard.data.images import DataSet, Images, stratified
from mmard.data.sources import load
from mmard.evaluation.evaluate import Tick, choose, suite
from mmard.evaluation.evaluate import evaluate as run_attacks
from mmard.evaluation.scores import Scores
from mmard.locate import build_method
from mmard.models.students import Architecture, Classifier, build
from mmard.models.teachers import load_model, load_teacher
from mmard.models.weights import load_weights
from mmard.runs import RunFolder
from mmard.training.averaging import Averaging
from mmard.training.engine import Engine
from mmard.training.plan import Plan
from mmard.training.progress import Watcher
from mmard.training.trainer import Trainer, Validation, seed_of

Watch = Callable[[str], Watcher]


def method_of(settings: Settings) -> Method:
    """The method with the attack's changes applied, its step checked against the threat."""
    method, threat = build_method(settings.method), Threat(**settings.threat.model_dump())
    changes = {k: v for k, v in settings.attack.model_dump().items() if v is not None}
    if isinstance(method.maximizer, Pgd):
        pgd = replace(method.maximizer, **changes)
        if threat.eps > 0:
            pgd.step_for(threat)
        return replace(method, maximizer=pgd)
    if changes and method.maximizer is not None:
        raise MmardError(f"attack.{next(iter(changes))} changes a PGD, and this method attacks by {method.maximizer}")
    return method


def data_of(settings: Settings) -> DataSet:
    """The data set, its held-out split cut."""
    return load(**settings.data.model_dump(exclude={"augment"}))


def train(
    recipe: str | Path | Settings | None = None,
    *,
    resume: bool = False,
    watch: Watch = lambda _: Watcher(),
    **overrides: Any,
) -> RunFolder:
    """Train what a recipe says, its teacher first where there is none yet; returns the run folder.

    Args:
        recipe: name of a built-in recipe, a YAML file, or settings; None: the defaults.
        resume: go on where the run folder's checkpoint ends.
        watch: title → what is told of the progress.
        **overrides: settings, dots as double underscores: ``train__epochs=3``, ``teacher="runs/teacher"``.

    Raises:
        MmardError: for any mistake in the input, before anything heavy runs where possible.
    """
    settings = read_settings(recipe, {key.replace("__", "."): value for key, value in overrides.items()})
    method_of(settings)
    engine = Engine(**settings.engine.model_dump())
    return _train(settings, resume, watch, engine)


def _train(settings: Settings, resume: bool, watch: Watch, engine: Engine) -> RunFolder:
    folder = RunFolder(settings.out)
    with folder.locked() if engine.leads else nullcontext():
        teacher = settings.teacher
        if (
            teacher
            and settings.teacher_recipe
            and not RunFolder(teacher).last_file.exists()
            and not Path(teacher).is_file()
        ):
            _train(read_settings(settings.teacher_recipe, {"out": teacher}), resume, watch, engine)
        trainer = _trainer(settings, data_of(settings), engine, folder, watch(folder.path.name))
        if engine.leads:
            folder.begin(settings.resolved(), resume, settings.tensorboard)
        try:
            trainer.fit()
        finally:
            trainer.watcher.end()
            folder.end()
    return folder


def _trainer(settings: Settings, data: DataSet, engine: Engine, folder: RunFolder, watcher: Watcher) -> Trainer:
    classes, channels = len(data.train.classes), data.train.channels
    mean, std = data.train.mean_std() if settings.normalize == "data" else ((), ())
    torch.manual_seed(seed_of(settings.seed, "weights"))
    student = build(Architecture(name=settings.student, classes=classes, channels=channels, mean=mean, std=std))
    sources = settings.teachers | ({"teacher": settings.teacher} if settings.teacher else {})
    return Trainer(
        method=method_of(settings),
        threat=Threat(**settings.threat.model_dump()),
        student=student,
        data=data,
        folder=folder,
        teachers={name: load_teacher(source, classes, channels) for name, source in sources.items()},
        plan=Plan(**settings.train.model_dump()),
        averaging=Averaging(**settings.averaging.model_dump()),
        validation=Validation(**settings.validation.model_dump()),
        engine=engine,
        augmentation=settings.data.augment,
        scale=1 / classes if settings.scale == "1/num_classes" else settings.scale,
        seed=settings.seed,
        checkpoint_every=settings.checkpoint_every,
        facts={"classes": list(data.train.classes), "settings": settings.resolved()},
        watcher=watcher if engine.leads else Watcher(),
    )


@dataclass(frozen=True)
class Subject:
    """A model to be judged, the settings it came with, and where its results go."""

    model: Classifier
    settings: Settings
    results: Path

    @staticmethod
    def of(source: str | Path, overrides: dict[str, Any]) -> "Subject":
        """From a run folder, a weights file or a card; a card brings no settings, so its data set is an override."""
        path = Path(source)
        if path.is_dir():
            path = RunFolder(path).best_file
        if path.suffix == ".json":
            return Subject(load_model(path), read_settings(None, overrides), path.with_suffix("") / "eval")
        if not path.is_file():
            raise MmardError(f"no model at {source}; expected a run folder, a .safetensors file or a card (.json)")
        model, facts = load_weights(path)
        trained = read_settings(None, facts.get("settings", {}))
        return Subject(model.eval(), read_settings(trained, overrides), path.parent / "eval" / path.stem)


def evaluate(
    source: str | Path | RunFolder,
    attacks: str | None = None,
    *,
    limit: int | None = None,
    batch_size: int = 500,
    seed: int = 0,
    tick: Tick = lambda *_: None,
    **overrides: Any,
) -> Scores:
    """Judge a model on the test images of its data set; tables and verdicts go to ``eval/`` beside its weights.

    Args:
        source: run folder (its best checkpoint), weights file, or card.
        attacks: such as ``"fgsm,pgd-20"``; None: all, with AutoAttack; ``"none"``: clean only.
        limit: judge on about so many test images, every class in proportion; None: all.
        **overrides: settings, dots as double underscores: ``threat__eps="4/255"``, ``data__name=...``.
    """
    source = source.path if isinstance(source, RunFolder) else source
    trials = choose(attacks, suite(batch_size, seed))
    subject = Subject.of(source, {key.replace("__", "."): value for key, value in overrides.items()})
    settings = subject.settings
    engine = Engine(accelerator=settings.engine.accelerator)
    images = _some(data_of(settings).test, limit).to(engine.device)
    threat, model = Threat(**settings.threat.model_dump()), subject.model.to(engine.device)
    scores = run_attacks(model, images, threat, trials, batch_size=batch_size, seed=seed, tick=tick)
    scores.facts.update(model=str(source), data=settings.data.name, seed=seed, settings=settings.resolved())
    scores.save(subject.results)
    return scores


def _some(images: Images, limit: int | None) -> Images:
    return images if limit is None or limit >= len(images) else images.take(stratified(images, limit, seed=0)[0])
