"""From settings to a trained and judged student: what the command line does, for Python."""

import hashlib
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mmard.attacks.pgd import Pgd
from mmard.config import Settings, read_settings
from mmard.core.errors import MmardError
from mmard.core.files import write_json
from mmard.core.method import Method
from mmard.core.threat import Threat
from mmard.data.images import DataSet, some
from mmard.data.sources import load
from mmard.evaluation.evaluate import Tick, choose, suite
from mmard.evaluation.evaluate import evaluate as run_attacks
from mmard.evaluation.scores import Scores
from mmard.locate import build_method
from mmard.models.students import Architecture, build
from mmard.models.teachers import find_model, load_model, load_teacher, must_fit
from mmard.models.weights import load_weights
from mmard.runs import RunFolder, differences
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
    check(settings)
    engine = Engine(**settings.engine.model_dump())
    return _train(settings, resume, watch, engine)


def check(settings: Settings) -> None:
    """Whatever can be wrong without looking at data or weights, found before anything heavy runs."""
    method_of(settings)
    plan_of(settings)
    Averaging(**settings.averaging.model_dump())
    with torch.device("meta"):
        build(Architecture(name=settings.student, classes=10))
    if settings.teacher and Path(settings.teacher).resolve() == Path(settings.out).resolve():
        raise MmardError(f"{settings.out} cannot be its own teacher; choose another out=")
    will_come = (
        settings.teacher_recipe and settings.teacher and Path(settings.teacher).suffix not in (".safetensors", ".json")
    )
    for source in [*settings.teachers.values(), *([settings.teacher] if settings.teacher and not will_come else [])]:
        find_model(source)


def plan_of(settings: Settings) -> Plan:
    """The schedule."""
    return Plan(**settings.train.model_dump())


def _train(settings: Settings, resume: bool, watch: Watch, engine: Engine) -> RunFolder:
    folder = RunFolder(settings.out)
    try:
        engine.on_global_zero(folder.lock)
        engine.on_global_zero(lambda: must_be_free(folder, settings, resume))
        if lesson := lesson_of(settings):
            _train(lesson, True, watch, engine)
        if settings.teacher and engine.is_global_zero:
            _warn_of_other_data(RunFolder(settings.teacher), settings)
        trainer = _trainer(settings, data_of(settings), engine, folder, watch(folder.path.name))
        engine.on_global_zero(lambda: folder.begin(settings.resolved(), settings.tensorboard))
        trainer.fit()
    finally:
        folder.close()
    return folder


def lesson_of(pupil: Settings) -> Settings | None:
    """What trains the teacher that is not there yet; None where there is nothing to do.

    It is the teacher's recipe on the student's data and split (it must not see what is held out), threat and machine.
    """
    teacher, recipe = pupil.teacher, pupil.teacher_recipe
    if not (teacher and recipe) or RunFolder(teacher).last_file.exists() or Path(teacher).expanduser().is_file():
        return None
    shared = {f"data.{k}": v for k, v in pupil.data.model_dump(exclude={"augment"}).items()}
    shared |= {f"threat.{k}": v for k, v in pupil.threat.model_dump().items()}
    shared |= {f"engine.{k}": v for k, v in pupil.engine.model_dump().items()}
    lesson = read_settings(recipe, {**shared, "out": teacher})
    check(lesson)
    return lesson


def _warn_of_other_data(teacher: RunFolder, pupil: Settings) -> None:
    """A teacher that learnt from another split may have seen what is held out from the student."""
    if teacher.settings_file.is_file():
        old, new = (s.data.model_dump(mode="json", exclude={"augment"}) for s in (read_settings(teacher.path), pupil))
        if changed := differences(old, new, "data."):
            warnings.warn(
                f"the teacher {teacher.path} learnt from other data ({'; '.join(changed)}): "
                "it may have seen the held-out images, whose accuracies then flatter",
                stacklevel=2,
            )


UNIMPORTANT = {"about", "out", "tensorboard", "teacher_recipe"}  # change nothing in a result


def must_be_free(folder: RunFolder, settings: Settings, resume: bool) -> None:
    """Refuse (by an `MmardError`) to overwrite a run, or to go on with one that was made with other settings."""
    if not folder.has_run:
        return
    if not resume:
        raise MmardError(f"{folder.path} holds a run already; go on with --resume, or choose another out=")
    old, new = (s.model_dump(mode="json", exclude=UNIMPORTANT) for s in (read_settings(folder.path), settings))
    if changed := differences(old, new):
        raise MmardError(f"{folder.path} was made with other settings: {'; '.join(changed)}; choose another out=")


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
        train=data.train,
        held_out=data.held_out,
        folder=folder,
        teachers={name: load_teacher(source, classes, channels) for name, source in sources.items()},
        plan=plan_of(settings),
        averaging=Averaging(**settings.averaging.model_dump()),
        validation=Validation(**settings.validation.model_dump()),
        engine=engine,
        augmentation=settings.data.augment,
        scale=1 / classes if settings.scale == "1/num_classes" else settings.scale,
        seed=settings.seed,
        checkpoint_every=settings.checkpoint_every,
        facts={"classes": list(data.train.classes), "settings": settings.resolved()},
        watcher=watcher if engine.is_global_zero else Watcher(),
    )


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
    if batch_size < 1 or (limit is not None and limit < 1):
        raise MmardError(f"batch_size {batch_size} and limit {limit} are at least 1")
    trials, path = choose(attacks, suite(batch_size, seed)), _path_of(source)
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    facts = load_weights(path)[1] if path.suffix != ".json" else {}
    settings = read_settings(read_settings(None, facts.get("settings", {})), changes)
    model, test = load_model(path), data_of(settings).test
    must_fit(model, str(path), len(test.classes), test.channels)
    engine = Engine(accelerator=settings.engine.accelerator)
    images = some(test, limit, seed=0).to(engine.device)
    model.to(engine.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    results = _results_folder(
        path, ([*trials] or ["clean"]) if attacks is not None else [], len(images) if limit else 0, changes, seed
    )
    write_json(results / "settings.json", settings.resolved())  # now, so that a folder that cannot be written is known
    threat = Threat(**settings.threat.model_dump())
    scores = run_attacks(model, images, threat, trials, batch_size=batch_size, seed=seed, tick=tick)
    asked = {"attacks": attacks, "limit": limit, "batch_size": batch_size, "seed": seed, "overrides": changes}
    scores.facts.update(model=str(path), data=settings.data.name, seed=seed, asked=asked, settings=settings.resolved())
    scores.save(results)
    return scores


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
