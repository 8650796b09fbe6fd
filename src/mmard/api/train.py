"""Training from settings: what `mmard train` does, for Python."""

import hashlib
import json
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from pydantic import InstanceOf

from mmard.api.build import Resolved, ball_of_examples, engine_of, extra_of, resolve
from mmard.api.images_of_runs import data_to_learn, known_to, must_fit_images
from mmard.api.networks import build_student, given_in, has_a_recipe, is_trained, load_early, load_teachers, teachers_of
from mmard.api.replaced_settings import OF_TRAINING
from mmard.api.settings import Settings, read_settings
from mmard.api.teacher_temperature import as_measured, with_temperature
from mmard.api.unused_settings import as_unused_in, note_unused_checkpoints
from mmard.core.method import Method
from mmard.core.threat import in_255ths
from mmard.data.given import is_images
from mmard.data.images import DataSet
from mmard.data.sources import PYTHON
from mmard.models.architectures import Classifier
from mmard.models.cards import described
from mmard.models.foreign import is_foreign
from mmard.models.weights import keep_code
from mmard.report.card import write_card
from mmard.runs.folder import NO_EFFECT, RunFolder, changes, describe_teacher_check, differences, listed
from mmard.training.callbacks import Watcher, Watchers
from mmard.training.engine import Engine
from mmard.training.extension import EXTENDABLE, Extension
from mmard.training.fingerprint import digest_of_pixels
from mmard.training.teacher_check import TeacherCheck
from mmard.training.tracking import TRACKERS, Tracking, must_be_installed
from mmard.training.trainer import Trainer
from mmard.training.validation import validation_batch
from mmard.utils.argument_types import public
from mmard.utils.errors import MmardError, Note
from mmard.utils.files import write_text

Watch = Callable[[str], Watcher]


@public
def train(
    recipe: str | Path | InstanceOf[Settings] | dict[Any, Any] | None = None,
    *,
    resume: bool = False,
    extend: bool = False,
    watch: Watch = lambda _: Watcher(),
    trust: bool = False,
    **overrides: Any,
) -> RunFolder:
    """Train what a recipe says, its teacher first where there is none yet; returns the run folder.

    Args:
        recipe: name of a built-in recipe, a YAML file, settings, or a mapping as a YAML file would hold it; None: the defaults.
        resume: go on where the run folder's checkpoint ends.
        extend: with ``resume``, by another plan: for more epochs, at another learning rate
            (`mmard.training.extension.EXTENDABLE`). What changes is shown, and saved in the run's history.json.
        watch: makes, of a title, the listener to the progress.
        trust: run a method from a file although it is the recipe that names it, and read what a run folder names outside of
            itself; what the overrides name needs none.
        **overrides: settings, dots as double underscores: ``train__epochs=3``, ``teacher="runs/teacher"``; student and teachers
            may also be modules, and ``data`` images (`mmard.data.given.parts_of`), which a resumed run is given again.

    SIGTERM and SIGHUP save a checkpoint before they end the process.

    Raises:
        MmardError: for any mistake in the input, before anything heavy runs where possible.
    """
    if extend and not resume:
        raise MmardError("an extension goes on with a run: give --resume (resume=True) too")
    words, given = given_in({key.replace("__", "."): value for key, value in overrides.items()})
    images = words.pop("data") if is_images(words.get("data")) else None
    if images is not None and words.setdefault("data.name", PYTHON) != PYTHON:
        raise MmardError(f"data are images given in Python, and data.name={words['data.name']} names others; give one")
    settings = read_settings(recipe, words, trust=trust)
    return train_resolved(resolve(settings, given, images), resume=resume, extend=extend, watch=watch)


def train_resolved(
    resolved: Resolved, *, resume: bool = False, extend: bool = False, watch: Watch = lambda _: Watcher()
) -> RunFolder:
    """Train a run that is resolved already; see `train`."""
    engine = engine_of(resolved.settings)
    with engine.together("the last checkpoint is kept, and the same command with --resume goes on"):
        return _train(resolved, resume, watch, engine, extend)


