"""From settings to the things that they describe, and whether those can be."""

from dataclasses import replace
from pathlib import Path

import torch

from mmard.attacks.pgd import Pgd
from mmard.config import Settings
from mmard.core.errors import MmardError
from mmard.core.method import Method
from mmard.core.threat import Threat
from mmard.data.images import DataSet
from mmard.data.sources import load
from mmard.locate import build_method
from mmard.models.students import Architecture, build
from mmard.models.teachers import find_model
from mmard.training.averaging import Averaging
from mmard.training.engine import Engine
from mmard.training.plan import Plan


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


def engine_of(settings: Settings) -> Engine:
    """The device, the precision and the processes."""
    return Engine(**settings.engine.model_dump(exclude={"micro_batch", "compile"}))


def check(settings: Settings) -> None:
    """Whatever can be wrong without looking at data or weights, found before anything heavy runs."""
    method = method_of(settings)
    processes, batch = settings.engine.devices * settings.engine.nodes, plan_of(settings).batch_size
    if batch % processes:
        raise MmardError(f"train.batch_size {batch} does not divide by {processes} processes")
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
    for source in [*settings.teachers.values(), *([settings.teacher] if settings.teacher and not will_come else [])]:
        find_model(source)


def plan_of(settings: Settings) -> Plan:
    """The schedule."""
    return Plan(**settings.train.model_dump())
