"""Construction of what settings describe, and checks that they can be built."""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import InstanceOf

from mmard.api.networks import Given, has_a_recipe, must_be_buildable, teachers_of
from mmard.api.recipe_files import recipes
from mmard.api.registry import build_method
from mmard.api.replaced_settings import EXTRA, OF_TRAINING
from mmard.api.settings import Settings
from mmard.api.unused_settings import must_change_something
from mmard.api.whole_method import must_be_of_single_samples, must_be_whole
from mmard.attacks.pgd import Pgd
from mmard.core.method import Method
from mmard.core.threat import Threat
from mmard.core.views import MissingModelError
from mmard.data.extra import Extra, keys_in
from mmard.data.images import DataSet
from mmard.data.labels import Known, agreed
from mmard.data.overlap import warn_of_shared_extra
from mmard.data.sources import SOURCES, is_code, load, must_be_used, unused
from mmard.models.architectures import Architecture, build
from mmard.models.cards import Card, find_model, weights_file
from mmard.models.foreign import NetworkSpec, is_foreign
from mmard.models.weights import architecture_facts, metadata_of
from mmard.training.averaging import Averaging
from mmard.training.companions import averages_are_not_given
from mmard.training.engine import Engine
from mmard.training.extension import beginnings
from mmard.training.schedule import Plan
from mmard.training.validation import Validation
from mmard.training.variants import must_only_move
from mmard.utils.argument_types import public
from mmard.utils.errors import MmardError
from mmard.utils.foreign_code import function_at, run_foreign


@dataclass(frozen=True, eq=False)
class Resolved:
    """A run's settings, checked, with what is built of them; made once, by `resolve`, and handed on.

    Attributes:
        method: with the attack's changes applied. It holds the run's state: of one run.
        given: networks given in Python, by name; the settings say that they were.
        images: given in Python; None: the settings say where they are.
        asked: the networks that the method asks for, by name.
        notes: what became of a recipe's settings, and what changes nothing although a file holds it, a line each.
    """

    settings: Settings
    method: Method
    threat: Threat
    given: Given = field(default_factory=dict)
    images: object = None
    asked: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def plan(self) -> Plan:
        """Return the schedule."""
        return self.settings.train

    @property
    def averaging(self) -> Averaging:
        """Return the settings of the weight average that is validated and saved."""
        return self.settings.averaging

    @property
    def validation(self) -> Validation:
        """Return the settings of the validation on held-out images."""
        return self.settings.validation


@public
def resolve(
    settings: InstanceOf[Settings], given: Given | None = None, images: Any = None, *, to_train: bool = True
) -> Resolved:
    """Build a run's method and threat, and check all that can be wrong without reading data or weights.

    Args:
        given: networks given in Python; see `mmard.api.networks.given_in`.
        images: given in Python, where ``data.name`` says so; see `mmard.data.given.parts_of`.
        to_train: teachers and other files that the settings name are looked at too; else they need not be there.

    Raises:
        MmardError: for the first that is wrong, before anything heavy runs.
    """
    said = settings.data.model_dump(exclude_defaults=True)
    must_be_used(settings.data.name, list(said))
    if "extra" not in said and (lost := [key for key in EXTRA if key in said]):
        raise MmardError(
            f"data.{lost[0]} is of extra images, and there are none; give data.extra=FILE.npz, or leave it out"
        )
    if found := re.search(r"\$\{?\w+", settings.out):
        raise MmardError(
            f"out={settings.out}: {found[0]} is not replaced here; write the whole path (~ is your home folder)"
        )
    threat = build_threat(settings)
    resolved = Resolved(settings, method_of(settings, threat), threat, dict(given or {}), images)
    settings, notes = must_change_something(settings, asked := _check(resolved))
    if to_train:
        may_be_read(settings)
        _must_be_there(settings)
    return replace(
        resolved,
        settings=settings,
        asked=asked,
        notes=(*settings.notes, *_idle_scale(settings, resolved.method), *notes),
    )


def build_threat(settings: Settings) -> Threat:
    """Build the threat."""
    return Threat(**settings.threat.model_dump())


def ball_of_examples(settings: Settings, method: Method) -> Threat:
    """Return the ball in which the run's own method makes its examples when its training ends."""
    ball, late = method.ball(build_threat(settings)), settings.attack.late
    return ball if late is None or late.eps is None or method.maximizer is None else replace(ball, eps=late.eps)