def _train(resolved: Resolved, resume: bool, watch: Watch, engine: Engine, extend: bool = False) -> RunFolder:
    settings = resolved.settings
    must_be_installed(settings.tracking)
    folder = RunFolder(settings.out)
    try:
        engine.on_global_zero(folder.lock)
        if not folder.path.is_dir():
            raise MmardError(f"{folder.path} is not on this host: hosts of one run need a disk that all of them share")
        extension = extension_of(folder, settings) if extend else None  # before process 0 writes the new settings
        engine.on_global_zero(lambda: must_be_free(folder, settings, resume, extend))
        if teacher := teacher_of(settings):
            must_fit_images(resolved)
            _train(replace(teacher, images=resolved.images), True, watch, engine)
        settings = as_begun(settings, folder)
        engine.choose_precision(settings.engine.precision)
        engine.on_global_zero(lambda: _warn_of(settings, resolved.method, resolved.notes))
        nets = load_early(settings, resolved.given)
        data = data_to_learn(settings, known_to(settings, folder), resolved.images)
        resolved, told = with_temperature(replace(resolved, settings=settings), data, engine, nets)
        settings = resolved.settings
        watcher = Watchers(watch(folder.path.name), *trackers_of(settings, folder))
        trainer = _trainer(resolved, data, engine, folder, watcher, nets, extension)
        if told:
            trainer.watcher.told(told)
        note_unused_checkpoints(settings.checkpoint_every, trainer.steps_per_epoch, trainer.total)
        engine.on_global_zero(lambda: _look_at_teachers(trainer, settings, resolved.asked))
        trainer.restore()  # whatever is refused leaves the folder as it was
        formula = str(trainer.method)
        engine.on_global_zero(lambda: folder.begin(settings.resolved(), has_board(settings), formula))
        engine.on_global_zero(lambda: keep_code(folder.path, trainer.student.architecture))
        if data.skipped:
            told = "".join(f"{line}\n" for line in data.skipped)
            engine.on_global_zero(lambda: write_text(folder.path / "skipped.txt", told))
        trainer.fit()
        engine.on_global_zero(lambda: write_card(folder.path, formula))
    finally:
        folder.close()
    return folder


def has_board(settings: Settings) -> bool:
    """Tell whether the metrics go to TensorBoard too."""
    return settings.tensorboard or "tensorboard" in settings.tracking


def trackers_of(settings: Settings, folder: RunFolder) -> list[Watcher]:
    """Make the watchers of the tracking services that the settings name."""
    return [Tracking(name, folder.path, settings.resolved()) for name in settings.tracking if name in TRACKERS]


def teacher_of(student_settings: Settings) -> Resolved | None:
    """Resolve the run that trains the teacher that is not there yet; None where there is nothing to do.

    It is the teacher's recipe on the student's data and split (it must not see what is held out), threat and machine.
    """
    teacher, recipe = student_settings.teacher, student_settings.teacher_recipe
    if not teacher or not recipe or not has_a_recipe(student_settings):
        return None
    if is_trained(teacher):
        return None
    shared = {f"data.{k}": v for k, v in student_settings.data.model_dump(exclude={*OF_TRAINING}).items()}
    shared |= {f"threat.{k}": v for k, v in student_settings.threat.model_dump().items()}
    shared |= {f"engine.{k}": v for k, v in student_settings.engine.model_dump(exclude={"micro_batch"}).items()}
    shared["teacher_check"] = student_settings.teacher_check
    shared["engine.micro_batch"] = "auto" if student_settings.engine.micro_batch else None  # its batch may be another
    teacher_settings = read_settings(recipe, {**shared, "out": teacher}, own=False)
    teacher_settings = teacher_settings.trusting(
        teacher_settings.trust.also(student_settings.trust.own, everything=student_settings.trust.everything)
    )
    return resolve(teacher_settings)


def _look_at_teachers(trainer: Trainer, settings: Settings, asked: Collection[str]) -> None:
    """Check the teachers that are asked for, once a run: raise MmardError or save the result in the run's folder and weights."""
    folder, sources = trainer.folder, teachers_of(settings)
    found = folder.teachers()
    if settings.teacher_check == "stop" and not folder.has_run:
        found = {}
        for name in sorted((sources.keys() & {"teacher", *asked}) - trainer.method.companions.keys()):
            claimed, foreign = described(sources[name])
            look = TeacherCheck(
                images=trainer.held_out,
                threat=trainer.threat,
                seed=settings.seed,
                part=validation_batch(trainer.plan.batch_size),
                claimed=claimed,
                robust=name == "teacher",
                foreign=foreign,
            )
            found[name] = look(cast(Classifier, trainer.teachers[name]), f"the {name} {sources[name]}")
            trainer.watcher.told(describe_teacher_check(name, found[name]))
    if found:
        folder.keep_teachers(found)
        trainer.metadata["teachers"] = found


def _warn_of(settings: Settings, method: Method, notes: Iterable[str]) -> None:
    """Warn of what is no mistake and yet seldom meant."""
    for note in notes:
        warnings.warn(Note(note), stacklevel=2)
    if settings.teacher and not is_foreign(settings.teacher):
        _warn_of_other_data(RunFolder(settings.teacher), settings)
    late = settings.attack.late
    key, own = ("attack.late.eps", late.eps) if late and late.eps else ("attack.eps", settings.attack.eps)
    judged = settings.threat.eps
    if own is not None and ball_of_examples(settings, method).eps == own < judged:
        warnings.warn(
            f"{key} {in_255ths(own)} is below threat.eps {in_255ths(judged)}: examples are made in a smaller ball than "
            "the one in which the checkpoint is chosen and robustness evaluated",
            stacklevel=2,
        )


