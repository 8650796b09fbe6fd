"""Settings that change nothing beside the others of a run: refused where the user gives them, noted where a file holds them."""

import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmard.api.networks import has_a_recipe, is_trained
from mmard.api.registry import names_of
from mmard.api.replaced_settings import OF_TRAINING, USED_BESIDE, is_used
from mmard.api.settings import Settings, flat, read_settings
from mmard.models.cards import find_model
from mmard.models.foreign import is_foreign
from mmard.runs.folder import RunFolder
from mmard.utils.errors import MmardError, Note, unknown
from mmard.utils.numbers import share_of_run
from mmard.utils.validation import keys_of

NOTED = ("data.variants", "validation.patience", "teacher", "teachers")
"""Settings that may be no mistake: one run of many has fewer epochs, or another method."""


@dataclass(frozen=True)
class Work:
    """Work that trains no run, and the settings that change something in it.

    Attributes:
        takes: sections and single settings.
        idle: settings of those sections that change nothing in it all the same.
        noted: settings that change nothing in it either, and stand in commands of earlier versions.
        beside: settings that are used only beside another one, as in `USED_BESIDE`.
    """

    name: str
    takes: tuple[str, ...]
    idle: tuple[str, ...] = ()
    noted: tuple[str, ...] = ()
    beside: Mapping[str, str] = field(default_factory=dict)

    def does_take(self, key: str) -> bool:
        """Tell whether a setting, by dotted key, changes something in this work."""
        return _is_among(key, self.takes) and not _is_among(key, self.idle)

    def of(self, words: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of the settings that this work takes."""
        return {key: value for key, value in flat(words).items() if self.does_take(key)}


_LEARNT = tuple(f"data.{key}" for key in ("stream", *OF_TRAINING))
_FIXED = "engine.precision", "engine.micro_batch", "engine.compile"  # always float32, in batches of its own
EVALUATION = Work(
    "an evaluation",
    ("data", "threat", "teacher", "teachers", "engine"),
    (*_LEARNT, *_FIXED),
    noted=("data.held_out", "data.limit"),
    beside={"data.seed": "data.test_limit"},
)
DIAGNOSIS = Work("a diagnosis", ("data", "teacher", "teachers"), _LEARNT)
EXAMINATION = Work("an examination", ("data", "threat"), ("data.augment",))
EXPORT = Work("an export", ("data", "threat"), (*_LEARNT, "data.test_limit"))
MEASUREMENT = Work(
    "a measurement",
    ("data", "threat", "teacher", "engine.accelerator"),
    (*_LEARNT, "data.held_out", "data.limit"),
)
STEP = Work(
    "the time of a step",
    ("method", "student", "scale", "attack", "threat", "engine", "data.augment", "data.variants",
     *(f"train.{key}" for key in ("optimizer", "momentum", "nesterov", "weight_decay", "clip"))),
    beside={"data.augment": "data.variants"},
)  # fmt: skip


def must_be_taken(words: Mapping[str, Any], *works: Work) -> None:
    """Raise MmardError for a setting among the user's ``words`` that none of these works takes."""
    for key in flat(words):
        if key.split(".")[0] not in Settings.model_fields:
            raise unknown("setting", key, keys_of(Settings))
        if not any(work.does_take(key) for work in works):
            name, takes = works[0].name, works[0].takes
            what = name if _is_among(key, takes) else f"{name}, which takes {', '.join(takes)}"
            raise MmardError(f"{key} changes nothing in {what}; leave it out")


def must_be_used_in(settings: Settings, words: Mapping[str, Any], work: Work) -> None:
    """Raise MmardError for a setting among the user's ``words`` that changes nothing in this work.

    Args:
        settings: all of them, the words among them.
    """
    must_be_taken(words, work)
    for key in flat(words):
        if _is_among(key, work.noted):
            warnings.warn(Note(f"{key} changes nothing in {work.name}"), stacklevel=2)
    for key, other in work.beside.items():
        if key in flat(words) and not is_used(_value(settings, other), ()):
            raise MmardError(f"{key} changes nothing in {work.name} without {other}; leave it out")


def _is_among(key: str, keys: Collection[str]) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in keys)