def method_of(settings: Settings, threat: Threat | None = None) -> Method:
    """Build the method with the attack's changes applied, its step checked against the threat."""
    method, threat = build_method(settings.method, settings.trust), threat or build_threat(settings)
    if isinstance(method.maximizer, Pgd):
        _must_go_together(settings, method)
    return settings.attack.applied_to(method, threat)


def _must_go_together(settings: Settings, method: Method) -> None:
    """Raise MmardError where a part of the attack needs what the rest of the run does not give."""
    late = settings.data.augment_late
    for key, drawn in (("augment", settings.data.augment), ("augment_late.kind", late.kind if late else "none")):
        if settings.attack.warm_start and set(drawn.split("+")) & {"idbh", "cutmix", "zoom"}:
            raise MmardError(
                f"attack.warm_start keeps perturbations of the image itself, and data.{key}={drawn} does more than move it; "
                "choose crop+flip, or leave one of them out"
            )
    if settings.attack.warm_start and settings.data.extra:
        raise MmardError(
            "attack.warm_start keeps a perturbation of every image, and data.extra has too many; leave out one"
        )
    if settings.attack.stop_at is None:
        return
    must_be_of_single_samples(method)
    if settings.engine.compile:
        raise MmardError(
            "attack.stop_at makes batches of every size, and engine.compile is for one; leave one of them out"
        )


def data_of(settings: Settings, models: Iterable[Known] = (), *, stream: bool = False, given: object = None) -> DataSet:
    """Load the data set, its held-out split cut, with classes and channels as these models know them.

    Args:
        stream: leave the training images on disk, whatever the settings say: nobody learns from them.
        given: the images themselves, from a Python program: what `mmard.data.given.parts_of` takes. The settings say how they are
            split and shaped, and their ``data.name`` is ``python``.

    Raises:
        MmardError: before anything is read, where foreign weights name the data's place and the user does not; for data
            that are not there, and for models that know the same classes in different orders.
    """
    _data_may_be_read(settings)
    options = settings.data.model_dump(exclude={*OF_TRAINING}) | ({"stream": True} if stream else {})
    ignored = unused(settings.data.name, list(options))  # an old run's; `resolve` refuses them
    if given is None and is_code(settings.data.name):
        given = run_foreign(
            lambda: function_at(settings.data.name)(**settings.data.parameters), settings.data.name, "fails"
        )
        if given is None:
            raise MmardError(f"{settings.data.name} returned nothing, expected images; is its return missing?")
    kept = {key: value for key, value in options.items() if key not in ignored}
    return load(**kept, model=agreed(models), given=given, trains=not stream)


def extra_of(settings: Settings, data: DataSet) -> Extra | None:
    """Open the extra training images that the settings name, for this data set; None where they name none.

    Raises:
        MmardError: for a file that may not be read, and images or labels that do not fit.
    """
    given = settings.data
    if given.extra is None:
        return None
    settings.trust.must_allow_place(given.extra, "data.extra")
    extra = Extra.read(given.extra, given.extra_ratio, given.extra_labels, data.source, data.train)
    if extra.labels is None and not settings.teacher:
        raise MmardError(
            f"{given.extra} has no labels that are used, and no teacher is given to label them; give teacher=RUN"
        )
    warn_of_shared_extra(extra.pixels, data.test)
    return extra


def known_of(source: str | Path, what: str) -> Known:
    """Read what a model says of its data: the header of its weights, or its card; a network from elsewhere may say nothing.

    Raises:
        MmardError: where there is no such model, and for a card whose class names are not those in its file.
    """
    if is_foreign(source):
        source = NetworkSpec.of(str(source)).weights
        if not source:
            return Known.of(what, None)
        weights = path = Path(source).expanduser()
    else:
        path = find_model(source)
        weights = weights_file(path)
    own = architecture_facts(weights)
    known = Known.of(what, metadata_of(weights).get("classes"), own.get("classes"), own.get("channels"))
    if path.suffix != ".json":
        return known
    card = Card.read(path)
    if known.classes and card.class_names and known.classes != card.class_names:
        raise MmardError(
            f"the card {path} has other class_names ({', '.join(card.class_names[:4])} ...) than its file says "
            f"({', '.join(known.classes[:4])} ...); leave them out of the card"
        )
    return Known(what, known.classes or card.class_names, card.channels, {what: (card.classes, card.channels)})