def _warn_of_other_data(teacher: RunFolder, student_settings: Settings) -> None:
    """Warn of a teacher trained on another split: it may have seen what is held out from the student."""
    if teacher.is_run:
        old, new = (
            s.data.model_dump(mode="json", exclude={"stream", "channels", *OF_TRAINING})
            for s in (read_settings(teacher.path), student_settings)
        )
        if changed := differences(old, new, "data."):
            warnings.warn(
                f"the teacher {teacher.path} learnt from other data ({'; '.join(changed)}): "
                "it may have seen the held-out images, whose accuracies then flatter",
                stacklevel=2,
            )


UNIMPORTANT: dict[str, Any] = {**dict.fromkeys(NO_EFFECT, True), "data": {"stream"}}


def fingerprint(settings: Settings, *but: str) -> str:
    """Hash, in eight hex digits, all the settings that can change a result and are not the defaults; ``but`` leaves out more."""
    left_out = {**UNIMPORTANT, **dict.fromkeys(but, True)}
    important = settings.model_dump(mode="json", exclude=left_out, exclude_defaults=True)
    return hashlib.sha256(json.dumps(important, sort_keys=True).encode()).hexdigest()[:8]


def must_be_free(folder: RunFolder, settings: Settings, resume: bool, extend: bool = False) -> None:
    """Raise MmardError rather than overwrite a run, or resume one that was made with other settings.

    Args:
        extend: those in `EXTENDABLE` may be others.
    """
    if not folder.has_run:
        return
    if not resume:
        raise MmardError(
            f"{folder.path} holds a run already; go on with --resume (Python: resume=True), or choose another out="
        )
    changed = _changed(made_with(folder), as_begun(settings, folder))
    other = {key: pair for key, pair in changed.items() if not (extend and key in EXTENDABLE)}
    if other:
        folder.load()  # where it is damaged, that is what to say
        cure = "choose another out="
        if extend:
            cure = f"an extension may change {', '.join(EXTENDABLE)}; else {cure}"
        elif changed.keys() <= set(EXTENDABLE):
            cure += ", or go on by another plan with --extend"
        raise MmardError(f"{folder.path} was made with other settings: {listed(other)}; {cure}")


def made_with(folder: RunFolder) -> Settings:
    """Read the settings a run was made with: its checkpoint's, where it has them."""
    kept = folder.made_with()
    return read_settings(folder.path) if kept is None else read_settings(None, kept, own=False)


def as_begun(settings: Settings, folder: RunFolder) -> Settings:
    """Return the settings with what they leave open (``auto``) or do not use as a run in the folder has it."""
    if not (folder.has_run and folder.is_run):
        return settings
    begun = made_with(folder)
    settings = as_unused_in(begun, as_measured(settings, begun))
    if settings.engine.precision != "auto":
        return settings
    named = {"precision": begun.engine.precision}
    return settings.model_copy(update={"engine": settings.engine.model_copy(update=named)})


def extension_of(folder: RunFolder, settings: Settings) -> Extension | None:
    """Find what the settings change in the run that the folder holds; None where there is no run, or no change."""
    if not folder.has_run:
        return None
    old = made_with(folder)
    changed = _changed(old, as_begun(settings, folder))
    if not changed:
        return None
    return Extension(changed=changed, before=old.train, averaging=old.averaging, late=settings.data.augment_late)


def _changed(old: Settings, new: Settings) -> dict[str, tuple[Any, Any]]:
    a, b = (s.model_dump(mode="json", exclude=UNIMPORTANT) for s in (old, new))
    return changes(a, b)


def _trainer(
    resolved: Resolved,
    data: DataSet,
    engine: Engine,
    folder: RunFolder,
    watcher: Watcher,
    nets: Mapping[str, Classifier],
    extension: Extension | None = None,
) -> Trainer:
    settings, method = resolved.settings, resolved.method
    resolved.validation.must_ask_for_more_than(data.held_out.labels)
    classes = len(data.train.classes)
    shape = classes, data.train.shape
    normalisation = data.train.mean_std() if settings.normalize == "data" else ((), ())
    return Trainer(
        method=method,
        threat=resolved.threat,
        student=build_student(settings, resolved.given, shape, normalisation),
        train=data.train,
        extra=extra_of(settings, data),
        held_out=data.held_out,
        folder=folder,
        teachers=load_teachers(settings, resolved.given, nets, shape),
        plan=resolved.plan,
        averaging=resolved.averaging,
        validation=resolved.validation,
        engine=engine,
        micro_batch=settings.engine.micro_batch,
        compile=settings.engine.compile,
        augmentation=settings.data.augment,
        late_augmentation=settings.data.augment_late,
        variants=settings.data.variants,
        scale=1 / classes if settings.scale == "1/num_classes" else settings.scale,
        seed=settings.seed,
        checkpoint_every=settings.checkpoint_every,
        extension=extension,
        pixels=digest_of_pixels(data.train) if settings.data.name == PYTHON else None,
        metadata={"classes": list(data.train.classes), "settings": settings.resolved(), "formula": str(method)},
        watcher=watcher if engine.is_global_zero else Watcher(),
    )