def must_change_something(settings: Settings, asked: Collection[str]) -> tuple[Settings, tuple[str, ...]]:
    """Raise MmardError for a setting that the user gives and that changes nothing.

    Args:
        asked: the networks that the method asks for, by name.

    Returns:
        The settings, without a teacher that would be trained or looked for in vain, and a line for each that changes nothing.
    """
    notes: list[str] = []
    if (kept := _without_idle_teacher(settings, asked)) is not settings:
        notes.append(f"this method asks for no teacher: teacher_recipe={settings.teacher_recipe} trains none")
        settings = kept
    settings, left_out = _without_absent(settings, asked)
    notes += left_out
    for key, why in _unused(settings, asked):
        noted = key in NOTED or key.partition(".")[0] in NOTED
        if noted or not settings.is_said(key) or _is_of_the_run(settings, key) or _may_ask_later(settings, key):
            notes.append(why)
        else:
            raise MmardError(why if "; expected" in why else f"{why}; leave it out")
    return settings, tuple(notes)


def _unused(settings: Settings, asked: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the settings that are not the defaults and change nothing, each with a line that says why."""
    for key, (other, values) in USED_BESIDE.items():
        if not _is_default(settings, key) and not is_used(beside := _value(settings, other), values):
            where = " or ".join(f"{other}={value}" for value in values) or f"a {other}"
            yield key, f"{key} means nothing beside {other}={beside or 'none'}, only beside {where}"
    yield from _unused_times(settings)
    late = settings.data.augment_late
    if late is not None and late.kind == settings.data.augment:
        yield (
            "data.augment_late",
            f"data.augment_late={late.kind} is what data.augment is already; expected another kind",
        )
    yield from _unasked(settings, asked)


def _unused_times(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the settings of times that do not come within the run."""
    plan, validation = settings.train, settings.validation
    beyond = [m for m in plan.milestones if share_of_run(m, plan.epochs) >= 1]
    if plan.schedule == "piecewise" and beyond:
        yield (
            "train.milestones",
            f"train.milestones has {beyond[0]:g}, and the run ends with epoch {plan.epochs}; expected less, or a share of the run",
        )
    if plan.hold and share_of_run(plan.hold, plan.epochs) <= plan.warmup:
        yield (
            "train.hold",
            f"train.hold={plan.hold:g} is over before train.warmup={plan.warmup:g} is; expected a later one",
        )
    count = -(-plan.epochs // validation.every)
    if validation.patience is not None and validation.patience >= count - 1:
        yield (
            "validation.patience",
            f"validation.patience={validation.patience} never ends a run that validates {count} times",
        )
    if (variants := settings.data.variants) and variants > plan.epochs:
        yield (
            "data.variants",
            f"data.variants={variants} is more than epochs, train.epochs={plan.epochs}: one for each epoch is drawn",
        )


def _unasked(settings: Settings, asked: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the networks that nobody asks for."""
    names = ", ".join(sorted({*asked} - {"student"})) or "none"
    for name in sorted(settings.teachers.keys() - {*asked}):
        yield f"teachers.{name}", f"teachers.{name} is a network that this method never asks for (it asks for: {names})"
    if settings.teacher and not _asks_for_the_teacher(settings, asked):
        yield "teacher", "this method asks for no teacher: it is loaded for the triangle of the validations alone"


def _asks_for_the_teacher(settings: Settings, asked: Collection[str]) -> bool:
    return "teacher" in asked or settings.attack.stop_at == "teacher" or settings.data.extra is not None


def _without_idle_teacher(settings: Settings, asked: Collection[str]) -> Settings:
    """Leave out a teacher that ``teacher_recipe`` would train, where the user's own method asks for none.

    A study's cells share a teacher, which is trained for those that ask, and a run that has begun with one goes on with it.
    """
    if (
        not settings.is_said("method")
        or _may_ask_later(settings, "teacher")
        or _asks_for_the_teacher(settings, asked)
        or not has_a_recipe(settings)
    ):
        return settings
    begun = RunFolder(settings.out)
    if read_settings(begun.path).teacher if begun.is_run and begun.has_run else is_trained(str(settings.teacher)):
        return settings
    return settings.model_copy(update={"teacher": None, "teacher_recipe": None})


def _without_absent(settings: Settings, asked: Collection[str]) -> tuple[Settings, list[str]]:
    """Leave out a recipe's networks that are not there, where the user's own method asks for none; return a line for each.

    A run that has begun without one goes on without it.
    """
    if not settings.is_said("method") or settings.trust.folder is not None:
        return settings, []
    folder = RunFolder(settings.out)
    begun = read_settings(folder.path) if folder.is_run and folder.has_run else settings
    idle = {f"teachers.{name}" for name in settings.teachers.keys() - {*asked}}
    idle |= (
        {"teacher"}
        if settings.teacher and not _asks_for_the_teacher(settings, asked) and not has_a_recipe(settings)
        else set()
    )
    absent = [
        key
        for key in sorted(idle)
        if not settings.is_said(key) and not _may_ask_later(settings, key)
        if key not in _named(begun) or not _is_there(_named(settings)[key])
    ]
    kept = {name: source for name, source in settings.teachers.items() if f"teachers.{name}" not in absent}
    changed: dict[str, Any] = {"teachers": kept} | ({"teacher": None} if "teacher" in absent else {})
    lines = [
        f"{key}={_named(settings)[key]} is not there, and this method never asks for it: it is left out"
        for key in absent
    ]
    return settings.model_copy(update=changed) if absent else settings, lines


def _named(settings: Settings) -> dict[str, str]:
    """List the networks that the settings name, by the key of each."""
    named = {f"teachers.{name}": source for name, source in settings.teachers.items()}
    return named | ({"teacher": settings.teacher} if settings.teacher else {})


def _is_there(source: str) -> bool:
    """Tell whether a network is there; one from elsewhere may be fetched."""
    try:
        return is_foreign(source) or find_model(source).is_file()
    except MmardError:
        return False


def note_unused_checkpoints(every: int | None, per_epoch: int, total: int) -> None:
    """Note that ``checkpoint_every`` steps bring no checkpoint but those at the end of each epoch."""
    if every is not None and (every >= total or every % per_epoch == 0):
        warnings.warn(
            Note(
                f"checkpoint_every={every} changes nothing: an epoch has {per_epoch} steps, and ends with a checkpoint"
            ),
            stacklevel=2,
        )


def as_unused_in(begun: Settings, settings: Settings) -> Settings:
    """Copy the settings with the values of a run that has begun where neither uses them: an older version kept a recipe's."""
    for key, (other, values) in USED_BESIDE.items():
        if not any(is_used(_value(each, other), values) for each in (begun, settings)):
            *sections, last = key.split(".")
            changed: Any = {last: _value(begun, key)}
            for section in sections:
                changed = {section: getattr(settings, section).model_copy(update=changed)}
            settings = settings.model_copy(update=changed)
    return settings


def _may_ask_later(settings: Settings, key: str) -> bool:
    """Tell whether the setting is a network of a method of one's own code, which may ask for it at another time of the run."""
    return key.split(".")[0] in ("teacher", "teachers") and any(":" in name for name in names_of(settings.method))


def _is_of_the_run(settings: Settings, key: str) -> bool:
    """Tell whether the run that goes on in the folder has the same value: an older version took it."""
    folder = RunFolder(settings.out)
    return folder.is_run and folder.has_run and _value(read_settings(folder.path), key) == _value(settings, key)


def _is_default(settings: Settings, key: str) -> bool:
    return bool(_value(settings, key) == _value(Settings(), key))


def _value(settings: Settings, key: str) -> Any:
    found: Any = settings
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else getattr(found, part)
    return found
