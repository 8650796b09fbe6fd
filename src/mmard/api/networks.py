"""The networks of a run: the student and the teachers that its settings name, and modules that were given in Python."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmard.api.settings import NETWORKS, Settings
from mmard.core.logits import must_be_apart
from mmard.core.views import set_mode
from mmard.models.architectures import Architecture, Classifier, adopt, build
from mmard.models.cards import as_teacher, fetched_by, in_zoo, load_foreign, load_model, must_fit, must_take, zoo_cards
from mmard.models.foreign import GIVEN, RAW, NetworkSpec, Normalisation, is_foreign
from mmard.models.robustbench import PREFIX
from mmard.models.weights import CODE, architecture_facts
from mmard.runs.folder import RunFolder
from mmard.utils.errors import MmardError
from mmard.utils.numbers import seed_of
from mmard.utils.trust import Trust

Given = Mapping[str, nn.Module]
"""Modules given in Python: ``student``, ``teacher``, or the name of a further teacher → the network."""


def given_in(overrides: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, nn.Module]]:
    """Separate modules from other settings: in their place stands ``given:`` and their class.

    >>> given_in({"student": nn.Linear(2, 2), "seed": 1})[0]
    {'student': 'given:Linear', 'seed': 1}
    """
    words, given = dict(overrides), dict[str, nn.Module]()
    for key, value in overrides.items():
        inside = value if key == "teachers" and isinstance(value, Mapping) else {}
        found = {f"teachers.{name}": one for name, one in inside.items() if isinstance(one, nn.Module)}
        found |= {key: value} if isinstance(value, nn.Module) else {}
        given |= {_name(where): module for where, module in found.items()}
        if inside:
            words[key] = {name: _word(one) if isinstance(one, nn.Module) else one for name, one in inside.items()}
        elif found:
            words[key] = _word(value)
    return words, given


def _word(module: nn.Module) -> str:
    return f"{GIVEN}:{type(module).__name__}"


def _name(key: str) -> str:
    """Return the network's name of a setting that takes one."""
    name = key.removeprefix("teachers.")
    if key not in NETWORKS and not key.startswith("teachers."):
        raise MmardError(f"{key} is a network, expected one for student, teacher or teachers.NAME alone")
    return "teacher" if name == "robust" else name


def teachers_of(settings: Settings) -> dict[str, str]:
    """List the networks that the student learns from: name → run folder, weights or card; ``teacher`` is the last.

    Raises:
        MmardError: before anything is read, where foreign weights name a network's place and the user does not.
    """
    named = settings.teachers | ({"teacher": settings.teacher} if settings.teacher else {})
    for name, source in named.items():
        must_allow_teacher(settings, name, source)
    return named


def has_a_recipe(settings: Settings) -> bool:
    """Tell whether the teacher is a run that ``teacher_recipe`` makes where it is not there; no file, and none that has a name."""
    teacher = settings.teacher
    if not teacher or not settings.teacher_recipe or is_foreign(teacher):
        return False
    return not teacher.startswith(PREFIX) and in_zoo(teacher).suffix not in (".safetensors", ".json")


def is_trained(teacher: str) -> bool:
    """Tell whether a teacher that has a recipe is there, and need not be trained."""
    return RunFolder(teacher).last_file.exists() or Path(teacher).expanduser().is_file()


def must_allow_teacher(settings: Settings, name: str, source: str) -> None:
    """Raise MmardError unless the network may be read, and fetched or built by code where its name says so."""
    trust, key = settings.trust, name if name == "teacher" else f"teachers.{name}"
    if not is_foreign(source):
        if in_zoo(source) in zoo_cards().values():  # it comes with the package
            return
        trust.must_allow_place(f"network://{source}" if source.startswith(PREFIX) else source, key)
        for place in fetched_by(source) if trust.folder is not None else ():
            trust.must_allow_place(place, f"the card {source}, which fetches")
        return
    spec = NetworkSpec.of(source)
    if spec.is_code:
        trust.must_allow_builder(spec.name, key, spec.parameters)
    if spec.weights:
        trust.must_allow_place(spec.weights, key)
    if spec.fetches or not (spec.weights or spec.kind == GIVEN):  # it fetches its configuration, or its own weights
        trust.must_allow_place(f"network://{spec.name}", key)


def must_allow_named(word: str, what: str, trust: Trust) -> None:
    """Vouch for a network from elsewhere that the user's own command names, or raise MmardError for a file that is not there."""
    spec = NetworkSpec.of(word)
    if spec.is_code:
        trust.also({spec.name}).must_allow_builder(spec.name, what, spec.parameters)


