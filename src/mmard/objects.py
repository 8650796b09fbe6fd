"""From settings to the things that they describe, and whether those can be."""

import copy
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from mmard.attacks.inner import Inner
from mmard.attacks.pgd import Pgd
from mmard.config import Settings
from mmard.core.errors import MmardError
from mmard.core.method import Method
from mmard.core.numbers import NeverBeginsError, beginning
from mmard.core.threat import Threat
from mmard.core.views import MissingModelError, Models, Views
from mmard.data.images import DataSet
from mmard.data.sources import load
from mmard.locate import build_method
from mmard.models.students import Architecture, build
from mmard.models.teachers import Card, find_model
from mmard.terms import OVER_THE_BATCH
from mmard.terms.fairness import Fairness
from mmard.training.averaging import Averaging
from mmard.training.engine import Engine
from mmard.training.plan import Plan


def method_of(settings: Settings) -> Method:
    """The method with the attack's changes applied, its step checked against the threat."""
    method, threat = build_method(settings.method), Threat(**settings.threat.model_dump())
    changes = {k: v for k, v in settings.attack.model_dump().items() if v is not None and v is not False}
    if isinstance(method.maximizer, Pgd):
        _must_go_together(settings, method)
        late = settings.attack.late and (settings.attack.late.after, settings.attack.late.steps)
        return replace(method, maximizer=Inner(**{**changes, "late": late}).of(method.maximizer, threat))
    if changes and method.maximizer is not None:
        raise MmardError(f"attack.{next(iter(changes))} changes a PGD, and this method attacks by {method.maximizer}")
    return method


def _must_go_together(settings: Settings, method: Method) -> None:
    """Raise where a part of the attack asks for what the rest of the run does not give."""
    if settings.attack.warm_start and set(settings.data.augment.split("+")) & {"idbh", "cutmix"}:
        raise MmardError(
            f"attack.warm_start keeps perturbations of the image itself, and data.augment={settings.data.augment} does more "
            "than move it; choose crop+flip, or leave one of them out"
        )
    if settings.attack.stop_at is None:
        return
    if over := sorted({term.name for term in method.inner.within()} & OVER_THE_BATCH):
        raise MmardError(
            f"attack.stop_at takes samples out of the batch, and the inner term {over[0]} is over all of it"
        )
    if any(isinstance(module, Fairness) for module in method.inner.modules()):
        raise MmardError(
            "attack.stop_at takes samples out of the attack, and fair counts how many of all its iterates are right; leave one "
            "of them out"
        )
    if settings.engine.compile:
        raise MmardError(
            "attack.stop_at makes batches of every size, and engine.compile is for one; leave one of them out"
        )
    if method.attack_in_train_mode:
        raise MmardError(
            "attack.stop_at takes samples out of the batch, whose statistics this method's attack uses; leave out one of "
            "attack.stop_at and method.attack_in_train_mode"
        )


def data_of(settings: Settings) -> DataSet:
    """The data set, its held-out split cut."""
    return load(**settings.data.model_dump(exclude={"augment"}))


def engine_of(settings: Settings) -> Engine:
    """The device, the precision and the processes."""
    return Engine(**settings.engine.model_dump(exclude={"micro_batch", "compile"}))


def check(settings: Settings) -> None:
    """Whatever can be wrong without looking at data or weights, found before anything heavy runs."""
    method = method_of(settings)
    if settings.scale != 1 and not method.has_divergences():
        raise MmardError(f"scale={settings.scale} is of KL terms, and this method descends none; leave it out")
    processes, batch = settings.engine.devices * settings.engine.nodes, plan_of(settings).batch_size
    if batch % processes:
        raise MmardError(f"train.batch_size {batch} does not divide by {processes} processes")
    if settings.averaging.kind != "none":
        Averaging(**settings.averaging.model_dump()).in_run_of(settings.train.epochs)
    fresh = {companion.fresh for companion in method.companions.values()} - {None, "student"}
    with torch.device("meta"):
        for name in (settings.student, *sorted(filter(None, fresh))):
            build(Architecture(name=name, classes=10))
    if settings.teacher and Path(settings.teacher).resolve() == Path(settings.out).resolve():
        raise MmardError(f"{settings.out} cannot be its own teacher; choose another out=")
    will_come = (
        settings.teacher_recipe and settings.teacher and Path(settings.teacher).suffix not in (".safetensors", ".json")
    )
    if wrong := {"student", "teacher", ""} & set(settings.teachers):
        raise MmardError(
            f"teachers.{min(wrong)} is no name for a further network; the robust teacher is given by teacher="
        )
    for source in [*settings.teachers.values(), *([settings.teacher] if settings.teacher and not will_come else [])]:
        if (file := find_model(source)).suffix == ".json":
            Card.read(file)
    made = [name for name, companion in method.companions.items() if companion.fresh is not None]
    have = [*settings.teachers, *(["teacher"] if settings.teacher else []), *made]
    must_be_whole(method, have, settings.train.epochs)
    if settings.attack.stop_at == "teacher" and "teacher" not in have:
        raise MissingModelError("teacher", ["student", *have], "attack.stop_at=teacher")


def must_be_whole(method: Method, names: Iterable[str], epochs: int = 200) -> None:
    """Raise where the method asks for a network that is not one of these, or a part of it begins after so many epochs.

    Before anything is loaded: by a `MissingModelError` or a `NeverBeginsError`. A copy of the method is evaluated on made-up images
    and networks; whatever else fails on those is left to training.
    """
    for name, companion in method.companions.items():
        beginning(f"the training of {name!r}", companion.begin, epochs)
    if method.perturbation is not None:
        beginning("awp", method.perturbation.begin, epochs)
    with torch.random.fork_rng(devices=[]):  # the generator is the caller's
        torch.manual_seed(0)
        x, weights, numbers = torch.rand(10, 3, 8, 8), torch.randn(3 * 8 * 8, 10), torch.arange(10)
        models = Models(dict.fromkeys([*names, "student"], lambda x: x.flatten(1) @ weights))
        for progress in (0.0, 1.0):  # some terms begin late
            try:
                tried = copy.deepcopy(method)
                views = Views.of(x, numbers, numbers, models, progress, epochs).moved_to(x.clone().requires_grad_())
                for objective in (tried.inner, tried.outer, *(c.outer for c in tried.companions.values())):
                    objective(views)
            except (MissingModelError, NeverBeginsError):
                raise
            except Exception:  # somebody's term may need what these images do not have
                continue


def plan_of(settings: Settings) -> Plan:
    """The schedule."""
    return Plan(**settings.train.model_dump())