def may_be_read(settings: Settings) -> None:
    """Raise MmardError unless all that the settings name may be read: data, teachers, and the teacher's recipe.

    Raises:
        MmardError: for what a foreign run folder names outside of itself and the user does not.
    """
    _data_may_be_read(settings)
    if settings.data.extra:
        settings.trust.must_allow_place(settings.data.extra, "data.extra")
        keys_in(settings.data.extra, settings.data.extra_labels)
    teachers_of(settings)
    if settings.teacher_recipe and settings.teacher_recipe not in recipes():
        settings.trust.must_allow_place(settings.teacher_recipe, "teacher_recipe")


def _data_may_be_read(settings: Settings) -> None:
    data = settings.data
    if is_code(data.name):
        settings.trust.must_allow_builder(data.name, "data.name", data.parameters)
        return
    if data.name not in SOURCES:  # a name of the hub, or of a folder that `datasets` takes for one
        settings.trust.must_allow_place(data.name if Path(data.name).exists() else f"hub://{data.name}", "data.name")
        return
    source = SOURCES[data.name]
    for key in source.places:
        given = getattr(data, key)
        for place in given if isinstance(given, list) else [given] if given else []:
            settings.trust.must_allow_place(place, f"data.{key}", leads_on=source.leads_on)


def engine_of(settings: Settings) -> Engine:
    """Build the engine: device, precision and processes."""
    return Engine(**settings.engine.model_dump(exclude={"micro_batch", "compile"}))


def must_be_trainable(settings: Settings, method: Method) -> None:
    """Raise MmardError for settings that training refuses whichever its networks and images are."""
    if (idle := _idle_scale(settings, method)) and settings.is_said("scale"):
        raise MmardError(f"{idle[0]}; leave it out")
    if (data := settings.data).variants:
        must_only_move(data.augment, data.variants, extra=data.extra, augment_late=data.augment_late)
    processes, batch = settings.engine.devices * settings.engine.nodes, settings.train.batch_size
    if batch % processes:
        raise MmardError(f"train.batch_size {batch} does not divide by {processes} processes")
    beginnings(settings.train.epochs, settings.averaging, method, data.augment_late)


def _idle_scale(settings: Settings, method: Method) -> tuple[str, ...]:
    """Say that a scale changes nothing, where it does not."""
    if settings.scale == 1 or method.has_divergences():
        return ()
    return (f"scale={settings.scale} is of KL terms, and this method descends none",)


def _check(resolved: Resolved) -> frozenset[str]:
    """Raise MmardError for what is wrong; return the networks that the method asks for."""
    settings, method = resolved.settings, resolved.method
    must_be_trainable(settings, method)
    fresh = {companion.fresh for companion in method.companions.values()} - {None, "student"}
    must_be_buildable(settings, resolved.given)
    with torch.device("meta"):
        for name in sorted(filter(None, fresh)):
            build(Architecture(name=name, classes=10))
    return _check_networks(settings, method)


def _check_networks(settings: Settings, method: Method) -> frozenset[str]:
    """Raise MmardError where a network that the method needs is not given; return those that it takes."""
    if settings.teacher and Path(settings.teacher).expanduser().resolve() == Path(settings.out).expanduser().resolve():
        raise MmardError(f"{settings.out} cannot be its own teacher; choose another out=")
    if wrong := {"student", "teacher", ""} & set(settings.teachers):
        raise MmardError(
            f"teachers.{min(wrong)} is no name for a further network; the robust teacher is given by teacher="
        )
    averages_are_not_given(method, settings.teachers)
    made = [name for name, companion in method.companions.items() if companion.fresh is not None]
    have = [*settings.teachers, *(["teacher"] if settings.teacher else []), *made]
    asked = must_be_whole(method, have, settings.train.epochs)
    if settings.attack.stop_at == "teacher" and "teacher" not in have:
        raise MissingModelError("teacher", ["student", *have], "attack.stop_at=teacher")
    return asked - {name for name, companion in method.companions.items() if companion.average is not None}


def _must_be_there(settings: Settings) -> None:
    """Raise MmardError where a network that is learnt from is not there, and not to come."""
    for name, source in teachers_of(settings).items():
        to_come = name == "teacher" and has_a_recipe(settings)
        if not to_come and not is_foreign(source) and (file := _model_at(source)).suffix == ".json":
            Card.read(file)


def _model_at(source: str) -> Path:
    """Find a network's file; where its folder is called as a recipe is, and not there yet, say how it is trained."""
    if (name := Path(source).name) in recipes() and not Path(source).expanduser().exists():
        raise MmardError(f"no model at {source} yet; train it first: mmard train {name} out={shlex.quote(source)}")
    return find_model(source)