def student_architecture(
    settings: Settings, classes: int, channels: int = 3, normalisation: Normalisation = RAW
) -> Architecture:
    """Return the student's architecture, its code vouched for where it is the user's own.

    A run that goes on finds a file that is gone in its folder, and the configuration of a network of the hub.

    Raises:
        MmardError: for code that the user has not named himself.
    """
    spec = NetworkSpec.of(settings.student)
    if spec.weights:
        raise MmardError(f"the student {settings.student} begins untrained; leave out @{spec.weights}")
    kept = Path(settings.out).expanduser() / CODE
    known = architecture_facts(best) if (best := kept.with_name("best.safetensors")).is_file() else {}
    config = known.get("parameters", {}).get("config") if known.get("name") == spec.name else None
    parameters = {**spec.parameters, **({"config": config} if config else {})}
    trust, code = settings.trust, ""
    if spec.is_code:
        code = trust.must_allow_builder(spec.name, "student", spec.parameters, kept)
    elif spec.parameters.get("pretrained") or replace(spec, parameters=parameters).fetches:
        trust.must_allow_place(f"network://{spec.name}", "student")
    mean, std = (spec.mean, spec.std) if spec.mean or spec.std else normalisation
    shape = {"classes": classes, "channels": channels}
    return Architecture(name=spec.name, parameters=parameters, code=code, mean=mean, std=std, **shape)


def must_be_buildable(settings: Settings, given: Given) -> None:
    """Raise MmardError unless the student can be built, before anything heavy runs: for 10 classes, without training in mind."""
    spec = NetworkSpec.of(settings.student)
    if spec.kind == GIVEN:
        if "student" not in given:
            raise MmardError(
                f"the student is {spec.name.partition(':')[2]}, a module given in Python: give it again, "
                "mmard.train(..., student=MODULE); the command line takes student=net.py:build"
            )
        return
    channels = len(spec.mean or spec.std) or 3  # of the images, which are not read yet
    architecture = student_architecture(settings, 10, channels)
    with torch.random.fork_rng(devices=[]):
        if spec.kind:
            build(architecture, fresh=False)
            return
        with torch.device("meta"):
            build(architecture)


def build_student(
    settings: Settings, given: Given, shape: tuple[int, torch.Size], normalisation: Normalisation
) -> Classifier:
    """Build the student with fresh weights, or adopt the given one with its own, and try it on two images.

    Args:
        shape: number of classes, and the shape of an image (C, H, W).
    """
    classes, image = shape
    torch.manual_seed(seed_of(settings.seed, "weights"))
    if (module := given.get("student")) is not None:
        named = settings.is_said("normalize")  # and not by a recipe, whose own gives way
        own = RAW if isinstance(module, Classifier) and not named else normalisation
        student = _adopted(module, settings.student, "the student", (classes, image[0]), own)
        must_fit(student, "the student", classes, image[0])
        _warn_of_another_end(module, student, settings)
    else:
        student = build(student_architecture(settings, classes, image[0], normalisation))
    if student.architecture.spec.kind:
        must_take(student, f"the student {settings.student}", image)
    return student


def _adopted(
    module: nn.Module, word: str, who: str, shape: tuple[int, int], normalisation: Normalisation = RAW
) -> Classifier:
    """Adopt a module with the normalisation that its settings name, or the run's.

    Args:
        word: the setting that stands for it, such as ``given:Net(mean=[0.5], std=[0.25])``.
        shape: number of classes and of channels.

    Raises:
        MmardError: for parameters, which only a network that is built here takes, and for two normalisations.
    """
    spec = NetworkSpec.of(word)
    if spec.parameters:
        raise MmardError(f"{who} is a module, which is built already; leave out {', '.join(spec.parameters)}")
    mean, std = (spec.mean, spec.std) if spec.mean or spec.std else normalisation
    if mean and isinstance(module, Classifier):
        raise MmardError(
            f"{who} is a model of mmard, which normalises as it is told; leave out normalize, mean and std"
        )
    return adopt(module, *shape, mean, std)


def _warn_of_another_end(module: nn.Module, student: Classifier, settings: Settings) -> None:
    """Warn where the trained module is not the model that the run's weights are."""
    ends = {
        "unnormalised": student is not module and bool(student.architecture.mean),
        "without the average of its weights": settings.averaging.kind != "none",
    }
    if found := [words for words, so in ends.items() if so]:
        warnings.warn(
            f"the student's module itself ends {' and '.join(found)}; the trained model is mmard.load_model(run.path, module)",
            stacklevel=2,
        )


def load_early(settings: Settings, given: Given) -> dict[str, Classifier]:
    """Load the teachers that say their own classes, before images are decoded: their faults are seen at once."""
    return {
        name: load_model(source, trust=settings.trust.everything)
        for name, source in teachers_of(settings).items()
        if name not in given and not is_foreign(source)
    }


def load_teachers(
    settings: Settings, given: Given, early: Mapping[str, Classifier], shape: tuple[int, torch.Size]
) -> dict[str, Classifier]:
    """Return all the teachers, frozen, after checking that they fit the data; see `build_student` for ``shape``."""
    found, (classes, image) = {}, shape
    for name, source in teachers_of(settings).items():
        if name in early:
            model = early[name]
        elif name in given:
            if "student" in given:
                must_be_apart(given["student"], given[name], name)
            model = _adopted(given[name], source, f"the {name}", (classes, image[0]))
            set_mode(model, train=False)
        elif NetworkSpec.of(source).kind == GIVEN:
            raise MmardError(f"the {name} is a module given in Python: give it again, mmard.train(..., {name}=MODULE)")
        else:
            model = load_foreign(source, classes, image[0])
        found[name] = as_teacher(model, source, classes, image[0])
        if model.architecture.spec.kind:
            must_take(model, f"the {name} {source}", image)
    return found
